"""`suggest`: which faces to label next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..checking import check_number
from ..config import CIAOConfig
from ..errors import DataError, InputError
from ..model import CIAOModel
from ..prediction import label_values, named_answers
from .reading import Read, read_faces
from .strategies import Candidates, choose
from .unlabelled import labels_beside, rows_without_labels, told

__all__ = ["DEFAULT", "NEAR", "Suggestion", "Suggestions", "suggest"]

DEFAULT = "random"
"""How faces are chosen where nobody says otherwise: no other strategy was better on real faces."""

NEAR = 0.98
"""The cosine of two pooled answers from which a face nearly equals another one. Photographs that are saved once more as
JPEG, cut by two pixels or lightened lie above it, two photographs of one person below."""


@dataclass(frozen=True)
class Suggestion:
    """A face to label.

    Args:
        index: Its number among the faces that were given.
        file_name: The name of its file, where it has one; inside the folder, where a folder was given.
        score: What the strategy gave it; `ciao_peft.suggestions.choose` says what it means.
        answer: What the adapter says now, as `model.predict` names it; None without one.
    """

    index: int
    file_name: str | None
    score: float
    answer: dict[str, float] | None


@dataclass(frozen=True)
class Suggestions:
    """Faces to label, the one to begin with first, and what was passed over.

    Args:
        chosen: The faces.
        strategy: How they were chosen.
        looked_at: How many faces could be read.
        near: How many of them were passed over because they nearly equal a chosen or a labelled one.
        unreadable: Names or numbers of pictures that cannot be read, each with the reason.
        problem_type: What kind of answers the adapter gives; None without one.
        passed_over: Why other faces were not looked at, with how many.

    Example:
        >>> print(Suggestions((Suggestion(4, "a.png", 0.9, None),), "margin", 7, 2, (("b.png", "empty file"),)))
        1 of 7 faces, chosen by 'margin'; 2 passed over, which nearly equal another one; 1 cannot be read: b.png \
