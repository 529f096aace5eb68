"""The doors through which data, settings and results come: pictures, tables, preprocessors, plans, methods, records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ciao_peft import Preprocessing, load_faces
from ciao_peft.features import samples_of
from ciao_peft.saving import read_json
from ciao_peft.study import append_record, method_from_file, plan_to_dict, read_plan, read_records
from helpers import studies
from helpers.pictures import noise

from .door import Door
from .mutations import Rng, json_tree

_KINDS: dict[str, dict[str, Any]] = {
    "ViT": {"size": {"height": 48, "width": 32}},
    "Bit": {"size": {"shortest_edge": 40}, "crop_size": {"height": 36, "width": 36}},
    "CLIP": {"size": 56, "crop_size": 48, "do_center_crop": True},
    "ConvNext": {"size": {"shortest_edge": 56}, "crop_pct": 0.875},
    "DPT": {"size": 48},
    "EfficientNet": {"size": 48, "rescale_offset": True, "include_top": True},
    "Levit": {"size": 224, "do_center_crop": True},
    "MobileViT": {"size": 288, "do_flip_channel_order": True},
    "PoolFormer": {"size": 224, "do_resize_and_center_crop": True, "crop_pct": 0.9},
    "Siglip": {"size": {"height": 48, "width": 40}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    "": {"size": 48, "image_mean": 0.5, "image_std": 0.5, "rescale_factor": 0.00392, "do_rescale": True},
}
_TIMM = {
    "input_size": [3, 48, 40],
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


class Preprocessor(Door):
    name, about = "preprocessor", "a preprocessor's file: ours, of transformers, timm's data config"

    def make_seeds(self, folder: Path) -> None:
        for mode in ("RGB", "BGR", "L"):
            channels = 1 if mode == "L" else 3
            ours = Preprocessing(size=(48, 40), mode=mode, mean=(0.5,) * channels, std=(0.5,) * channels)
            self._write(folder / f"ours-{mode}", ours.to_dict())
        for kind, settings in _KINDS.items():
            self._write(folder / f"theirs-{kind}", settings | {"image_processor_type": f"{kind}ImageProcessor"})
        self._write(folder / "timm", _TIMM)

    def _write(self, folder: Path, data: dict[str, Any]) -> None:
        folder.mkdir(parents=True)
        (folder / "preprocessor_config.json").write_text(json.dumps(data))
        (folder / "kind.txt").write_text(folder.name.partition("-")[0])

    def start(self, scratch: Path) -> None:
        self.picture = noise(50, 40)

    def wanted(self, path: Path) -> bool:
        return path.name != "kind.txt"

    def open(self, folder: Path, scratch: Path) -> Any:
        data = read_json(folder / "preprocessor_config.json")
        ways = {
            "ours": Preprocessing.from_dict,
            "theirs": Preprocessing.from_image_processor,
            "timm": Preprocessing.from_timm,
        }
        preprocessing = ways[(folder / "kind.txt").read_text()](data)
        preprocessing(self.picture)
        return None


class Pictures(Door):
    name, about = "picture", "a picture, for `Preprocessing`"

    def make_seeds(self, folder: Path) -> None:
        from PIL import Image

        colour, gray = noise(31, 27), noise(31, 27, 1)
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "a face"
        files: dict[str, tuple[Any, dict[str, Any]]] = {
            "rgb.png": (colour, {}),
            "gray.png": (gray, {}),
            "alpha.png": (colour.convert("RGBA"), {}),
            "palette.png": (colour.convert("P"), {"transparency": 3}),
            "deep.png": (Image.fromarray(np.arange(837, dtype=np.uint16).reshape(31, 27) * 70), {}),
            "photo.jpg": (colour, {"exif": exif, "quality": 90}),
            "progressive.jpg": (colour, {"progressive": True}),
            "cmyk.jpg": (colour.convert("CMYK"), {}),
            "moving.gif": (colour.convert("P"), {"save_all": True, "append_images": [gray.convert("P")]}),
            "plain.bmp": (colour, {}),
            "packed.tif": (colour, {"compression": "tiff_deflate"}),
            "float.tif": (gray.convert("F"), {}),
            "lossless.webp": (colour, {"lossless": True}),
            "text.ppm": (colour, {}),
        }
        for name, (picture, settings) in files.items():
            (folder / name.replace(".", "-")).mkdir(parents=True)
            picture.save(folder / name.replace(".", "-") / name, **settings)

    def start(self, scratch: Path) -> None:
        # The uneven size reaches the ratio of `center`, the pictures of one line its growth.
        self.ways = [
            Preprocessing(size=(48, 40), crop_mode="squash"),
            Preprocessing(size=(32, 32), crop_mode="center", crop_pct=0.9),
            Preprocessing(size=(48, 40), crop_mode="border"),
            Preprocessing(size=(16, 16), mode="L", mean=(0.5,), std=(0.5,), crop_mode="center", resample="lanczos"),
        ]

    def open(self, folder: Path, scratch: Path) -> Any:
        path = next(iter(sorted(folder.iterdir())), folder / "gone.png")
        for preprocessing in self.ways:
            preprocessing(path)
        return None


class ImageTables(Door):
    name, about = "table", "a folder of pictures with its metadata, for `load_faces`"
    limit = 4.0

    def make_seeds(self, folder: Path) -> None:
        rows = [(f"{n}.png", ("happy", "sad")[n % 2], round(n / 7 - 0.4, 3), n % 2, f"p{n // 2}") for n in range(6)]
        for name in ("csv", "jsonl", "splits", "folders", "own-csv", "own-parquet"):
            parts = ("train", "test") if name in ("splits", "folders") else (".",)
            for part in parts:
                for number, (file, label, *_) in enumerate(rows):
                    path = folder / name / part / (label if name == "folders" else ".") / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    noise(20, 18, seed=number + 10 * (part == "test")).save(path)
                if name == "jsonl":
                    lines = [json.dumps({"file_name": r[0], "label": r[2], "identity": r[4]}) for r in rows]
                    (folder / name / part / "metadata.jsonl").write_text("\n".join(lines) + "\n")
                elif name == "own-parquet":
                    self._write_parquet(folder / name / "labels.parquet", rows)
                elif name == "own-csv":
                    lines = ["image|label|fold", *("|".join(map(str, (r[0], r[1], r[3]))) for r in rows)]
                    (folder / name / "labels.txt").write_text("\n".join(lines) + "\n")
                elif name != "folders":
                    lines = ["file_name,label,value,on,identity", *(",".join(map(str, row)) for row in rows)]
                    (folder / name / part / "metadata.csv").write_text("\n".join(lines) + "\n")

    def _write_parquet(self, path: Path, rows: list[Any]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        names, labels, _, folds, people = zip(*rows, strict=True)
        columns = {"image": names, "label": labels, "fold": folds, "identity": people}
        pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)

    def wanted(self, path: Path) -> bool:
        # As often the table as any picture: there are many pictures.
        return path.suffix != ".png" or path.stem in ("0", "3")

    def open(self, folder: Path, scratch: Path) -> Any:
        settings: dict[str, Any] = {"protocol": None, "cache_dir": scratch / "cache", "min_images_per_class": 0}
        own = next((path for path in sorted(folder.iterdir()) if path.stem == "labels"), None)
        if own is None:
            faces = load_faces("imagefolder", folder, **settings)
        else:
            faces = load_faces(csv=own, split_column="fold", **settings)
        for split in faces.values():
            samples = samples_of(split, Preprocessing(size=(16, 16)))
            samples.labels()
            samples.pixels(range(len(samples)))
        return None


class PlanFile(Door):
    name, about = "plan", "a study's plan in YAML, for `ciao reproduce --plan`"

    def make_seeds(self, folder: Path) -> None:
        import yaml

        plans = {
            "short": {"tasks": {"fer": {"dataset": "fer2013", "data_dir": "data"}}, "encoders": ["small-face"]},
            "long": {
                "tasks": {"moods": {"dataset": "imagefolder", "data_dir": "m", "options": {"label_column": "mood"}}},
                "encoders": {"mine": "runs/mine"},
                "methods": {"decision layer": None, "hot": {"config": {"temperature": 1.0}, "rates": [0.001, 0.01]}},
                "seeds": [0, 1],
                "epochs": 2.5,
                "arguments": {"per_device_train_batch_size": 16},
                "search_rates": 2,
                "search_fraction": 0.3,
            },
        }
        plans["short"]["methods"] = ["networks"]
        for name, plan in plans.items():
            (folder / name).mkdir(parents=True)
            (folder / name / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))

    def open(self, folder: Path, scratch: Path) -> Any:
        plan_to_dict(read_plan(folder / "plan.yaml"))
        return None


class MethodFile(Door):
    name, about = "method", "a method, or a search space, in a file"

    def make_seeds(self, folder: Path) -> None:
        method = {"name": "mine", "config": {"hidden_sizes": [64], "dropout": 0.3}, "rates": [0.001, 0.01]}
        method |= {"arguments": {"learning_rate": 0.001}, "rate": "learning_rate", "search": {"trials": 3}}
        (folder / "method").mkdir(parents=True)
        (folder / "method" / "best.json").write_text(json.dumps(method))
        (folder / "space").mkdir()
        text = "dropout: [0, 0.5]\nhidden_size: [32, 64]\nbatch_size: [32, 64]\nlearning_rate: [0.0001, 0.01]\n"
        (folder / "space" / "space.yaml").write_text(text)

    def open(self, folder: Path, scratch: Path) -> Any:
        if any(path.suffix == ".json" for path in folder.iterdir()):
            method_from_file(folder / "best.json")
            return None
        from ciao_peft.cli.search import _space
        from ciao_peft.study.search import SearchSpace

        SearchSpace(**_space(str(folder / "space.yaml")))
        return None


class StudyRecords(Door):
    name, about = "records", "a study's results, for `ciao report`"

    def make_seeds(self, folder: Path) -> None:
        wanted = ("decision layer", studies.CIAO, "LoRA r=16")
        records = [one for one in studies.painted_study(2, ablations=False) if one.method in wanted]
        for name, some in (("few", records[:1]), ("many", records)):
            for one in some:
                append_record(folder / name / "results.jsonl", one)
            (folder / name / "results.jsonl.lock").unlink(missing_ok=True)

    def open(self, folder: Path, scratch: Path) -> Any:
        from ciao_peft.study.report.write import write_report

        read_records(folder)
        write_report(folder, scratch / "report", figures=False)
        return None

    def finish(self, folder: Path, rng: Rng) -> bool:
        path = folder / "results.jsonl"
        if rng.random() < 0.2 and path.is_file() and not path.is_symlink() and path.stat().st_size < 2**20:
            lines = path.read_bytes().split(b"\n")
            path.write_bytes(b"\n".join([*lines[:1], json_tree(lines[0], rng).replace(b"\n", b""), *lines[1:]]))
        return False


DATA_DOORS = (Preprocessor, Pictures, ImageTables, PlanFile, MethodFile, StudyRecords)
