"""What a report says, part by part, before it is a page or a text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..analysis.study import CIAO, COMPARED, Study
from ..records import Record
from .cells import Table
from .figures import confusion_figure, confusions_shown, curves_figure, parameters_figure, scores_figure
from .paper_tables import parameters, table_one, table_two
from .tables import headlines, methods, paired_tests, ranking, searches
from .text import finding, missing, score_name


@dataclass(frozen=True)
class Picture:
    """A figure.

    Args:
        name: Of its file.
        alt: What it shows, in words.
        png: The PNG itself.
    """

    name: str
    alt: str
    png: bytes


@dataclass(frozen=True)
class Listing:
    """Points, one sentence or so each.

    Example:
        >>> len(Listing(("one point", "another")).items)
        2
    """

    items: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A part with a title.

    Args:
        title: Of the part.
        parts: Paragraphs (text), tables, pictures, lists and further sections, in their order.
        folded: A page may show the title alone until it is asked for more.

    Example:
        >>> inner = Section("Details", (Picture("a.png", "a curve", b""),), folded=True)
        >>> [picture.name for picture in Section("All", ("Text.", inner)).pictures()]
        ['a.png']
    """

    title: str
    parts: tuple[str | Table | Picture | Listing | Section, ...]
    folded: bool = False

    def pictures(self) -> Iterator[Picture]:
        """All pictures in it and in its sections."""
        for part in self.parts:
            if isinstance(part, Section):
                yield from part.pictures()
            elif isinstance(part, Picture):
                yield part


Part = str | Table | Picture | Listing | Section


def contents(study: Study, title: str, *, figures: bool = True) -> Section:
    """All of it: the study in short, the paper's tables, each task with each encoder, what is missing, how it was made.

    Args:
        study: With at least one result.
        title: Of the report.
        figures: Whether to draw.

    Example:
        >>> from ciao_peft.study.example import example_study
        >>> report = contents(example_study(), "A small study", figures=False)
        >>> [part.title for part in report.parts if isinstance(part, Section)]
        ['faces, small-face', 'What is missing', 'How it was made']
    """
    stems = picture_stems(study)
    short = headlines(study)
    parts: list[Part | None] = [_facts(study), short, table_one(study), table_two(study), parameters(study)]
    parts += [about(study, *pair, stem=stems[pair] if figures else None) for pair in study.pairs]
    lines = missing(study)
    parts.append(Section("What is missing", (Listing(tuple(lines)) if lines else "Nothing that was planned.",)))
    parts.append(Section("How it was made", (_versions(study), methods(study))))
    return Section(title, tuple(part for part in parts if part is not None and not _is_empty(part)))


def about(study: Study, task: str, encoder: str, *, stem: str | None = None) -> Section:
    """One task with one encoder: the finding, rankings, tests, searches, and pictures where they have names.

    Args:
        study: With a result of this pair.
        task, encoder: Which.
        stem: What the names of the pictures' files begin with; `None` for no pictures.

    Example:
        >>> from ciao_peft.study.example import ENCODER, TASK, example_study
        >>> study = example_study()
        >>> section = about(study, TASK, ENCODER)
        >>> [part.title for part in section.parts if isinstance(part, Table)]
        ['Networks and baselines', 'Learning-rate searches']
    """
    networks = ranking(study, task, encoder, COMPARED, "Networks and baselines")
    ablations = ranking(study, task, encoder, ("ablation",), "CIAO and its ablations")
    main, *others = study.metrics(task, encoder)
    tested = [main, *(name for name in others if name == "balanced_accuracy" or name.startswith("concordance_"))]
    tests = tuple(filter(None, (paired_tests(study, task, encoder, metric) for metric in tested)))
    parts = [
        finding(study, task, encoder),
        _picture(study, task, encoder, stem, "scores"),
        networks,
        _picture(study, task, encoder, stem, "parameters"),
        ablations,
        Section("Paired tests", tests, folded=True) if tests else None,
        _picture(study, task, encoder, stem, "curves"),
        _picture(study, task, encoder, stem, "confusion"),
        searches(study, task, encoder),
    ]
    return Section(f"{task}, {encoder}", tuple(part for part in parts if part is not None))


