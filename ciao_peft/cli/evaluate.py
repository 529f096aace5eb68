"""`ciao evaluate`: scores of saved adapters on labelled faces."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import ConfigError, DataError, listed
from .arguments import LateParser
from .averaged import add_average_flag, averaged_scores, check_average
from .confusions import draw_confusions
from .data import pair_of
from .dataset import add_dataset_flags, dataset_label, faces_from
from .flags import add_flag


def add_commands(commands: argparse._SubParsersAction[LateParser]) -> None:
    """Adds `evaluate`."""
    evaluate = commands.add_parser(
        "evaluate",
        help="score saved adapters on labelled faces",
        usage="%(prog)s ADAPTER ... [--FLAG VALUE ...]",
        description="Reads labelled faces with each adapter and prints its scores. Labels are joined by their names, "
        "never by their ids: happy and happiness are one class. Faces whose class an adapter does not know are left "
        "out and counted.",
    )
    evaluate.add_argument(
        "adapters", metavar="ADAPTER", nargs="+", help="a saved adapter's folder, user/name, or one of `ciao adapters`"
    )
    add_dataset_flags(evaluate)
    add_flag(evaluate, "split", help="which part of the faces is read (default: test, or the only part there is)")
    evaluate.add_argument(
        "--map",
        metavar="LABEL=LABEL",
        action="append",
        default=[],
        help="a label of the faces and the adapter's label for it, or nothing to leave it out; may be repeated",
    )
    add_average_flag(evaluate)
    add_flag(evaluate, "batch_size", type=int, default=128, metavar="N", help="faces read at once (default: 128)")
    evaluate.add_argument("--json", metavar="FILE", help="write all scores to this file")
    add_flag(evaluate, "confusion_matrix", metavar="PNG", help="draw which class is read as which (one adapter)")
    evaluate.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from ..auto import AutoCIAOModel
    from ..saving.files import refusals_told, to_json, write_file
    from ..trainer import CIAOTrainer, CIAOTrainingArguments

    if options.confusion_matrix and len(options.adapters) > 1:
        raise ConfigError(f"`--confusion_matrix` is drawn for one adapter; {len(options.adapters)} are given.")
    arguments = CIAOTrainingArguments(report_to="none", per_device_eval_batch_size=options.batch_size)
    names = dict(map(pair_of, options.map))
    splits = faces_from(options, small_classes=True)
    split = options.split or (next(iter(splits)) if len(splits) == 1 else "test")
    if split not in splits:
        raise DataError(
            f"{options.data_dir or dataset_label(options)} has no split {split!r}. It has: {listed(splits)}. "
            "Choose one with --split."
        )
    column = check_average(options, splits[split])
    found: dict[str, Any] = {}
    for source in options.adapters:
        model = AutoCIAOModel.from_pretrained(source)
        trainer = CIAOTrainer(model, arguments)
        faces, lost = _mapped(splits[split], trainer.config, names)
        output = trainer.predict(faces)
        scores = {name.removeprefix("test_"): value for name, value in output.metrics.items()}
        found[source] = {"faces": len(faces), "left_out": lost, "scores": scores}
        trainer.print(f"{source}: {len(faces):,} faces of {dataset_label(options)}, {split}")
        if lost:
            trainer.print("left out: " + ", ".join(f"{count:,} of {label}" for label, count in lost.items()))
        for name, value in scores.items():
            trainer.print(f"{name:>20} {value:.4f}")
        if column is not None:
            means = averaged_scores(output, faces, column, trainer.config)
            found[source]["averaged"] = means._asdict()
            trainer.print(f"by {options.average_by}, {means.things:,} of them:")
            for name, value in means.scores.items():
                trainer.print(f"{name:>20} {value:.4f}")
        if options.confusion_matrix:
            with refusals_told(ConfigError, options.confusion_matrix, "Name another with --confusion_matrix."):
                draw_confusions(output, trainer.config, options.confusion_matrix)
    if options.json:
        with refusals_told(ConfigError, options.json, "Name another file with --json."):
            write_file(options.json, to_json(found))


def _mapped(faces: Any, config: Any, names: dict[str, str | None]) -> tuple[Any, dict[str, int]]:
    """The faces with the adapter's classes, where these have other names."""
    from ..data import labels_of, map_labels

    target = list(config.id2label.values())
    labels = labels_of(faces)
    single = "single_label_classification"
    if labels.problem_type != config.problem_type:
        raise DataError(
            f"The faces are labelled for {labels.problem_type} ({listed(labels.names)}), and the adapter answers with "
            f"{config.problem_type} ({listed(target)})."
        )
    if config.problem_type != single or (set(labels.names) <= set(target) and not names):
        return faces, {}
    return map_labels(faces, target, names)
