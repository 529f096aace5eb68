"""What arrives in which order: classes two at a time, one person after another, or ever other frequencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import DataError

__all__ = ["Experience", "Stream", "class_incremental", "label_shift", "person_incremental"]


@dataclass(frozen=True)
class Experience:
    """One part of a stream: what is learned in it, and what tests that it was.

    Args:
        name: What is new in it.
        rows: Numbers of the samples that arrive, in this order.
        test: Numbers of the samples that test it; none of them arrives in any experience.
        weights: What each test sample counts, as shares of 1; all the same when left out.

    Shapes:
        `score` takes one truth value for each test sample, `(N,)`.
    """

    name: str
    rows: tuple[int, ...]
    test: tuple[int, ...]
    weights: tuple[float, ...] | None = None

    def score(self, right: Tensor) -> float:
        """The share of the test that was answered rightly.

        Args:
            right: Whether each test sample was, `(N,)`.

        Returns:
            From 0 to 1.

        Example:
            >>> Experience("smiles", rows=(0, 1), test=(2, 3), weights=(0.75, 0.25)).score(torch.tensor([True, False]))
            0.75
        """
        if self.weights is None:
            return right.double().mean().item()
        return float(right.double() @ torch.tensor(self.weights, dtype=torch.float64))


@dataclass(frozen=True)
class Stream:
    """Experiences, one after the other, with what is known before and who is never met.

    Args:
        name: Of the kind of stream.
        experiences: In their order.
        known: Numbers of the samples that were learned before the stream.
        others: Numbers of samples of people who are never met, to test on.
    """

    name: str
    experiences: tuple[Experience, ...]
    known: tuple[int, ...] = ()
    others: tuple[int, ...] = ()

    @property
    def rows(self) -> tuple[int, ...]:
        """Everything that arrives, in order.

        Example:
            >>> Stream("two", (Experience("a", (3, 1), (9,)), Experience("b", (2,), (8,)))).rows
            (3, 1, 2)
        """
        return tuple(row for experience in self.experiences for row in experience.rows)


def class_incremental(
    labels: Tensor,
    learned: Sequence[int],
    tested: Sequence[int],
    *,
    at_once: int = 2,
    most: int = 100,
    most_tests: int = 60,
    seed: int = 0,
) -> Stream:
    """Classes arrive some at a time, in random order; each experience is tested on its own classes, all alike.

    Args:
        labels: Class of every sample, `(N,)`.
        learned: Numbers of the samples to learn from.
        tested: Numbers of the samples to test on.
        at_once: Classes that arrive together; the last experience may have fewer.
        most: Samples of a class that arrive, at most.
        most_tests: Samples of a class that test, at most.
        seed: Another seed gives other orders and other samples.

    Raises:
        DataError: there are no two experiences, or a class has nothing to learn from or to test on.

    Example:
        >>> labels = torch.arange(4).repeat(10)
        >>> stream = class_incremental(labels, range(20), range(20, 40))
        >>> [(part.name, len(part.rows), len(part.test)) for part in stream.experiences]
        [('0, 1', 10, 10), ('3, 2', 10, 10)]
    """
    chance = _chance(seed)
    classes = labels.unique()
    order = classes[torch.randperm(len(classes), generator=chance)].tolist()
    groups = [order[first : first + at_once] for first in range(0, len(order), at_once)]
    if len(groups) < 2:
        raise DataError(f"{len(order)} classes, {at_once} at once, make no stream; `at_once` must be below.")
    experiences = []
    for group in groups:
        of_class = [_shuffled(_among(learned, labels, one), chance)[:most] for one in group]
        tests = [_shuffled(_among(tested, labels, one), chance)[:most_tests] for one in group]
        for one, rows, test in zip(group, of_class, tests, strict=True):
            if not rows or not test:
                raise DataError(f"Class {one} has {len(rows)} samples to learn from and {len(test)} to test on.")
        weights = [1 / len(group) / len(test) for test in tests for _ in test]
        rows = _shuffled([row for rows in of_class for row in rows], chance)
        name = ", ".join(str(one) for one in group)
        experiences.append(Experience(name, tuple(rows), tuple(row for test in tests for row in test), tuple(weights)))
    return Stream("class-incremental", tuple(experiences))


def person_incremental(
    people: Tensor,
    met: Sequence[int],
    *,
    known: Sequence[int] = (),
    count: int = 10,
    fewest: int = 12,
    most: int = 40,
    most_others: int = 200,
    seed: int = 0,
) -> Stream:
    """A robot meets new people, one after the other; half of each one's faces arrive, the other half tests.

    Args:
        people: Number of the person on every sample, `(N,)`.
        met: Numbers of the samples of those who may be met. Those who are not met are the stream's `others`.
        known: Numbers of the samples that were learned before, of other people.
        count: People who are met.
        fewest: Samples that one of them must have.
        most: Samples of one of them that take part, at most.
        most_others: Samples of those who are not met, at most.
        seed: Another seed meets others, and divides their samples otherwise.

    Raises:
        DataError: too few people have that many samples, or somebody is known before.

    Example:
        >>> people = torch.arange(5).repeat_interleave(6)
        >>> stream = person_incremental(people, range(6, 30), known=range(6), count=2, fewest=4)
        >>> [(part.name, len(part.rows), len(part.test)) for part in stream.experiences], len(stream.others)
        ([('person 1', 3, 3), ('person 2', 3, 3)], 12)
    """
    chance = _chance(seed)
    rows = torch.tensor(list(met), dtype=torch.long)
    again = set(people[rows].tolist()) & set(people[torch.tensor(list(known), dtype=torch.long)].tolist())
    if again:
        raise DataError(f"{len(again)} of those who are met are known before, person {min(again)} for one.")
    found, counts = people[rows].unique(return_counts=True)
    enough = found[counts >= fewest]
    if len(enough) < count:
        raise DataError(f"{len(enough)} people have {fewest} samples or more; `count` is {count}.")
    chosen = enough[torch.randperm(len(enough), generator=chance)[:count]].tolist()
    experiences = []
    for who in chosen:
        own = _shuffled(_among(met, people, who), chance)[:most]
        half = len(own) // 2
        experiences.append(Experience(f"person {who}", tuple(own[:half]), tuple(own[half:])))
    others = _shuffled([row for row in rows.tolist() if people[row].item() not in chosen], chance)[:most_others]
    return Stream("person-incremental", tuple(experiences), tuple(known), tuple(others))


def label_shift(
    labels: Tensor,
    learned: Sequence[int],
    tested: Sequence[int],
    *,
    known: Sequence[int] = (),
    phases: int = 6,
    per_phase: int = 100,
    most_tests: int = 60,
    steepness: float = 0.5,
    seed: int = 0,
) -> Stream:
    """How often each class is met drifts: what was frequent becomes rare, and the reverse.

    In the first phase the k-th class of a random order has a share in proportion to `steepness ** k`, in the last the
    order is reversed; between them the shares go over in equal steps. The same samples test all phases, each class with
    the share that it has in the phase.

    Args:
        labels: Class of every sample, `(N,)`.
        learned: Numbers of the samples to learn from. Where a class runs out of them, they come again.
        tested: Numbers of the samples to test on.
        known: Numbers of the samples that were learned before.
        phases: Experiences, 2 or more.
        per_phase: Samples that arrive in each.
        most_tests: Samples of a class that test, at most.
        steepness: Above 0, and below 1.
        seed: Another seed gives another order of the classes and other samples.

    Raises:
        DataError: a class has nothing to learn from or to test on.

    Example:
        >>> labels = torch.arange(2).repeat(20)
        >>> stream = label_shift(labels, range(20), range(20, 40), phases=3, per_phase=6)
        >>> [labels[list(part.rows)].tolist().count(0) for part in stream.experiences]
        [4, 3, 2]
    """
    chance = _chance(seed)
    classes = labels.unique()
    order = classes[torch.randperm(len(classes), generator=chance)].tolist()
    queues = {one: _shuffled(_among(learned, labels, one), chance) for one in order}
    tests = {one: _shuffled(_among(tested, labels, one), chance)[:most_tests] for one in order}
    for one in order:
        if not queues[one] or not tests[one]:
            raise DataError(
                f"Class {one} has {len(queues[one])} samples to learn from and {len(tests[one])} to test on."
            )
    shares = torch.tensor([steepness**place for place in range(len(order))], dtype=torch.float64)
    shares = shares / shares.sum()
    taken = dict.fromkeys(order, 0)
    experiences = []
    for phase in range(phases):
        way = phase / (phases - 1)
        now = ((1 - way) * shares + way * shares.flip(0)).tolist()
        rows = []
        for one, number in zip(order, _whole(now, per_phase), strict=True):
            queue = queues[one]
            rows += [queue[(taken[one] + place) % len(queue)] for place in range(number)]
            taken[one] += number
        test = tuple(row for one in order for row in tests[one])
        weights = tuple(share / len(tests[one]) for one, share in zip(order, now, strict=True) for _ in tests[one])
        experiences.append(Experience(f"phase {phase + 1}", tuple(_shuffled(rows, chance)), test, weights))
    return Stream("label-shift", tuple(experiences), tuple(known))


def _whole(shares: list[float], total: int) -> list[int]:
    """Whole numbers in proportion to shares that add up to the total: the largest remainders get one more."""
    exact = [share * total for share in shares]
    numbers = [int(value) for value in exact]
    by_rest = sorted(range(len(exact)), key=lambda place: numbers[place] - exact[place])
    for place in by_rest[: total - sum(numbers)]:
        numbers[place] += 1
    return numbers


def _chance(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _among(rows: Sequence[int], groups: Tensor, one: int) -> list[int]:
    numbers = torch.tensor(list(rows), dtype=torch.long)
    return numbers[groups[numbers] == one].tolist()


def _shuffled(rows: list[int], chance: torch.Generator) -> list[int]:
    return [rows[place] for place in torch.randperm(len(rows), generator=chance).tolist()]
