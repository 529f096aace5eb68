"""`OnlineTrainer`: an adapter that learns from one to a few corrected faces at a time, and forgets little."""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import Adapter
from ..config import CIAOConfig
from ..errors import CorrectionError, TrainingError, quoted
from ..model import CIAOModel
from ..saving import local_path
from ..surroundings import outside_inference
from ..trainer.seeds import seed_of
from .arguments import OnlineArguments
from .drift import PageHinkley
from .growing import config_with, grow_head, imprint, put_state
from .guard import GuardScore, score
from .kept import Row
from .labelling import check_values, distinct, label_rows, new_names
from .learning import Drawn, is_right, learn, losses_of
from .memory import FeatureMemory
from .reading import Reader, check_model
from .recent import Recent, together_with
from .rows import Faces, classes_of, sketches_of
from .saving import ADAPTER_FOLDER, RECENT_FILE, SavedOnline, load_online, save_online
from .update import OnlineUpdate
from .versions import VersionedAdapter

__all__ = ["OnlineTrainer"]


class OnlineTrainer(VersionedAdapter):
    r"""Corrects an adapter while it is in use: a few faces, some steps, and a look at what they cost elsewhere.

    An update trains a copy of mask and head from features, on the corrections and on faces of the memory, held near
    what the adapter answered (`distillation_loss`) and was before:

    $$L = L_{dm}(\mathrm{corrections}) + \lambda_r L_{dm}(\mathrm{rehearsed}) + \lambda_d L_{KD}(\mathrm{rehearsed})
          + \frac{\lambda_p}{2} \lVert \theta - \theta_0 \rVert^2$$

    If the guard loses more than `max_forgetting` points by it, the copy is thrown away; otherwise it takes the place of
    the adapter. The last corrections are learned together, from the adapter before the first of them (`together`): one
    after the other, each update would be held near an adapter that the one before had pulled away. An error, an
    interrupt and an update that is not kept leave adapter and memory as they were, to the bit. The backbone and other
    adapters are never touched, and modes and `requires_grad` stay. Nothing depends on the clock: the same corrections
    give the same bits, also after `save` and `from_pretrained`.

    Args:
        model: Holds the adapter.
        adapter_name: Which adapter; the active one when left out.
        memory: Faces to rehearse; an empty `FeatureMemory()` when left out. Fill one from the training data,
            `FeatureMemory.from_dataset(model, faces, max_bytes=...)`: without it, little holds what is not corrected.
        guard: A small dataset with labels, as `CIAOTrainer.train` takes it, that no update learns: it decides what is
            kept. When left out, the faces that the memory holds apart do, if there are `min_guard` of them.
        args: Settings; those of `OnlineArguments()` when left out.

    Attributes:
        model: The model.
        adapter_name: Name of the adapter.
        memory: The memory.
        args: Settings.

    Raises:
        AdapterNotFoundError, NoActiveAdapterError: there is no such adapter.
        TrainingError: the adapter owns its whole encoder; or an argument is of another type.
        UntraceableBackboneError: the backbone could not be cut, so that there are no features.
        MemoryMismatchError: the memory is of another encoder, cut or preprocessing, or of more labels.

    Shapes:
        Pixels are `(B, C, H, W)`; features as `extract_features` gives them, `(B, ...)` each.

    Example:
        >>> from ciao_peft import get_ciao_model, load_encoder
        >>> moods = {"num_labels": 2, "id2label": {0: "calm", 1: "glad"}}
        >>> config = CIAOConfig(problem_type="single_label_classification", **moods)
        >>> model = get_ciao_model(load_encoder("small-face"), config)
        >>> online = OnlineTrainer(model, args=OnlineArguments(max_steps=20))
        >>> faces = torch.rand(2, *model.input_size)
        >>> update = online.update(faces, ["glad", "calm"])
        >>> update.kept, update.version, len(online.memory)
        (True, 1, 2)
        >>> online.undo().number, len(online.memory)
        (0, 0)
    """

    model: CIAOModel
    adapter_name: str
    memory: FeatureMemory
    args: OnlineArguments

    def __init__(
        self,
        model: CIAOModel,
        adapter_name: str | None = None,
        *,
        memory: FeatureMemory | None = None,
        guard: Any = None,
        args: OnlineArguments | None = None,
    ):
        if isinstance(adapter_name, (OnlineArguments, FeatureMemory)):
            name = "args" if isinstance(adapter_name, OnlineArguments) else "memory"
            raise TrainingError(f"The second argument is the adapter's name; write `OnlineTrainer(model, {name}=...)`.")
        if args is not None and not isinstance(args, OnlineArguments):
            raise TrainingError(f"`args` must be OnlineArguments; got {type(args).__name__}.")
        if memory is not None and not isinstance(memory, FeatureMemory):
            raise TrainingError(f"`memory` must be a FeatureMemory; got {type(memory).__name__}.")
        reader, memory = Reader(model, adapter_name), FeatureMemory() if memory is None else memory
        memory.check_belongs_to(reader.key())
        if len(memory):
            reader.check_stored(memory.faces_of(memory.state().rows[:1]))
        self.model, self.args = model, OnlineArguments() if args is None else args
        super().__init__(reader, memory, self.args.keep_versions)
        self._updates = 0
        self._drift = PageHinkley(self.args.drift_threshold, self.args.drift_tolerance)
        self._guard: Faces | None = None
        self._held: tuple[list[Row], Faces] | None = None  # a guard of the memory, by its rows
        self._scored: tuple[Any, GuardScore] | None = None
        if guard is not None:
            with outside_inference(gradients=False):
                self._guard = self._with_u(self._read_guard(guard))

    def __repr__(self) -> str:
        count = self._reader.config.num_labels
        updates = f"{self._updates} update{'' if self._updates == 1 else 's'}"
        return (
            f"OnlineTrainer({self.adapter_name!r}: {count} labels, version {self.version}, {updates}; {self.memory!r})"
        )

    def _read_guard(self, guard: Any) -> Faces:
        if isinstance(guard, Faces):
            tensors, _ = self._reader.read({"features": guard.tensors})
            self._reader.check_stored(Faces(tensors, guard.labels))
            return Faces(tensors, guard.labels)
        if isinstance(guard, tuple) and len(guard) == 2:
            tensors, _ = self._reader.read(guard[0], with_labels=False)
            return Faces(tensors, label_rows(guard[1], self._reader.config, len(tensors[0])))
        parts = [*self._reader.read_dataset(guard, "the guard", 64)]
        tensors = tuple(torch.cat(tensors) for tensors in zip(*(part.tensors for part in parts), strict=True))
        return Faces(tensors, torch.cat([part.labels for part in parts]))

    # -- learning ----------------------------------------------------------------------------------------------------

    def update(self, faces: Any, labels: Any = None, *, add_class: bool = False) -> OnlineUpdate:
        """Learns corrected faces.

        The same face given twice counts once. A face that was corrected before takes its new label, also in the memory.

        Args:
            faces: Pictures as `predict` takes them, one or a list; pixels `(B, C, H, W)`; stored features, as
                `extract_features` gives them; a `FeatureDataset`; or any dataset that `CIAOTrainer.train` takes.
            labels: One for each face, by `problem_type`: the name or id of its class, or `{name: share}`; the names of
                its labels; `{name: value}`; or a tensor, as `forward` takes it. Those of the dataset when left out.
            add_class: Add classes (or labels) whose names the adapter does not know, as `add_class` does.

        Returns:
            What it did: see `OnlineUpdate`.

        Raises:
            UnknownLabelError: the adapter does not know a label.
            ContradictionError: the same face has two labels.
            CorrectionError: no faces; or all of one class, and no other class in the memory.
            InputError, DataError: faces or labels that cannot be read, NaN among them.
            FeatureCacheError, MemoryMismatchError: features or a memory of another encoder.
            TrainingError: the adapter is in training elsewhere.
            DivergenceError: the update diverged. After every error, adapter and memory are as they were.
        """
        started = time.perf_counter()
        with self._learning() as adapter:
            tensors, own = self._reader.read(faces, with_labels=labels is None)
            labels = own if labels is None else labels
            count = len(tensors[0])
            if not count:
                raise CorrectionError("There are no corrections: give one face or more.")
            added = new_names(labels, adapter.config, count) if add_class and labels is not None else []
            config = config_with(adapter.config, added) if added else adapter.config
            rows = label_rows(labels, config, count)
            check_values(rows, config, self.memory.labels)
            sketches = sketches_of(tensors)
            kept = distinct(sketches, rows, list(config.id2label.values()))
            corrections = Faces(tensors, rows).rows(kept)
            before = copy.deepcopy(adapter).eval()  # others may switch its dropout on meanwhile
            work = copy.deepcopy(before)
            if added:
                grow_head(work, added)
            counted = self._updates, dataclasses.replace(self._drift)
            try:
                return self._learn(before, work, corrections, added, started)
            except BaseException:
                self._updates, self._drift = counted
                raise

    def _learn(
        self, adapter: Adapter, work: Adapter, corrections: Faces, added: list[str], started: float
    ) -> OnlineUpdate:
        recent = None if added or self.args.together < 2 else self._recent
        learned, config = together_with(recent, corrections), work.config
        leave_out = [place for place in self.memory.find(learned.tensors) if place >= 0]
        self._updates += 1
        seen, now = self._with_u(corrections), self._left[1]
        with torch.no_grad():
            before = self._reader.logits(work, seen.tensors).cpu()
        losses = losses_of(before, corrections.labels, config)
        teacher, all_seen = adapter, seen
        if recent is not None and not bool(is_right(before, corrections.labels, config, self.args.margin).all()):
            put_state(work, recent.tensors, config)
            teacher, all_seen = work, self._with_u(learned)  # it answers before it learns
        drawn = self._drawn(teacher, leave_out, len(corrections), config.num_labels)
        self._refuse_one_class(all_seen, drawn, config)
        guard = self._guard_of(leave_out)
        guarded = None if guard is None else self._score_before(adapter, guard)
        if added:
            self._imprint(work, seen, drawn, len(config.id2label) - len(added))
        steps = learn(work, lambda tensors: self._reader.look(work, tensors), all_seen, drawn, self.args)
        with torch.no_grad():
            after = self._reader.logits(work, seen.tensors).cpu()
        there = None if guard is None else self._score(work, guard[1])
        right = [int(is_right(logits, corrections.labels, config).sum()) for logits in (before, after)]
        lost = None if guarded is None or there is None else guarded.points - there.points
        in_all = self._lost + (lost or 0.0)
        keeps = lost is None or lost <= 0 or in_all <= self.args.max_forgetting + 1e-9
        drift = self._watch(losses)
        if keeps:
            again = None
            if not added and len(learned) < self.args.together:
                again = Recent(now if recent is None else recent.tensors, learned)
            self._commit(work, corrections, f"{_faces(len(corrections))} corrected", lost or 0.0, again)
            if guard is not None and there is not None:
                self._scored = (self.version, guard[0]), there
        return OnlineUpdate(
            kept=keeps,
            reason=_reason(right, len(corrections), steps, None if lost is None else in_all, keeps, self.args),
            version=self.version,
            faces=len(corrections),
            right_before=right[0],
            right_after=right[1],
            loss_before=sum(losses) / len(losses),
            loss_after=sum(losses_of(after, corrections.labels, config)) / len(corrections),
            guard_size=0 if guard is None else len(guard[1]),
            guard_before=None if guarded is None else guarded.points,
            guard_after=None if there is None else there.points,
            forgotten=lost,
            forgotten_in_all=None if lost is None else in_all,
            forgotten_by_label={} if guarded is None or there is None else _changes(guarded, there),
            added=tuple(added) if keeps else (),
            drift=drift,
            steps=steps,
            rehearsed=0 if drawn is None else min(len(drawn.faces), steps * drawn.per_step),
            seconds=time.perf_counter() - started,
        )

    # -- on disk -----------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Saves everything that the next update depends on, for `from_pretrained`.

        The adapter is a folder of its own in it, `adapter`: that one can be published. Memory and guard lie beside it:
        they hold features of faces, which can show what the faces looked like. Keep them as private as the pictures.
        Earlier versions are not saved: there is nothing to undo after a restart.

        Args:
            folder: Where; an earlier one that is there is replaced as a whole, any other folder is refused.

        Returns:
            The folder.

        Raises:
            AdapterFileError: something else lies there, or the disk refuses; what was there stays.
            TrainingError: the adapter is in training elsewhere.
        """
        with self._learning():
            guard = self._guard
            if guard is not None:
                guard = Faces(guard.tensors[: self._reader.num_tensors], guard.labels)
            counters, watched = (self._next, self._updates), (self._drift, self._lost)
            named = self.adapter_name, self.args, self.memory, guard, self.versions
            saved = SavedOnline(*named, counters, *watched, self._recent)
            return save_online(folder, self.model, saved)

    @classmethod
    def from_pretrained(
        cls,
        model: CIAOModel,
        folder: str | os.PathLike[str],
        adapter_name: str | None = None,
        *,
        guard: Any = None,
        args: OnlineArguments | None = None,
    ) -> OnlineTrainer:
        """Goes on where `save` was called, to the bit.

        Args:
            model: Holds the encoder; the adapter is loaded into it, and becomes the active one where none is.
            folder: What `save` wrote.
            adapter_name: Name to hold the adapter under; the one that it had when left out.
            guard: In place of the saved one.
            args: In place of the saved ones.

        Raises:
            AdapterFileError: the folder is damaged, incomplete, or something else.
            BackboneMismatchError: the adapter is of another encoder, or fed in another way.
            MemoryMismatchError: the memory is.
            AdapterNameError: the name is taken. After every error the model is as it was.
        """
        check_model(model)
        saved = load_online(folder)
        name = model.load_adapter(local_path(folder) / ADAPTER_FOLDER, adapter_name or saved.name)
        try:
            own = saved.guard if guard is None else guard
            trainer = cls(model, name, memory=saved.memory, guard=own, args=saved.args if args is None else args)
            if saved.recent is not None:
                saved.recent.check(trainer._bits(), os.fspath(local_path(folder) / RECENT_FILE))
                trainer._reader.check_stored(saved.recent.faces)
        except BaseException:
            model.delete_adapter(name)
            raise
        if model.active_adapter is None:
            model.set_adapter(name)
        trainer._versions, (trainer._next, trainer._updates) = saved.versions, saved.counters
        limits = {"threshold": trainer.args.drift_threshold, "tolerance": trainer.args.drift_tolerance}
        trainer._drift, trainer._lost = dataclasses.replace(saved.drift, **limits), saved.lost
        trainer._recent = saved.recent
        return trainer

    # -- the parts of an update --------------------------------------------------------------------------------------

    def _with_u(self, faces: Faces) -> Faces:
        return Faces(self._reader.with_excitation(faces.tensors), faces.labels)

    def _drawn(self, adapter: Adapter, leave_out: Sequence[int], count: int, num_labels: int) -> Drawn | None:
        """Faces to rehearse with `count` corrections: those of each step are others while there are some left."""
        per_step, times = self.args.rehearsal, min(self.args.max_steps, count + 1)
        generator = torch.Generator().manual_seed(seed_of(self.args.seed, self._updates))
        balance = self.args.rehearsal_balance
        some = self.memory.draw(per_step * times, generator, leave_out, balance) if per_step else None
        if some is None or not len(some):
            return None
        per_step = min(per_step, len(self.memory) - len(leave_out))
        dtype = self.model.dtype
        some = self._with_u(Faces(tuple(tensor.to(dtype) for tensor in some.tensors), some.labels))
        with torch.no_grad():
            before = self._reader.logits(adapter, some.tensors)
        return Drawn(some.padded(num_labels), before, per_step)

    def _refuse_one_class(self, corrections: Faces, drawn: Drawn | None, config: CIAOConfig) -> None:
        if config.problem_type != "single_label_classification" or self.args.allow_one_class:
            return
        kinds = {*classes_of(corrections.labels, config)}
        if drawn is not None:
            kinds |= {*classes_of(drawn.faces.labels, config)}
        if len(kinds) < 2:
            name = config.id2label[kinds.pop()]
            raise CorrectionError(
                f"All corrections are {quoted(name)}, and the memory holds no other class: the adapter would soon "
                "answer that everywhere. Give faces of other classes with them; or first a memory, "
                "`model.online_trainer(memory=FeatureMemory.from_dataset(model, faces))`; or allow it, "
                "`model.online_trainer(args=OnlineArguments(allow_one_class=True))`."
            )

    def _imprint(self, work: Adapter, seen: Faces, drawn: Drawn | None, first: int) -> None:
        fed: list[Tensor] = []
        last: nn.Module = getattr(work.head, str(work.head.num_layers - 1))
        hook = last.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0].detach()))
        try:
            with torch.no_grad():
                self._reader.logits(work, seen.tensors)
                if drawn is not None:
                    self._reader.logits(work, drawn.faces.tensors)
        finally:
            hook.remove()
        places = range(first, work.config.num_labels)
        imprint(work, list(places), fed[0], seen.labels.to(fed[0].device), fed[1] if drawn is not None else None)

    def _guard_of(self, leave_out: Sequence[int]) -> tuple[Any, Faces] | None:
        """The guard, and what tells it from another one."""
        if self._guard is not None:
            return "given", self._guard
        rows = [row for place, row in enumerate(self.memory.state().rows) if row.held and place not in set(leave_out)]
        if len(rows) < self.args.min_guard:
            return None
        rows = rows[: self.args.max_guard]
        if self._held is None or self._held[0] != rows:
            faces = self.memory.faces_of(rows)
            dtype = self.model.dtype
            faces = Faces(tuple(tensor.to(dtype) for tensor in faces.tensors), faces.labels)
            self._held = rows, self._with_u(faces)
            self._scored = None
        return tuple(self._held[0]), self._held[1]

    def _score(self, adapter: Adapter, guard: Faces) -> GuardScore:
        shares = None if self._guard is not None else self.memory.shares
        return score(guard, adapter.config, lambda tensors: self._reader.logits(adapter, tensors), shares)

    def _score_before(self, adapter: Adapter, guard: tuple[Any, Faces]) -> GuardScore:
        if self._scored is None or self._scored[0] != (self.version, guard[0]):
            self._scored = (self.version, guard[0]), self._score(adapter, guard[1])
        return self._scored[1]

    def _watch(self, losses: list[float]) -> str | None:
        """A word where the stream has changed. What comes after an error has not been seen."""
        if sum(map(self._drift.add, losses)):
            return (
                "The stream has changed: what comes now is harder for the adapter than what came before. Look whether "
                "camera, people or labels are others."
            )
        return None


def _changes(before: GuardScore, after: GuardScore) -> dict[str, float]:
    lost = {name: points - after.by_label.get(name, points) for name, points in before.by_label.items()}
    return {name: points for name, points in lost.items() if points}


def _faces(count: int) -> str:
    return "one face" if count == 1 else f"{count} faces"


def _reason(right: list[int], count: int, steps: int, in_all: float | None, keeps: bool, args: OnlineArguments) -> str:
    if in_all is not None and not keeps:
        return f"the guard would have lost {in_all:.1f} points in all, and {args.max_forgetting:g} are allowed"
    if not steps and right[0] == count:
        return "every correction was right before"
    said = "every correction is right" if right[1] == count else f"{right[1]} of {count} corrections are right"
    return said if in_all is not None else f"{said}; there is no guard to say what it cost elsewhere"
