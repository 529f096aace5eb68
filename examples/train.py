"""Train one adapter and save it.

    accelerate launch examples/train.py --dataset painted_faces --world eight --output_dir runs/eight
    accelerate launch examples/train.py --dataset imagefolder --data_dir ../shared/faces --label_column expression

On several processes of a machine without GPU start it with `ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2`
(`accelerate launch --cpu --num_processes 2` starts a single one). What to expect on real faces is in docs/results.md.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from ciao_peft import (
    CIAOConfig,
    CIAOTrainer,
    CIAOTrainingArguments,
    Preprocessing,
    get_ciao_model,
    load_encoder,
    load_faces,
    saliency_picture,
)
from ciao_peft.cli.arguments import (
    SettingsHelp,
    about_views,
    add_recipe,
    parse_with_recipe,
    settings_from,
    settings_parser,
)
from ciao_peft.data import labels_of
from ciao_peft.metrics import confusion_matrix

OF_DATASETS = {
    **dict.fromkeys(("world", "task", "mode", "protocol", "fold", "label_column"), str),
    **dict.fromkeys(("num_train", "num_test", "min_images_per_class", "frames_per_clip"), int),
}


def main(args: argparse.Namespace) -> None:
    # A setting that was not given stays away: the defaults are the library's.
    settings = {name: getattr(args, name) for name in OF_DATASETS if getattr(args, name) is not None}
    faces = load_faces(args.dataset, args.data_dir, streaming=False, **settings)
    if missing := {"train", "test"} - set(faces):
        raise SystemExit(
            f"{args.data_dir or args.dataset} has no {' and no '.join(sorted(missing))} split: make folders train/ and "
            "test/ in it, each with its faces, or let --protocol k-fold divide them."
        )
    arguments = settings_from(args, CIAOTrainingArguments)
    config = settings_from(args, CIAOConfig, **labels_of(faces["train"]).as_config(), init_seed=arguments.seed)
    encoder = load_encoder(args.encoder)
    preprocessing = Preprocessing.for_backbone(encoder)
    if args.align and preprocessing is not None:
        preprocessing = preprocessing.replace(align=args.align)
    model = get_ciao_model(encoder, config, adapter_name=args.adapter_name, preprocessing=preprocessing)
    trainer = CIAOTrainer(model, arguments)
    trainer.print(f"{len(faces['train'])} faces to learn from, {len(faces['test'])} to be tested on.")
    if line := about_views(arguments.views):
        trainer.print(line)
    if trainer.accelerator.is_main_process:
        model.print_trainable_parameters()

    trainer.train(faces["train"], faces.get("validation"))
    output = trainer.predict(faces["test"])
    for name, value in output.metrics.items():
        trainer.print(f"{name.removeprefix('test_'):>20} {value:.4f}")
    folder_name = Path(args.data_dir).resolve().name if args.dataset == "imagefolder" else args.dataset
    about = {"dataset": " ".join(filter(None, [folder_name, args.world]))}  # for the model card
    folder = trainer.save_adapter(Path(args.output_dir) / "adapter", about)
    trainer.print(f"Saved the adapter in '{folder}'.")
    if trainer.accelerator.is_main_process:
        record, picture = trainer.training_record() | about, None
        # A card shows faces only where nobody's is shown: painted ones.
        if args.dataset == "painted_faces" and find_spec("matplotlib"):
            picture = saliency_picture(
                model, faces["test"][:3]["image"], [args.adapter_name], views=("saliency", "mask")
            )
            model.save_pretrained(folder, args.adapter_name, training=record, picture=picture)
        if args.push_to_hub:
            print(model.push_to_hub(args.push_to_hub, training=record, picture=picture).commit_url)
    drawn = config.problem_type == "single_label_classification" and find_spec("matplotlib")
    if trainer.accelerator.is_main_process and drawn:
        draw_confusions(output, config, Path(args.output_dir) / "confusion_matrix.png")
    trainer.end_training()  # without it, several processes may abort at their exit


def draw_confusions(output, config: CIAOConfig, path: Path) -> None:
    """Draws, for each class, the shares of its faces that were read as each class."""
    from matplotlib.figure import Figure

    labels = output.labels if output.labels.ndim == 1 else output.labels.argmax(dim=1)
    counts = confusion_matrix(output.logits.argmax(dim=1), labels, config.num_labels)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    names = list((config.id2label or {}).values())
    side = 2 + 0.7 * len(names)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot(xlabel="read as", ylabel="is")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    for row, line in enumerate(shares):
        for column, share in enumerate(line):
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", color="white" if share > 0.5 else "black")
    figure.savefig(path, dpi=120)


def make_parser() -> argparse.ArgumentParser:
    follow_from_others = ("problem_type", "num_labels", "id2label", "init_seed")
    training = settings_parser(CIAOTrainingArguments, title="training (CIAOTrainingArguments)")
    adapter = settings_parser(CIAOConfig, title="adapter (CIAOConfig)", leave_out=follow_from_others)
    parser = argparse.ArgumentParser(
        usage="%(prog)s [--FLAG VALUE ...]",
        description=__doc__,
        formatter_class=SettingsHelp,
        parents=[training, adapter],
    )
    add_recipe(parser)
    parser.add_argument("--dataset", default="painted_faces", help="a name that `load_faces` accepts")
    parser.add_argument("--data_dir", help="folder of the dataset, with train and test")
    for name, kind in OF_DATASETS.items():
        parser.add_argument(f"--{name}", type=kind, help=f"setting `{name}` of the dataset, if it has one")
    parser.add_argument("--encoder", default="small-face", help="a name or folder that `load_encoder` accepts")
    parser.add_argument("--align", choices=["five-points"], help="turn and shift faces so that they lie in one way")
    parser.add_argument("--adapter_name", default="default", help="the adapter's name in the model")
    parser.add_argument("--push_to_hub", metavar="USER/NAME", help="publish the adapter in this repository")
    parser.set_defaults(output_dir="runs/train")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    return parse_with_recipe(make_parser(), argv)


if __name__ == "__main__":
    main(parse_args())
