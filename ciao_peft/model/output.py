"""What `CIAOModel` returns for a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["CIAOOutput"]


@dataclass
class CIAOOutput:
    r"""The answers and losses of one batch.

    With labels, the loss is that of Eq. 5:

    $$L_{all} = L_{dm} + w \, L_{CIAO}$$

    `L_dm` is the task loss, `L_CIAO` the contrastive loss of Eq. 2-4, and w the config's `contrastive_weight`.

    Args:
        logits: One row of answers per sample, in the backbone's dtype. In a mixed batch a list with one tensor per row,
            since adapters differ in `num_labels`.
        embeddings: z of Eq. 2, one row per sample, in float32. In a mixed batch a list; None for a row that the
            untouched backbone read.
        loss: `L_all`, a scalar. None without labels, as are the two below.
        task_loss: `L_dm`, a scalar.
        contrastive_loss: `L_CIAO` before its weight, a scalar; 0 where the weight is 0.

    Shapes:
        logits: `(B, num_labels)`; in a mixed batch B tensors `(num_labels,)`, or `(K,)` from a backbone with K outputs.
        embeddings: `(B, D)`; in a mixed batch B tensors `(D,)` or None.
        loss, task_loss, contrastive_loss: `()`.

    Example:
        >>> import torch
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, contrastive_weight=0.5)
        >>> model = get_ciao_model(load_encoder("small-face"), config)
        >>> output = model(torch.rand(4, *model.input_size), labels=torch.rand(4, 2))
        >>> output.logits.shape
        torch.Size([4, 2])
        >>> bool(output.loss.isclose(output.task_loss + 0.5 * output.contrastive_loss))
        True
    """

    logits: Tensor | list[Tensor]
    embeddings: Tensor | list[Tensor | None]
    loss: Tensor | None = None
    task_loss: Tensor | None = None
    contrastive_loss: Tensor | None = None
