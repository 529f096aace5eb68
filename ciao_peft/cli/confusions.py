"""A picture of which classes are taken for which."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import CIAOConfig
    from ..trainer import PredictionOutput

__all__ = ["draw_confusions"]


def draw_confusions(output: PredictionOutput, config: CIAOConfig, path: str | os.PathLike[str]) -> None:
    """Draws, for each class, the shares of its faces that were read as each class.

    Args:
        output: What `CIAOTrainer.predict` returned for faces with labels; distributions count as their largest class.
        config: Of the adapter; names the classes.
        path: Where the PNG goes.
    """
    from ..drawing import as_png, blank_figure
    from ..metrics import confusion_matrix
    from ..saving.files import write_file

    if output.labels is None:
        return
    labels = output.labels if output.labels.ndim == 1 else output.labels.argmax(dim=1)
    counts = confusion_matrix(output.logits.argmax(dim=1), labels, config.num_labels)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    names = list((config.id2label or {}).values())
    side = 2 + 0.7 * len(names)
    figure = blank_figure(side, side)
    axes = figure.add_subplot(xlabel="read as", ylabel="is")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    for row, line in enumerate(shares):
        for column, share in enumerate(line):
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", color="white" if share > 0.5 else "black")
    write_file(path, as_png(figure))
