"""From whatever shows a face to stored features and labels: the way into an update and into a memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..adapters import Adapter, Seen, checked_source, read_maps
from ..checking import check_plain
from ..config import CIAOConfig
from ..errors import CorrectionError, InputError, MemoryMismatchError, TrainingError, listed, quoted
from ..features import ClipSamples, FeatureDataset, Samples, batches_of, check_labels_of, model_key, samples_of
from ..features.naming import are_names
from ..model import CIAOModel
from ..prediction import check_preprocessing, clip_frames, is_folder, is_several
from .rows import Faces

__all__ = ["Reader", "as_rows", "check_model"]


def check_model(model: Any) -> CIAOModel:
    """Refuses what is no model with adapters.

    Args:
        model: What was given.

    Raises:
        TrainingError: it is something else.
    """
    if not isinstance(model, CIAOModel):
        raise TrainingError(f"`model` must be a CIAOModel, as get_ciao_model makes it; got {type(model).__name__}.")
    return model


class Reader:
    """Reads faces for one adapter: as features of the frozen trunk, and with the adapter or a copy of it.

    Args:
        model: Holds the adapter.
        adapter_name: Which adapter; the active one when left out.

    Attributes:
        name: Name of the adapter.

    Shapes:
        Features are `(B, ...)` for each tensor that crosses the cut and each depth; logits `(B, num_labels)`.

    Raises:
        AdapterNotFoundError, NoActiveAdapterError: there is no such adapter.
        TrainingError: the adapter owns its whole encoder, so that features mean nothing to it.
        UntraceableBackboneError: the backbone could not be cut.
    """

    name: str

    def __init__(self, model: CIAOModel, adapter_name: str | None):
        self._model = check_model(model)
        self.name = model.resolve_adapter(adapter_name)
        if self.adapter.encoder is not None:
            raise TrainingError(
                f"The adapter {quoted(self.name)} owns its whole encoder (tuning='full'): stored features mean nothing "
                "to it, and it cannot learn from them. `CIAOTrainer` trains it."
            )
        self.key()

    @property
    def adapter(self) -> Adapter:
        """The adapter that has this name now."""
        return self._model.adapters[self._model.resolve_adapter(self.name)]

    @property
    def config(self) -> CIAOConfig:
        """Its settings."""
        return self.adapter.config

    def key(self) -> dict[str, Any]:
        """Whose features it reads, as plain data."""
        with self._model.reading_with(self.name):
            frames = self.config.frames
            return model_key(self._model) | ({} if frames is None else {"frames": frames})

    @property
    def num_tensors(self) -> int:
        """How many tensors features have, those of the depths included and u not."""
        with self._model.reading_with(self.name):
            return len(self._model.opened.feature_shapes) + len(self._model.depths)

    # -- from faces to features --------------------------------------------------------------------------------------

    @torch.no_grad()
    def read(self, given: Any, with_labels: bool = True, batch_size: int = 64) -> tuple[tuple[Tensor, ...], Any]:
        """Features of faces, and the labels that came with them.

        Args:
            given: Pictures as `predict` takes them; pixels `(B, C, H, W)` or of one face; stored features, as
                `extract_features` gives them or of one face; a `FeatureDataset`, one of its samples, or a dataset that
                `CIAOTrainer.train` takes.
            with_labels: Whether labels of a dataset are wanted.
            batch_size: Faces that go through the trunk at once.

        Returns:
            One tensor `(B, ...)` for each that crosses the cut and for each depth; and labels, or None: names of
            classes where the dataset has names.

        Raises:
            InputError, DataError: it cannot be read, has another shape, or holds NaN.
            FeatureCacheError: stored features of another model.
        """
        _check_tensors(given)
        with self._model.reading_with(self.name):
            if isinstance(given, Mapping) and "features" in given:
                return self._features(given["features"]), given.get("labels", given.get("label"))
            if isinstance(given, Mapping) and "pixel_values" in given:
                return self._of_arrays(given["pixel_values"], batch_size), given.get("labels", given.get("label"))
            if not _is_dataset(given):
                return self._of_arrays(given, batch_size), None
            source = self._source_of(given, "the dataset of corrections")
            parts = [self._rows_of(source, rows) for rows in batches_of(range(len(source)), batch_size, len(source))]
            if not parts:
                self._none()
            tensors = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
            return tensors, _labels_of(source) if with_labels else None

    def read_dataset(self, data: Any, name: str, batch_size: int) -> Iterator[Faces]:
        """Features and labels of a dataset, part by part.

        Args:
            data: A `FeatureDataset`, or a dataset of pictures or pixels, with labels.
            name: What messages call it.
            batch_size: Faces in each part.

        Raises:
            DataError, InputError, TrainingError, FeatureCacheError: as for `CIAOTrainer.train`.
        """
        with self._model.reading_with(self.name):
            source = self._source_of(data, name)
            labels = as_rows(check_labels_of(source, self.config, name), self.config)
        for rows in batches_of(range(len(source)), batch_size, len(source)):
            with self._model.reading_with(self.name), torch.no_grad():
                tensors = self._rows_of(source, rows)
            yield Faces(tensors, labels[rows])

    def _source_of(self, data: Any, name: str) -> FeatureDataset | Samples | ClipSamples:
        if not isinstance(data, FeatureDataset):
            return samples_of(data, self._model.preprocessing, name)
        data.check_belongs_to(model_key(self._model))
        if data.frames != self.config.frames:
            raise InputError(f"{name} has {_frames(data.frames)}; the adapter reads {_frames(self.config.frames)}.")
        return data

    def _rows_of(self, source: FeatureDataset | Samples | ClipSamples, rows: list[int]) -> tuple[Tensor, ...]:
        if isinstance(source, FeatureDataset):
            return self._features(source.features(rows, include_excitation=False, depths=self._model.depths))
        return self._trunk(source.pixels(rows))

    def _of_arrays(self, given: Any, batch_size: int) -> tuple[Tensor, ...]:
        size, frames = self._model.input_size, self.config.frames
        own = (size,) if frames is None else ((frames, *size),)
        tensors = [given] if isinstance(given, Tensor) else given
        if isinstance(tensors, (list, tuple)) and tensors and all(isinstance(part, Tensor) for part in tensors):
            shapes = [tuple(part.shape) for part in cast("Sequence[Tensor]", tensors)]
            if all(shape in own for shape in shapes):
                return self._of_pixels(tensors, batch_size)
            if len(shapes) == 1 and shapes[0][1:] in own:
                return self._of_pixels(list(tensors[0]), batch_size) if shapes[0][0] else self._none()
            return self._features(cast("Sequence[Tensor]", tensors))
        return self._of_pictures(given, batch_size)

    def _none(self) -> tuple[Tensor, ...]:
        raise CorrectionError("There are no corrections: give one face or more.")

    def _of_pixels(self, pixels: Sequence[Any], batch_size: int) -> tuple[Tensor, ...]:
        parts = [
            self._trunk(torch.stack([torch.as_tensor(face) for face in pixels[start : start + batch_size]]))
            for start in range(0, len(pixels), batch_size)
        ]
        return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

    def _trunk(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return self._model.extract_features(pixels.to(self._model.device), depths=self._model.depths)

    def _of_pictures(self, given: Any, batch_size: int) -> tuple[Tensor, ...]:
        preprocessing = check_preprocessing(self._model.preprocessing, ", or give pixels or stored features")
        frames = self.config.frames
        if is_folder(given):
            raise InputError("A folder of pictures has no order for labels; give a list of pictures.")
        pictures = list(given) if is_several(given) else [given]
        if not pictures:
            self._none()
        parts: list[tuple[Tensor, ...]] = []
        for start in range(0, len(pictures), batch_size):
            fitted = [
                preprocessing.fit_all(picture if frames is None else clip_frames(picture, frames))
                for picture in pictures[start : start + batch_size]
            ]
            together = np.concatenate(fitted) if frames is None else np.stack(fitted)
            parts.append(self._trunk(preprocessing.normalise(together)))
        return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

    def _features(self, given: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Stored features, checked, without u; rows of one face get their first dimension back."""
        opened, depths, frames, shapes = self._model.opened, self._model.depths, self.config.frames, self._shapes()
        if not isinstance(given, (Tensor, list, tuple)):
            raise InputError(f"`features` are tensors, as `extract_features` gives them; got {quoted(given)}.")
        tensors = [given] if isinstance(given, Tensor) else list(given)
        if tensors and all(isinstance(part, Tensor) for part in tensors) and tuple(tensors[0].shape) == shapes[0]:
            tensors = [part[None] for part in tensors]
        tensors = [
            part.to(self._model.device) if isinstance(part, Tensor) else part  # refused below
            for part in tensors
        ]
        source = checked_source(self._model._frozen, opened, None, tensors, frames, depths)
        crossing = (source["features"] or [])[: len(opened.feature_shapes)]
        checked = [*crossing, *(source["depths"][depth] for depth in depths)]
        return tuple(part if frames is None else part.unflatten(0, (-1, frames)) for part in checked)

    def _shapes(self) -> list[tuple[int, ...]]:
        """Of the features of one face."""
        opened, frames = self._model.opened, self.config.frames
        shapes = [*map(tuple, opened.feature_shapes), *((size,) for size in opened.depth_sizes(self._model.depths))]
        return shapes if frames is None else [(frames, *shape) for shape in shapes]

    def check_stored(self, stored: Faces) -> None:
        """Refuses stored faces whose features or labels are not as many as this adapter has.

        Args:
            stored: One or more.

        Raises:
            MemoryMismatchError: says what differs.
        """
        with self._model.reading_with(self.name):
            expected = self._shapes()
        shapes, width, own = [tuple(t.shape[1:]) for t in stored.tensors], stored.labels.shape[1], self.config
        if shapes != expected:
            raise MemoryMismatchError(f"Stored features of a face are {expected} here; these are {quoted(shapes)}.")
        grows = own.problem_type != "regression"  # classes and labels may have come since
        if width > own.num_labels or (width < own.num_labels and not grows):
            raise MemoryMismatchError(
                f"Stored faces have {width} labels, and the adapter {quoted(self.name)} has {own.num_labels}: "
                f"{listed(own.id2label.values())}. Make a memory for this adapter: `FeatureMemory.from_dataset`."
            )

    # -- from features to answers ------------------------------------------------------------------------------------

    @torch.no_grad()
    def with_excitation(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Features with u of each conv unit behind them: no later pass computes a frozen convolution.

        Args:
            tensors: As `read` gives them.
        """
        found: dict[int, Tensor] = {}

        def keep(index: int, features: Tensor, excitation: Any) -> Tensor:
            found[index] = excitation()
            return found[index]

        device = self._model.device
        own = tuple(tensor.to(device) for tensor in tensors)
        if len(self.adapter.excitation):  # it has a unit of its own
            return own
        with self._model.reading_with(self.name):
            opened, source = self._source(own)
            adapters = {self.name: self.adapter}
            read_maps(
                [(None, self.name)],
                adapters,
                self._model._frozen,
                features_of=opened,
                masks={self.name: keep},
                **source,
            )
        count = len(own[0]) * (self.config.frames or 1)
        u = [found[index].unflatten(0, (count, -1)) for index in sorted(found)]
        shapes = [tuple(shape) for shape in opened.excitation_shapes]
        u = [part.reshape(count, *shape) for part, shape in zip(u, shapes, strict=True)]
        frames = self.config.frames
        return (*own, *(part if frames is None else part.unflatten(0, (-1, frames)) for part in u))

    def _source(self, tensors: Sequence[Tensor]) -> tuple[Any, Any]:
        self._model._frozen.keep_in_eval_mode()
        opened, own = self._model.opened, [tensor.to(self._model.device) for tensor in tensors]
        source = checked_source(self._model._frozen, opened, None, own, self.config.frames, self._model.depths)
        return opened, source

    def look(self, adapter: Adapter, tensors: Sequence[Tensor]) -> Tensor | Seen:
        """What the head of an adapter, or of a copy of it, decides from.

        Args:
            adapter: Of the same settings as the one of this name.
            tensors: As `read` or `with_excitation` gives them.
        """
        with self._model.reading_with(self.name):
            opened, source = self._source(tensors)
            return read_maps(
                [(None, self.name)], {self.name: adapter}, self._model._frozen, features_of=opened, **source
            )[0]

    def logits(self, adapter: Adapter, tensors: Sequence[Tensor]) -> Tensor:
        """What an adapter, or a copy of it, answers.

        Args:
            adapter: Of the same settings as the one of this name.
            tensors: As `read` or `with_excitation` gives them.

        Returns:
            Logits `(B, num_labels)` in float32.
        """
        return adapter.decide(self.look(adapter, tensors))[0].float()


def as_rows(labels: Tensor, config: CIAOConfig) -> Tensor:
    """Labels as `check_labels` returns them, as rows of numbers: a class id is a row with one 1.

    Args:
        labels: `(B,)` or `(B, num_labels)`.
        config: Of the adapter.

    Returns:
        `(B, num_labels)`, float32, on the CPU.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3)
        >>> as_rows(torch.tensor([2, 0]), config).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    labels = labels.detach().cpu()
    if labels.ndim == 1:
        return torch.nn.functional.one_hot(labels, config.num_labels).float()
    return labels.float()


