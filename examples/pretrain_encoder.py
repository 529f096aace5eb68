"""Train an encoder to tell people apart: a margin softmax on their identities. Expressions are never looked at.

    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 examples/pretrain_encoder.py \\
        --data_dir ../shared/faces --output_dir runs/small-face --mixed_precision bf16

Took 17 minutes on two busy cores and reached a verification AUC of 0.964 on 227 people it had never seen (0.565 with
random weights); the learning rate, margin and scale were settled on by a few epochs of four other runs, judged by the
same people. These are the weights of `small-face`; `--encoder vggface2` or `timm/NAME` trains another network. The
folder `encoder/` is for `load_encoder`. Given again, a command that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import shlex
import shutil
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

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


class MarginSoftmax(nn.Module):
    """CosFace: cross-entropy of scaled cosines to one direction per person, the own one lowered by a margin."""

    def __init__(self, embedding_size: int, num_people: int, scale: float):
        super().__init__()
        # Short at first: their direction, which is all that counts, then turns as fast as the encoder learns.
        self.directions = nn.Parameter(0.02 * torch.randn(num_people, embedding_size))
        self.scale = scale

    def forward(self, embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
        cosines = F.normalize(embeddings.float(), dim=1) @ F.normalize(self.directions, dim=1).T  # (B, people)
        own = F.one_hot(labels, len(self.directions)).to(cosines.dtype)
        return F.cross_entropy(self.scale * (cosines - margin * own), labels)


def load_pixels(faces, preprocessing: Preprocessing) -> Tensor:
    """All faces as `(N, C, H, W)` uint8, a good half larger than the encoder's input: room for moving and turning.

    One channel where every face is gray.
    """
    height, width = (math.ceil(1.5 * side) for side in preprocessing.size)
    stored = preprocessing.replace(size=(height, width), crop_pct=1.0)
    pixels = torch.stack([torch.tensor(stored.fit(face["image"])) for face in tqdm(faces, "reading", disable=None)])
    pixels = pixels.permute(0, 3, 1, 2)
    gray = all(torch.equal(pixels[:, :1], pixels[:, i : i + 1]) for i in range(1, pixels.shape[1]))
    return (pixels[:, :1] if gray else pixels).contiguous()


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
    """Pixel values of `(B, C, H, W)` uint8, each face looked at and lit in another way."""
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
    grid = F.affine_grid(torch.stack(rows, dim=1), (batch, 1, *preprocessing.size), align_corners=False)
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


def verification_auc(embeddings: Tensor, people: list) -> float:
    """Chance that two pictures of one person are more alike than two of different people (area under the ROC curve)."""
    ids = torch.tensor([*map({person: i for i, person in enumerate(dict.fromkeys(people))}.get, people)])
    first, second = torch.triu_indices(len(ids), len(ids), offset=1)
    likeness, same = (embeddings[first] * embeddings[second]).sum(dim=1).double(), ids[first] == ids[second]
    _, place, count = likeness.unique(return_inverse=True, return_counts=True)
    rank = (count.cumsum(0) - (count - 1) / 2.0)[place]  # pairs that are equally alike share their mean rank
    wins = rank[same].sum() - same.sum() * (same.sum() + 1) / 2
    return (wins / (same.sum() * (~same).sum())).item()


def split_people(args: argparse.Namespace) -> tuple[Dataset, Dataset, dict]:
    """Faces to train on; faces of people to verify on, each with two pictures or more and none in training; counts."""
    settings = {}
    if args.dataset == "imagefolder":
        settings = {"label_column": args.identity_column, "label_type": "class", "min_images_per_class": 0}
    faces = load_faces(args.dataset, args.data_dir, **settings)
    who = "identity" if "identity" in faces["train"].column_names else "label"
    faces = faces.select_columns(["image", who]).rename_column(who, "person")
    train, verification = faces["train"], faces.get("test")
    if verification is None:  # every tenth of the people who can be verified at all
        counts = Counter(train["person"])
        chosen = {*sorted((person for person, count in counts.items() if count > 1), key=str)[::10]}
        verification = train.select([i for i, person in enumerate(train["person"]) if person in chosen])
        train = train.select([i for i, person in enumerate(train["person"]) if person not in chosen])
    known, counts = {*train["person"]}, Counter(verification["person"])
    keep = [i for i, person in enumerate(verification["person"]) if counts[person] > 1 and person not in known]
    if not keep:
        raise SystemExit("Nobody to verify on: no person outside the training split has two pictures.")
    people = {
        "training_faces": len(train),
        "training_people": len(known),
        "verification_faces": len(keep),
        "verification_people": len({verification["person"][i] for i in keep}),
        "people_left_out_because_in_both_splits": len(known & {*counts}),
    }
    return train, verification.select(keep), people


class Clock:
    """Seconds of training, kept over interruptions."""

    seconds = 0.0

    def state_dict(self) -> dict:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        self.seconds = state["seconds"]


def newest_checkpoint(folder: Path) -> Path | None:
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return max(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


def save_checkpoint(accelerator: Accelerator, folder: Path, epoch: int) -> None:
    """Under its name only once it is whole; the one before goes afterwards."""
    aside, before = folder / "checkpoint-unfinished", newest_checkpoint(folder)
    accelerator.save_state(str(aside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        aside.rename(folder / f"checkpoint-{epoch}")
        if before is not None:
            shutil.rmtree(before)
    accelerator.wait_for_everyone()


def save_weights(encoder: nn.Module, card: dict, folder: Path) -> Path:
    """Float16 safetensors, and beside them what they are, as JSON."""
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
    preprocessing = encoder.preprocessing

    with accelerator.main_process_first():
        train, verification, people = split_people(args)
    accelerator.print(", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in people.items()))
    number = {person: i for i, person in enumerate(sorted({*train["person"]}, key=str))}
    labels = torch.tensor([number[person] for person in train["person"]])
    pixels, unseen = load_pixels(train, preprocessing), load_pixels(verification, preprocessing)

    def auc_of(network: nn.Module) -> float:
        return verification_auc(embed(network, unseen, preprocessing, accelerator.device), verification["person"])

    encoder.to(accelerator.device, memory_format=torch.channels_last)
    untrained_auc = auc_of(encoder)
    embedding_size = encoder(torch.zeros(1, *preprocessing.input_size, device=accelerator.device)).shape[1]
    head = MarginSoftmax(embedding_size, len(number), args.scale)
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
    clock = Clock()
    accelerator.register_for_checkpointing(schedule, clock)
    if checkpoint := newest_checkpoint(output):
        accelerator.load_state(str(checkpoint))
        accelerator.print(f"resumed from '{checkpoint}'")

    auc = float("nan")
    for epoch in range(schedule.last_epoch // steps_per_epoch, args.num_train_epochs):
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
            pixel_values = augment(pixels[rows].to(accelerator.device), preprocessing, generator)
            loss = head(encoder(pixel_values), labels[rows].to(accelerator.device), margin)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        clock.seconds += time.perf_counter() - start
        save_checkpoint(accelerator, output, epoch + 1)
        if accelerator.is_main_process:
            auc = auc_of(accelerator.unwrap_model(encoder))
            mean_loss = sum(losses) / len(losses)
            accelerator.print(
                f"epoch {epoch + 1}: loss {mean_loss:.4f}, AUC {auc:.4f}, {clock.seconds:.0f} s", flush=True
            )

    if accelerator.is_main_process:
        network = accelerator.unwrap_model(encoder).cpu()
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
            "training_seconds": round(clock.seconds),
            "versions": {name: version(name) for name in ("torch", "accelerate", "datasets", "ciao_peft")},
            "python": platform.python_version(),
        }
        path = save_weights(network, card, output)
        kept = ("trained_for", "people", "verification_auc", "verification_auc_of_random_weights", "training_seconds")
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
    parser.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="no", help="default: %(default)s")
    parser.add_argument("--cpu", action="store_true", help="even where there is a GPU")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
