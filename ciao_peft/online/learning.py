"""The loss of an update, and the steps that a copy of the adapter takes on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters import Adapter, Seen
from ..checking import all_finite
from ..config import CIAOConfig
from ..errors import DivergenceError
from ..labels import discretise
from ..losses import task_loss
from .arguments import OnlineArguments
from .rows import Faces

__all__ = ["Drawn", "distillation_loss", "is_right", "learn", "losses_of"]


def distillation_loss(logits: Tensor, before: Tensor, config: CIAOConfig, temperature: float = 2.0) -> Tensor:
    r"""How far answers are from those that the adapter gave before (Hinton et al. 2015; LwF, Li and Hoiem 2016).

    $$L_{KD} = \frac{T^2}{B} \sum_i \mathrm{KL}\left(\mathrm{softmax}(s^0_i / T) \,\Vert\,
               \mathrm{softmax}(s_i / T)\right)$$

    Of labels that are on or off, the same of each label by itself, averaged over them; of regressed values, the mean
    squared error. Classes that came since are left out.

    Args:
        logits: s, `(B, num_labels)`.
        before: s⁰, `(B, C)`, of the C labels that there were.
        config: Of the adapter; gives `problem_type`.
        temperature: T, above 0.

    Returns:
        A scalar, 0 where nothing changed.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> logits = torch.tensor([[1.0, 0.0]])
        >>> distillation_loss(logits, logits, config), distillation_loss(-logits, logits, config).round(decimals=3)
        (tensor(0.), tensor(0.4900))
    """
    logits = logits[:, : before.shape[1]]
    if config.problem_type == "regression":
        return F.mse_loss(logits, before)
    if config.problem_type == "multi_label_classification":
        on = (before / temperature).sigmoid()
        cross = F.binary_cross_entropy_with_logits(logits / temperature, on)
        return temperature**2 * (cross - F.binary_cross_entropy_with_logits(before / temperature, on))
    target, own = F.log_softmax(before / temperature, dim=1), F.log_softmax(logits / temperature, dim=1)
    return temperature**2 * F.kl_div(own, target, reduction="batchmean", log_target=True)


def online_task_loss(logits: Tensor, labels: Tensor, config: CIAOConfig) -> Tensor:
    """The task loss of Eq. 5; squared errors for regression, for a concordance takes more than one face.

    Args:
        logits: `(B, num_labels)`.
        labels: `(B, num_labels)`, as in `Faces`.
        config: Of the adapter.
    """
    return F.mse_loss(logits, labels) if config.problem_type == "regression" else task_loss(logits, labels, config)


@torch.no_grad()
def losses_of(logits: Tensor, labels: Tensor, config: CIAOConfig) -> list[float]:
    """The task loss of each face by itself.

    Args:
        logits: `(B, num_labels)`.
        labels: `(B, num_labels)`, as in `Faces`.
        config: Of the adapter.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=1)
        >>> losses_of(torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1), config)
        [1.0, 9.0]
    """
    pairs = zip(logits.split(1), labels.split(1), strict=True)
    return [online_task_loss(own, label, config).item() for own, label in pairs]


@torch.no_grad()
def is_right(logits: Tensor, labels: Tensor, config: CIAOConfig, margin: float = 0.0) -> Tensor:
    """Which faces are answered right.

    The class with the highest logit is that of the label; every label is on its side of 0; or every value is in the
    cell of its label (`num_bins` over `label_range`).

    Args:
        logits: `(B, num_labels)`.
        labels: `(B, num_labels)`, as in `Faces`.
        config: Of the adapter.
        margin: How far logits must be on the right side; of no effect for regression.

    Returns:
        `(B,)` of True and False.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> is_right(torch.tensor([[1.0, 0.5], [1.0, 2.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), config)
        tensor([ True, False])
    """
    if config.problem_type == "regression":
        own, right = (discretise(rows, config.num_bins, config.label_range) for rows in (logits, labels))
        return own == right
    if config.problem_type == "multi_label_classification":
        return ((2 * labels - 1) * logits > margin).all(dim=1)
    place = labels.argmax(dim=1, keepdim=True)
    others = logits.scatter(1, place, -torch.inf).max(dim=1).values
    return logits.gather(1, place).squeeze(1) > others + margin


@dataclass(frozen=True)
class Drawn:
    """What is rehearsed in an update.

    Args:
        faces: All faces of all steps, with u.
        before: What the adapter answered for them before, `(N, C)`.
        per_step: Faces of each step.
    """

    faces: Faces
    before: Tensor
    per_step: int

    def step(self, number: int) -> range:
        """The rows of a step, counted from 0; those of the first one again after the last.

        Args:
            number: Of the step.
        """
        start = number * self.per_step % max(len(self.faces) // max(self.per_step, 1) * self.per_step, 1)
        return range(start, start + self.per_step)


def learn(
    adapter: Adapter,
    look: Callable[[Sequence[Tensor]], Tensor | Seen],
    corrections: Faces,
    drawn: Drawn | None,
    args: OnlineArguments,
) -> int:
    """Takes the steps of one update: the first ones of mask and head, those after them of the head alone.

    Once the mask rests, what it lets through is computed once, and a step costs no more than the head.

    Args:
        adapter: A copy of the adapter, which is changed.
        look: From features to what the head of that copy decides from.
        corrections: Faces to learn, with u.
        drawn: What is rehearsed, or None.
        args: Settings.

    Returns:
        How many steps were taken.

    Raises:
        DivergenceError: a weight, or an answer, is NaN or infinite afterwards.
    """
    config, groups = adapter.config, adapter.parameter_groups()
    rates = {"head": args.learning_rate, "mask": args.mask_learning_rate, "encoder": args.mask_learning_rate}
    trained = [{"params": own, "lr": rates[part]} for part, own in groups.items() if own and rates[part] > 0]
    chosen = {id(parameter) for group in trained for parameter in group["params"]}
    for parameter in adapter.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    optimizer = torch.optim.Adam(trained, fused=True)
    start = {parameter: parameter.detach().clone() for group in trained for parameter in group["params"]}
    count, labels = len(corrections), corrections.labels.to(corrections.tensors[0].device)
    tensors = corrections.tensors
    if drawn is not None:
        tensors = tuple(torch.cat(parts) for parts in zip(tensors, drawn.faces.tensors, strict=True))
    resting: Tensor | Seen | None = None
    steps = 0
    while steps < args.max_steps:
        rehearsed = () if drawn is None else (count + row for row in drawn.step(steps))
        rows = torch.tensor([*range(count), *rehearsed], device=labels.device)
        if steps < args.mask_steps and args.mask_learning_rate > 0:
            seen = look([tensor[rows] for tensor in tensors])
        else:
            if resting is None:
                with torch.no_grad():
                    resting = look(tensors)
            seen = _rows_of(resting, rows, config.frames or 1)
        logits = adapter.decide(seen)[0].float()
        right = bool(is_right(logits[:count].detach(), labels, config, args.margin).all())
        if right and (drawn is None or steps == 0 or steps >= args.min_steps):
            break
        loss = args.correction_weight * online_task_loss(logits[:count], labels, config)
        if drawn is not None:
            loss = loss + _rehearsal_loss(logits[count:], drawn, rows[count:] - count, config, args)
        loss.backward()
        if args.proximal_weight:
            for parameter, before in start.items():
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach(), alpha=args.proximal_weight)
                    parameter.grad.sub_(before, alpha=args.proximal_weight)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    refuse_divergence(adapter)
    return steps


def _rows_of(seen: Tensor | Seen, rows: Tensor, frames: int) -> Tensor | Seen:
    if frames > 1:
        rows = (rows[:, None] * frames + torch.arange(frames, device=rows.device)).flatten()
    if isinstance(seen, Seen):
        return Seen(seen.map[rows], None if seen.depths is None else seen.depths[rows])
    return seen[rows]


def _rehearsal_loss(logits: Tensor, drawn: Drawn, rows: Tensor, config: CIAOConfig, args: OnlineArguments) -> Tensor:
    loss = logits.new_zeros(())
    if args.rehearsal_weight:
        known = drawn.faces.labels[rows.cpu()].to(logits.device)
        loss = loss + args.rehearsal_weight * online_task_loss(logits, known, config)
    if args.distillation_weight:
        kept = distillation_loss(logits, drawn.before[rows], config, args.distillation_temperature)
        loss = loss + args.distillation_weight * kept
    return loss


def refuse_divergence(adapter: nn.Module) -> None:
    """Refuses weights that are NaN or infinite.

    Args:
        adapter: The copy that was trained.

    Raises:
        DivergenceError: there are some; the adapter itself is as it was.
    """
    if not all(all_finite(tensor) for tensor in adapter.state_dict().values()):
        raise DivergenceError(
            "The update diverged: weights became NaN or infinite. The adapter is as it was. Lower `learning_rate` and "
            "`mask_learning_rate` of `OnlineArguments`."
        )
