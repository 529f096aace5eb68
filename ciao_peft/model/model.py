"""`get_ciao_model` and `CIAOModel`: adapters that are made, loaded, saved and published."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..adapters import restore_adapter
from ..backbone import backbone_name, backbone_revision, backbone_signature
from ..config import CIAOConfig, check_adapter_name
from ..deploy import export_onnx
from ..errors import BackboneMismatchError
from ..hub import name_from, publish_adapter, read_adapter, save_with_card
from ..preprocessing import Preprocessing, aligned_as
from ..saving import SavedAdapter, in_dtype, library_versions
from ..surroundings import outside_inference
from .arguments import check_config
from .learning import LearningModel

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

__all__ = ["CIAOModel", "get_ciao_model"]


def get_ciao_model(
    backbone: nn.Module,
    config: CIAOConfig,
    adapter_name: str = "default",
    *,
    input_size: tuple[int, int, int] | None = None,
    preprocessing: Preprocessing | None = None,
) -> CIAOModel:
    """Puts a fresh adapter on a backbone and makes it active and trainable.

    Args:
        backbone: Any convolutional network: timm, transformers, torchvision or your own. Frozen, never changed.
        config: Settings of the adapter.
        adapter_name: Under which name it is held and saved.
        input_size: `(C, H, W)` of the backbone's pixels; that of the preprocessing, or found out, when left out.
        preprocessing: What the backbone must be fed; taken from the backbone when it knows, with `input_size` as size.

    Returns:
        The model, in the mode (`training`) of the backbone: in eval mode, without dropout, for what `load_encoder`
        returns. `CIAOTrainer` turns on dropout by itself; in a loop of your own call `model.train()` first.

    Raises:
        ConfigError: `preprocessing` and `input_size` contradict each other.
        BackboneError: the backbone has no spatial convolution, or cannot be called.
        TargetModulesError: `config.target_modules` does not fit the backbone.
        AdapterNameError: the name cannot be a folder's.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2))
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=7)
        >>> model = get_ciao_model(net, config, input_size=(3, 32, 32))
        >>> model(torch.rand(4, 3, 32, 32), labels=torch.tensor([0, 0, 1, 6])).logits.shape
        torch.Size([4, 7])
    """
    check_adapter_name(adapter_name)
    if isinstance(backbone, nn.Module):  # the backbone's own refusal tells more about two that were swapped
        check_config(config)
    model = CIAOModel(backbone, input_size=input_size, preprocessing=preprocessing)
    try:
        model.add_adapter(adapter_name, config)
    except BaseException:
        model.unload()
        raise
    model.set_adapter(adapter_name)
    return model


class CIAOModel(LearningModel):
    """A frozen backbone and the adapters on it.

    Whatever `train()` says, the backbone runs in eval mode: its batch-norm statistics would drift otherwise. Each
    thread has its own choice of active adapter, once it made one, and its own `disable_adapter()`. The same holds after
    `torch.compile`, which makes a graph for each choice that it meets.

    Args:
        backbone: Any convolutional network. Its parameters stop requiring gradients until `unload`.
        input_size, preprocessing: As for `get_ciao_model`.

    Attributes:
        backbone: The very module that was given.
        adapters: `Adapter` by name.
        preprocessing: What the backbone must be fed, or None where that is unknown.

    Shapes:
        pixel_values: `(B, C, H, W)` with `(C, H, W)` the model's `input_size`; clips `(B, T, C, H, W)`.
        features: One tensor `(B, ...)` for each place where the cut is crossed; of clips `(B, T, ...)`.
        logits: `(B, num_labels)`; embeddings `(B, D)`.

    Raises:
        BackboneError: the backbone is no module, has no spatial convolution, or cannot be called.
        ConfigError: `preprocessing` and `input_size` contradict each other.

    Example:
        >>> import torch
        >>> from ciao_peft import load_encoder
        >>> model = CIAOModel(load_encoder("small-face"))  # two worlds on one backbone
        >>> model.add_adapter("fer", CIAOConfig(problem_type="single_label_classification", num_labels=7))
        >>> model.add_adapter("arousal", CIAOConfig(problem_type="regression", num_labels=1))
        >>> model.train_adapter("fer")
        >>> labels = torch.tensor([0, 0, 3, 6])
        >>> model(torch.rand(4, *model.input_size), labels=labels).loss.backward()
        >>> sorted(model.eval().read(torch.rand(1, *model.input_size)))
        ['arousal', 'fer']
    """

    preprocessing: Preprocessing | None

    def load_adapter(
        self,
        source: str | os.PathLike[str],
        adapter_name: str | None = None,
        *,
        is_trainable: bool = False,
        check_backbone: bool = True,
        check_preprocessing: bool = True,
        **hub: Any,
    ) -> str:
        """Loads a saved adapter for reading; the active one stays active.

        Args:
            source: A folder that `save_pretrained` wrote, a name of `ciao_peft.list_adapters()`, or `user/name` on the
                Hub.
            adapter_name: Name to hold it under; the source's last part when left out.
            is_trainable: Whether its parameters require gradients at once. `train_adapter` does the same later, makes
                it the active one, and switches the gradients of all others off.
            check_backbone: When `False`, an adapter of another backbone is loaded all the same, with a warning.
            check_preprocessing: When `False`, also one that was fed differently.
            **hub: `subfolder`, `revision`, `token`, `cache_dir`, `local_files_only` and `force_download`, as
                `ciao_peft.hub.read_pretrained` takes them.

        Returns:
            The name.

        Raises:
            AdapterFileError, AdapterConfigError: the folder is damaged, incomplete or foreign.
            BackboneMismatchError: it was trained on another backbone, or on pixels prepared in another way.
            AdapterNameError: the name is taken or unsafe.
            HubError: a subclass says why the Hub does not give it. After every error the model is as it was.

        Example:
            >>> import tempfile
            >>> from ciao_peft import load_encoder
            >>> config = CIAOConfig(problem_type="regression", num_labels=2)
            >>> model = get_ciao_model(load_encoder("small-face"), config)
            >>> folder = model.save_pretrained(tempfile.mkdtemp() + "/fer")
            >>> model.load_adapter(folder), model.active_adapter
            ('fer', 'default')
        """
        name = name_from(source, hub.get("subfolder")) if adapter_name is None else adapter_name
        self._check_free(name)
        saved, snapshot = read_adapter(source, **hub)
        self._add_saved(name, saved, str(snapshot), check_backbone, check_preprocessing)
        if is_trainable:
            self.adapters[name].set_trainable(True)
        return name

    def _add_saved(
        self, name: str, saved: SavedAdapter, where: str, check_backbone: bool, check_preprocessing: bool
    ) -> None:
        checks = {"check_backbone": check_backbone, "check_preprocessing": check_preprocessing}
        with self._lock, outside_inference():
            self._check_free(name)
            with self._frozen.opened_only_on_success():
                adapter, preprocessing = restore_adapter(saved, where, self._frozen, self.preprocessing, **checks)
            self.adapters[name], self.preprocessing = adapter.train(self.training), preprocessing

    def backbone_signature(self) -> dict[str, Any]:
        """What tells this backbone from every other; the same for another dtype of the same weights. Plain data.

        Example:
            >>> from ciao_peft import load_encoder
            >>> sorted(CIAOModel(load_encoder("small-face")).backbone_signature())
            ['architecture', 'tensors', 'weights']
        """
        return backbone_signature(self.backbone)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        adapter_name: str | None = None,
        *,
        training: dict[str, Any] | None = None,
        picture: bytes | None = None,
        dtype: str | None = None,
    ) -> Path:
        """Saves one adapter as a folder: config, safetensors, preprocessing and model card.

        Args:
            folder: Where; replaced as a whole if there is an adapter. What people wrote on its card stays.
            adapter_name: Which; the active one when left out.
            training: What to record of how it was made: dataset, seed, metrics. Plain data; `adapter_card` says what
                the card understands.
            picture: A PNG of what the mask lets through, for the card.
            dtype: `"float16"` for a folder of half the size: each weight is then off by at most 2^-11 of itself (by
                2^-25 near zero). `"int8"` for a quarter: each weight of a convolution or linear layer is then off by at
                most 1/254 of the largest of its output channel, and comes back in float32; earlier releases cannot
                read it. Vectors, such as `a` and biases, stay as they are. As the adapter is when left out.

        Returns:
            The folder.

        Raises:
            AdapterFileError: it cannot be written, or has a weight beyond what `dtype` holds.
            ConfigError: another dtype.
            AdapterNotFoundError, NoActiveAdapterError: there is no such adapter.

        Example:
            >>> import tempfile
            >>> from ciao_peft import load_encoder
            >>> config = CIAOConfig(problem_type="regression", num_labels=2)
            >>> folder = get_ciao_model(load_encoder("small-face"), config).save_pretrained(tempfile.mkdtemp() + "/fer")
            >>> sorted(file.name for file in folder.iterdir())
            ['README.md', 'adapter_config.json', 'adapter_model.safetensors', 'config.json', 'preprocessor_config.json']
        """
        return save_with_card(folder, self.saved_adapter(adapter_name, training=training, dtype=dtype), picture)

    def saved_adapter(
        self, adapter_name: str | None = None, *, training: dict[str, Any] | None = None, dtype: str | None = None
    ) -> SavedAdapter:
        """One adapter as `save_pretrained` writes it: config, tensors and what they belong to.

        Args:
            adapter_name, training, dtype: As for `save_pretrained`.

        Raises:
            AdapterFileError, ConfigError: as for `save_pretrained`, about `dtype`.
            AdapterNotFoundError, NoActiveAdapterError: there is no such adapter.

        Example:
            >>> from ciao_peft import load_encoder
            >>> config = CIAOConfig(problem_type="regression", num_labels=2)
            >>> saved = get_ciao_model(load_encoder("small-face"), config).saved_adapter()
            >>> saved.backbone_name, "inhibition.0.raw_decay" in saved.tensors
            ('small-face', True)
        """
        adapter = self._loaded(self.resolve_adapter(adapter_name))
        opened = self._frozen.opened_at(adapter.config.target_modules)
        return SavedAdapter(
            config=adapter.config,
            backbone_name=backbone_name(self.backbone),
            backbone_revision=backbone_revision(self.backbone),
            backbone_signature=self.backbone_signature(),
            input_size=self.input_size,
            convolutions=[spec.geometry(self.backbone) for spec in opened.units_spec],
            tensors=in_dtype(adapter.state_dict(), dtype),
            weights_dtype="int8" if dtype == "int8" else None,
            preprocessing=None if self.preprocessing is None else self.preprocessing.to_dict(),
            training=training or {},
            trained_parameters=sum(p.numel() for n, p in adapter.named_parameters() if n in adapter.trainable),
            versions=library_versions(),
        )

    def push_to_hub(
        self,
        repo_id: str,
        adapter_name: str | None = None,
        *,
        training: dict[str, Any] | None = None,
        picture: bytes | None = None,
        subfolder: str | None = None,
        dtype: str | None = None,
        **hub: Any,
    ) -> CommitInfo:
        """Publishes one adapter in one commit, with a model card.

        Args:
            repo_id: `user/name`; made if there is none.
            adapter_name: Which; the active one when left out.
            training: As for `save_pretrained`.
            picture: As for `save_pretrained`.
            subfolder: Where in the repository, for one that holds several adapters.
            dtype: As for `save_pretrained`.
            **hub: `private`, `revision`, `create_pr`, `commit_message` and `token`, as `ciao_peft.hub.publish` takes
                them.

        Returns:
            The commit, with `commit_url` and, for a proposal, `pr_url`.

        Raises:
            HubError: a subclass says why the Hub does not take it.
            AdapterNotFoundError, NoActiveAdapterError: there is no such adapter.
        """
        with tempfile.TemporaryDirectory() as aside:
            content: dict[str, Any] = {"training": training, "picture": picture, "dtype": dtype}
            folder = self.save_pretrained(Path(aside) / "adapter", adapter_name, **content)
            return publish_adapter(folder, repo_id, subfolder=subfolder, **hub)

    def export_onnx(
        self,
        folder: str | os.PathLike[str],
        adapter_names: Sequence[str] | None = None,
        *,
        opset: int = 18,
        quantize: str | None = None,
        calibration: Any = None,
    ) -> Path:
        """Exports adapters as a folder that runs with numpy and onnxruntime alone, without torch and this library.

        It holds the trunk once, each adapter as a file of its own, a manifest with labels, preprocessing and checksums,
        and `runner.py`, which reads pictures and swaps adapters while it runs. Every file takes a batch of any size and
        is compared with the model before it is kept: float32 answers differ by 1e-5 at most, of values around 1.

        Args:
            folder: Where; made, or replaced as a whole where an earlier export is.
            adapter_names: Which; all when left out. One that owns its encoder (`tuning="full"`), or whose backbone
                cannot be cut, becomes a file from pixels to answers.
            opset: Of ONNX, 18 to 23.
            quantize: `"int8"` for a trunk in whole numbers of 8 bits: smaller and faster, and a little less exact.
            calibration: For that, pictures such as the model will see, a hundred or more, as a list or as pixel values
                `(N, C, H, W)`. The manifest says how many of their answers stay.

        Returns:
            The folder.

        Raises:
            ExportError: something else is in the folder, or a part of the model cannot be written as ONNX.
            ConfigError: a setting that cannot work.
            AdapterNotFoundError: a name is not loaded.
            MissingExtraError: a package of the extra `onnx` is missing.

        Example:
            >>> import tempfile
            >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
            >>> config = CIAOConfig(problem_type="regression", num_labels=2)
            >>> model = get_ciao_model(net, config, "arousal", input_size=(3, 32, 32))
            >>> folder = model.export_onnx(tempfile.mkdtemp() + "/onnx")
            >>> sorted(path.name for path in folder.rglob("*.*"))
            ['arousal.onnx', 'manifest.json', 'runner.py', 'trunk.onnx']
        """
        if isinstance(adapter_names, str):
            adapter_names = [adapter_names]
        settings: dict[str, Any] = {"opset": opset, "quantize": quantize, "calibration": calibration}
        return export_onnx(folder, self._chosen(adapter_names), self._frozen, self.preprocessing, **settings)

    @classmethod
    def from_pretrained(
        cls,
        backbone: nn.Module,
        source: str | os.PathLike[str],
        adapter_name: str | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        check_backbone: bool = True,
        check_preprocessing: bool = True,
        **hub: Any,
    ) -> CIAOModel:
        """A model with one saved adapter, active. `AutoCIAOModel` finds the backbone by itself.

        Args:
            backbone: The one the adapter was trained on.
            source: A folder that `save_pretrained` wrote, a name of `ciao_peft.list_adapters()`, or `user/name` on the
                Hub.
            adapter_name: Name to hold it under; the source's last part when left out.
            preprocessing: What the backbone must be fed, as for `get_ciao_model`. When left out, taken from the
                backbone when it knows, else from the adapter; faces are aligned as the adapter's were.
            check_backbone: As for `load_adapter`.
            check_preprocessing: As for `load_adapter`.
            **hub: As for `load_adapter`.

        Raises:
            CIAOError: as `load_adapter` says; the backbone is then as it was.

        Example:
            >>> import tempfile
            >>> from ciao_peft import load_encoder
            >>> net, config = load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2)
            >>> folder = get_ciao_model(net, config).save_pretrained(tempfile.mkdtemp() + "/fer")
            >>> CIAOModel.from_pretrained(load_encoder("small-face"), folder).active_adapter
            'fer'
        """
        name = name_from(source, hub.get("subfolder")) if adapter_name is None else adapter_name
        check_adapter_name(name)
        saved, snapshot = read_adapter(source, **hub)
        return cls._from_saved(
            backbone,
            name,
            saved,
            str(snapshot),
            preprocessing,
            check_backbone=check_backbone,
            check_preprocessing=check_preprocessing,
        )

    @classmethod
    def _from_saved(
        cls,
        backbone: nn.Module,
        name: str,
        saved: SavedAdapter,
        where: str,
        preprocessing: Preprocessing | None,
        *,
        check_backbone: bool,
        check_preprocessing: bool,
    ) -> CIAOModel:
        if preprocessing is None:
            preprocessing = aligned_as(saved.preprocessing, backbone)
        elif preprocessing.input_size != saved.input_size:
            raise BackboneMismatchError(
                f"The adapter in '{where}' takes pixels of {saved.input_size}; `preprocessing` makes some of "
                f"{preprocessing.input_size}. Give it the adapter's `size`."
            )
        model = cls(backbone, input_size=saved.input_size, preprocessing=preprocessing)
        try:
            model._add_saved(name, saved, where, check_backbone, check_preprocessing)
        except BaseException:
            model.unload()
            raise
        model.set_adapter(name)
        return model
