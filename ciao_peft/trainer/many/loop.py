"""Trainings of alike adapters on the same features, in one loop: every product is one of all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ...errors import DivergenceError
from ...features import FeatureDataset
from ...labels import widest_dtype
from ...model import CIAOModel
from ...progress import hides_bars
from ..accelerator import progress_bar
from ..interrupts import Interrupts
from ..loader import Batch, BatchDataset, BatchLoader
from ..seeds import seed_of
from .losses import LossNumbers, stacked_losses
from .member import Member
from .skeleton import Skeleton
from .stacked import StackedAdapters

__all__ = ["StackedLoop"]


class StackedLoop:
    """Makes the updates of several trainings together, each as `TrainingLoop` makes them for one.

    Every member has its own order of samples, dropout, rates and losses. One that has ended, early or not, stays in the
    stack until the end of the epoch, where what is done to it counts for nothing.

    Args:
        model: Holds the adapters.
        members: Alike; those with equal settings one after the other.

    Shapes:
        See `Skeleton`.
    """

    def __init__(self, model: CIAOModel, members: Sequence[Member]):
        self._members = [*members]
        self._together = len(members)
        self._accelerator = members[0].trainer.accelerator
        self._device: torch.device = self._accelerator.device
        trainers = [member.trainer for member in members]
        self._stack = StackedAdapters(trainers, [member.settings for member in members])
        self._skeleton = Skeleton(model, members[0].adapter)
        self._step = 0
        self._window = torch.zeros(len(members), 4, dtype=widest_dtype(self._device), device=self._device)
        self._sums = torch.zeros_like(self._window)
        self._norms = torch.zeros(len(members), device=self._device)
        self._seconds = [0.0] * len(members)
        self._kept = {name: tensor.detach().clone() for name, tensor in self._stack.tensors.items()}
        self._kept_steps = torch.full((len(members),), -1, device=self._device)
        self._keep_finite()
        self._generator = torch.Generator(self._device)

    def run(self) -> None:
        """Trains; afterwards every member has its result.

        Raises:
            KeyboardInterrupt: on Ctrl-C, after the update that was being made.
        """
        first = self._members[0]
        quiet = hides_bars(first.args.disable_tqdm)
        total = max(member.total_steps for member in self._members)
        title = f"{self._together} adapters"
        try:
            with Interrupts() as interrupts, progress_bar(title, 0, total, quiet) as bar:
                while self._members:
                    for _ in self._epoch(self._step // first.steps_per_epoch):
                        bar.update()
                        if interrupts.asked:
                            raise KeyboardInterrupt(
                                f"Stopped after update {self._step}; many trainings at once keep no checkpoints."
                            )
                    self._keep_finite()
                    self._let_go()
        except BaseException:
            for place, member in enumerate(self._members):
                if member.result is None:
                    member.write(self._stack.of(place))
            raise

    def _epoch(self, epoch: int) -> Iterator[None]:
        """The updates of one epoch, or those until every member has ended."""
        members = self._members
        plans, seeds = zip(*(member.plan(epoch) for member in members), strict=True)
        order = [np.stack(rows) for rows in zip(*plans, strict=True)]  # (K, b) for each update
        seeds_of_updates = [*zip(*seeds, strict=True)]
        labels = torch.stack([member.labels for member in members]).to(self._device)
        known = [member.targets for member in members if member.targets is not None]
        targets = torch.stack(known).to(self._device) if len(known) == len(members) else None
        first_rows = np.arange(len(members))[:, None] * labels.shape[1]  # of each member's labels, all in one column
        flat = torch.from_numpy(np.concatenate([(rows + first_rows).ravel() for rows in order])).to(self._device)
        largest = torch.tensor([m.args.max_grad_norm or torch.inf for m in members], device=self._device)
        configs = [member.adapter.config for member in members]
        self._numbers = LossNumbers.of(configs, self._device)
        kept = torch.tensor([1 - own.dropout for own in configs], dtype=torch.float32, device=self._device)
        self._kept_shares = kept[:, None, None]
        places = flat.split([rows.size for rows in order])
        batches = self._batches(order, seeds_of_updates)
        began = time.perf_counter()
        for own, update_seeds, (features, shared) in zip(places, seeds_of_updates, batches, strict=True):
            own_labels, own_targets = (None if values is None else _taken(values, own) for values in (labels, targets))
            assert own_labels is not None  # those that may be missing are the targets
            self._gradients(features, shared, own_labels, own_targets, update_seeds)
            self._norms = self._stack.step(self._step, largest)
            self._step += 1
            active = [place for place, member in enumerate(members) if member.result is None]
            began, passed = time.perf_counter(), time.perf_counter() - began
            for place in active:
                self._seconds[place] += passed / len(active)
            self._after_update(active)
            yield
            if all(member.result is not None for member in members):
                return

    def _batches(
        self, order: Sequence[np.ndarray], seeds: Sequence[tuple[int, ...]]
    ) -> Iterator[tuple[tuple[Tensor, ...], bool]]:
        """The features of each update, and whether they are one batch that all members read."""
        source = self._members[0].source
        assert isinstance(source.data, FeatureDataset)  # or these trainings would not be alike
        same = [bool((rows == rows[:1]).all()) for rows in order]
        if source.views > 1:  # whose views are drawn by each member's own seed
            same = [rows and len(set(own)) == 1 for rows, own in zip(same, seeds, strict=True)]
        if source.views > 1 and not all(same):
            streams = [
                self._loader(source).read([rows[place] for rows in order], [own[place] for own in seeds])
                for place in range(len(self._members))
            ]
            for batches in zip(*streams, strict=True):
                tensors = zip(*(batch.inputs["features"] for batch in batches), strict=True)
                yield tuple(torch.cat(each) for each in tensors), False
            return
        plan = [rows[0] if shared else rows.ravel() for rows, shared in zip(order, same, strict=True)]
        stream: Iterator[Batch] = self._loader(source).read(plan, [own[0] for own in seeds])
        for batch, shared in zip(stream, same, strict=True):
            yield batch.inputs["features"], shared

    def _loader(self, source: BatchDataset) -> BatchLoader:
        return BatchLoader(source, 0, 1, 0, self._device)

    def _gradients(
        self,
        features: tuple[Tensor, ...],
        shared: bool,
        labels: Tensor,
        targets: Tensor | None,
        seeds: Sequence[int],
    ) -> None:
        configs = [member.adapter.config for member in self._members]
        drops: list[Tensor] = []
        with self._accelerator.autocast():
            if configs[0].dropout > 0:
                drops = self._drops([seed_of(seed, 1) for seed in seeds], labels.shape[1])
            logits, z = self._skeleton.read(self._stack.tensors, features, shared, drops)
        losses = stacked_losses(logits.float(), z, labels, targets, configs, self._numbers)
        losses[:, 0].sum().backward()
        for total in (self._window, self._sums):
            total[:, :3] += losses.detach()
            total[:, 3] += 1

    def _drops(self, seeds: Sequence[int], rows: int) -> list[Tensor]:
        """What hidden outputs are multiplied by, `(K, rows, width)` for each layer: each member's as drawn alone."""
        kind = self._device.type
        dtype = next(self._members[0].adapter.head.parameters()).dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        widths = self._skeleton.widths * self._skeleton.passes
        drops = [torch.empty(len(seeds), rows, width, dtype=dtype, device=self._device) for width in widths]
        for place, (member, seed) in enumerate(zip(self._members, seeds, strict=True)):
            self._generator.manual_seed(seed)
            for drop in drops:
                drop[place].bernoulli_(1 - member.adapter.config.dropout, generator=self._generator)
        return [drop.div_(self._kept_shares) for drop in drops]

    def _after_update(self, active: Sequence[int]) -> None:
        step, members = self._step, self._members
        logging = [place for place in active if members[place].logs(step)]
        if logging:
            windows, sums, norms = self._window.tolist(), self._sums.tolist(), self._norms.tolist()
            self._window[torch.tensor(logging, device=self._device)] = 0
            for place in logging:
                with self._noting_divergence(place):
                    rates = self._stack.rates(place)
                    members[place].log_losses(step, windows[place], sums[place], rates, norms[place])
        evaluating = [place for place in active if members[place].result is None and members[place].is_due(step)]
        if evaluating:
            logits = self._logits(members[evaluating[0]])
            for place in evaluating:
                with self._noting_divergence(place):
                    members[place].evaluated(step, logits[place], self._stack.of(place))
        for place in active:
            if members[place].result is None and members[place].has_ended(step):
                sums = self._sums[place].tolist()
                members[place].end(step, self._stack.of(place), sums, self._seconds[place], self._together)

    @contextmanager
    def _noting_divergence(self, place: int) -> Iterator[None]:
        """A context in which a training that diverges ends by itself; the others go on."""
        try:
            yield
        except DivergenceError as error:
            kept = {name: tensor[place] for name, tensor in self._kept.items()}
            self._members[place].diverge(error, kept, int(self._kept_steps[place]), self._together)

    @torch.no_grad()
    def _logits(self, member: Member) -> Tensor:
        """Of the evaluation data, `(K, N, num_labels)`, on the CPU."""
        source = member.eval_source
        assert source is not None  # or nothing is due
        size = member.args.per_device_eval_batch_size
        plan = [np.arange(first, min(first + size, len(source))) for first in range(0, len(source), size)]
        logits = []
        for batch in self._loader(source).read(plan, [None] * len(plan)):
            with self._accelerator.autocast():
                logits.append(self._skeleton.read(self._stack.tensors, batch.inputs["features"], True)[0].float())
        return torch.cat(logits, dim=1).cpu()

    @torch.no_grad()
    def _keep_finite(self) -> None:
        """Copies every adapter that is finite; the host waits for nothing."""
        finite = torch.ones_like(self._kept_steps, dtype=torch.bool)
        for tensor in self._stack.tensors.values():
            finite &= tensor.isfinite().reshape(len(tensor), -1).all(dim=1)
        for name, tensor in self._stack.tensors.items():
            own = finite.view(-1, *[1] * (tensor.ndim - 1))
            self._kept[name] = torch.where(own, tensor.detach(), self._kept[name])
        self._kept_steps = torch.where(finite, self._step, self._kept_steps)

    def _let_go(self) -> None:
        """Takes those that have ended out of the stack."""
        kept = [place for place, member in enumerate(self._members) if member.result is None]
        if 0 < len(kept) < len(self._members):
            index = torch.tensor(kept, device=self._device)
            self._stack.keep(kept)
            self._kept = {name: tensor.index_select(0, index) for name, tensor in self._kept.items()}
            self._window, self._sums, self._kept_steps = (
                tensor.index_select(0, index) for tensor in (self._window, self._sums, self._kept_steps)
            )
            self._seconds = [self._seconds[place] for place in kept]
        self._members = [self._members[place] for place in kept]


def _taken(values: Tensor, rows: Tensor) -> Tensor:
    """From values of all samples for each of K members, `(K, N, ...)`, those of their batches, `(K, b, ...)`."""
    return values.flatten(0, 1).index_select(0, rows).unflatten(0, (len(values), -1))
