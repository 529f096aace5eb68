"""What `CIAOModel` returns for a batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch.utils._pytree as pytree  # torch has no public door for containers of one's own
from torch import Tensor

__all__ = ["CIAOOutput"]

_LEFT_OUT: Any = None  # only where a dict of other entries says so; a model always gives both


@dataclass(eq=False)
class CIAOOutput(OrderedDict[str, Any]):
    r"""The answers and losses of one batch: by attribute, by name as in a dict, or by number as in a tuple.

    It keeps the contract of `transformers.utils.ModelOutput` and needs no transformers: what is None is neither among
    the keys nor in `to_tuple()`, the loss comes first, names cannot be deleted, and `torch.export`, `torch.compile` and
    `DistributedDataParallel` see the tensors in it.

    With labels, the loss is that of Eq. 5:

    $$L_{all} = L_{dm} + w \, L_{CIAO}$$

    `L_dm` is the task loss, `L_CIAO` the contrastive loss of Eq. 2-4, and w the config's `contrastive_weight`.

    Args:
        loss: `L_all`, a scalar. None without labels, as are the other two losses. A mapping, or pairs, of names and
            values in its place fill all entries.
        logits: One row of answers per sample, in the backbone's dtype. In a mixed batch a list with one tensor per row,
            since adapters differ in `num_labels`.
        embeddings: z of Eq. 2, one row per sample, in float32. In a mixed batch a list; None for a row that the
            untouched backbone read.
        task_loss: `L_dm`, a scalar.
        contrastive_loss: `L_CIAO` before its weight, a scalar; 0 where the weight is 0.

    Shapes:
        logits: `(B, num_labels)`; in a mixed batch B tensors `(num_labels,)`, or `(K,)` from a backbone with K outputs.
        embeddings: `(B, D)`; in a mixed batch B tensors `(D,)` or None.
        loss, task_loss, contrastive_loss: `()`.

    Raises:
        TypeError: a name that is no entry, or one that is deleted.

    Example:
        >>> import torch
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, contrastive_weight=0.5)
        >>> model = get_ciao_model(load_encoder("small-face"), config)
        >>> faces = torch.rand(4, *model.input_size)
        >>> output = model(faces, labels=torch.rand(4, 2))
        >>> output.logits.shape
        torch.Size([4, 2])
        >>> bool(output.loss.isclose(output.task_loss + 0.5 * output.contrastive_loss))
        True
        >>> output["loss"] is output[0], list(model(faces))
        (True, ['logits', 'embeddings'])
    """

    loss: Tensor | None = None
    logits: Tensor | list[Tensor] = _LEFT_OUT
    embeddings: Tensor | list[Tensor | None] = _LEFT_OUT
    task_loss: Tensor | None = None
    contrastive_loss: Tensor | None = None

    def __post_init__(self) -> None:
        given: Any = self.loss
        if given is not None and not isinstance(given, Tensor):  # as `type(output)({...})` of Accelerate and DDP
            object.__setattr__(self, "loss", None)
            for name, value in dict(given).items():
                self[name] = value
        for name in _NAMES:
            value = self.__dict__.get(name)
            if value is not None:
                super().__setitem__(name, value)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _NAMES:
            raise TypeError(f"A CIAOOutput has {', '.join(_NAMES)}; got {name!r:.80}.")
        if value is not None:
            super().__setitem__(name, value)
        elif name in self:
            super().__delitem__(name)
        super().__setattr__(name, value)

    def __delitem__(self, key: str) -> None:
        raise TypeError("Entries of a CIAOOutput cannot be deleted; set one to None.")

    def pop(self, *args: Any, **kwargs: Any) -> Any:
        """Refuses, as in transformers' outputs.

        Raises:
            TypeError: always.
        """
        raise TypeError("Entries of a CIAOOutput cannot be deleted; set one to None.")

    def popitem(self, last: bool = True) -> tuple[str, Any]:
        """Refuses, as `pop` does.

        Args:
            last: As for `OrderedDict.popitem`.
        """
        return self.pop(last)

    def clear(self) -> None:
        """Refuses, as `pop` does."""
        self.pop()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Sets several entries.

        Args:
            args, kwargs: As for `dict.update`.
        """
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The entry of this name, which is set first where there is none.

        Args:
            key: Name of an entry.
            default: What to set it to.
        """
        if key not in self:
            self[key] = default
        return self.get(key)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in _NAMES)

    def __copy__(self) -> CIAOOutput:
        return type(self)(*(getattr(self, name) for name in _NAMES))

    def copy(self) -> Any:
        """Another output with the same tensors.

        Example:
            >>> import torch
            >>> output = CIAOOutput(logits=torch.zeros(2, 7))
            >>> output.copy().logits is output.logits
            True
        """
        return self.__copy__()

    def to_tuple(self) -> tuple[Any, ...]:
        """All entries that are not None, in order: the loss first, where there were labels.

        Example:
            >>> import torch
            >>> len(CIAOOutput(logits=torch.zeros(2, 7), embeddings=torch.zeros(2, 16)).to_tuple())
            2
        """
        return tuple(self.values())


_NAMES = tuple(field.name for field in fields(CIAOOutput))


def _flatten(output: CIAOOutput) -> tuple[list[Any], list[str]]:
    return list(output.values()), list(output.keys())


def _flatten_with_keys(output: CIAOOutput) -> tuple[list[tuple[Any, Any]], list[str]]:
    return [(pytree.MappingKey(name), value) for name, value in output.items()], list(output.keys())


def _unflatten(values: Iterable[Any], names: Sequence[str]) -> CIAOOutput:
    entries: Mapping[str, Any] = dict(zip(names, values, strict=True))
    return CIAOOutput(**entries)


pytree.register_pytree_node(
    CIAOOutput,
    _flatten,
    _unflatten,
    serialized_type_name="ciao_peft.CIAOOutput",
    flatten_with_keys_fn=_flatten_with_keys,
)
