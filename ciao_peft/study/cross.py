"""Trained in one world, read in another: every adapter on every world, over the classes that both have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..data import labels_of, map_labels
from ..errors import DataError
from ..markdown import markdown_table
from ..metrics import accuracy, balanced_accuracy, compute_metrics, main_metric
from ..trainer import CIAOTrainer, CIAOTrainingArguments

if TYPE_CHECKING:
    from torch import Tensor

    from ..model import CIAOModel

__all__ = ["CrossScore", "cross_scores", "cross_table"]

_CLASSES = "single_label_classification"


@dataclass(frozen=True)
class CrossScore:
    """One adapter on the faces of one world.

    Args:
        adapter: Name of the adapter.
        world: Name of the world whose faces were read.
        metric: What `score` is: `balanced_accuracy` of classes, else the main metric of the problem.
        score: 0 to 1, or -1 to 1 for concordance; `None` where the labels of the two cannot be compared.
        accuracy: Share of right answers, for classes.
        classes: Classes that both have: the answer is the likeliest of these; guessing scores 1 / `classes`.
        faces: Faces with one of these classes.
        left_out: Faces of other classes.
    """

    adapter: str
    world: str
    metric: str
    score: float | None
    accuracy: float | None
    classes: int
    faces: int
    left_out: int


def cross_scores(
    adapters: Mapping[str, CIAOModel],
    worlds: Mapping[str, Any],
    *,
    names: Mapping[str, str | None] | None = None,
    batch_size: int = 128,
) -> list[CrossScore]:
    """Scores adapters on faces of other worlds than the one they were trained in.

    Classes are the same where their names mean the same (`map_labels`). Faces of other classes are left out, and an
    adapter answers with the likeliest of the classes that both worlds have, so that what only one of them knows counts
    for neither. Values and sets of labels are compared where both worlds name the same ones.

    Args:
        adapters: By name, a model whose active adapter is meant.
        worlds: By name, a split of labelled faces.
        names: What is not the same by name, as for `map_labels`; labels that a world lacks are passed over.
        batch_size: Faces read at once.

    Returns:
        A score for each adapter and world, adapter by adapter.

    Raises:
        DataError: a world has no labels.

    Example:
        >>> import torch
        >>> from datasets import Array3D, ClassLabel, Dataset, Features
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> moods = ClassLabel(names=["sad", "happy"])
        >>> moods = Features({"pixel_values": Array3D((3, 8, 8), "float32"), "label": moods})
        >>> faces = Dataset.from_dict({"pixel_values": torch.rand(4, 3, 8, 8).numpy(), "label": [0, 0, 1, 1]}, moods)
        >>> names = {0: "happiness", 1: "anger", 2: "sadness"}
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3, id2label=names)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> model = get_ciao_model(net, config, input_size=(3, 8, 8)).eval()
        >>> (score,) = cross_scores({"three": model}, {"two": faces.with_format("torch")})
        >>> score.classes, score.faces, score.metric
        (2, 4, 'balanced_accuracy')
    """
    arguments = CIAOTrainingArguments(report_to="none", per_device_eval_batch_size=batch_size)
    found = []
    for adapter, model in adapters.items():
        trainer = CIAOTrainer(model, arguments)
        for world, faces in worlds.items():
            found.append(CrossScore(adapter, world, **_scored(trainer, faces, names or {})))
    return found


def cross_table(scores: Iterable[CrossScore]) -> str:
    """A table in Markdown: a row for each adapter, a column for each world, scores in percent.

    The number of classes that both have stands in brackets; a dash stands where labels cannot be compared.

    Args:
        scores: What `cross_scores` returned.

    Example:
        >>> print(cross_table([CrossScore("a", "b", "balanced_accuracy", 0.5, 0.6, 7, 100, 0)]))
        | read in | b |
        | --- | ---: |
        | a | 50.0 (7) |
    """
    cells: dict[str, dict[str, str]] = {}
    for one in scores:
        classes = f" ({one.classes})" if one.metric == "balanced_accuracy" else ""
        cells.setdefault(one.adapter, {})[one.world] = "-" if one.score is None else f"{100 * one.score:.1f}{classes}"
    worlds = list(dict.fromkeys(world for row in cells.values() for world in row))
    rows = [[adapter, *(row.get(world, "-") for world in worlds)] for adapter, row in cells.items()]
    return markdown_table(["read in", *worlds], rows, "l" + "r" * len(worlds))


def _scored(trainer: CIAOTrainer, faces: Any, names: Mapping[str, str | None]) -> dict[str, Any]:
    config, labels = trainer.config, labels_of(faces)
    target = list(config.id2label.values())
    nothing = {"score": None, "accuracy": None, "classes": 0, "faces": 0, "left_out": len(faces)}
    if labels.problem_type != config.problem_type:
        return {"metric": main_metric(config.problem_type), **nothing}
    if config.problem_type != _CLASSES:
        metric = main_metric(config.problem_type)
        if set(labels.names) != set(target):
            return {"metric": metric, **nothing}
        output = trainer.predict(faces)
        score = compute_metrics(output.logits, output.labels, config)[metric]
        return nothing | {"metric": metric, "score": float(score), "faces": len(faces), "left_out": 0}
    said = {name: other for name, other in names.items() if name in labels.names and (other is None or other in target)}
    try:
        mapped, lost = map_labels(faces, target, said)
    except DataError:
        return {"metric": "balanced_accuracy", **nothing}
    output = trainer.predict(mapped)
    ids = cast("Tensor", output.labels)
    shared = sorted(set(ids.tolist()))
    answers = output.logits[:, shared].argmax(dim=1)
    right = [shared.index(label) for label in ids.tolist()]
    return {
        "metric": "balanced_accuracy",
        "score": balanced_accuracy(answers, right),
        "accuracy": accuracy(answers, right),
        "classes": len(shared),
        "faces": len(mapped),
        "left_out": sum(lost.values()),
    }
