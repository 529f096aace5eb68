"""JAFFE: ten Japanese women posing seven expressions, 213 grey photographs (Lyons et al. 1998)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from ..errors import DataNotFoundError
from .builder import IMAGE_SUFFIXES, FacesBuilder, LeftOut, image_problem, in_shards, walk
from .expressions import JAFFE, expression_name
from .labels import described

# KA.AN1.39.tiff: subject KA, anger, first of that kind, 39th of the whole set
_NAME = re.compile(r"(?P<subject>[A-Z]{2})\.(?P<code>[A-Z]{2})(?P<repetition>\d+)\.(?P<number>\d+)", re.IGNORECASE)
_CODES = {name[:2].upper(): name for name in JAFFE}


@dataclass
class JaffeConfig(datasets.BuilderConfig):
    """JAFFE has no settings of its own; how it is split is a matter of the protocol."""


class Jaffe(FacesBuilder):
    """All photographs, as the only split `train`: JAFFE has no official one.

    Columns: `image` (grey, palette files too), `label` in the order of the files' codes (AN, DI, FE, HA, NE, SA, SU),
    `identity` (the two letters of the subject), `repetition` and `number` (as the file names count them). Looks for
    files like `KA.AN1.39.tiff` anywhere below `data_dir`.
    """

    BUILDER_CONFIG_CLASS = JaffeConfig
    HOW_TO_OBTAIN = (
        "JAFFE is given to researchers on request, for non-commercial use: ask for record 3451524 on Zenodo, unpack "
        "it and "
        "point `data_dir` at the folder with the 213 .tiff files."
    )

    def _info(self) -> datasets.DatasetInfo:
        features = {
            "image": datasets.Image(mode="L"),
            "label": datasets.ClassLabel(names=list(JAFFE)),
            "identity": datasets.Value("string"),
            "repetition": datasets.Value("int32"),
            "number": datasets.Value("int32"),
        }
        description = described("JAFFE: posed expressions of ten women.", "single_label_classification", JAFFE)
        return datasets.DatasetInfo(description=description, features=datasets.Features(features))

    def official_counts(self) -> dict[str, int]:
        """213, not the 210 that papers mention."""
        return {"train": 213}

    def official_labels(self) -> dict[str, tuple[int, ...]]:
        """Nominally 30 each; six cells have a picture more, three one less."""
        return {"train": (30, 29, 32, 31, 30, 31, 30)}

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        folder = Path(self.config.data_dir)
        images = [path for path in walk(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
        left_out, rows, seen = LeftOut(), [], set()
        for path in images:
            found = _NAME.fullmatch(path.stem)
            if not found:
                left_out.add("image not named like KA.AN1.39.tiff", path.name)
            elif found["code"].upper() not in _CODES:
                left_out.add("image with an unknown expression code", path.name)
            elif path.stem.upper() in seen:
                left_out.add("second copy of an image", path)
            else:
                seen.add(path.stem.upper())
                rows.append((found["subject"].upper(), int(found["number"]), str(path)))
        if not rows:
            raise DataNotFoundError(
                f"No JAFFE image in {str(folder)!r}: looked for files like KA.AN1.39.tiff, found {len(images)} other "
                f"images. "
                f"{self.HOW_TO_OBTAIN}"
            )
        self._report(left_out)
        shards = in_shards([path for *_, path in sorted(rows)], size=64)
        return [datasets.SplitGenerator(name="train", gen_kwargs={"shards": shards})]

    def _generate_examples(self, shards: list[list[str]]) -> Iterator[tuple[str, dict]]:
        left_out = LeftOut()
        for path in (path for shard in shards for path in shard):
            if problem := image_problem(path):
                left_out.add(problem, path)
                continue
            found = _NAME.fullmatch(Path(path).stem)
            yield (
                path,
                {
                    "image": path,
                    "label": expression_name(found["code"]),
                    "identity": found["subject"].upper(),
                    "repetition": int(found["repetition"]),
                    "number": int(found["number"]),
                },
            )
        self._report(left_out)
