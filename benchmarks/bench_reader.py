"""What detectors find in composed scenes and in how many milliseconds, and how many frames a second `FaceReader` reads.

    python benchmarks/bench_reader.py --faces FOLDER

`FOLDER/test` holds photographs of one face each, with a `metadata.csv`, as `tests/README.md` describes `shared/faces`;
without it faces are painted. Takes about three minutes; `--part live` measures the times anew, in half a minute, and
keeps the shares of faces found. Milliseconds are of the processor, on one thread; frames a second are wall time with
two threads. Of both the best of several turns: whoever else uses the machine only makes it slower.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import arguments, in_turns, recorded
from PIL import Image, ImageDraw

from ciao_peft import CIAOConfig, CIAOModel, FaceReader, load_encoder
from ciao_peft.data import View, paint_face
from ciao_peft.detection import Box, FaceFinder, FoundFace, dlib_detector
from ciao_peft.errors import CIAOError
from ciao_peft.scenes import faces_in

SIZE, SIDES, TURNS_DEGREES = (640, 480), (24, 32, 48, 64, 96, 128, 192, 288), (0, 15, 30, 45, 60, 90)
ENCODERS = ("small-face", "dlib-face")
COVERED = ("nothing", "lower third", "one eye", "upper third", "left half")
WORLDS, FACES_PER_FRAME = (1, 4, 16), 2
OVERLAP = 0.35
"""Intersection over union of a found square and the photograph's place from which on it counts as found."""


def photographs(folder: Path, count: int, side: int = 288) -> list[Image.Image]:
    """Faces of one size, from the folder or painted."""
    files = sorted((folder / "test").glob("*.jpg"))[:count]
    if files:
        return [Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BICUBIC) for file in files]
    rng = np.random.default_rng(0)
    return [paint_face(view=View.sample(rng), size=side, seed=seed) for seed in range(count)]


