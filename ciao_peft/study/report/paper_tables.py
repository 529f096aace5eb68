"""The tables and the figure of numbers that the paper has: Table I, Table II and the parameters of Fig. 4."""

from __future__ import annotations

import numpy as np

from ..analysis.study import NETWORKS, Result, Study
from ..paper import (
    ENCODERS,
    RUNS,
    SCHEMES,
    TABLE_II,
    WITH_CIAO,
    PublishedScore,
    paper_protocol,
    paper_scores,
    trained_outside_head,
)
from .cells import Cell, Table, count_cell, make_table, score_cell
from .text import NOTHING, in_percent, score_name


def table_one(study: Study) -> Table:
    """Tasks x encoders x schemes, without and with CIAO, and the paper's numbers where it has them.

    Args:
        study: With results.

    Example:
        >>> from ciao_peft.study.example import example_study
        >>> table = table_one(example_study())
        >>> table.header[3:], [cell.text for cell in table.rows[0]][3:]
        (('trained', '−', 'CIAO', 'seeds'), ['decision layer', '65.0 ± 5.8', '85.0 ± 5.8', '4'])
    """
    rows = []
    for task, encoder in study.pairs:
        results = study.results(task, encoder)
        if not set(results) & set(NETWORKS):
            continue
        dataset = next(iter(results.values())).records[0].dataset
        main = study.metric(task, encoder)
        scores = [name for name in study.metrics(task, encoder) if name.startswith("concordance_")] or [main]
        for metric in scores:
            label = task if metric == main else f"{task}, {score_name(metric)}"
            for scheme in SCHEMES:
                names = (scheme, scheme + WITH_CIAO)
                without, with_ciao = (results[name].summary(metric) if name in results else None for name in names)
                if without is None and with_ciao is None:
                    continue
                theirs = [paper_scores(dataset, encoder, name).get(metric) for name in names]
                lead = with_ciao.mean - without.mean if with_ciao is not None and without is not None else 0.0
                seeds = [summary.n for summary in (without, with_ciao) if summary is not None]
                rows.append(
                    [
                        Cell(label),
                        Cell(score_name(metric if len(scores) == 1 else main)),
                        Cell(encoder),
                        Cell(scheme),
                        score_cell(without, metric, strong=lead < 0),
                        score_cell(with_ciao, metric, strong=lead > 0),
                        Cell(str(seeds[0]) if len(set(seeds)) == 1 else "/".join(map(str, seeds)), min(seeds)),
                        *(Cell(NOTHING if score is None else _printed(score, metric), score) for score in theirs),
                    ]
                )
    header = ("task", "score", "encoder", "trained", "−", "CIAO", "seeds", "paper, −", "paper, CIAO")
    if not any(row[-1].value is not None for row in rows):
        header, rows = header[:-2], [row[:-2] for row in rows]
        paper = " The paper did not run these tasks."
    else:
        paper = f" The paper gives means of {RUNS} runs without a standard deviation, on its own weights and splits."
    note = "Mean ± standard deviation over seeds on the test split; the better of each two is set off." + paper
    return make_table("Table I: three schemes, without and with CIAO", header, rows, note)


def _printed(value: float, metric: str) -> str:
    """The paper's number in our unit, with the digits that it was printed with."""
    return f"{100 * value:.6g}" if in_percent(metric) else f"{value:.2f}"


def table_two(study: Study) -> Table | None:
    """The paper's comparison with published models, with our own results in a further column.

    Args:
        study: With results.

    Returns:
        `None` where the study has none of the tasks in the paper's table.

    Example:
        >>> from ciao_peft.study.example import example_study
        >>> table_two(example_study()) is None  # its dataset is none of the paper's
        True
    """
    rows, otherwise = [], {}
    for row in TABLE_II:
        if (row.dataset, row.score) not in study.ran:
            continue
        result = _ours(study, row)
        if result and study.protocol(result.task) not in (None, paper_protocol(row.dataset)):
            otherwise[row.task] = result.task
        printed = Cell(_printed(row.value, row.score), row.value)
        ours = score_cell(result.summary(row.score) if result else None, row.score)
        rows.append([Cell(row.task), Cell(row.model), printed, ours])
    if not rows:
        return None
    note = "Published models as the paper cites them; they were trained on other data and with other backbones."
    for theirs, task in otherwise.items():
        note += f" Here, {theirs} is the task “{task}”, which is not split as the paper splits it."
    return make_table("Table II: beside published models", ("task", "model", "paper", "here"), rows, note)


def _ours(study: Study, row: PublishedScore) -> Result | None:
    """Our result to compare with a number of the paper: with its score, and of the same split where there is one."""
    if row.method is None:
        return None
    ours = [study.results(task, encoder).get(row.method) for task, encoder in study.pairs if encoder == row.encoder]
    ours = [result for result in ours if result and result.records[0].dataset == row.dataset]
    ours = [result for result in ours if result.scores(row.score)]
    return min(ours, key=lambda result: study.protocol(result.task) != paper_protocol(row.dataset), default=None)


def parameters(study: Study) -> Table | None:
    """Trained parameters per network, averaged over the tasks (Fig. 4).

    Example:
        >>> from ciao_peft.study.example import example_study
        >>> [[cell.text for cell in row][1:3] for row in parameters(example_study()).rows]
        [['decision layer', '1,000'], ['decision layer + CIAO', '4,000'], ['MLP head', '4,000']]
    """
    rows = []
    for encoder in dict.fromkeys(encoder for _, encoder in study.pairs):
        by_method: dict[str, list[int]] = {}
        for (_, other), results in study.results_by.items():
            for name, result in results.items():
                if other == encoder and result.kind != "ablation" and result.trained is not None:
                    by_method.setdefault(name, []).append(result.trained)
        for name, counts in by_method.items():
            theirs = trained_outside_head(encoder, name)
            rows.append(
                [
                    Cell(encoder),
                    Cell(name),
                    count_cell(float(np.mean(counts))),
                    count_cell(len(counts)),
                    count_cell(theirs),
                ]
            )
    if not rows:
        return None
    header = ["encoder", "method", "trained", "tasks", "of these in the paper's encoder"]
    note = "Trained parameters with the decision layer, averaged over the tasks."
    if any(row[-1].value is not None for row in rows):
        names = " and ".join(ENCODERS)
        note += (
            f" The paper draws its Fig. 4 without numbers; the last column is what its description of {names} makes "
            "the part beside the decision layer."
        )
    else:
        header, rows = header[:-1], [row[:-1] for row in rows]
    return make_table("Trained parameters (Fig. 4)", header, rows, note)