def _check_tensors(given: Any) -> None:
    """Refuses tensors without values, and those that hold them in another way than an array does."""
    named: dict[str, Any] = {"faces": given}
    if isinstance(given, Mapping):
        named = {name: given[name] for name in ("features", "pixel_values") if name in given}
    for name, values in named.items():
        parts = values if isinstance(values, (list, tuple)) else [values]
        for part in parts:
            if isinstance(part, Tensor):
                check_plain(name, part, has_values=True)


def _is_dataset(given: Any) -> bool:
    if isinstance(given, FeatureDataset) or (hasattr(given, "with_format") and hasattr(given, "features")):
        return True
    first = given[0] if isinstance(given, (list, tuple)) and given else None
    if isinstance(first, Mapping):
        return True
    return hasattr(given, "__getitem__") and hasattr(given, "__len__") and isinstance(given, torch.utils.data.Dataset)


def _labels_of(source: FeatureDataset | Samples | ClipSamples) -> Any:
    """Labels of a dataset: names of classes where it has names for them."""
    labels = source.labels if isinstance(source, FeatureDataset) else source.labels()
    names = source.label_names  # known once labels are read
    whole = labels is not None and labels.ndim == 1 and not labels.is_floating_point()
    if names is None or not are_names(names) or labels is None or not whole:
        return labels
    return [names[int(number)] if 0 <= int(number) < len(names) else int(number) for number in labels]


def _frames(frames: int | None) -> str:
    return "single pictures" if frames is None else f"clips of {frames} frames"
