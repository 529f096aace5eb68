"""`ciao train`: an adapter from labelled faces."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError
from .arguments import (
    LateParser,
    SettingsHelp,
    add_method_file,
    add_recipe,
    settings_from,
    settings_parser,
)
from .averaged import add_average_flag, averaged_scores, check_average
from .confusions import draw_confusions
from .dataset import add_dataset_flags, dataset_label, faces_from, unlabelled_from
from .flags import add_flag

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


def add_commands(commands: argparse._SubParsersAction[LateParser]) -> None:
    """Adds `train`."""
    train = commands.add_parser(
        "train",
        help="train an adapter on labelled faces",
        usage="%(prog)s [--FLAG VALUE ...]",
        description="Trains one adapter, tests it, and saves it in OUTPUT_DIR/adapter.\n\n"
        "    ciao train --data_dir faces --label_column expression --output_dir runs/mine\n"
        "    ciao train --csv labels.csv --label_column emotion --test_fraction 0.2 --group_by subject\n"
        "    ciao train --dataset painted_faces --world eight --output_dir runs/eight\n"
        "    ciao train --data_dir faces --label_column expression --method_file runs/tune/best.json\n\n"
        "On several GPUs: accelerate launch -m ciao_peft.cli train ...; on several processes without one:\n"
        "ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m ciao_peft.cli train ...",
        formatter_class=SettingsHelp,
    )
    train.fill = _add_flags
    train.set_defaults(run=_train)


def _add_flags(parser: LateParser) -> None:
    from ..config import CIAOConfig
    from ..trainer import CIAOTrainingArguments

    add_dataset_flags(parser)
    add_average_flag(parser)
    add_flag(
        parser,
        "calibration_folds",
        type=int,
        default=0,
        metavar="N",
        help="say how sure an answer is by N more trainings, each without a part of the people, or of each class where "
        "nothing says whom the faces show; 0: by none",
    )
    add_flag(parser, "unlabelled", metavar="FOLDER", help="pictures without labels, to learn from as well")
    add_flag(parser, "encoder", default="small-face", help="a name or folder that `load_encoder` accepts")
    add_flag(parser, "align", choices=["five-points"], help="turn and shift faces so that they lie in one way")
    add_flag(parser, "adapter_name", default="default", help="the adapter's name in the model")
    add_flag(parser, "push_to_hub", metavar="USER/NAME", help="publish the adapter in this repository")
    follow_from_others = ("problem_type", "num_labels", "id2label", "init_seed")
    parser.add_all(
        [
            settings_parser(CIAOTrainingArguments, title="training (CIAOTrainingArguments)"),
            settings_parser(CIAOConfig, title="adapter (CIAOConfig)", leave_out=follow_from_others),
        ]
    )
    add_recipe(parser)
    add_method_file(parser)
    parser.set_defaults(output_dir="runs/train")


def _train(options: argparse.Namespace) -> None:
    from ..config import CIAOConfig
    from ..data import labels_of
    from ..encoders import load_encoder
    from ..model import get_ciao_model
    from ..preprocessing import Preprocessing
    from ..probabilities import check_has_probabilities
    from ..saliency import saliency_picture
    from ..trainer import CIAOTrainer, CIAOTrainingArguments

    arguments = settings_from(options, CIAOTrainingArguments)
    if options.calibration_folds and options.unlabelled is not None:
        raise ConfigError("`--calibration_folds` trains without the pictures of `--unlabelled`; leave one of them out.")
    faces = faces_from(options)
    if missing := {"train", "test"} - set(map(str, faces)):
        raise DataError(
            f"{options.data_dir or dataset_label(options)} has no {' and no '.join(sorted(missing))} split: make "
            "folders train/ and test/ in it, each with its faces; hold a part out with --test_fraction 0.2 (and "
            "--group_by COLUMN, so that nobody is in both); or let --protocol k-fold divide them."
        )
    folds = _calibration_folds(options.calibration_folds, faces["train"])
    column = check_average(options, faces["test"])
    unlabelled = None if options.unlabelled is None else unlabelled_from(options.unlabelled)
    config = settings_from(options, CIAOConfig, **labels_of(faces["train"]).as_config(), init_seed=arguments.seed)
    if folds is not None:
        check_has_probabilities(config)
    encoder = load_encoder(options.encoder)
    preprocessing = Preprocessing.for_backbone(encoder)
    if options.align and preprocessing is not None:
        preprocessing = preprocessing.replace(align=options.align)
    model = get_ciao_model(encoder, config, adapter_name=options.adapter_name, preprocessing=preprocessing)
    trainer = CIAOTrainer(model, arguments)
    trainer.print(f"{len(faces['train'])} faces to learn from, {len(faces['test'])} to be tested on.")
    if trainer.accelerator.is_main_process:
        model.print_trainable_parameters()

    if unlabelled is not None:
        trainer.print(f"{len(unlabelled)} faces without labels to learn from as well.")
    trainer.train(faces["train"], faces.get("validation"), unlabelled=unlabelled)
    if folds is not None:
        if "identity" not in faces["train"].column_names:
            trainer.print("Nothing says whom the faces show, so each fold has a part of each class, not of the people.")
        temperature = trainer.calibrate(faces["train"], folds)
        trainer.print(f"Temperature of the probabilities: {temperature:.2f}.")
    output = trainer.predict(faces["test"])
    for name, value in output.metrics.items():
        trainer.print(f"{name.removeprefix('test_'):>20} {value:.4f}")
    about: dict[str, Any] = {"dataset": dataset_label(options)}  # for the model card
    if column is not None:
        means = averaged_scores(output, faces["test"], column, config)
        trainer.print(f"by {options.average_by}, {means.things:,} of them:")
        for name, value in means.scores.items():
            trainer.print(f"{name:>20} {value:.4f}")
        about["averaged"] = {**means._asdict(), "by": options.average_by}
    folder = trainer.save_adapter(Path(arguments.output_dir or ".") / "adapter", about)
    trainer.print(f"Saved the adapter in '{folder}'.")
    if trainer.accelerator.is_main_process:
        record, picture = trainer.training_record() | about, None
        # A card shows faces only where nobody's is shown: painted ones.
        if dataset_label(options).startswith("painted_faces") and find_spec("matplotlib"):
            shown = faces["test"][:3]["image"]
            picture = saliency_picture(model, shown, [options.adapter_name], views=("saliency", "mask"))
            model.save_pretrained(folder, options.adapter_name, training=record, picture=picture)
        if options.push_to_hub:
            print(model.push_to_hub(options.push_to_hub, training=record, picture=picture).commit_url)
        if config.problem_type == "single_label_classification" and find_spec("matplotlib"):
            draw_confusions(output, config, folder.parent / "confusion_matrix.png")
    trainer.end_training()  # without it, several processes may abort at their exit


def _calibration_folds(count: int, faces: Dataset) -> list[tuple[str, np.ndarray]] | None:
    """Folds of people, where the faces say whom they show; else of each class. None where none are wanted."""
    from ..data import stratified_folds, subject_folds

    if count == 0:
        return None
    if count < 2:
        raise ConfigError(f"`--calibration_folds` must be 2 or more, or 0 for none; got {count}.")
    return [*(subject_folds if "identity" in faces.column_names else stratified_folds)(faces, count)]
