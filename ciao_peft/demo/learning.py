"""A visitor's own copy of a world, which learns from corrections; nothing of it is kept on the disk."""

from __future__ import annotations

import dataclasses
import io
import tempfile
import threading
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import CIAOConfig, check_adapter_name
from ..errors import AdapterNameError, InputError, UndoError, listed, quoted
from ..features import FeatureDataset, cache_features
from ..online import FeatureMemory, OnlineArguments, OnlineTrainer, OnlineUpdate
from ..prediction import label_names
from .worlds import World, WorldPool

__all__ = ["MOST_CORRECTIONS", "MOST_FACES", "MOST_NEW_WORDS", "LearningWorld", "Rehearsal", "label_of"]

MOST_CORRECTIONS = 100
"""Of one world that a visitor may make; more are refused."""

MOST_NEW_WORDS = 8
"""That a visitor may teach one world."""

MOST_FACES = 200
"""On which a world that learns must keep its answers."""

_LONGEST_WORD = 40
_PAINTED = 96  # half of them are rehearsed, half are the guard
_ARGUMENTS = OnlineArguments(
    max_steps=40,
    min_steps=0,  # it ends as soon as the face is answered right
    learning_rate=5e-4,
    mask_learning_rate=5e-4,
    max_forgetting=10.0,  # painted faces of all kinds: many lie between two answers
    keep_versions=3,
    allow_one_class=True,
)


class Rehearsal:
    """Faces on which worlds that learn keep their answers; each encoder reads them once, for all visitors.

    Nobody says what is right for them: what a world answered before it learned is to stay.

    Args:
        faces: Pictures of one face each; painted ones when left out.

    Raises:
        InputError: fewer than 8 or more than `MOST_FACES` faces.

    Example:
        >>> Rehearsal().size
        96
    """

    def __init__(self, faces: Sequence[Any] | None = None):
        if faces is not None and not 8 <= len(faces) <= MOST_FACES:
            raise InputError(f"Worlds keep their answers on 8 to {MOST_FACES} faces; got {len(faces)}.")
        self._faces = faces
        self._read: dict[tuple[Any, ...], FeatureDataset] = {}
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """How many faces there are."""
        return _PAINTED if self._faces is None else len(self._faces)

    def features(self, world: World) -> FeatureDataset:
        """What the frozen encoder of a world says of the faces.

        Args:
            world: Held meanwhile.

        Raises:
            DataError: a picture cannot be read.
            UntraceableBackboneError: the encoder gives no features.
        """
        model = world.model
        with self._lock, model.reading_with(world.adapter_name):
            key = (id(model), model.opened.targets, model.depths)
            if key not in self._read:
                faces = [{"image": face} for face in (_painted() if self._faces is None else self._faces)]
                self._read[key] = cache_features(model, faces, dtype="float16", disable_tqdm=True)
            return self._read[key]


class LearningWorld:
    """A copy of a world that learns from a visitor's corrections.

    Half of the faces of `rehearsal` are rehearsed with every correction, the other half say what was forgotten: how
    many are no longer answered as before the world learned. What costs more than 10 points there is undone.

    Args:
        pool: Makes the copy, and takes it back.
        world: What to begin with; held meanwhile.
        rehearsal: Faces on which it is to keep its answers.

    Attributes:
        world: The copy.
        corrections: How many were learned, less those that were undone.

    Raises:
        InputError: there are as many copies as a page may hold, or the adapter is too large for one.
        TrainingError: the adapter owns its encoder.
        UntraceableBackboneError: its encoder gives no features.

    Shapes:
        - pixels of a correction: `(1, C, H, W)`, as the world's preprocessing gives them.

    Example:
        >>> pool = WorldPool(["ciao/painted-affect"])
        >>> own = LearningWorld(pool, pool.worlds[0], Rehearsal())
        >>> pixels = torch.zeros(1, *own.world.model.input_size)
        >>> own.correct(pixels, {"arousal": 0.5, "valence": 0.5}).faces, len(pool.worlds)
        (1, 1)
        >>> own.close()
    """

    def __init__(self, pool: WorldPool, world: World, rehearsal: Rehearsal):
        self.world = pool.copy(world)
        self.corrections = 0
        self._pool = pool
        try:
            stored = rehearsal.features(self.world)
            stored = stored.with_labels(_answers(self.world, stored))
            rehearsed, guard = stored.select(range(0, len(stored), 2)), stored.select(range(1, len(stored), 2))
            # As many bytes as all these faces and all corrections take, and no more.
            each = sum(tensor[0].numel() * 2 for tensor in stored.tensors) + 4 * self.world.config.num_labels + 512
            memory = FeatureMemory(max_bytes=each * (len(rehearsed) + MOST_CORRECTIONS), held_share=0.0)
            memory.fill(self.world.model, rehearsed, self.world.adapter_name)
            name = self.world.adapter_name
            self._online = OnlineTrainer(self.world.model, name, memory=memory, guard=guard, args=_ARGUMENTS)
        except BaseException:
            pool.drop(self.world)
            raise
        self._words = 0

    world: World
    corrections: int

    def correct(self, pixels: Tensor, label: Any, *, word: str | None = None) -> OnlineUpdate:
        """Learns what is right for one face.

        Args:
            pixels: `(1, C, H, W)`, as its encoder is fed.
            label: As `label_of` gives it.
            word: A new word for this face, which is added to what the world can say, in the place of `label`.

        Raises:
            InputError: there were `MOST_CORRECTIONS`, or the new word cannot be one.
            UnknownLabelError, CorrectionError, ConfigError: as `OnlineTrainer.update` says; the world is as it was.
        """
        if self.corrections >= MOST_CORRECTIONS:
            raise InputError(
                f"This page lets a world learn {MOST_CORRECTIONS} corrections; save it and go on with that."
            )
        if word is not None:
            label = self._checked_word(word)
        update = self._online.update(pixels, label if isinstance(label, dict) else [label], add_class=word is not None)
        self.corrections += update.kept
        self._words += len(update.added)
        return update

    def _checked_word(self, word: object) -> Any:
        text = " ".join(word.split()) if isinstance(word, str) else ""
        if not 0 < len(text) <= _LONGEST_WORD or not text.isprintable():
            raise InputError(f"A new word has 1 to {_LONGEST_WORD} letters; got {quoted(word)}.")
        config = self.world.config
        if config.problem_type == "regression":
            raise InputError("This world answers with values, and no word can be added to them.")
        known = {name.casefold(): name for name in label_names(config)}
        if text.casefold() in known:
            raise InputError(f"This world knows {quoted(known[text.casefold()])} already; choose it in the list.")
        if self._words >= MOST_NEW_WORDS:
            raise InputError(f"A world learns {MOST_NEW_WORDS} new words at most on this page.")
        return text if config.problem_type == "single_label_classification" else [text]

    def undo(self) -> None:
        """Takes the last correction back.

        Raises:
            UndoError: there is none that can be taken back.
        """
        if not self.corrections:
            raise UndoError("This world has learned nothing that could be taken back.")
        self._online.undo()
        self.corrections -= 1

    def zipped(self, name: str) -> bytes:
        """A zip of the adapter's folder under a new name; what it remembers of faces is not in it.

        Args:
            name: 1 to 96 letters, digits, `_`, `-` or `.`.

        Raises:
            AdapterNameError: it cannot be an adapter's name.
        """
        name = name.strip() if isinstance(name, str) else ""
        if not name:
            raise AdapterNameError("A saved world needs a name: letters, digits, `_`, `-` or `.`.")
        check_adapter_name(name)
        faces = "one face" if self.corrections == 1 else f"{self.corrections} faces"
        about = {"dataset": f"{faces} corrected on a page, after {self.world.title}"}
        content = io.BytesIO()
        with tempfile.TemporaryDirectory(prefix="ciao-demo-") as aside:
            folder = self.world.model.save_pretrained(Path(aside, name), self.world.adapter_name, training=about)
            with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
                for path in sorted(folder.iterdir()):
                    archive.write(path, f"{name}/{path.name}")
        return content.getvalue()

    def close(self) -> None:
        """Forgets everything."""
        self._pool.drop(self.world)


