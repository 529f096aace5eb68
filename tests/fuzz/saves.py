"""What is saved in the campaign of kills: how the old and the new are written, and what a reader sees."""

from __future__ import annotations

import hashlib
import shutil
import stat
from pathlib import Path
from typing import Any

import torch

from ciao_peft import CIAOTrainer, CIAOTrainingArguments, cache_features, get_ciao_model, load_encoder
from ciao_peft.encoders import save_encoder
from ciao_peft.saving import load_adapter
from ciao_peft.study import append_record, plan_from_flags, read_plan, read_records
from ciao_peft.study.plan_file import save_plan
from helpers import studies
from helpers.fakes import SIZE, small_config, tiny_backbone
from helpers.features import faces as feature_faces
from helpers.training import faces

from .door import digest

OTHERS = {"notes.txt": b"mine", "plots/curve.png": b"\x89PNG mine", ".hidden": b"mine too", "runs/a/b.txt": b"deep"}
"""Other people's files in a folder that is saved into."""


def listing(place: Path) -> list[str]:
    """Every name below a folder."""
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))


def content_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


class Save:
    """One kind of saving, into `place/target`.

    Attributes:
        name: In tables.
        target: What is written, below the place.
        ends_alike: Whether the reader goes on to an end that is always the same, whatever was there.
        writes_the_same: Whether the old and the new are equal.
        others: Other people's files in the target, by name.
    """

    name = ""
    target = ""
    ends_alike = False
    writes_the_same = False
    others: dict[str, bytes] = {}

    def prepare(self) -> None:
        """What takes long and needs to be done once."""

    def old(self, place: Path) -> None:
        """What is there before."""

    def new(self, place: Path) -> None:
        """The save that is killed."""
        raise NotImplementedError

    def read(self, place: Path) -> str:
        """What somebody sees who reads; raises where there is nothing to be read."""
        raise NotImplementedError

    def put_others(self, place: Path) -> None:
        """Other people's files."""
        for name, content in self.others.items():
            path = place / self.target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def lost(self, place: Path) -> list[str]:
        """Other people's files that are not there, or not as they were."""
        there = place / self.target
        return [n for n, c in self.others.items() if not (there / n).is_file() or (there / n).read_bytes() != c]


def _model(seed: int) -> Any:
    torch.manual_seed(seed)
    model = get_ciao_model(tiny_backbone(), small_config(), "faces", input_size=SIZE)
    with torch.no_grad():
        for parameter in model.adapters["faces"].parameters():
            parameter += torch.rand_like(parameter) / 4
    return model


class Adapter(Save):
    name, target = "adapter", "adapter"

    def prepare(self) -> None:
        self.models = [_model(seed) for seed in (1, 2)]

    def old(self, place: Path) -> None:
        self.models[0].save_pretrained(place / self.target, "faces", training={"seed": 1})

    def new(self, place: Path) -> None:
        self.models[1].save_pretrained(place / self.target, "faces", training={"seed": 2})

    def read(self, place: Path) -> str:
        saved = load_adapter(place / self.target)
        return digest(dict(sorted(saved.tensors.items())), saved.training)


class AdapterAmongOthers(Adapter):
    name, others = "adapter among other files", OTHERS


class FirstAdapter(Adapter):
    name = "first adapter"

    def old(self, place: Path) -> None:
        return None


class Encoder(Save):
    name, target, others = "encoder among other files", "encoder", OTHERS

    def prepare(self) -> None:
        settings = {"pretrained": False, "channels": (8, "pool", "pool", 12), "embedding_size": 4}
        self.encoders = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            self.encoders.append(load_encoder("small-face", **settings))
            for parameter in self.encoders[-1].parameters():
                parameter.data.normal_(0.1, 0.3)

    def old(self, place: Path) -> None:
        save_encoder(self.encoders[0], place / self.target)

    def new(self, place: Path) -> None:
        save_encoder(self.encoders[1], place / self.target)

    def read(self, place: Path) -> str:
        return digest(load_encoder(place / self.target).state_dict())


