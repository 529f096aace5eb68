"""Train an encoder to tell people apart: a margin softmax on their identities. Expressions are never looked at.

    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 examples/pretrain_encoder.py \\
        --data_dir ../shared/faces --output_dir runs/small-face --mixed_precision bf16

Took 17 minutes on two busy cores and reached a verification AUC of 0.964 on 227 people it had never seen (0.565 with
random weights); the learning rate, margin and scale were settled on by a few epochs of four other runs, judged by the
same people. These are the weights of `small-face`; `--encoder vggface2` or `timm/NAME` trains another network. The
folder `encoder/` is for `load_encoder`. Given again, a command that was cut off goes on where it was; with other
settings or faces it refuses to.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ciao_peft import Preprocessing, load_encoder, load_faces
from ciao_peft.encoders import save_encoder
from ciao_peft.encoders.pretraining.batch_norm import add_batch_norm, fold_batch_norm
from ciao_peft.encoders.pretraining.checkpoints import (
    describe_training,
    digest,
    resume_training,
    save_training_checkpoint,
)
from ciao_peft.encoders.pretraining.verification import verification_auc


class MarginSoftmax(nn.Module):
    """CosFace: cross-entropy of scaled cosines to one direction per person, the own one lowered by a margin.

    With `projected_to`, the cosines are those of a linear map of the embedding, which is not kept afterwards.
    """

    def __init__(self, embedding_size: int, num_people: int, scale: float, projected_to: int = 0, dropout: float = 0.0):
        super().__init__()
        self.before = nn.Sequential(nn.Dropout(dropout))
        if projected_to:
            self.before.extend([nn.Linear(embedding_size, projected_to, bias=False), nn.BatchNorm1d(projected_to)])
            embedding_size = projected_to
        # Short at first: their direction, which is all that counts, then turns as fast as the encoder learns.
        self.directions = nn.Parameter(0.02 * torch.randn(num_people, embedding_size))
        self.scale = scale

    def forward(self, embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
        cosines = (
            F.normalize(self.before(embeddings.float()), dim=1) @ F.normalize(self.directions, dim=1).T
        )  # (B, people)
        own = F.one_hot(labels, len(self.directions)).to(cosines.dtype)
        return F.cross_entropy(self.scale * (cosines - margin * own), labels)


def load_pixels(faces, preprocessing: Preprocessing) -> Tensor:
    """All faces as `(N, C, H, W)` uint8, a good half larger than the encoder's input: room for moving and turning.

    One channel where every face is gray.
    """
    height, width = (math.ceil(1.5 * side) for side in preprocessing.size)
    stored = preprocessing.replace(size=(height, width))
    pixels = torch.stack([torch.tensor(stored.fit(face["image"])) for face in tqdm(faces, "reading", disable=None)])
    pixels = pixels.permute(0, 3, 1, 2)
    gray = all(torch.equal(pixels[:, :1], pixels[:, i : i + 1]) for i in range(1, pixels.shape[1]))
    return (pixels[:, :1] if gray else pixels).contiguous()


def halved(preprocessing: Preprocessing) -> Preprocessing:
    return preprocessing.replace(size=[side // 2 for side in preprocessing.size])


@contextmanager
def without_last_pooling(network: nn.Module, wanted: bool) -> Iterator[None]:
    """Leaves the network's `pool` out, so that faces of half the size give an embedding of the same size."""
    pool = getattr(network, "pool", None)
    if not wanted or pool is None:
        yield
        return
    network.pool = nn.Identity()
    try:
        yield
    finally:
        network.pool = pool


