"""Learning on the job, from the model itself."""

from __future__ import annotations

from typing import Any

from torch import nn

from .._lazy import from_above
from ..preprocessing import Preprocessing
from .familiar import FamiliarModel

__all__ = ["LearningModel"]


class _Kept(dict[str, Any]):
    """Online trainers by adapter; a copy or a pickle of a model starts without any, for they hold the model."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Kept, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Kept:
        return _Kept()


class LearningModel(FamiliarModel):
    """The part of `CIAOModel` that learns corrections; see `ciao_peft.OnlineTrainer`.

    Args:
        backbone, input_size, preprocessing: As for `get_ciao_model`.

    Shapes:
        As for `CIAOModel`.

    Example:
        >>> import torch
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> moods = {"num_labels": 2, "id2label": {0: "calm", 1: "glad"}}
        >>> config = CIAOConfig(problem_type="single_label_classification", **moods)
        >>> model = get_ciao_model(load_encoder("small-face"), config)
        >>> model.correct(torch.rand(2, *model.input_size), ["calm", "glad"]).version
        1
        >>> model.online_trainer().undo().number
        0
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        input_size: tuple[int, int, int] | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__(backbone, input_size=input_size, preprocessing=preprocessing)
        self._online = _Kept()

    def delete_adapter(self, adapter_name: str) -> None:
        """Removes an adapter without a trace, and its online trainer. If it was the active one, none is afterwards.

        Args:
            adapter_name: Its name.

        Raises:
            AdapterNotFoundError: no adapter has that name.
            TrainingError: it is being trained.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
            >>> model.delete_adapter("default")
            >>> len(model.adapters)
            0
        """
        super().delete_adapter(adapter_name)
        self._online.pop(adapter_name, None)

    def online_trainer(
        self,
        adapter_name: str | None = None,
        *,
        memory: Any = None,
        guard: Any = None,
        args: Any = None,
    ) -> Any:
        """The `OnlineTrainer` of an adapter, which the model keeps: made when it is first asked for.

        Args:
            adapter_name: Which adapter; the active one when left out.
            memory, guard, args: As for `OnlineTrainer`. Where one is given, a new trainer takes the place of the old.

        Returns:
            The trainer: it has `update`, `undo`, `versions` and `save`.

        Raises:
            AdapterNotFoundError, NoActiveAdapterError: there is no such adapter.
            TrainingError, UntraceableBackboneError, MemoryMismatchError: as for `OnlineTrainer`.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
            >>> model.online_trainer() is model.online_trainer()
            True
        """
        name = self.resolve_adapter(adapter_name)
        adapter, kept = self.adapters[name], self._online.get(name)
        asked = memory is not None or guard is not None or args is not None
        if kept is None or kept[0] is not adapter or asked:
            settings: dict[str, Any] = {"memory": memory, "guard": guard, "args": args}
            kept = self._online[name] = (adapter, from_above("online", "OnlineTrainer")(self, name, **settings))
        return kept[1]

    def correct(
        self, faces: Any, labels: Any = None, adapter_name: str | None = None, *, add_class: bool = False
    ) -> Any:
        """Learns one or a few corrected faces: `online_trainer(adapter_name).update(faces, labels)`.

        Give the trainer a memory first, `online_trainer(memory=FeatureMemory.from_dataset(model, faces))`: without one,
        little holds what is not corrected, and corrections of one class alone are refused.

        Args:
            faces, labels, add_class: As for `OnlineTrainer.update`.
            adapter_name: Which adapter; the active one when left out.

        Returns:
            What it did, as `OnlineUpdate`: print it.

        Raises:
            CIAOError: as `OnlineTrainer.update` says; the adapter is then as it was.

        Example:
            >>> import torch
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
            >>> model.correct(torch.rand(1, *model.input_size), torch.tensor([[0.5, -0.5]])).faces
            1
        """
        return self.online_trainer(adapter_name).update(faces, labels, add_class=add_class)
