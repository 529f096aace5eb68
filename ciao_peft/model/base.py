"""A frozen backbone and the adapters on it: adding, choosing and deleting adapters."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TypeVar, cast

from torch import nn
from torch.nn import Parameter

from ..adapters import ActiveAdapter, Adapter, AdapterDict
from ..backbone import Depth, FrozenBackbone, OpenedBackbone, refuse_patches, without_compiler
from ..config import CIAOConfig, check_adapter_name
from ..errors import (
    AdapterNameError,
    AdapterNotFoundError,
    BackboneError,
    MergeError,
    NoActiveAdapterError,
    TrainingError,
    listed,
    quoted,
)
from ..preprocessing import Preprocessing, agreed_input
from ..surroundings import CopiedLock, outside_inference
from .arguments import check_backbone, check_config, check_input

__all__ = ["AdaptedBackbone"]

ModelT = TypeVar("ModelT", bound="AdaptedBackbone")


class AdaptedBackbone(nn.Module):
    """The part of `CIAOModel` that holds the backbone and its adapters, and says which adapter is active.

    Args:
        backbone: Any convolutional network. Its parameters stop requiring gradients until `unload`.
        input_size, preprocessing: As for `get_ciao_model`.

    Attributes:
        backbone: The very module that was given, or the one inside what `torch.compile` made of it.
        adapters: `Adapter` by name.
        preprocessing: What the backbone must be fed, or None where that is unknown.

    Raises:
        BackboneError: it is no module, is a model with adapters already, has no spatial convolution, or cannot be
            called.
        ConfigError: `preprocessing` and `input_size` contradict each other.

    Example:
        >>> from ciao_peft import load_encoder
        >>> model = AdaptedBackbone(load_encoder("small-face"))
        >>> model.add_adapter("fer", CIAOConfig(problem_type="single_label_classification", num_labels=7))
        >>> model.set_adapter("fer")
        >>> model.active_adapter, list(model.adapters)
        ('fer', ['fer'])
    """

    backbone: nn.Module
    adapters: AdapterDict
    preprocessing: Preprocessing | None

    def __init__(
        self,
        backbone: nn.Module,
        *,
        input_size: tuple[int, int, int] | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        if isinstance(backbone, AdaptedBackbone):
            raise BackboneError(
                f"A backbone is an nn.Module without adapters; got {type(backbone).__name__}. "
                "More adapters go onto a CIAOModel with `add_adapter`."
            )
        self._given = (backbone,)  # not a module of this one: it may be a wrapper around it
        backbone = without_compiler(backbone)
        check_backbone(backbone)
        check_input(input_size, preprocessing)
        self.preprocessing, input_size = agreed_input(backbone, preprocessing, input_size)
        self._frozen = FrozenBackbone(backbone, input_size)
        self.backbone = backbone
        self.adapters = AdapterDict()
        self._active = ActiveAdapter()
        self._lock = CopiedLock()  # held while adapters come and go
        self.train(self._frozen.training)

    # -- what there is ---------------------------------------------------------------------------------------------

    @property
    def peft_config(self) -> dict[str, CIAOConfig]:
        """Config of every adapter, by name."""
        return {name: adapter.config for name, adapter in self.adapters.items()}

    @property
    def active_adapter(self) -> str | None:
        """Name of the adapter that reads in this thread, or None."""
        name = self._active.name
        return name if name in self.adapters else None  # another thread may have deleted it

    @property
    def traceable(self) -> bool:
        """Whether the backbone could be cut, so that its features can be cached."""
        return self._frozen.open().traceable

    @property
    def input_size(self) -> tuple[int, int, int]:
        """`(C, H, W)` of the pixels."""
        return self._frozen.input_size

    @property
    def opened(self) -> OpenedBackbone:
        """The backbone, opened where the active adapter masks it; at its terminal convolutions if none is active."""
        name = self.active_adapter
        adapter = None if name is None else self.adapters.get(name)
        return self._frozen.opened_at(None if adapter is None else adapter.config.target_modules)

    @property
    def depths(self) -> tuple[Depth, ...]:
        """Earlier units of the trunk that the active adapter reads beside the masked map; none if none is active."""
        name = self.active_adapter
        adapter = None if name is None else self.adapters.find(name)
        return () if adapter is None else adapter.depths

    # -- adding, choosing, deleting --------------------------------------------------------------------------------

    def add_adapter(self, adapter_name: str, config: CIAOConfig) -> None:
        """Adds a fresh adapter; the active one stays active.

        The new adapter is trainable at once if no other adapter is. Otherwise the other one stays the only trainable
        one, because `DistributedDataParallel` would wait for the gradients of both; `train_adapter` chooses between
        them.

        Args:
            adapter_name: Name to hold it under.
            config: Its settings. `target_modules` is filled in where it is left out, and paths for a number of
                `depths`.

        Raises:
            AdapterNameError: the name is taken or unsafe.
            TargetModulesError: `config.target_modules` does not fit the backbone; or it is left out, and the backbone
                has no convolution behind the one that cuts pictures into patches, as a vision transformer. Or
                `config.depths` does not fit the backbone.
            UntraceableBackboneError: the config has `depths`, and the backbone could not be cut.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=7)
            >>> model = get_ciao_model(load_encoder("small-face"), config, adapter_name="fer")
            >>> model.add_adapter("arousal", CIAOConfig(problem_type="regression", num_labels=1))
            >>> list(model.peft_config), model.active_adapter
            (['fer', 'arousal'], 'fer')
        """
        check_config(config)
        with self._lock, outside_inference():
            self._check_free(adapter_name)
            with self._frozen.opened_only_on_success():
                opened = self._frozen.open(config.target_modules)
                if config.target_modules is None and opened.embeds_patches:
                    refuse_patches(self.backbone, opened.targets)
                adapter = Adapter(_filled_in(config, opened), opened)
            adapter.set_trainable(not any(parameter.requires_grad for parameter in self.adapters.parameters()))
            self.adapters[adapter_name] = adapter.train(self.training)

    def _check_free(self, name: str) -> None:
        check_adapter_name(name)
        if name in self.adapters:
            raise AdapterNameError(
                f"An adapter named {quoted(name)} is loaded already. Loaded adapters: {listed(self.adapters)}. Choose "
                f"another name, or free this one with `model.delete_adapter({quoted(name)})`."
            )

    def resolve_adapter(self, adapter_name: str | None = None) -> str:
        """Checks that an adapter of this name is loaded, and returns the name.

        Args:
            adapter_name: The name; that of the active adapter when left out.

        Returns:
            The name of a loaded adapter.

        Raises:
            AdapterNotFoundError: no adapter has that name.
            NoActiveAdapterError: it was left out, and no adapter is active.

        Example:
            >>> from ciao_peft import get_ciao_model, load_encoder
            >>> config = CIAOConfig(problem_type="regression", num_labels=2)
            >>> get_ciao_model(load_encoder("small-face"), config, "arousal").resolve_adapter()
            'arousal'
        """
        if adapter_name is None:
            if (active := self.active_adapter) is None:
                raise NoActiveAdapterError(self.adapters)
            return active
        return self._check_loaded(adapter_name)

    def _check_loaded(self, name: str) -> str:
        self._loaded(name)
        return name

    def _loaded(self, name: str) -> Adapter:
        adapter = self.adapters.find(name)
        if adapter is None:
            raise AdapterNotFoundError(name, self.adapters)
        return adapter

    def set_adapter(self, adapter_name: str | Sequence[str]) -> None:
        """Chooses the adapter that reads. `requires_grad` stays as it is: see `train_adapter`.

        The choice holds for the thread that makes it, and for all threads that never made one.

        Args:
            adapter_name: Its name, or a list with one name.

        Raises:
            AdapterNotFoundError: no adapter has that name.
            AdapterNameError: a list with none or several.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> config = CIAOConfig(problem_type="regression", num_labels=2)
            >>> model = get_ciao_model(load_encoder("small-face"), config, "adults")
            >>> model.add_adapter("children", config)
            >>> model.set_adapter("children")
            >>> model.active_adapter
            'children'
        """
        if isinstance(adapter_name, (list, tuple)):
            if len(adapter_name) != 1:
                raise AdapterNameError(
                    f"One adapter reads at a time; got {listed(adapter_name) or 'none'}. `read(adapter_names=[...])` "
                    "and `predict` read in several worlds, `predict_together` averages their answers."
                )
            (adapter_name,) = adapter_name
        self._active.choose(self._check_loaded(cast("str", adapter_name)))

    def train_adapter(self, adapter_name: str) -> None:
        """Chooses the adapter that reads and trains, and switches the gradients of all others off.

        Raises:
            AdapterNotFoundError: no adapter has that name.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> config = CIAOConfig(problem_type="regression", num_labels=2)
            >>> model = get_ciao_model(load_encoder("small-face"), config, "adults")
            >>> model.add_adapter("children", config)
            >>> model.train_adapter("children")
            >>> [any(p.requires_grad for p in adapter.parameters()) for adapter in model.adapters.values()]
            [False, True]
        """
        self.set_adapter(adapter_name)
        for name, adapter in self.adapters.items():
            adapter.set_trainable(name == adapter_name)

    def delete_adapter(self, adapter_name: str) -> None:
        """Removes an adapter without a trace. If it was the active one, none is active afterwards.

        Raises:
            AdapterNotFoundError: no adapter has that name.
            TrainingError: it is being trained.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
            >>> model.delete_adapter("default")
            >>> model.active_adapter is None, len(model.adapters)
            (True, 0)
        """
        with self._lock:
            adapter = self._loaded(adapter_name)
            if adapter.hold.in_training:
                raise TrainingError(
                    f"The adapter {quoted(adapter_name)} is being trained; delete it when that `train` has returned."
                )
            config = adapter.config
            del self.adapters[adapter_name]
            if not any(other.target_modules == config.target_modules for other in self.peft_config.values()):
                self._frozen.close(config.target_modules)
            self._active.forget(adapter_name)

    def reading_with(self, adapter_name: str | None = None) -> AbstractContextManager[None]:
        """Makes an adapter the one that reads inside a `with` block and in this thread, whatever is chosen elsewhere.

        Args:
            adapter_name: The name; when left out, the choice of this moment holds for the block.

        Raises:
            AdapterNotFoundError: no adapter has that name.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> config = CIAOConfig(problem_type="regression", num_labels=2)
            >>> model = get_ciao_model(load_encoder("small-face"), config, "adults")
            >>> model.add_adapter("children", config)
            >>> with model.reading_with("children"):
            ...     print(model.active_adapter)
            children
            >>> model.active_adapter
            'adults'
        """
        return self._active.only(self.active_adapter if adapter_name is None else self._check_loaded(adapter_name))

    def disable_adapter(self) -> AbstractContextManager[None]:
        """Makes the model the backbone, bit for bit, inside a `with` block and in this thread.

        Example:
            >>> import torch
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> net = load_encoder("small-face")
            >>> faces = torch.rand(2, *net.input_size)
            >>> before = net(faces)
            >>> model = get_ciao_model(net, CIAOConfig(problem_type="regression", num_labels=2))
            >>> with model.disable_adapter():
            ...     torch.equal(model(faces), before)
            True
        """
        return self._active.off()

    def unload(self) -> nn.Module:
        """Returns the backbone as it was given: no hook, no attribute, modes and `requires_grad` as before.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> net = load_encoder("small-face")
            >>> model = get_ciao_model(net, CIAOConfig(problem_type="regression", num_labels=2))
            >>> model.unload() is net
            True
        """
        self._frozen.restore()
        return self._given[0]

    def merge_and_unload(self) -> nn.Module:
        """Always refuses: M = (u + E) / (a + I) is not linear in the input, so no convolution computes it.

        Raises:
            MergeError: always.
        """
        raise MergeError(
            "An adapter of CIAO cannot be merged into the backbone: M = (u + E) / (a + I) is no convolution. "
            "`unload()` gives the backbone back; `save_pretrained` keeps the adapter."
        )

    def merge_adapter(self, *args: object, **kwargs: object) -> None:
        """Always refuses, as `merge_and_unload`.

        Args:
            args, kwargs: As in peft.

        Raises:
            MergeError: always.
        """
        self.merge_and_unload()

    def _replicate_for_data_parallel(self) -> nn.Module:
        raise BackboneError(
            "A model with adapters cannot be copied to several devices by nn.DataParallel. Start one process for each, "
            "`torchrun --nproc_per_node 2 train.py`: CIAOTrainer shares the work."
        )

    # -- training --------------------------------------------------------------------------------------------------

    def train(self: ModelT, mode: bool = True) -> ModelT:
        """Sets the training mode of the adapters' heads; the backbone stays in eval mode."""
        self.training = mode
        for module in self.children():
            # Not for a moment: the pass of another thread would move the statistics of its batch norm for good.
            module.train(mode and module is not self.backbone)
        return self

    def adapter_parameters(self, adapter_name: str) -> dict[str, list[Parameter]]:
        """What an adapter trains, by part: `mask`, `encoder` and `head`, for groups with their own learning rates.

        Raises:
            AdapterNotFoundError: no adapter has that name.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
            >>> {part: len(parameters) > 0 for part, parameters in model.adapter_parameters("default").items()}
            {'mask': True, 'encoder': False, 'head': True}
        """
        return self._loaded(adapter_name).parameter_groups()

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Counts the numbers that training the active adapter changes, and all numbers of backbone and adapters.

        Returns:
            Trainable numbers, all numbers.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model
            >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU())  # 3 * 4 * 9 weights
            >>> settings = {"pooling": "avg", "hidden_sizes": (), "excitation_rank": 0}
            >>> config = CIAOConfig(problem_type="regression", num_labels=1, **settings)
            >>> model = get_ciao_model(net, config, input_size=(3, 8, 8))
            >>> model.get_nb_trainable_parameters()  # a copy of them, a for 4 channels, and a head of 4 + 1
            (117, 225)
        """
        active = self.active_adapter
        groups = {} if active is None else self.adapter_parameters(active)
        trainable = sum(p.numel() for group in groups.values() for p in group if p.requires_grad)
        return trainable, sum(p.numel() for p in self.parameters())

    def print_trainable_parameters(self) -> None:
        """Prints how many parameters the active adapter trains, in PEFT's words.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model
            >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU())
            >>> settings = {"pooling": "avg", "hidden_sizes": (), "excitation_rank": 0}
            >>> config = CIAOConfig(problem_type="regression", num_labels=1, **settings)
            >>> get_ciao_model(net, config, input_size=(3, 8, 8)).print_trainable_parameters()
            trainable params: 117 || all params: 225 || trainable%: 52.0000
        """
        trainable, every = self.get_nb_trainable_parameters()
        share = 100 * trainable / every
        print(f"trainable params: {trainable:,} || all params: {every:,} || trainable%: {share:.4f}")


def _filled_in(config: CIAOConfig, opened: OpenedBackbone) -> CIAOConfig:
    """The config with the paths that were left to the backbone to say."""
    depths = tuple(depth.path for depth in opened.find_depths(config.depths, config.depth_grid))
    return replace(config, target_modules=opened.targets, depths=depths or None)
