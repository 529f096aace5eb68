"""Shared by the scripts that train encoders: adversarial losses, batch norm, checkpoints and verification."""

from __future__ import annotations

from .adversarial import Autoencoder, IdentityDistance, Judges, discriminator_loss
from .batch_norm import add_batch_norm, fold_batch_norm
from .verification import verification_auc

__all__ = [
    "Autoencoder",
    "IdentityDistance",
    "Judges",
    "add_batch_norm",
    "discriminator_loss",
    "fold_batch_norm",
    "verification_auc",
]
