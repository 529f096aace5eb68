"""Train `prior_knowledge` (PK) as a conditional adversarial autoencoder, on any folder of faces.

    ACCELERATE_USE_CPU=true accelerate launch examples/pretrain_pk.py \\
        --data_dir ../shared/faces/train --output_dir runs/pk --num_train_epochs 2 --mixed_precision bf16

No label is needed. With a metadata.csv that has the columns `file_name`, `arousal` and `valence` (both in [-1, 1]),
`--conditional` draws faces that are to show them. Pictures next to their reconstructions are in `reconstructions/`; the
trained encoder is the folder `encoder/`, for `load_encoder`. Given again, a command that was cut off goes on where it
was; with other settings or faces it refuses to. `--start_dir` begins with the weights of an earlier, finished training,
and may train them with other settings.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ciao_peft import Preprocessing, load_encoder
from ciao_peft.encoders import PriorKnowledge, save_encoder
from ciao_peft.encoders.pretraining.adversarial import (
    Autoencoder,
    IdentityDistance,
    Judges,
    dense_judge,
    discriminator_loss,
)
from ciao_peft.encoders.pretraining.batch_norm import add_batch_norm, fold_batch_norm
from ciao_peft.encoders.pretraining.checkpoints import (
    describe_training,
    digest,
    newest_checkpoint,
    resume_training,
    save_training_checkpoint,
)

PICTURES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}


def find_faces(folder: Path, conditional: bool) -> tuple[list[Path], Tensor | None]:
    """All pictures in a folder and below it; with `conditional`, those of metadata.csv with arousal and valence."""
    if not conditional:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
        if not paths:
            raise SystemExit(f"No pictures in '{folder}' or below it.")
        return paths, None
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if missing := {"file_name", "arousal", "valence"} - {*(rows[0] if rows else ())}:
        raise SystemExit(f"'{folder / 'metadata.csv'}' lacks {', '.join(sorted(missing))}. Leave out --conditional.")
    conditions = torch.tensor([[float(row["arousal"]), float(row["valence"])] for row in rows])
    if not conditions.abs().le(1).all():
        raise SystemExit(f"Arousal and valence in '{folder / 'metadata.csv'}' must lie between -1 and 1.")
    return [folder / row["file_name"] for row in rows], conditions


def load_pixels(paths: list[Path], preprocessing: Preprocessing) -> Tensor:
    """All faces as the encoder sees them, in whole numbers: `(N, 3, 96, 96)` uint8."""
    batches = [paths[i : i + 64] for i in range(0, len(paths), 64)]
    return torch.cat([to_bytes(preprocessing(batch)) for batch in tqdm(batches, "reading", disable=None)])


def to_bytes(values: Tensor) -> Tensor:
    """From [-1, 1] to 0 to 255."""
    return ((values.detach().float() + 1) * 127.5).round().clamp(0, 255).to("cpu", torch.uint8)


@torch.no_grad()
def save_grid(network: Autoencoder, faces: Tensor, conditions: Tensor | None, path: Path) -> None:
    """Faces, and below them drawn again; where arousal and valence are known, also calm or aroused, sad or pleased."""
    network.eval()
    drawn, z = network(faces, conditions)
    rows = [faces, drawn]
    if conditions is not None:
        for arousal in (-1.0, 1.0):
            for valence in (-1.0, 1.0):
                rows.append(network.generate(z, conditions.new_tensor([[arousal, valence]]).expand(len(z), -1)))
    grid = torch.cat([torch.cat([*to_bytes(row)], dim=2) for row in rows], dim=1)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(path)


def earlier_training(folder: Path) -> dict:
    """What a finished training here says of itself."""
    path = folder / "encoder" / "config.json"
    if newest_checkpoint(folder) is None or not path.is_file():
        raise SystemExit(f"'{folder}' holds no finished training: it needs a checkpoint and 'encoder/'.")
    return json.loads(path.read_text(encoding="utf-8"))["training"]


def start_from(folder: Path, network: Autoencoder, judges: Judges) -> None:
    """Gives both sides the weights that they had at the end of an earlier training."""
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        raise SystemExit(f"There is no checkpoint in '{folder}'.")
    for module, name in ((network, "model.safetensors"), (judges, "model_1.safetensors")):
        weights = {key.removeprefix("module."): value for key, value in load_file(checkpoint / name).items()}
        try:
            module.load_state_dict(weights)
        except RuntimeError as error:
            raise SystemExit(
                f"The weights in '{checkpoint}' are of other sizes; give --channels, --widths, --latent_size, "
                f"--conditional and --batch_norm as they were. {error}"
            ) from error


def main(args: argparse.Namespace) -> None:
    accelerator = Accelerator(mixed_precision=args.mixed_precision, cpu=args.cpu)
    set_seed(args.seed)
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    settings = {"channels": args.channels} if args.channels else {}
    encoder = cast(PriorKnowledge, load_encoder("prior_knowledge", pretrained=False, **settings))
    paths, conditions = find_faces(Path(args.data_dir), args.conditional)
    paths = paths[: args.max_faces]
    pixels = load_pixels(paths, encoder.preprocessing)
    which = [os.path.relpath(path, args.data_dir) for path in paths]
    shown = [] if conditions is None else conditions[: len(paths)].flatten().tolist()
    started = earlier_training(Path(args.start_dir)) if args.start_dir else None
    description = describe_training(
        accelerator, vars(args), faces=len(paths), which_faces=digest([*which, *shown]), started_from=started
    )
    if args.batch_norm:
        add_batch_norm(encoder)
    num_conditions = 0 if conditions is None else conditions.shape[1]
    steps_per_epoch = len(pixels) // (args.batch_size * accelerator.num_processes)
    if not steps_per_epoch:
        raise SystemExit(f"{len(pixels)} faces do not fill one batch of {args.batch_size}. Lower --batch_size.")

    network = Autoencoder(encoder, args.latent_size, num_conditions, args.widths)
    if num_conditions:
        network.emotion = dense_judge(args.latent_size, num_conditions)  # D_em: learns with z, not against it
    judges = Judges(encoder.input_size, args.latent_size, num_conditions)
    if started is not None:
        start_from(Path(args.start_dir), network, judges)
    identity = IdentityDistance(load_encoder(args.face_network), encoder.preprocessing).to(accelerator.device)
    for module in (network, judges):
        module.to(memory_format=torch.channels_last)  # faster on a CPU
    encoder_rate = args.learning_rate if args.encoder_learning_rate is None else args.encoder_learning_rate
    others = [parameter for name, parameter in network.named_parameters() if not name.startswith("encoder.")]
    groups = [{"params": [*encoder.parameters()], "lr": encoder_rate}, {"params": others}]
    optimizer = torch.optim.Adam(groups, lr=args.learning_rate, betas=(0.5, 0.999))
    judges_optimizer = torch.optim.Adam(judges.parameters(), lr=args.learning_rate, betas=(0.5, 0.999))

    def share_of_the_rate(step: int) -> float:  # Adam's first steps are as long as any, and lead nowhere in particular
        return min(1.0, (step + 1) / (args.warmup_steps + 1))

    schedules = [torch.optim.lr_scheduler.LambdaLR(one, share_of_the_rate) for one in (optimizer, judges_optimizer)]
    accelerator.register_for_checkpointing(*schedules)
    network, judges, optimizer, judges_optimizer = accelerator.prepare(network, judges, optimizer, judges_optimizer)
    judge, history = accelerator.unwrap_model(judges), resume_training(accelerator, output, description)
    for epoch in range(len(history), args.num_train_epochs):
        start = time.perf_counter()
        network.train()
        judges.train()
        # All that is drawn depends on seed, epoch and process alone: a resumed run goes on as the first would have.
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(1000 * args.seed + epoch))
        batches = order[accelerator.process_index :: accelerator.num_processes].split(args.batch_size)[:steps_per_epoch]
        own_seed = (1000 * args.seed + epoch) * accelerator.num_processes + accelerator.process_index
        generator = torch.Generator().manual_seed(own_seed)
        sums: dict[str, float] = {}
        for rows in tqdm(batches, f"epoch {epoch + 1}", disable=not accelerator.is_main_process or None):
            faces = pixels[rows].to(memory_format=torch.channels_last).float() / 127.5 - 1
            flipped = torch.rand(len(rows), generator=generator) < 0.5
            faces = torch.where(flipped.view(-1, 1, 1, 1), faces.flip(3), faces).to(accelerator.device)
            wanted = None if conditions is None else conditions[rows].to(accelerator.device)
            uniform = (torch.rand(len(rows), args.latent_size, generator=generator) * 2 - 1).to(accelerator.device)
            drawn, z = network(faces, wanted)

            # The judges learn to tell uniform numbers from z, and photographs from drawings.
            both = None if wanted is None else torch.cat([wanted, wanted])
            seen = torch.cat([faces, drawn.detach().float()]), torch.cat([uniform, z.detach().float()]), both
            by_prior, by_image = (logits.chunk(2) for logits in judges(*seen))
            against = sum(
                discriminator_loss(real, True) + discriminator_loss(made, False) for real, made in (by_prior, by_image)
            )
            accelerator.backward(against)
            judges_optimizer.step()
            judges_optimizer.zero_grad()

            # The autoencoder learns to be taken for them, to draw what it saw, and whom it saw.
            judge.requires_grad_(False)
            with accelerator.autocast():
                as_prior, as_image = judge(drawn, z, wanted)
                losses = {
                    "reconstruction": F.l1_loss(drawn.float(), faces),
                    "identity": identity(faces, drawn.float()),
                    "prior": discriminator_loss(as_prior, True),
                    "image": discriminator_loss(as_image, True),
                }
                if wanted is not None:
                    losses["emotion"] = F.mse_loss(accelerator.unwrap_model(network).emotion(z).float(), wanted)
            accelerator.backward(sum(getattr(args, f"{name}_weight") * loss for name, loss in losses.items()))
            judge.requires_grad_(True)
            optimizer.step()
            optimizer.zero_grad()
            for schedule in schedules:
                schedule.step()
            for name, loss in {**losses, "judges": against}.items():
                sums[name] = sums.get(name, 0.0) + loss.item()
        means = {name: total / len(batches) for name, total in sums.items()}
        history.append({"epoch": epoch + 1, **means, "seconds": round(time.perf_counter() - start, 1)})
        save_training_checkpoint(accelerator, output, history, description)
        if accelerator.is_main_process:
            shown = pixels[:8].float().to(accelerator.device) / 127.5 - 1
            asked = None if conditions is None else conditions[:8].to(accelerator.device)
            path = output / "reconstructions" / f"epoch-{epoch + 1}.png"
            save_grid(accelerator.unwrap_model(network), shown, asked, path)
            accelerator.print(f"epoch {epoch + 1}: " + ", ".join(f"{name} {x:.4f}" for name, x in means.items()))

    if accelerator.is_main_process:
        training = {
            "trained_for": "drawing faces again (conditional adversarial autoencoder)",
            "labels": "arousal and valence, as condition" if num_conditions else "none",
            "faces": len(pixels),
            "history": history,
            **({} if started is None else {"started_from": started}),
            "settings": {key: value for key, value in vars(args).items() if not key.endswith("_dir")},
        }
        network = accelerator.unwrap_model(network)
        encoder = fold_batch_norm(network.encoder.cpu().eval())
        print(f"saved to '{save_encoder(encoder, output / 'encoder', training=training)}'")
    accelerator.end_training()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="faces, in it and below it")
    parser.add_argument("--output_dir", required=True, help="for checkpoints, pictures and the encoder; resumes")
    parser.add_argument("--start_dir", help="an earlier --output_dir, whose weights to begin with")
    parser.add_argument("--conditional", action="store_true", help="with arousal and valence from metadata.csv")
    parser.add_argument("--face_network", default="small-face", help="judges identity (default: %(default)s)")
    parser.add_argument("--num_train_epochs", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--max_faces", type=int, help="use the first ones only")
    parser.add_argument("--batch_size", type=int, default=49, help="faces per process (default: %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=2e-4, help="of both sides (default: %(default)s)")
    parser.add_argument(
        "--encoder_learning_rate",
        type=float,
        help="of the encoder's convolutions (default: that of both sides); theirs have up to 6,400 inputs, which Adam "
        "moves all at once: too large a step silences a rectifier for good",
    )
    parser.add_argument(
        "--warmup_steps", type=int, default=0, help="until the learning rate is at its height (default: %(default)s)"
    )
    parser.add_argument(
        "--batch_norm",
        action="store_true",
        help="normalise behind each of the encoder's convolutions while training; worked into its weights afterwards",
    )
    parser.add_argument("--latent_size", type=int, default=50, help="numbers in z (default: %(default)s)")
    parser.add_argument("--channels", type=int, nargs=4, help="of the encoder (default: 64 128 256 512)")
    parser.add_argument(
        "--widths", type=int, nargs=5, default=[512, 256, 128, 64, 32], help="of the generator (default: %(default)s)"
    )
    for name, weight in (
        ("reconstruction", 1.0),
        ("identity", 0.3),
        ("prior", 0.01),
        ("image", 0.01),
        ("emotion", 0.001),
    ):
        parser.add_argument(f"--{name}_weight", type=float, default=weight, help="of its loss (default: %(default)s)")
    parser.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="no", help="default: %(default)s")
    parser.add_argument("--cpu", action="store_true", help="even where there is a GPU")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
