"""What an update did, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["OnlineUpdate", "Version"]


@dataclass(frozen=True)
class Version:
    """One state that the adapter was in.

    Args:
        number: Counted from 0, the adapter as it was given; no number comes twice.
        what: How it came about, in words.

    Example:
        >>> Version(0, "as it was given").number
        0
    """

    number: int
    what: str


@dataclass(frozen=True, kw_only=True)
class OnlineUpdate:
    """What one update did. Points are hundredths of the main metric: accuracy, concordance, or macro F1.

    Args:
        kept: Whether the adapter learned; otherwise it is as it was, to the bit.
        reason: Why, in words.
        version: Number of the version that the adapter is in now.
        faces: Different faces that were corrected.
        right_before: How many of them were answered right before.
        right_after: And after the update, whether or not it was kept.
        loss_before: Mean task loss of the corrections before.
        loss_after: And after.
        guard_size: Faces on which it was measured what was forgotten; 0 where there were too few.
        guard_before: Points on those before; None without.
        guard_after: And after the update, whether or not it was kept.
        forgotten: Points that were lost there; negative where some were won; None without.
        forgotten_in_all: The same since the first version, this update counted; what was won before does not count.
        forgotten_by_label: The same by label, where a label lost or won.
        added: Names of classes that came with it.
        drift: A word on the stream, where it has changed; else None.
        steps: Steps that were taken.
        rehearsed: Stored faces that were rehearsed.
        seconds: How long it took.

    Example:
        >>> update = OnlineUpdate(
        ...     kept=True, reason="all corrections are right", version=1, faces=2, right_before=0, right_after=2,
        ...     guard_size=80, guard_before=75.0, guard_after=74.5, forgotten=0.5, seconds=0.08
        ... )
        >>> print(update)
        Version 1, kept: all corrections are right. Right 0 -> 2 of 2; elsewhere 75.0 -> 74.5 points on 80 faces.
    """

    kept: bool
    reason: str
    version: int
    faces: int
    right_before: int
    right_after: int
    loss_before: float = 0.0
    loss_after: float = 0.0
    guard_size: int = 0
    guard_before: float | None = None
    guard_after: float | None = None
    forgotten: float | None = None
    forgotten_in_all: float | None = None
    forgotten_by_label: Mapping[str, float] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    drift: str | None = None
    steps: int = 0
    rehearsed: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        done = "kept" if self.kept else "undone"
        text = f"Version {self.version}, {done}: {self.reason}. "
        text += f"Right {self.right_before} -> {self.right_after} of {self.faces}"
        if self.guard_before is not None and self.guard_after is not None:
            text += f"; elsewhere {self.guard_before:.1f} -> {self.guard_after:.1f} points on {self.guard_size} faces"
        text += "."
        if self.added:
            text += f" New: {', '.join(self.added)}."
        return text if self.drift is None else f"{text} {self.drift}"
