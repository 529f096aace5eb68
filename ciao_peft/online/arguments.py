"""How an adapter learns on the job, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..checking import check_flag, check_known, check_number, make_plain

__all__ = ["OnlineArguments"]


@dataclass(frozen=True, kw_only=True)
class OnlineArguments:
    r"""Settings of `OnlineTrainer`. Frozen.

    One update takes up to `max_steps` steps of Adam on

    $$L = L_{dm}(\mathrm{corrections}) + \lambda_r L_{dm}(\mathrm{rehearsed}) + \lambda_d L_{KD} + \frac{\lambda_p}{2}
          \lVert \theta - \theta_0 \rVert^2$$

    and ends as soon as every correction is answered right by the margin.

    Args:
        max_steps: Steps of one update at most, 1 to 1000.
        min_steps: Steps that are taken though every correction is right already, 0 or more: what else moved is brought
            back. None where all were right from the start, or where there is nothing to rehearse.
        mask_steps: How many of the first steps train the mask as well, 0 or more. Then it rests, and steps cost little.
        correction_weight: Weight of the corrections against what is rehearsed, above 0.
        margin: How far the logit of the right class must be ahead of all others for an update to end, 0 or more; of
            labels that are 0 or 1, how far each logit must be on its side of 0. For regression, an update ends when
            every answer is in the cell of its label (`num_bins` over `label_range`), whatever the margin.
        learning_rate: Of the head, above 0.
        mask_learning_rate: Of the mask and of the adapter's own copies of the encoder, 0 or more; 0 leaves them as
            they are.
        together: So many corrections are learned together, 0 or more: an update starts over from the adapter before the
            first of them and learns all of them at once, for one after the other they would pull it far away. Once
            there are as many, the next update begins anew. 0 or 1: each update starts where the last one ended.
        rehearsal: Stored faces rehearsed in each step, 0 or more. For N corrections, N + 1 times as many are drawn, and
            come again after that.
        rehearsal_balance: 0 rehearses classes as frequently as they came by, 1 as frequently as the memory holds them.
        rehearsal_weight: λ_r, the weight of their own labels, 0 or more.
        distillation_weight: λ_d, the weight of what the adapter answered before, on the same faces, 0 or more.
        distillation_temperature: At which the answers of both are compared, above 0.
        proximal_weight: λ_p, how strongly weights are held at what they were before, 0 or more.
        max_forgetting: Points (hundredths of the main metric) that the guard may lose in all, since the first version;
            an update by which it would lose more is undone. 0 to 100; 100 keeps every update.
        min_guard: Fewest faces of the memory that decide, where no guard was given: a few faces say little.
        max_guard: Most faces of the memory that it is measured on, the first of those that are held apart. A guard that
            was given is read as a whole.
        keep_versions: Earlier versions that `undo` can go back to, 0 or more.
        drift_threshold: λ of the Page-Hinkley test on the losses of the corrections before they are learned, above 0.
        drift_tolerance: δ of that test, 0 or more.
        allow_one_class: Learn corrections of one class with no other class in the memory; refused otherwise, for the
            adapter would soon answer that class everywhere.
        seed: Of what is rehearsed, 0 or more.

    Raises:
        ConfigError: a value is of the wrong type or out of its range; the message names the setting.

    Example:
        >>> OnlineArguments(max_steps=4).max_steps
        4
        >>> OnlineArguments(max_steps=0)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.ConfigError: `max_steps` must be a whole number from 1 to 1000; got 0.
    """

    max_steps: int = 20
    min_steps: int = 6
    correction_weight: float = 1.0
    margin: float = 0.2
    learning_rate: float = 1e-3
    mask_learning_rate: float = 1e-3
    mask_steps: int = 1
    together: int = 16
    rehearsal: int = 32
    rehearsal_balance: float = 0.0
    rehearsal_weight: float = 1.0
    distillation_weight: float = 10.0
    distillation_temperature: float = 2.0
    proximal_weight: float = 0.01
    max_forgetting: float = 2.0
    min_guard: int = 50
    max_guard: int = 100
    keep_versions: int = 10
    drift_threshold: float = 10.0
    drift_tolerance: float = 0.1
    allow_one_class: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        make_plain(self)
        check_number("max_steps", self.max_steps, int, 1, 1000)
        check_number("min_steps", self.min_steps, int, 0, 1000)
        check_number("mask_steps", self.mask_steps, int, 0, 1000)
        check_number("together", self.together, int, 0, 1000)
        check_number("rehearsal_balance", self.rehearsal_balance, float, 0, 1)
        check_number("rehearsal", self.rehearsal, int, 0, 100_000)
        check_number("min_guard", self.min_guard, int, 1, 10_000_000)
        check_number("max_guard", self.max_guard, int, 1, 10_000_000)
        check_number("keep_versions", self.keep_versions, int, 0, 100_000)
        check_number("seed", self.seed, int, 0, 2**63 - 1)
        for name in ("learning_rate", "correction_weight", "distillation_temperature", "drift_threshold"):
            check_number(name, getattr(self, name), float, above=0)
        for name in ("margin", "mask_learning_rate", "rehearsal_weight", "distillation_weight", "proximal_weight"):
            check_number(name, getattr(self, name), float, 0)
        check_number("drift_tolerance", self.drift_tolerance, float, 0)
        check_number("max_forgetting", self.max_forgetting, float, 0, 100)
        check_flag("allow_one_class", self.allow_one_class)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data.

        Example:
            >>> OnlineArguments(seed=3).to_dict()["seed"]
            3
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OnlineArguments:
        """Settings of what `to_dict` returned.

        Args:
            values: By name; those that are missing have their defaults.

        Raises:
            ConfigError: an unknown setting, or a value out of range.

        Example:
            >>> OnlineArguments.from_dict({"max_steps": 4}) == OnlineArguments(max_steps=4)
            True
        """
        check_known("setting", values, [field.name for field in fields(cls)], "of OnlineArguments")
        return cls(**values)
