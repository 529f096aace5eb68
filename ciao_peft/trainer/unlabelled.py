"""Training data without labels: which pictures come with which batch, in which views, and what is learned from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import CIAOConfig
from ..errors import InputError, TrainingError
from ..losses import Losses, total_loss
from ..pseudo_labels import SeenUnlabelled, pseudo_label_loss, pseudo_labels
from .arguments import CIAOTrainingArguments
from .loader import Batch, BatchDataset, BatchLoader, Order
from .seeds import seed_of
from .setting_groups import UNLABELLED

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Unlabelled", "check_unlabelled", "unlabelled_order"]


def unlabelled_order(num_samples: int, first: int, count: int, seed: int) -> np.ndarray:
    """The unlabelled samples that come from one place of a training on: pass after pass, each in an order of its own.

    Args:
        num_samples: Unlabelled samples there are, 1 or more.
        first: How many came before.
        count: How many come now.
        seed: Of the training.

    Returns:
        `(count,)` numbers of samples, which depend on nothing else.

    Example:
        >>> early, late = unlabelled_order(5, 0, 5, seed=1), unlabelled_order(5, 3, 2, seed=1)
        >>> sorted(early.tolist()), early[3:].tolist() == late.tolist()
        ([0, 1, 2, 3, 4], True)
    """
    passes = range(first // num_samples, (first + count - 1) // num_samples + 1)
    rows = [np.random.default_rng([seed, number, 7]).permutation(num_samples) for number in passes]
    start = first % num_samples
    return np.concatenate(rows)[start : start + count] if rows else np.zeros(0, dtype=int)


class _Seen(BatchDataset):
    """The same data in the view that decides, the picture as it is, or in another one, which learns."""

    def __init__(self, source: BatchDataset, learns: bool):
        super().__init__(
            source.data,
            None,
            source.include_excitation,
            source.resident,
            source.views,
            source._augment,
            source.depths,
        )
        self._learns = learns

    def views_of(self, order: Order) -> Tensor | None:
        if not self._learns or order.seed is None or self.views == 1:
            return None
        return torch.from_numpy(np.random.default_rng(order.seed).integers(1, self.views, len(order.rows)))


class Unlabelled:
    """What a training learns from pictures without labels (Eq. 6-8 of docs/method.md).

    Which pictures come with a batch follows from its number and the seed. What the adapter said of them so far is in
    `seen`; with it, and with what every checkpoint holds, a training goes on to the bit.

    Args:
        source: The pictures or stored features; labels are not looked at.
        args: `unlabelled_ratio`, `unlabelled_weight` and the settings of pseudo-labels.
        config: Of the adapter.
        accelerator: Its device.
        in_evaluation: Makes a context in which the adapter answers as in evaluation, without dropout.

    Attributes:
        seen: Running means of what the adapter said.

    Shapes:
        With `U` unlabelled samples of a batch: two batches of `U` rows, see `Batch`.

    Example:
        >>> from contextlib import nullcontext
        >>> from ciao_peft.features import samples_of
        >>> from ciao_peft.trainer import make_accelerator
        >>> args = CIAOTrainingArguments(report_to="none", unlabelled_ratio=2)
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> data = samples_of([{"pixel_values": torch.full((3, 8, 8), float(n))} for n in range(5)], None)
        >>> unlabelled = Unlabelled(BatchDataset(data, None), args, config, make_accelerator(args), nullcontext)
        >>> deciding, learning = next(unlabelled.read(epoch=0, sizes=[2], first=0))
        >>> torch.equal(deciding.inputs["pixel_values"], learning.inputs["pixel_values"])  # there is one view
        True
    """

    source: BatchDataset
    seen: SeenUnlabelled

    def __init__(
        self,
        source: BatchDataset,
        args: CIAOTrainingArguments,
        config: CIAOConfig,
        accelerator: Accelerator,
        in_evaluation: Callable[[], AbstractContextManager[Any]],
    ):
        self.source, self._args, self._accelerator = source, args, accelerator
        self._in_evaluation = in_evaluation
        self.seen = SeenUnlabelled(config.num_labels, accelerator.device)
        workers = args.dataloader_num_workers
        self._loaders = [
            BatchLoader(_Seen(source, learns), 0, 1, workers, accelerator.device) for learns in (False, True)
        ]
        self._coming: Iterator[tuple[Batch, Batch]] = iter(())

    @property
    def settings(self) -> dict[str, Any]:
        """How many samples there are, and how they are learned from, as plain data."""
        asked = {name: getattr(self._args, name) for name in UNLABELLED}
        return {"unlabelled_samples": len(self.source), **asked}

    def record(self) -> dict[str, Any]:
        """What decides the result of a training, for its checkpoints."""
        return {"inputs": self.source.kind, **self.settings}

    def read(self, epoch: int, sizes: Sequence[int], first: int) -> Iterator[tuple[Batch, Batch]]:
        """The unlabelled pictures of the batches of an epoch, in the view that decides and in the one that learns.

        Args:
            epoch: Its number.
            sizes: Labelled samples of each of its batches.
            first: Number of the first batch to read.
        """
        args = self._args
        bounds = (epoch * sum(sizes) + np.concatenate([[0], np.cumsum(sizes)])) * args.unlabelled_ratio
        plan, seeds = [], []
        for index in range(first, len(sizes)):
            count = int(bounds[index + 1] - bounds[index])
            plan.append(unlabelled_order(len(self.source), int(bounds[index]), count, args.seed))
            seeds.append(seed_of(args.seed, epoch, index, 3))
        return zip(*(loader.read(plan, seeds) for loader in self._loaders), strict=True)

    def begin(self, epoch: int, sizes: Sequence[int], first: int) -> None:
        """Begins to read an epoch, as `read` does, for `losses`.

        Args:
            epoch, sizes, first: As for `read`.
        """
        self._coming = self.read(epoch, sizes, first)

    def losses(self, reader: nn.Module, batch: Batch, config: CIAOConfig, progress: float = 1.0) -> Losses:
        """The losses of a labelled batch with the unlabelled pictures that come with it.

        Args:
            reader: Answers a batch with logits and z.
            batch: The labelled samples.
            config: Of the adapter.
            progress: Share of the training's updates that were made before this one; below `unlabelled_warmup`,
                pseudo-labels do not count.

        Returns:
            The total; the task loss of the labelled samples; and the contrastive loss of all. What is left of the
            total is the weighted loss of the pseudo-labels.
        """
        if batch.labels is None:
            raise TrainingError("A batch without labels has no loss.")
        deciding, learning = next(self._coming)
        args, count = self._args, len(batch.labels)
        with torch.no_grad(), self._in_evaluation(), self._accelerator.autocast():
            decided, kept, *_ = reader(**deciding.inputs)
        with self._accelerator.autocast():
            logits, embeddings, *prototypes = reader(**_joined(batch, learning))
        logits, embeddings = logits.float(), embeddings.float()
        has_views = args.contrast_unlabelled and self.source.views > 1
        views = (embeddings[count:], kept.float()) if has_views else None
        losses = total_loss(logits[:count], embeddings[:count], batch.labels, config, *prototypes, views=views)
        is_warm = progress >= args.unlabelled_warmup
        if is_warm and args.unlabelled_weight > 0 and config.problem_type == "single_label_classification":
            found = pseudo_labels(
                decided.float(),
                config,
                confidence=args.pseudo_label_confidence,
                share=args.pseudo_label_share,
                seen=self.seen,
                alignment=args.pseudo_label_alignment,
                adaptive=args.adaptive_confidence,
            )
            pseudo = args.unlabelled_weight * pseudo_label_loss(logits[count:], found, config)
            losses = losses._replace(loss=losses.loss + pseudo)
        return losses


def _joined(batch: Batch, learning: Batch) -> dict[str, Any]:
    """One batch of the labelled rows and, behind them, the unlabelled ones."""
    joined: dict[str, Any] = {}
    for name, own in batch.inputs.items():
        other = learning.inputs[name]
        if isinstance(own, tuple):
            joined[name] = tuple(torch.cat([a, b.to(a.dtype)]) for a, b in zip(own, other, strict=True))
        else:
            joined[name] = torch.cat([own, other.to(own.dtype)])
    return joined


def check_unlabelled(
    source: BatchDataset, labelled: BatchDataset, args: CIAOTrainingArguments, config: CIAOConfig, processes: int
) -> None:
    """Refuses unlabelled pictures of which nothing could be learned, or not in this way.

    Args:
        source: The unlabelled pictures.
        labelled: The labelled ones.
        args: Settings.
        config: Of the adapter.
        processes: How many train.

    Raises:
        TrainingError: several processes, `two_steps` or `compile`; pictures here and stored features there; labelled
            samples of one class only; or settings under which nothing would be learned.
        InputError: different tensors are stored of the two.
    """
    asked = {"two_steps": args.two_steps, "compile": bool(args.compile), "several processes": processes > 1}
    for name in (name for name, is_asked in asked.items() if is_asked):
        raise TrainingError(f"`unlabelled` is not learned from with {name}; train in one process without it.")
    if source.kind.partition(" ")[0] != labelled.kind.partition(" ")[0]:
        raise TrainingError(
            f"train_dataset is read from {labelled.kind.partition(' ')[0]} and unlabelled from "
            f"{source.kind.partition(' ')[0]}. Give `cache_features` of both, or both as pictures, "
            "with feature_cache='never'."
        )
    _check_alike(source, labelled)
    classes = config.problem_type == "single_label_classification"
    compares = args.contrast_unlabelled and config.contrastive_weight > 0 and source.views > 1
    if not compares and not (classes and args.unlabelled_weight > 0):
        raise TrainingError(
            "Nothing would be learned from `unlabelled`. Pseudo-labels need single-label classes and an "
            f"`unlabelled_weight` above 0 (here {config.problem_type}, {args.unlabelled_weight:g}); that views stay "
            "together needs contrast_unlabelled=True, views=2 or more and a `contrastive_weight` above 0 (here "
            f"{args.contrast_unlabelled}, {source.views}, {config.contrastive_weight:g})."
        )
    if classes and args.unlabelled_weight > 0:
        labels = labelled.known_labels
        own = labels if labels.ndim == 1 else labels.argmax(dim=1)
        if len(own.unique()) == 1:
            name = (config.id2label or {})[int(own[0])]
            raise TrainingError(
                f"train_dataset has one class only ({name}): every picture of `unlabelled` would be taken for it. Give "
                "labelled pictures of a second class, or set unlabelled_weight=0."
            )


def _check_alike(source: BatchDataset, labelled: BatchDataset) -> None:
    """Refuses stored features that cannot lie in one batch: one store has u, or depths, and the other has not."""
    own, other = (getattr(data.data, "has_excitation", None) for data in (source, labelled))
    if own != other and source.include_excitation:
        has, lacks = ("unlabelled", "train_dataset") if own else ("train_dataset", "unlabelled")
        raise InputError(
            f"The stored features of {has} hold u, and those of {lacks} do not. Store both with the same "
            "`include_excitation`."
        )
