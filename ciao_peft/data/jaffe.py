"""JAFFE: ten Japanese women posing seven expressions, 213 grey photographs (Lyons et al. 1998)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets

from ..errors import DataNotFoundError
from .builder import IMAGE_SUFFIXES, FacesBuilder, LeftOut, image_problem, in_shards, walk
from .expressions import JAFFE, expression_name
from .labels import describe_labels

__all__ = ["Jaffe", "JaffeConfig"]

# KA.AN1.39.tiff: subject KA, anger, first of that kind, 39th of the whole set
_NAME = re.compile(r"(?P<subject>[A-Z]{2})\.(?P<code>[A-Z]{2})(?P<repetition>\d+)\.(?P<number>\d+)", re.IGNORECASE)
_CODES = {name[:2].upper(): name for name in JAFFE}


@dataclass
class JaffeConfig(datasets.BuilderConfig):
    """JAFFE has no settings of its own; the protocol decides how it is split."""


class Jaffe(FacesBuilder):
    """Reads JAFFE: all photographs in a single split `train`, since there is no official split.

    Columns: `image` (grey, palette files too), `label` in the order of the files' codes (AN, DI, FE, HA, NE, SA, SU),
    `identity` (the two letters of the subject), `repetition` and `number` (as the file names count them). Looks for
    files like `KA.AN1.39.tiff` anywhere below `data_dir`.

    Example:
        >>> import tempfile
        >>> from ciao_peft.data import load_faces, paint_face
        >>> folder = Path(tempfile.mkdtemp())
        >>> paint_face(size=32).convert("L").save(folder / "KA.HA1.29.tiff")
        >>> faces = load_faces("jaffe", folder, protocol=None, streaming=True)["train"]
        >>> [(face["identity"], faces.features["label"].int2str(face["label"])) for face in faces]
        [('KA', 'happiness')]
    """

    BUILDER_CONFIG_CLASS = JaffeConfig
    config: JaffeConfig
    HOW_TO_OBTAIN: ClassVar[str] = (
        "JAFFE is given to researchers on request, for non-commercial use: ask for record 3451524 on Zenodo, unpack "
        "it and point `data_dir` at the folder with the 213 .tiff files."
    )

    def _info(self) -> datasets.DatasetInfo:
        features = {
            "image": datasets.Image(mode="L"),
            "label": datasets.ClassLabel(names=list(JAFFE)),
            "identity": datasets.Value("string"),
            "repetition": datasets.Value("int32"),
            "number": datasets.Value("int32"),
        }
        description = describe_labels("JAFFE: posed expressions of ten women.", "single_label_classification", JAFFE)
        return datasets.DatasetInfo(description=description, features=datasets.Features(features))

    def official_counts(self) -> dict[str, int]:
        """213 photographs, not the 210 that papers mention."""
        return {"train": 213}

    def official_labels(self) -> dict[str, tuple[int, ...]]:
        """About 30 per expression: six cells have one picture more than three, three have one less."""
        return {"train": (30, 29, 32, 31, 30, 31, 30)}

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        folder = self.folder
        images = [path for path in walk(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
        left_out = LeftOut()
        rows: list[tuple[str, int, str]] = []
        seen: set[str] = set()
        for path in images:
            match = _NAME.fullmatch(path.stem)
            if not match:
                left_out.add("image not named like KA.AN1.39.tiff", path.name)
            elif match["code"].upper() not in _CODES:
                left_out.add("image with an unknown expression code", path.name)
            elif path.stem.upper() in seen:
                left_out.add("second copy of an image", path)
            else:
                seen.add(path.stem.upper())
                rows.append((match["subject"].upper(), int(match["number"]), str(path)))
        if not rows:
            raise DataNotFoundError(
                f"No JAFFE image in {str(folder)!r}: looked for files like KA.AN1.39.tiff, found {len(images)} other "
                f"images. {self.HOW_TO_OBTAIN}"
            )
        self._report(left_out)
        shards = in_shards([path for *_, path in sorted(rows)], size=64)
        return [datasets.SplitGenerator(name="train", gen_kwargs={"shards": shards})]

    def _generate_examples(  # pyright: ignore[reportIncompatibleMethodOverride] - called with gen_kwargs
        self, shards: list[list[str]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        left_out = LeftOut()
        for path in (path for shard in shards for path in shard):
            if problem := image_problem(path):
                left_out.add(problem, path)
                continue
            match = _NAME.fullmatch(Path(path).stem)
            if match is None:  # `_split_generators` took none of another name
                continue
            yield (
                path,
                {
                    "image": path,
                    "label": expression_name(match["code"]),
                    "identity": match["subject"].upper(),
                    "repetition": int(match["repetition"]),
                    "number": int(match["number"]),
                },
            )
        self._report(left_out)
