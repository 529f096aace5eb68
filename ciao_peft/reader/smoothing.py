"""Steadies what is said of one person from frame to frame, whatever the time between frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..checking import check_number
from ..errors import ConfigError, quoted

__all__ = ["SMOOTHERS", "Exponential", "OneEuro", "Smoother", "make_smoother"]

Smoother = Callable[[Any, Sequence[float], float], "tuple[Any, list[float]]"]
"""Takes what it kept of the frames before (None at first), the values of this frame, and the seconds between; gives
what to keep, and the values to show."""


@dataclass(frozen=True, kw_only=True)
class Exponential:
    r"""Forgets at a constant rate: after `half_life` seconds, a value counts half.

    $$y_t = y_{t-1} + (1 - 2^{-\Delta t / h})\,(x_t - y_{t-1})$$

    Args:
        half_life: h in seconds, above 0.

    Raises:
        ConfigError: it is not above 0.

    Example:
        >>> smooth = Exponential(half_life=0.5)
        >>> state, _ = smooth(None, [0.0, 1.0], 0.0)
        >>> smooth(state, [1.0, 0.0], 0.5)[1]
        [0.5, 0.5]
    """

    half_life: float = 0.25

    def __post_init__(self) -> None:
        check_number("half_life", self.half_life, above=0)

    def __call__(self, state: list[float] | None, values: Sequence[float], seconds: float) -> tuple[Any, list[float]]:
        """Smooths the values of one frame; see `Smoother`."""
        if state is None:
            return list(values), list(values)
        share = 1 - 2 ** (-max(0.0, seconds) / self.half_life)
        shown = [old + share * (new - old) for old, new in zip(state, values, strict=True)]
        return shown, shown


@dataclass(frozen=True, kw_only=True)
class OneEuro:
    r"""The one-euro filter (Casiez, Roussel and Vogel, 2012): steady where little happens, quick where much does.

    $$y_t = y_{t-1} + \alpha(f)\,(x_t - y_{t-1}), \quad f = f_0 + \beta\,|\dot{x}|,
      \quad \alpha(f) = \frac{1}{1 + 1 / (2 \pi f \Delta t)}$$

    The speed $|\dot{x}|$ is that of the fastest value, itself smoothed with `speed_cutoff`: all values of an answer
    share one $\alpha$, so that probabilities still add up to 1.

    Args:
        min_cutoff: f_0 in Hz, above 0; lower is steadier.
        beta: β, 0 or more; higher follows a change more closely.
        speed_cutoff: Of the speed, in Hz, above 0.

    Raises:
        ConfigError: a setting is out of its range.

    Example:
        >>> smooth = OneEuro(min_cutoff=1.0, beta=0.0)
        >>> state, _ = smooth(None, [0.0, 1.0], 0.0)
        >>> _, shown = smooth(state, [1.0, 0.0], 0.1)
        >>> round(shown[0], 3), round(sum(shown), 3)
        (0.386, 1.0)
    """

    min_cutoff: float = 0.5
    beta: float = 0.5
    speed_cutoff: float = 1.0

    def __post_init__(self) -> None:
        check_number("min_cutoff", self.min_cutoff, above=0)
        check_number("beta", self.beta, float, 0)
        check_number("speed_cutoff", self.speed_cutoff, above=0)

    def __call__(
        self, state: tuple[list[float], list[float], list[float]] | None, values: Sequence[float], seconds: float
    ) -> tuple[Any, list[float]]:
        """Smooths the values of one frame; see `Smoother`."""
        if state is None:
            return (list(values), list(values), [0.0] * len(values)), list(values)
        before, shown, speeds = state
        if seconds <= 0:
            return state, shown
        share = _share(self.speed_cutoff, seconds)
        now = [(new - old) / seconds for old, new in zip(before, values, strict=True)]
        speeds = [old + share * (new - old) for old, new in zip(speeds, now, strict=True)]
        share = _share(self.min_cutoff + self.beta * max(map(abs, speeds), default=0.0), seconds)
        shown = [old + share * (new - old) for old, new in zip(shown, values, strict=True)]
        return (list(values), shown, speeds), shown


def _share(cutoff: float, seconds: float) -> float:
    return 1 / (1 + 1 / (2 * math.pi * cutoff * seconds))


SMOOTHERS = ("one-euro", "exponential", "off")
"""Smoothers that go by a name."""


def make_smoother(setting: str | Smoother | None) -> Smoother | None:
    """The smoother that a setting means.

    Args:
        setting: One of `SMOOTHERS`, None for `"off"`, or a function as `Smoother` describes it.

    Raises:
        ConfigError: it is none of these.

    Example:
        >>> make_smoother("one-euro"), make_smoother("off")
        (OneEuro(min_cutoff=0.5, beta=0.5, speed_cutoff=1.0), None)
    """
    if setting is None or setting == "off":
        return None
    if setting == "one-euro":
        return OneEuro()
    if setting == "exponential":
        return Exponential()
    if callable(setting):
        return setting
    raise ConfigError(f"`smoothing` must be 'one-euro', 'exponential', 'off' or a smoother; got {quoted(setting)}.")