(empty file)
    """

    chosen: tuple[Suggestion, ...]
    strategy: str
    looked_at: int
    near: int
    unreadable: tuple[tuple[str, str], ...]
    problem_type: str | None = None
    passed_over: tuple[tuple[str, int], ...] = ()

    @property
    def indices(self) -> list[int]:
        """The numbers of the faces, in the order in which to label them."""
        return [one.index for one in self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[Suggestion]:
        return iter(self.chosen)

    def __str__(self) -> str:
        said = [f"{len(self.chosen)} of {self.looked_at:,} faces, chosen by {self.strategy!r}"]
        if self.near:
            said.append(f"{self.near:,} passed over, which nearly equal another one")
        if self.passed_over:
            said.append(told(dict(self.passed_over)))
        if self.unreadable:
            few = ", ".join(f"{name} ({why})" for name, why in self.unreadable[:3])
            more = " ..." if len(self.unreadable) > 3 else ""
            said.append(f"{len(self.unreadable):,} cannot be read: {few}{more}")
        return "; ".join(said)


def suggest(
    model: CIAOModel | nn.Module,
    faces: Any,
    count: int = 20,
    *,
    strategy: str = DEFAULT,
    adapter_name: str | None = None,
    labelled: Any = None,
    near: float = NEAR,
    seed: int = 0,
    batch_size: int = 64,
    disable_tqdm: bool | None = None,
) -> Suggestions:
    """Says which faces to label next, so that an adapter learns most from few labels.

    Every face is read once; of each, some hundred numbers are kept. Nothing is trained. The same faces, seed and model
    give the same suggestions.

    Args:
        model: A model in eval mode, or a bare encoder before there is any adapter.
        faces: Faces without labels: a folder, with the folders in it; a list of pictures as `model.predict` takes them;
            a dataset of `image` or `pixel_values`; or what `cache_features` stored. Of a folder, faces of `test/` and
            `validation/` are left out, as are those with a label in a `metadata.csv` there, or in the folders of
            classes of `train/`; of a dataset in which some faces have no label (None, NaN or below 0), those that have
            one.
        count: How many to suggest, 1 or more.
        strategy: One of `ciao_peft.suggestions.STRATEGIES`, as `ciao_peft.suggestions.choose` explains them.
            `"random"`, the default, passes over near-duplicates as well; on real faces with up to 320 labels, no other
            strategy taught an adapter more, and `"entropy"` found four times as many faces of rare classes
            (docs/howto/suggest.md).
        adapter_name: Whose answers count; the active adapter's when left out. `"typiclust"`, `"k-center"` and
            `"random"` use none.
        labelled: Faces that have labels already, in any of these forms. None that nearly equals them is suggested, and
            `"k-center"` and `"typiclust"` stay away from them.
        near: The cosine of two faces' pooled answers from which they are nearly equal, 0 to 1; at 1, equal ones alone.
        seed: Of what a strategy draws.
        batch_size: Faces read at once.
        disable_tqdm: No progress bar; when left out, none unless a terminal is there to show it.

    Returns:
        The suggestions, fewer than `count` where no more faces are left.

    Raises:
        ConfigError: a setting that there is not.
        InputError: the strategy needs an adapter that answers with classes or labels; an adapter reads clips; the model
            is in training mode, or does not know how to prepare pictures.
        DataError: there is no face that can be read.
        AdapterNotFoundError: the adapter is not loaded.
        FeatureCacheError: stored features are another model's.
        UntraceableBackboneError: the backbone could not be cut.

    Example:
        >>> from ciao_peft import load_encoder
        >>> from ciao_peft.data import paint_face
        >>> faces = [paint_face(seed=number) for number in range(6)]
        >>> found = suggest(load_encoder("small-face"), [*faces, faces[0]], 3, strategy="k-center")
        >>> found.strategy, len(found.indices), found.looked_at
        ('k-center', 3, 7)
    """
    check_number("count", count, int, 1)
    check_number("batch_size", batch_size, int, 1)
    check_number("seed", seed, int, 0, 2**63 - 1)
    if not isinstance(model, CIAOModel):
        wrapped = CIAOModel(model).eval()
        try:
            settings: dict[str, Any] = {"strategy": strategy, "adapter_name": adapter_name, "labelled": labelled}
            settings |= {"near": near, "seed": seed, "batch_size": batch_size, "disable_tqdm": disable_tqdm}
            return suggest(wrapped, faces, count, **settings)
        finally:
            wrapped.unload()
    name = adapter_name if adapter_name is not None else model.active_adapter
    config = None if name is None else model.adapters[model.resolve_adapter(name)].config
    if config is not None and config.frames is not None:
        raise InputError(
            f"The adapter {name!r} reads clips of {config.frames} frames, and faces are chosen one by one."
        )
    answers = config is not None and config.problem_type != "regression"
    quiet: dict[str, Any] = {"batch_size": batch_size, "disable_tqdm": disable_tqdm}
    labels = labels_beside(faces)
    rows = rows_without_labels(labels)
    if rows is not None:
        faces = faces.select(rows) if hasattr(faces, "select") else [faces[row] for row in rows]
    read = read_faces(model, faces, name, **quiet)
    if rows is not None:
        _number_anew(read, rows)
        read.passed_over["have a label"] = len(labels) - len(rows)
    known = None
    if labelled is not None and (not hasattr(labelled, "__len__") or len(labelled)):
        try:
            read_known = read_faces(model, labelled, None, **quiet)
        except DataError as error:
            raise type(error)(f"Of the labelled faces: {error}") from error
        known = read_known.vectors
        read.unreadable += [(name, f"labelled; {why}") for name, why in read_known.unreadable]
    candidates = _candidates(read, config if answers else None, known)
    chosen = choose(candidates, count, strategy, near=near, seed=seed)
    return Suggestions(
        tuple(
            Suggestion(read.rows[index], read.files.get(read.rows[index]), score, _answer(read, index, config))
            for index, score in zip(chosen.indices, chosen.scores, strict=True)
        ),
        strategy,
        len(read.rows),
        chosen.near,
        tuple(read.unreadable),
        None if config is None else config.problem_type,
        tuple(read.passed_over.items()),
    )


def _number_anew(read: Read, rows: list[int]) -> None:
    """Gives faces the numbers that they have among all."""
    again = {f"number {place}": f"number {row}" for place, row in enumerate(rows)}
    read.rows = [rows[place] for place in read.rows]
    read.files = {rows[place]: name for place, name in read.files.items()}
    read.unreadable = [(again.get(name, name), why) for name, why in read.unreadable]


def _candidates(read: Read, config: CIAOConfig | None, known: torch.Tensor | None) -> Candidates:
    if config is None or read.logits is None:
        return Candidates(read.vectors, known=known)
    several = config.problem_type == "multi_label_classification"
    return Candidates(read.vectors, label_values(read.logits, config), read.hidden, known, several)


def _answer(read: Read, index: int, config: CIAOConfig | None) -> dict[str, float] | None:
    if read.logits is None or config is None:
        return None
    return named_answers(read.logits[index : index + 1], config)[0]