def label_of(said: object, answer: Mapping[str, float], config: CIAOConfig) -> Any:
    """What a visitor says of a face, as a label for `OnlineTrainer.update`.

    Args:
        said: The name of a class or label; or by name whether a label is on, or what a value is. What is not named
            stays what the world says.
        answer: What the world says, by label.
        config: The world's.

    Raises:
        InputError: it is no such thing.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, id2label={0: "arousal", 1: "valence"})
        >>> label_of({"valence": -0.5}, {"arousal": 0.25, "valence": 0.75}, config)
        {'arousal': 0.25, 'valence': -0.5}
    """
    names, kind = label_names(config), config.problem_type
    entries = {said: True} if isinstance(said, str) else said
    if not isinstance(entries, Mapping) or not entries:
        raise InputError(f"A correction names one of {listed(names)}; got {quoted(said)}.")
    if unknown := [name for name in entries if name not in names]:
        raise InputError(f"This world knows no {quoted(unknown[0])}; it knows {listed(names)}.")
    if kind == "regression":
        values = {name: entries.get(name, answer[name]) for name in names}
        if odd := [value for value in values.values() if isinstance(value, bool) or not isinstance(value, int | float)]:
            raise InputError(f"A value of this world is a number; got {quoted(odd[0])}.")
        return values
    if odd := [value for value in entries.values() if not isinstance(value, bool)]:
        raise InputError(f"A label is right or wrong, true or false; got {quoted(odd[0])}.")
    if kind == "single_label_classification":
        if len(entries) != 1 or not next(iter(entries.values())):
            raise InputError(f"A face has one class here, one of {listed(names)}; got {quoted(said)}.")
        return next(iter(entries))
    return [name for name in names if entries.get(name, answer[name] >= 0.5)]


def _answers(world: World, stored: FeatureDataset) -> Tensor:
    """What a world says of stored faces, as labels."""
    model, device, parts = world.model, next(world.model.backbone.parameters()), []
    with torch.inference_mode(), model.reading_with(world.adapter_name):
        for first in range(0, len(stored), 32):
            features = stored.features(range(first, min(first + 32, len(stored))), depths=model.depths)
            own = tuple(tensor.to(device.device, device.dtype) for tensor in features)
            parts.append(model(features=own).logits.float().cpu())
    logits = torch.cat(parts).clone()
    if world.config.problem_type == "single_label_classification":
        return logits.argmax(dim=1)
    return (logits > 0).float() if world.config.problem_type == "multi_label_classification" else logits


def _painted() -> list[Any]:
    """Painted faces of all kinds, the same every time."""
    import numpy as np

    from ..data import Expression, paint_face

    draw = np.random.default_rng(0)
    faces: list[Any] = []
    for number in range(_PAINTED):
        brow, frown, eye, curve, width = draw.uniform(-1, 1, 5).tolist()
        open_, nose = draw.uniform(0, 1, 2).tolist()
        look = Expression(
            brow_raise=brow, brow_frown=frown, eye_open=eye, mouth_curve=curve, mouth_open=open_, mouth_width=width
        )
        faces.append(paint_face(expression=dataclasses.replace(look, nose_wrinkle=nose), seed=number, size=150))
    return faces