def shrunk(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Stored faces for a smaller input, again a good half larger than it."""
    size = [math.ceil(1.5 * side) for side in preprocessing.size]
    small = [F.interpolate(part.float(), size, mode="bilinear", antialias=True) for part in pixels.split(256)]
    return torch.cat([part.round().clamp(0, 255).byte() for part in small])


def prepare(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Pixel values of stored faces as the encoder is fed later: shrunk with averaging, in its number of channels."""
    values = F.interpolate(pixels.float() / 255, preprocessing.size, mode="bilinear", antialias=True)
    values = values.expand(-1, len(preprocessing.mean), -1, -1)
    return normalise(values, preprocessing)


def normalise(values: Tensor, preprocessing: Preprocessing) -> Tensor:
    mean = torch.tensor(preprocessing.mean, device=values.device).view(-1, 1, 1)
    std = torch.tensor(preprocessing.std, device=values.device).view(-1, 1, 1)
    return ((values - mean) / std).contiguous(memory_format=torch.channels_last)


def augment(pixels: Tensor, preprocessing: Preprocessing, generator: torch.Generator) -> Tensor:
    """Pixel values of `(B, C, H, W)` uint8, each face with another pose and light."""
    batch, device = len(pixels), pixels.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand((batch, *shape), generator=generator).mul_(high - low).add_(low).to(device)

    # One bilinear look-up does the flip, the turn, the zoom, the stretch and the shift.
    angle = uniform(-15, 15).deg2rad()
    zoom, stretch = uniform(0.8, 1.1), uniform(-0.06, 0.06).exp()
    flip = uniform(-1, 1).sign()
    rows = [
        torch.stack([flip * zoom * stretch * angle.cos(), -zoom * angle.sin(), uniform(-0.1, 0.1)], dim=1),
        torch.stack([flip * zoom * angle.sin(), zoom / stretch * angle.cos(), uniform(-0.1, 0.1)], dim=1),
    ]
    values = pixels.float() / 255
    grid = F.affine_grid(torch.stack(rows, dim=1), [batch, 1, *preprocessing.size], align_corners=False)
    values = F.grid_sample(values, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    if batch > 1:  # half of the faces are a little blurred
        soft = F.interpolate(F.avg_pool2d(values, 2), values.shape[2:], mode="bilinear")
        values = torch.lerp(values, soft, (uniform(0, 1, 1, 1, 1) * (uniform(0, 1, 1, 1, 1) < 0.5)))
    values = values.clamp(1e-3, 1) ** uniform(-0.4, 0.4, 1, 1, 1).exp()
    level = values.mean(dim=(2, 3), keepdim=True)
    values = level + (values - level) * uniform(0.6, 1.5, 1, 1, 1) + uniform(-0.2, 0.2, 1, 1, 1)
    # Light from one side.
    ramp = torch.linspace(-1, 1, preprocessing.size[1], device=device) * uniform(-0.2, 0.2, 1, 1, 1)
    values = values + ramp
    channels = len(preprocessing.mean)
    if channels > 1:  # tinted light, so that colours mean nothing where all the faces seen here are gray
        values = values * uniform(-0.15, 0.15, channels, 1, 1).exp()
    values = values + 0.03 * torch.randn(values.shape, generator=generator).to(device)
    values = normalise(values.clamp(0, 1), preprocessing)

    # A grey box somewhere over most of the faces.
    height, width = preprocessing.size
    ys, xs = torch.arange(height, device=device).view(1, 1, -1, 1), torch.arange(width, device=device).view(1, 1, 1, -1)
    top, left = uniform(-0.2, 1, 1, 1, 1) * height, uniform(-0.2, 1, 1, 1, 1) * width
    box_height, box_width = uniform(0.1, 0.4, 1, 1, 1) * height, uniform(0.1, 0.4, 1, 1, 1) * width
    inside = (ys >= top) & (ys < top + box_height) & (xs >= left) & (xs < left + box_width)
    return values.masked_fill(inside & (uniform(0, 1, 1, 1, 1) < 0.6), 0.0)


@torch.no_grad()
def embed(encoder: nn.Module, pixels: Tensor, preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """Unit embeddings of stored faces, `(N, D)`."""
    encoder.eval()
    parts = []
    for batch in pixels.split(256):
        values = prepare(batch.to(device), preprocessing)
        parts.append(F.normalize(encoder(values).float(), dim=1).cpu())
    return torch.cat(parts)


def split_people(args: argparse.Namespace) -> tuple[Dataset, Dataset, dict[str, int]]:
    """Faces to train on; faces of people to verify on, each with two pictures or more and none in training; counts."""
    settings: dict[str, Any] = {}
    if args.dataset == "imagefolder":
        settings = {"label_column": args.identity_column, "label_type": "class", "min_images_per_class": 0}
    faces = load_faces(args.dataset, args.data_dir, streaming=False, **settings)
    who = "identity" if "identity" in faces["train"].column_names else "label"
    faces = faces.select_columns(["image", who]).rename_column(who, "person")
    train, verification = faces["train"], faces.get("test")
    if verification is None:  # every tenth of the people who can be verified at all
        counts = Counter(train["person"])
        chosen = {*sorted((person for person, count in counts.items() if count > 1), key=str)[::10]}
        verification = train.select([i for i, person in enumerate(train["person"]) if person in chosen])
        train = train.select([i for i, person in enumerate(train["person"]) if person not in chosen])
    trained, counts = {*train["person"]}, Counter(verification["person"])
    keep = [i for i, person in enumerate(verification["person"]) if counts[person] > 1 and person not in trained]
    if not keep:
        raise SystemExit("Nobody to verify on: no person outside the training split has two pictures.")
    people = {
        "training_faces": len(train),
        "training_people": len(trained),
        "verification_faces": len(keep),
        "verification_people": len({verification["person"][i] for i in keep}),
        "people_left_out_because_in_both_splits": len(trained & {*counts}),
    }
    return train, verification.select(keep), people


def names_of_people(faces: Dataset) -> list[str]:
    """Who is on each face; folders of a dataset go by their names, not by their numbers."""
    feature = faces.features["person"]
    return [feature.int2str(person) if hasattr(feature, "int2str") else str(person) for person in faces["person"]]


def save_weights(encoder: nn.Module, card: dict[str, Any], folder: Path) -> Path:
    """Writes the weights as float16 safetensors, and the card of the training as JSON."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    path = folder / f"{card['name'].replace('/', '_').replace('-', '_')}.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    card = card | {
        "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "weights_bytes": path.stat().st_size,
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return path


def main(args: argparse.Namespace) -> None:
    accelerator = Accelerator(mixed_precision=args.mixed_precision, cpu=args.cpu)
    set_seed(args.seed)
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    encoder = load_encoder(args.encoder, pretrained=False)
    # It learns from whole faces, and is to be fed whole faces afterwards: timm's networks would see their middle only.
    preprocessing = cast(Preprocessing, encoder.preprocessing).replace(crop_pct=1.0)
    setattr(encoder, "preprocessing", preprocessing)  # noqa: B010

    with accelerator.main_process_first():
        train, verification, people = split_people(args)
    accelerator.print(", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in people.items()))
    number = {person: i for i, person in enumerate(sorted({*train["person"]}, key=str))}
    labels = torch.tensor([number[person] for person in train["person"]])
    who = {"who_is_which_label": digest(names_of_people(train)), "who_verifies": digest(names_of_people(verification))}
    description = describe_training(accelerator, vars(args), **people, **who)
    pixels, unseen = load_pixels(train, preprocessing), load_pixels(verification, preprocessing)

    def auc_of(network: nn.Module, small: bool = False) -> float:
        fed = halved(preprocessing) if small else preprocessing
        shown = shrunk(unseen, fed) if small else unseen
        with without_last_pooling(network, small):
            return verification_auc(embed(network, shown, fed, accelerator.device), verification["person"])

    encoder.to(accelerator.device).to(memory_format=torch.channels_last)
    untrained_auc = auc_of(encoder)
    if args.batch_norm:
        add_batch_norm(encoder)
        encoder.to(accelerator.device)
    embedding_size = encoder(torch.zeros(1, *preprocessing.input_size, device=accelerator.device)).shape[1]
    head = MarginSoftmax(embedding_size, len(number), args.scale, args.project_to, args.dropout)
    parameters = [*encoder.parameters(), *head.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.99))
    steps_per_epoch = len(labels) // (args.batch_size * accelerator.num_processes)
    if not steps_per_epoch:
        raise SystemExit(f"{len(labels)} faces do not fill one batch of {args.batch_size}. Lower --batch_size.")
    total = steps_per_epoch * args.num_train_epochs

    def share_of_the_rate(step: int) -> float:
        return min((step + 1) / (0.05 * total + 1), 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / total)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_the_rate)
    encoder, head, optimizer = accelerator.prepare(encoder, head, optimizer)
    accelerator.register_for_checkpointing(schedule)
    history = resume_training(accelerator, output, description)
    for epoch in range(len(history), args.num_train_epochs):
        small = epoch < args.half_size_epochs
        fed = halved(preprocessing) if small else preprocessing
        stored = shrunk(pixels, fed) if small else pixels
        start = time.perf_counter()
        encoder.train()
        # All that is drawn depends on seed, epoch and process alone: a resumed run goes on as the first would have.
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1000 * args.seed + epoch))
        batches = order[accelerator.process_index :: accelerator.num_processes].split(args.batch_size)[:steps_per_epoch]
        own_seed = (1000 * args.seed + epoch) * accelerator.num_processes + accelerator.process_index
        generator = torch.Generator().manual_seed(own_seed)
        torch.manual_seed(own_seed)  # dropout's
        margin = args.margin * min(1.0, epoch / max(1.0, 0.2 * args.num_train_epochs))
        losses = []
        for rows in tqdm(batches, f"epoch {epoch + 1}", disable=not accelerator.is_main_process or None):
            pixel_values = augment(stored[rows].to(accelerator.device), fed, generator)
            with without_last_pooling(accelerator.unwrap_model(encoder), small):
                embeddings = encoder(pixel_values)
            loss = head(embeddings, labels[rows].to(accelerator.device), margin)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        record = {"epoch": epoch + 1, "size": fed.size[0], "loss": sum(losses) / len(losses)}
        record["seconds"] = round(time.perf_counter() - start, 1)
        if accelerator.is_main_process:
            record["verification_auc"] = round(auc_of(accelerator.unwrap_model(encoder), small), 4)
        history.append(record)
        save_training_checkpoint(accelerator, output, history, description)
        accelerator.print(", ".join(f"{name} {value}" for name, value in record.items()), flush=True)

    if accelerator.is_main_process:
        network = fold_batch_norm(accelerator.unwrap_model(encoder).cpu().eval())
        network.load_state_dict({k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()})
        card = {
            "name": args.encoder,
            "architecture": getattr(network, "architecture", {}),
            "parameters": sum(p.numel() for p in network.parameters()),
            "preprocessing": preprocessing.to_dict(),
            "trained_for": "telling people apart (margin softmax on identities); no label of an affect was read",
            "people": people,
            "verification_auc": round(auc_of(network.to(accelerator.device)), 4),
            "verification_auc_of_random_weights": round(untrained_auc, 4),
            "verification": "cosines of all pairs of verification faces after the last epoch",
            "command": shlex.join([*launcher(accelerator), *sys.argv]),
            "settings": vars(args),
            "training_seconds": round(sum(record["seconds"] for record in history)),
            "history": history,
            "versions": {name: version(name) for name in ("torch", "accelerate", "datasets", "ciao_peft")},
            "python": platform.python_version(),
        }
        path = save_weights(network, card, output)
        kept = (
            "trained_for",
            "people",
            "verification_auc",
            "verification_auc_of_random_weights",
            "training_seconds",
            "history",
        )
        training = {key: card[key] for key in kept}
        training["settings"] = {key: value for key, value in vars(args).items() if not key.endswith("_dir")}
        save_encoder(network, output / "encoder", training=training)
        print(f"verification AUC {card['verification_auc']:.4f} ({untrained_auc:.4f} untrained), saved to '{path}'")
    accelerator.end_training()


def launcher(accelerator: Accelerator) -> list[str]:
    if accelerator.num_processes == 1:
        return ["python"]
    return ["torchrun", "--nproc_per_node", str(accelerator.num_processes)]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--encoder", default="small-face", help="what to train from random weights: `vggface2`, `timm/NAME`"
    )
    parser.add_argument("--dataset", default="imagefolder", help="a name `load_faces` knows (default: %(default)s)")
    parser.add_argument("--data_dir", help="train/ and perhaps test/, each with a metadata.csv or a folder per person")
    parser.add_argument(
        "--identity_column", default="identity", help="of the metadata: who it is (default: %(default)s)"
    )
    parser.add_argument(
        "--output_dir", required=True, help="for checkpoints, weights and their card; resumes what it finds"
    )
    parser.add_argument("--num_train_epochs", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--batch_size", type=int, default=64, help="faces per process (default: %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=2e-3, help="at its height (default: %(default)s)")
    parser.add_argument("--weight_decay", type=float, default=0.05, help="default: %(default)s")
    parser.add_argument("--scale", type=float, default=16.0, help="of the cosines (default: %(default)s)")
    parser.add_argument(
        "--margin", type=float, default=0.2, help="full after a fifth of the epochs (default: %(default)s)"
    )
    parser.add_argument("--dropout", type=float, default=0.0, help="on the embedding (default: %(default)s)")
    parser.add_argument(
        "--project_to", type=int, default=0, help="compare a linear map of the embedding to so many numbers, not kept"
    )
    parser.add_argument(
        "--batch_norm",
        action="store_true",
        help="normalise behind each convolution of a plain chain while training; worked into its weights afterwards",
    )
    parser.add_argument(
        "--half_size_epochs",
        type=int,
        default=0,
        help="first epochs on faces of half the size, without the last pooling: four times as fast",
    )
    parser.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="no", help="default: %(default)s")
    parser.add_argument("--cpu", action="store_true", help="even where there is a GPU")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