def _is_empty(part: Part) -> bool:
    return isinstance(part, Table) and not part.rows


def _picture(study: Study, task: str, encoder: str, stem: str | None, what: str) -> Picture | None:
    if stem is None:
        return None
    draw, alt = _PICTURES[what]
    png = draw(study, task, encoder)
    if png is None:
        return None
    names = " beside ".join(confusions_shown(study, task, encoder))
    text = alt.format(where=f"{task} with {encoder}", score=score_name(study.metric(task, encoder)), names=names)
    return Picture(f"{stem}-{what}.png", text, png)


_PICTURES = {
    "scores": (
        scores_figure,
        "{where}: mean {score} of each method over seeds, with the 95 % interval of the mean; the dotted line is at "
        f"“{CIAO}”.",
    ),
    "parameters": (parameters_figure, "{where}: trained parameters against {score}."),
    "curves": (curves_figure, "{where}: losses of training over the epochs, mean over seeds ± one standard deviation."),
    "confusion": (
        confusion_figure,
        "{where}: answers to the faces of each class in percent, summed over seeds; {names}.",
    ),
}


def picture_stems(study: Study) -> dict[tuple[str, str], str]:
    """What the names of a pair's pictures begin with: letters, digits and dashes, each pair's own.

    Example:
        >>> from ciao_peft.study import Record
        >>> shared = dict(key="1", dataset="d", encoder_revision="1", method="m", kind="rival", seed=0, split="test")
        >>> shared |= dict(metric="accuracy", scores={"accuracy": 1.0}, encoder="../e")
        >>> picture_stems(Study([Record(task="a b", **shared), Record(task="a/b", **shared)]))
        {('a b', '../e'): 'a-b-e', ('a/b', '../e'): 'a-b-e-2'}
    """
    stems: dict[tuple[str, str], str] = {}
    for pair in study.pairs:
        words = re.sub(r"[^A-Za-z0-9_]", " ", " ".join(pair))
        stem = base = "-".join(words.split())[:60] or "task"
        number = 1
        while stem in stems.values():
            number += 1
            stem = f"{base}-{number}"
        stems[pair] = stem
    return stems


# -- where it comes from -----------------------------------------------------------------------------------------------


def _scored(study: Study) -> list[Record]:
    """The trainings that the tables are made of."""
    return [r for results in study.results_by.values() for result in results.values() for r in result.records]


def _facts(study: Study) -> str:
    records = _scored(study)
    tried = sum(record.split == "validation" for record in study.records)
    times = sorted(record.time[:10] for record in records if record.time)
    seeds = sorted({len(result.seeds) for results in study.results_by.values() for result in results.values()})
    counts = [
        _counted(len({task for task, _ in study.pairs}), "task"),
        _counted(len({encoder for _, encoder in study.pairs}), "encoder"),
        _counted(len({record.method for record in records}), "method"),
    ]
    each = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else _counted(seeds[0], "seed")
    text = f"{', '.join(counts)}, {each} each: {_counted(len(records), 'training')} scored on the test split"
    if tried:
        text += f", {tried:,} more on held-out training people, to choose learning rates"
    if times:
        text += f"; {times[0]}" if times[0] == times[-1] else f"; {times[0]} to {times[-1]}"
    return text + "."


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _versions(study: Study) -> str:
    versions: dict[str, set[str]] = {}
    for record in _scored(study):
        for name, version in record.versions.items():
            versions.setdefault(name, set()).add(str(version))
    minutes = sum(record.seconds for record in study.records) / 60
    duration = f"{minutes / 60:,.1f} hours" if minutes >= 90 else f"{minutes:,.1f} minutes"
    text = f"Written by “ciao report” from {_counted(len(study.records), 'record')}, {duration} of training."
    if versions:
        text += (
            " Versions: " + "; ".join(f"{name} {', '.join(sorted(versions[name]))}" for name in sorted(versions)) + "."
        )
    return text