class Training(Save):
    """Two updates with a checkpoint after each, of which the newest one stays."""

    name, target, ends_alike, others = "checkpoints of a training", "run", True, {"notes.txt": b"mine"}
    writes_the_same = True

    def _train(self, folder: Path, resume: Any, **changes: Any) -> str:
        values = {"output_dir": folder, "num_train_epochs": 2, "per_device_train_batch_size": 12, "save_total_limit": 1}
        values |= {"save_strategy": "epoch", "report_to": "none", "disable_tqdm": True, "feature_cache": "never"}
        values |= {"resume_from_checkpoint": resume, "load_best_model_at_end": True} | changes
        trainer = CIAOTrainer(_model(1), CIAOTrainingArguments(**values))
        trainer.train(faces(12), faces(6))
        return digest(trainer.model.adapters["faces"].state_dict())

    def new(self, place: Path) -> None:
        self._train(place / self.target, "auto")

    def read(self, place: Path) -> str:
        aside = place.with_name(place.name + "-read")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(place, aside, symlinks=True)
        try:
            return self._train(aside / self.target, "auto")
        finally:
            shutil.rmtree(aside)


class Rewriting(Training):
    """A training that goes on from an older checkpoint, and writes the later ones again: none may get lost."""

    name, ends_alike = "checkpoint written again", False

    def old(self, place: Path) -> None:
        self._train(place / self.target, None, save_total_limit=None)

    def new(self, place: Path) -> None:
        self._train(place / self.target, str(place / self.target / "checkpoint-1"), save_total_limit=None)

    def read(self, place: Path) -> str:
        return digest([load_adapter(place / self.target / f"checkpoint-{n}").tensors for n in (1, 2)])


class Features(Save):
    name, target, ends_alike = "features", "features", True
    writes_the_same = True

    def prepare(self) -> None:
        self.model = _model(1)

    def _store(self, folder: Path) -> str:
        stored = cache_features(self.model, feature_faces(20), folder, batch_size=4, disable_tqdm=True)
        return digest(stored.features(range(20)))

    def new(self, place: Path) -> None:
        self._store(place / self.target)

    def read(self, place: Path) -> str:
        aside = place.with_name(place.name + "-read")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(place, aside)
        try:
            return self._store(aside / self.target)
        finally:
            shutil.rmtree(aside)


class Records(Save):
    name, target = "records of a study", "results.jsonl"

    def prepare(self) -> None:
        self.records = studies.records({"decision layer": [0.5, 0.6, 0.7]})

    def old(self, place: Path) -> None:
        for one in self.records[:2]:
            append_record(place / self.target, one)

    def new(self, place: Path) -> None:
        known = {one.key for one in read_records(place / self.target)}
        if self.records[2].key not in known:
            append_record(place / self.target, self.records[2])

    def read(self, place: Path) -> str:
        return digest([one.to_dict() for one in read_records(place / self.target)])


class Plan(Save):
    name, target = "plan of a study", "plan.yaml"

    def _save(self, place: Path, seeds: int) -> None:
        save_plan(plan_from_flags(["fer=data"], ["small-face"], ["decision layer"], seeds=seeds), place)

    def old(self, place: Path) -> None:
        self._save(place, 2)

    def new(self, place: Path) -> None:
        self._save(place, 3)

    def read(self, place: Path) -> str:
        return digest(repr(read_plan(place / self.target)))


SAVES = (Adapter, AdapterAmongOthers, FirstAdapter, Encoder, Training, Rewriting, Features, Records, Plan)


def modes_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Mode and group of a folder and of what lies in it."""
    paths = [folder, *folder.iterdir()]
    return {p.name: (stat.S_IMODE(p.stat().st_mode), p.stat().st_gid) for p in paths}
