"""Whether a stream changes: the test of Page and Hinkley on what each face cost before it was learned."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PageHinkley"]


@dataclass
class PageHinkley:
    r"""Tells when the mean of a stream of numbers has gone up (Page 1954, Hinkley 1971).

    $$m_t = \sum_{i \le t} (x_i - \bar x_i - \delta) \qquad \mathrm{drift} \iff m_t - \min_{i \le t} m_i > \lambda$$

    The mean runs over all numbers so far. After a drift the test starts anew.

    Args:
        threshold: λ, in the unit of the numbers.
        tolerance: δ, the change that is no drift.
        count: Numbers seen since the last start.
        mean: Their mean.
        total: m_t.
        lowest: The lowest m_t so far.

    Example:
        >>> test = PageHinkley(threshold=3.0, tolerance=0.1)
        >>> any(test.add(value) for value in [0.2, 0.3, 0.2, 0.3])
        False
        >>> [test.add(value) for value in [2.0, 2.2, 2.1]]
        [False, False, True]
    """

    threshold: float
    tolerance: float
    count: int = 0
    mean: float = 0.0
    total: float = 0.0
    lowest: float = 0.0

    def add(self, value: float) -> bool:
        """Takes the next number of the stream.

        Args:
            value: A finite number.

        Returns:
            Whether the mean has gone up.

        Example:
            >>> PageHinkley(threshold=1.0, tolerance=0.0).add(0.5)
            False
        """
        self.count += 1
        self.mean += (value - self.mean) / self.count
        self.total += value - self.mean - self.tolerance
        self.lowest = min(self.lowest, self.total)
        if self.total - self.lowest <= self.threshold:
            return False
        self.count, self.mean, self.total, self.lowest = 0, 0.0, 0.0, 0.0
        return True