def wall(seed: int) -> Image.Image:
    """A background without a face: smooth blots of colour, and lines."""
    rng = np.random.default_rng(seed)
    blots = Image.fromarray(rng.integers(40, 200, (6, 8, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(blots)
    for _ in range(12):
        ends = [int(value) for value in rng.integers(0, SIZE[0], 4)]
        pen.line(ends, fill=tuple(int(value) for value in rng.integers(0, 256, 3)), width=int(rng.integers(1, 6)))
    return blots


def covered(face: Image.Image, how: str) -> Image.Image:
    """The face with a grey bar over a part of it."""
    side, face = face.width, face.copy()
    bars = {
        "lower third": (0, 2 * side // 3, side, side),
        "upper third": (0, 0, side, side // 3),
        "left half": (0, 0, side // 2, side),
        "one eye": (side // 8, side // 4, side // 2, side // 2),
    }
    if how in bars:
        face.paste((90, 90, 90), bars[how])
    return face


def composed(
    faces: list[Image.Image], side: int, degrees: int = 0, how: str = "nothing"
) -> Iterator[tuple[Image.Image, list[Box]]]:
    """Scenes with as many of the faces as fit, up to six, apart from each other, and where each lies."""
    room = math.ceil(side * (abs(math.cos(math.radians(degrees))) + abs(math.sin(math.radians(degrees)))))
    columns, rows = max(1, min(3, SIZE[0] // (room + 4))), max(1, min(2, SIZE[1] // (room + 4)))
    per_scene = columns * rows
    for start in range(0, len(faces), per_scene):
        scene, boxes = wall(start), []
        for place, face in enumerate(faces[start : start + per_scene]):
            x = (2 * (place % columns) + 1) * SIZE[0] // (2 * columns)
            y = (2 * (place // columns) + 1) * SIZE[1] // (2 * rows)
            small = covered(face, how).resize((side, side), Image.Resampling.LANCZOS).convert("RGBA")
            turned = small.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
            scene.paste(turned, (x - turned.width // 2, y - turned.height // 2), turned)
            boxes.append(Box(x - side // 2, y - side // 2, side, side))
        yield scene, boxes


def found(finder: FaceFinder, scene: Image.Image, boxes: list[Box]) -> tuple[int, int]:
    """How many of the faces were found, and how many hits are none of them."""
    squares = [finder.square(face) for face in finder.find(scene)]
    hits = [Box(round(left), round(top), round(side), round(side)) for left, top, side in squares]
    met = {index for index, box in enumerate(boxes) if any(box.overlap(hit) >= OVERLAP for hit in hits)}
    return len(met), sum(all(box.overlap(hit) < OVERLAP for box in boxes) for hit in hits)


def finders() -> dict[str, FaceFinder]:
    """Every detector whose package is installed here."""
    makers: dict[str, Callable[[], FaceFinder]] = {
        "yunet": lambda: FaceFinder("yunet"),
        "yunet, searched at 320": lambda: FaceFinder("yunet", max_side=320),
        "yunet, enlarged twice": lambda: FaceFinder("yunet", max_side=2 * max(SIZE), enlarge=2),
        "haar": lambda: FaceFinder("haar"),
        "dlib": lambda: FaceFinder("dlib"),
        "dlib, upsample=1": lambda: FaceFinder(dlib_detector(upsample=1)),
    }
    made = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except CIAOError as error:
            print(f"{name}: {error}")
    return made


def recall(faces: list[Image.Image], smoke: bool) -> dict[str, Any]:
    """Share of faces found by each detector: by side, by turn, by what is covered; and hits that are no face."""
    cases = {"side": {str(side): (side, 0, "nothing") for side in (SIDES[3:5] if smoke else SIDES)}}
    cases["degrees"] = {str(degrees): (96, degrees, "nothing") for degrees in TURNS_DEGREES[: 2 if smoke else None]}
    cases["covered"] = {how: (96, 0, how) for how in COVERED[: 2 if smoke else None]}
    made, record = finders(), {name: {"false": 0, "scenes": 0} for name in finders()}
    for kind, variants in cases.items():
        for variant, (side, degrees, how) in variants.items():
            few = faces[: max(1, len(faces) // 4)] if side > 192 else faces
            for name, finder in made.items():
                met, wrong, scenes = 0, 0, 0
                for scene, boxes in composed(few, side, degrees, how):
                    hit, false = found(finder, scene, boxes)
                    met, wrong, scenes = met + hit, wrong + false, scenes + 1
                record[name].setdefault(kind, {})[variant] = round(met / len(few), 3)
                record[name]["false"] += wrong
                record[name]["scenes"] += scenes
    return record


def detector_seconds(faces: list[Image.Image], turns: int) -> dict[str, float]:
    """Processor seconds of each detector for one scene of 640x480 with six faces."""
    single_threaded_opencv()
    scene, _ = next(composed(faces, 96))
    return best(in_turns({name: lambda finder=finder: finder.find(scene) for name, finder in finders().items()}, turns))


def best(seconds: dict[str, list[float]]) -> dict[str, float]:
    """The quickest turn of each case: whoever else uses the machine only makes it slower."""
    return {name: min(values) for name, values in seconds.items()}


def single_threaded_opencv() -> None:
    try:
        import cv2

        cv2.setNumThreads(1)
    except ImportError:
        pass


def model_of(encoder: str, worlds: int) -> CIAOModel:
    """An encoder with so many adapters of the form that its bundled ones have, untrained: they cost as much."""
    network, form = load_encoder(encoder), {}
    preprocessing = network.preprocessing
    if encoder == "dlib-face":
        preprocessing = preprocessing.replace(align="five-points")
        form = {"inhibition_form": "gain", "inhibition_rank": 16, "hidden_sizes": (), "pooling": "flatten"}
    model = CIAOModel(network, preprocessing=preprocessing)
    for number in range(worlds):
        config = CIAOConfig.preset("paper", problem_type="single_label_classification", num_labels=7, **form)
        model.add_adapter(f"world{number}", config)
    return model.eval()


def stages(film: list[Image.Image], turns: int) -> dict[str, dict[str, float]]:
    """Processor seconds a frame of each stage by itself, on one thread: the best turn, by encoder."""
    finder, cases = FaceFinder("yunet"), {}
    faces = [finder.find(frame) for frame in film]
    cases["detect"] = lambda: [finder.find(frame) for frame in film]
    for encoder in ENCODERS:
        model = model_of(encoder, max(WORLDS))
        seen = [faces_in(frame, finder, model.preprocessing) for frame in film]
        pixels = [model.preprocessing.normalise(np.stack(fitted)) for _, _, fitted in seen]
        cases |= {f"{encoder}: {stage}": run for stage, run in of_encoder(model, finder, film, faces, pixels).items()}
    spent = {name: seconds / len(film) for name, seconds in best(in_turns(cases, turns)).items()}
    return {
        encoder: {"detect": spent["detect"]}
        | {name.partition(": ")[2]: value for name, value in spent.items() if name.startswith(f"{encoder}: ")}
        for encoder in ENCODERS
    }


def of_encoder(
    model: CIAOModel,
    finder: FaceFinder,
    film: list[Image.Image],
    faces: list[list[FoundFace]],
    pixels: list[torch.Tensor],
) -> dict[str, Callable[[], Any]]:
    """The stages behind the detector, by name."""
    names = list(model.adapters)

    def align() -> None:
        for frame, found_faces in zip(film, faces, strict=True):
            np.stack([finder.fit(frame, face, model.preprocessing) for face in found_faces])

    def bare() -> None:
        with torch.inference_mode():
            for batch in pixels:
                model.backbone(batch)

    def worlds(count: int) -> None:
        with torch.inference_mode():
            for batch in pixels:
                model.read(batch, adapter_names=names[:count])

    counted = {f"encode and {count} worlds": lambda count=count: worlds(count) for count in WORLDS}
    return {"align": align, "encode": bare, **counted}


def frames_per_second(encoder: str, film: list[Image.Image], turns: int) -> dict[str, dict[str, float]]:
    """Frames a second of `FaceReader` on two threads, by number of worlds, and processor seconds a frame.

    Of both the best turn: whoever else uses the machine only makes it slower.
    """
    model, names = model_of(encoder, max(WORLDS)), [f"world{number}" for number in range(max(WORLDS))]
    found_rates = {}
    for count in WORLDS:
        reader, quickest, least = FaceReader(model, names[:count], threads=2), math.inf, math.inf
        for _ in range(turns + 1):
            start, used = time.perf_counter(), time.process_time()
            for _ in reader.read(film, follow=True):
                pass
            quickest, least = min(quickest, time.perf_counter() - start), min(least, time.process_time() - used)
        found_rates[str(count)] = {"wall": round(len(film) / quickest, 2), "processor_seconds": least / len(film)}
    return found_rates


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv, faces="../shared/faces", part="all")
    folder = Path(args.faces)
    faces = photographs(folder, 3 if args.smoke else 36)
    film = film_of(faces, 2 if args.smoke else 16)
    turns = 1 if args.smoke else 5
    before = json.loads((args.results / "reader.json").read_text("utf-8")) if args.part == "live" else {}
    with recorded("reader", args) as record:
        record["faces"] = "photographs" if (folder / "test").is_dir() else "painted"
        record["count"] = len(faces)
        record["recall"] = before["recall"] if before else recall(faces, args.smoke)
        record["detector_seconds"] = detector_seconds(faces, turns)
        record["faces_per_frame"] = FACES_PER_FRAME
        record["stages"] = stages(film, turns)
        record["frames_per_second"] = {name: frames_per_second(name, film, turns) for name in ENCODERS}


def film_of(faces: list[Image.Image], count: int) -> list[Image.Image]:
    """Frames of 640x480 in which two faces of 140 pixels move past a wall."""
    frames = []
    for number in range(count):
        frame = wall(0)
        for place, face in enumerate(faces[:FACES_PER_FRAME]):
            frame.paste(
                face.resize((140, 140), Image.Resampling.LANCZOS), (60 + 300 * place + 4 * number, 60 + 120 * place)
            )
        frames.append(frame)
    return frames


if __name__ == "__main__":
    main()
