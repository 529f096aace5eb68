"""The contrastive loss against two others: time, memory and error of value and gradient.

    python benchmarks/bench_losses.py

Takes about a minute. The others are the formula of SupContrast (Khosla et al. 2020: matrices of all pairs in float32,
the largest similarity subtracted) and `SupConLoss` of pytorch-metric-learning, where that is installed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from measuring import LiveBytes, arguments, in_turns, medians, ratio, recorded
from torch import Tensor

from ciao_peft import supervised_contrastive_loss

DIM, CLASSES = 128, 7
TURNS = {256: 9, 1024: 5, 4096: 3}


def formula(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The mean of -log p over the positives of an anchor, and over anchors, from whole matrices."""
    z = F.normalize(embeddings, dim=1)
    scores = z @ z.T / temperature
    scores = scores - scores.max(dim=1, keepdim=True).values.detach()
    others = 1 - torch.eye(len(z), dtype=z.dtype)
    positives = (labels[:, None] == labels[None, :]).to(z.dtype) * others
    log_prob = scores - (scores.exp() * others).sum(dim=1, keepdim=True).log()
    return -((positives * log_prob).sum(dim=1) / positives.sum(dim=1)).mean()


def implementations() -> dict:
    found = {
        "ciao_peft": lambda z, labels, t: supervised_contrastive_loss(z, labels, temperature=t),
        "SupContrast": formula,
    }
    try:
        from pytorch_metric_learning.losses import SupConLoss
    except ImportError:
        return found
    return found | {"pytorch-metric-learning": lambda z, labels, t: SupConLoss(temperature=t)(z, labels)}


def gradient(function, embeddings: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    own = embeddings.clone().requires_grad_(True)
    value = function(own, labels, temperature)
    value.backward()
    return value.detach().double(), own.grad.double()


def errors(function, batch_size: int, temperature: float) -> list[float | None]:
    """Relative errors of value and gradient against the formula in float64, stable; None for NaN."""
    generator = torch.Generator().manual_seed(1)
    z, labels = torch.randn(batch_size, DIM, generator=generator), torch.arange(batch_size) % CLASSES
    half = batch_size // 2  # has near neighbours; the others are alone
    z[1:half:2] = z[0:half:2] + 0.05 * torch.randn(half // 2, DIM, generator=generator)
    value, grad = gradient(exact, z.double(), labels, temperature)
    own, own_grad = gradient(function, z, labels, temperature)
    found = [float((own - value).abs() / value.abs()), float((own_grad - grad).norm() / grad.norm())]
    return [x if x == x and x < float("inf") else None for x in found]


def exact(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    z = F.normalize(embeddings, dim=1)
    itself = torch.eye(len(z), dtype=torch.bool)
    scores = z @ z.T / temperature
    log_prob = scores - scores.masked_fill(itself, -1e30).logsumexp(dim=1, keepdim=True)
    positives = ((labels[:, None] == labels[None, :]) & ~itself).double()
    return -((positives * log_prob).sum(dim=1) / positives.sum(dim=1)).mean()


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    with recorded("losses", args) as record:
        record["dim"], record["sizes"] = DIM, {}
        known = implementations()
        for size, turns in ({16: 1, 32: 1} if args.smoke else TURNS).items():
            z, labels = torch.randn(size, DIM, requires_grad=True), torch.randint(0, CLASSES, (size,))
            runs = {
                name: lambda f=f, z=z, labels=labels: torch.autograd.grad(f(z, labels, 0.1), z)
                for name, f in known.items()
            }
            seconds = in_turns(runs, turns)
            memory = {}
            for name, run in runs.items():
                with LiveBytes() as live:
                    run()
                memory[name] = live.peak / (4 * size**2)
            record["sizes"][size] = {
                "seconds": medians(seconds),
                "ratio": {name: ratio(seconds, name, "SupContrast") for name in known},
                "memory": memory,
            }
        record["errors"] = {
            name: {str(t): errors(f, 16 if args.smoke else 256, t) for t in (0.1, 0.02, 0.005)}
            for name, f in known.items()
        }


if __name__ == "__main__":
    main()
