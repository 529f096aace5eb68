"""The contrastive loss by its definition, and what to compare of two losses."""

from __future__ import annotations

import torch

VARIANTS = [(d, r) for d in ("all", "negatives", "class_average") for r in ("mean", "sum")]


def by_definition(z, labels, temperature, denominator, reduction):
    """Eq. 2-4 spelled out with loops, in whatever precision the embeddings have."""
    rows = [row / row.norm() for row in z]
    size = len(rows)
    losses = []
    for i in range(size):
        positives = [p for p in range(size) if p != i and labels[p] == labels[i]]
        different = [k for k in range(size) if labels[k] != labels[i]]
        counted = different if denominator == "negatives" else [k for k in range(size) if k != i]
        if not positives or not counted:
            continue
        logits = torch.stack([torch.dot(rows[i], rows[k]) / temperature for k in counted])
        largest = logits.max().detach()
        shares = [1.0] * len(counted)
        if denominator == "class_average":
            classes = [int(label) for label in labels]
            shares = [size / (len(set(classes)) * classes.count(classes[k])) for k in counted]
        log_total = (
            largest + (torch.tensor(shares, dtype=torch.float64).to(logits) * (logits - largest).exp()).sum().log()
        )
        logs = [torch.dot(rows[i], rows[p]) / temperature - log_total for p in positives]
        losses.append(-sum(logs) / (len(positives) if reduction == "mean" else size - 1))
    if not losses:
        return z.sum() * 0
    return sum(losses) / len(losses) if reduction == "mean" else sum(losses)


def value_and_gradient(function, embeddings):
    embeddings = embeddings.detach().clone().requires_grad_(True)
    value = function(embeddings)
    value.backward()
    return value.detach().double(), embeddings.grad.double()
