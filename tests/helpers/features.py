"""Faces to store features of, and a count of those that go through the trunk."""

from __future__ import annotations

import numpy as np

from ciao_peft import CIAOModel, Preprocessing

from .fakes import SIZE, pixels

SQUARE = Preprocessing(size=SIZE[1:], mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def faces(count=10, seed=1):
    return [{"pixel_values": face, "labels": n % 3} for n, face in enumerate(pixels(count, seed))]


def pictures(count=6, seed=0, labels=None, names=("a", "b")):
    """A `datasets.Dataset` of painted noise, as `load_faces` gives one."""
    from datasets import ClassLabel, Dataset, Features, Image

    rng = np.random.default_rng(seed)
    columns = {"image": [rng.integers(0, 256, (20, 18, 3), dtype=np.uint8) for _ in range(count)]}
    columns["label"] = [n % 2 for n in range(count)] if labels is None else labels
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": ClassLabel(names=list(names))}))


def counting(monkeypatch):
    """Numbers of rows that go through the trunk from now on, call by call."""
    rows, extract = [], CIAOModel.extract_features

    def counted(self, pixel_values, *options):
        rows.append(len(pixel_values))
        return extract(self, pixel_values, *options)

    monkeypatch.setattr(CIAOModel, "extract_features", counted)
    return rows
