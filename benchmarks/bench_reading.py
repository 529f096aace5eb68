"""How fast each dataset is read: drawn files in the released layouts, first into the cache, then row by row.

    python benchmarks/bench_reading.py

Writes about 0.7 GB below a temporary folder, takes a few minutes on one core, and puts its table into
docs/performance.md. Seconds are of the processor, so that a busy machine changes little.
"""

from __future__ import annotations

import argparse
import logging
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import numpy as np

from ciao_peft.data import load_faces, paint_face
from ciao_peft.data.votes import VOTES
from ciao_peft.markdown import markdown_table

BEGIN, END = "<!-- reading: written by benchmarks/bench_reading.py -->", "<!-- end of reading -->"
INTRODUCTION = """## Reading datasets

Processor seconds of one process, files drawn in the released layouts on a local disk. The first load prepares the cache
(`num_proc=` spreads it), the next one finds it by the fingerprint of the files; rows are read with their pictures
decoded. Peak memory is that of the process so far, the libraries with it."""
HEADER = ["dataset", "rows", "first load, s", "rows/s", "next load, s", "rows read/s", "peak memory, MiB"]
USAGES = ["Training"] * 28709 + ["PublicTest"] * 3589 + ["PrivateTest"] * 3589


def fer2013(folder: Path) -> None:
    faces = [" ".join(map(str, np.asarray(paint_face(seed=i, size=48).convert("L")).ravel())) for i in range(100)]
    with (folder / "fer2013.csv").open("w") as file:
        file.write("emotion,pixels,Usage\n")
        file.writelines(f"{i % 7},{faces[i % 100]},{usage}\n" for i, usage in enumerate(USAGES))


def ferplus(folder: Path) -> None:
    fer2013(folder)
    with (folder / "fer2013new.csv").open("w") as file:
        file.write("Usage,Image name," + ",".join(VOTES) + "\n")
        for i, usage in enumerate(USAGES):
            votes = [8 if place == i % 8 else 2 if place == (i + 1) % 8 else 0 for place in range(10)]
            file.write(f"{usage},fer{i:07d}.png,{','.join(map(str, votes))}\n")


def jaffe(folder: Path) -> None:
    for i in range(213):
        code = ("AN", "DI", "FE", "HA", "NE", "SA", "SU")[i % 7]
        paint_face(seed=i, size=256).convert("L").save(
            folder / f"K{'ABCDEFGHIJ'[i % 10]}.{code}{i % 3 + 1}.{i + 1}.tiff"
        )


def affectnet_2017(folder: Path, count: int = 2000) -> None:
    faces = [paint_face(seed=i, size=224) for i in range(50)]
    lines = []
    for i in range(count):
        path = folder / "Manually_Annotated_Images" / str(i % 20) / f"{i:056x}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        faces[i % 50].save(path, quality=90)
        landmarks = ";".join(["100.0"] * 136)
        lines.append(f"{i % 20}/{path.name},10,10,200,200,{landmarks},{i % 8},0.25,-0.5\n")
    (folder / "training.csv").write_text("".join(lines))


def affectnet_2021(folder: Path, count: int = 2000) -> None:
    faces = [paint_face(seed=i, size=224) for i in range(50)]
    for kind in ("images", "annotations"):
        (folder / "train_set" / kind).mkdir(parents=True)
    for i in range(count):
        faces[i % 50].save(folder / "train_set" / "images" / f"{i}.jpg", quality=90)
        for kind, value in (("exp", i % 8), ("val", 0.25), ("aro", -0.5)):
            np.save(folder / "train_set" / "annotations" / f"{i}_{kind}.npy", np.array(value))


def emoreact(folder: Path, count: int = 12) -> None:
    import av
    from PIL import Image

    (folder / "Labels").mkdir()
    (folder / "Train_names.txt").write_text("\n".join(f"'clip{i}.mp4'" for i in range(count)))
    (folder / "Labels" / "train_labels.text").write_text("\n".join(["0,1,0,0,1,0,0,0,4.3333"] * count))
    (folder / "Data" / "Train").mkdir(parents=True)
    face = paint_face(seed=2, size=200)
    for i in range(count):
        with av.open(str(folder / "Data" / "Train" / f"clip{i}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=30)
            stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 640, 360, "yuv420p", 2_000_000
            for step in range(150):
                frame = Image.new("RGB", (640, 360), (90, 120, 100))
                frame.paste(face, (100 + step, 80))
                for packet in stream.encode(av.VideoFrame.from_image(frame)):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)


def nothing(folder: Path) -> None:
    """Painted faces need no files."""


CASES: list[tuple[str, str, Callable[[Path], None], dict]] = [
    ("painted faces, 64x64", "painted_faces", nothing, {}),
    ("FER2013, fer2013.csv", "fer2013", fer2013, {}),
    ("FER+, majority", "ferplus", ferplus, {}),
    ("JAFFE, 256x256 TIFF", "jaffe", jaffe, {}),
    ("AffectNet 2017, 224x224 JPEG", "affectnet", affectnet_2017, {}),
    ("AffectNet 2017, faces cropped", "affectnet", affectnet_2017, {"crop": True}),
    ("AffectNet 2021, 224x224 JPEG", "affectnet", affectnet_2021, {}),
    ("EmoReact, 10 faces of each 5 s clip, 640x360, Haar", "emoreact", emoreact, {}),
]


def measured(folder: Path, cases: list) -> Iterator[list[str]]:
    """One row of the table per case."""
    for number, (title, name, write, settings) in enumerate(cases):
        place = folder / f"{number} {name}"
        place.mkdir()
        write(place)
        arguments = {"data_dir": None if write is nothing else place, "cache_dir": folder / "cache", "protocol": None}
        start = time.process_time()
        faces = load_faces(name, **arguments, **settings)
        built = time.process_time() - start
        start = time.process_time()
        load_faces(name, **arguments, **settings)
        again = time.process_time() - start
        rows = sum(faces.num_rows.values())
        some = faces["train"].select(range(min(2000, len(faces["train"]))))
        start = time.process_time()
        for _ in some:
            pass
        read = len(some) / (time.process_time() - start)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        cells = [f"{rows:,}", f"{built:.1f}", f"{rows / built:,.0f}", f"{again:.2f}", f"{read:,.0f}", f"{memory:.0f}"]
        yield [title, *cells]


def put_into(page: Path, text: str) -> None:
    """Replaces this benchmark's section of the page, or adds it at the end."""
    before = page.read_text(encoding="utf-8") if page.is_file() else "# Performance\n"
    head, _, rest = before.partition(f"{BEGIN}\n")
    tail = rest.partition(f"{END}\n")[2]
    page.write_text(f"{head.rstrip()}\n\n{BEGIN}\n{text}\n{END}\n{tail}", encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="the smallest case, printed only: shows that it runs")
    smoke = parser.parse_args(argv).smoke
    logging.disable(logging.WARNING)  # drawn files differ from the released ones in number, and say so
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        few = {"num_train": 1, "num_validation": 0, "num_test": 0, "cache_dir": folder}
        load_faces("painted_faces", **few)  # imports count for nobody
        rows = list(measured(Path(folder), [case for case in CASES if case[1] == "jaffe"] if smoke else CASES))
    table = markdown_table(HEADER, rows)
    if not smoke:
        put_into(Path(__file__).parents[1] / "docs" / "performance.md", f"{INTRODUCTION}\n\n{table}")
    print(table)


if __name__ == "__main__":
    main()
