"""`get_ciao_model` and `CIAOModel`: one frozen backbone, many adapters."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .adapters.active import Selection
from .adapters.adapter import Adapter, AdapterDict
from .adapters.mixed_batch import frames_read, read_maps, rows_by_adapter
from .adapters.restore import restore_adapter
from .backbone import (
    CutBackbone,
    HookedBackbone,
    backbone_name,
    backbone_revision,
    backbone_signature,
)
from .backbone.frozen import BorrowedBackbone
from .backbone.inputs import check_features, check_pixels, frames_of_clips
from .config import BASE_ADAPTER, CIAOConfig, check_adapter_name
from .errors import (
    AdapterNameError,
    AdapterNotFoundError,
    BackboneError,
    BackboneMismatchError,
    InputError,
    MergeError,
    NoActiveAdapterError,
    listed,
)
from .hub.adapters import name_from, publish_adapter, read_adapter, save_with_card
from .labels import check_labels
from .losses import total_loss
from .prediction import clip_pixels, is_folder, pictures_in, read_pictures
from .preprocessing import Preprocessing, agreed_input
from .saving.adapter_folder import SavedAdapter, library_versions

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


@dataclass
class CIAOOutput:
    """What a model says of a batch.

    Args:
        logits: `(B, num_labels)` in the backbone's dtype; in a mixed batch a list of one `(num_labels,)` per row.
        embeddings: z of Eq. 2, `(B, D)` in float32; in a mixed batch a list, None for rows of the backbone.
        loss: `L_all` of Eq. 5, given labels: `task_loss + contrastive_weight * contrastive_loss`.
        task_loss: `L_dm` of Eq. 5.
        contrastive_loss: `L_CIAO` of Eq. 4, before its weight; 0 where the weight is 0.
    """

    logits: Tensor | list[Tensor]
    embeddings: Tensor | list[Tensor | None]
    loss: Tensor | None = None
    task_loss: Tensor | None = None
    contrastive_loss: Tensor | None = None


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

    Raises:
        ConfigError: `preprocessing` and `input_size` contradict each other.
        BackboneError: the backbone has no spatial convolution, or cannot be called.
        TargetModulesError: `config.target_modules` does not fit the backbone.
        AdapterNameError: the name cannot be a folder's.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2))
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=7)
        >>> model = get_ciao_model(net, config, input_size=(3, 32, 32))
        >>> model(torch.rand(4, 3, 32, 32), labels=torch.tensor([0, 0, 1, 6])).logits.shape
        torch.Size([4, 7])
    """
    check_adapter_name(adapter_name)
    model = CIAOModel(backbone, input_size=input_size, preprocessing=preprocessing)
    try:
        model.add_adapter(adapter_name, config)
    except BaseException:
        model.unload()
        raise
    model.set_adapter(adapter_name)
    return model


class CIAOModel(nn.Module):
    """A frozen backbone and the adapters on it.

    Whatever `train()` says, the backbone runs in eval mode: its batch-norm statistics would drift otherwise. Each
    thread has its own choice of active adapter, once it made one, and its own `disable_adapter()`; so it is after
    `torch.compile` too, which makes a graph for each choice that it meets.

    Args:
        backbone: Any convolutional network. Its parameters stop requiring gradients until `unload`.
        input_size, preprocessing: As for `get_ciao_model`.

    Attributes:
        backbone: The very module that was given.
        adapters: `Adapter` by name.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        input_size: tuple[int, int, int] | None = None,
        preprocessing: Preprocessing | None = None,
    ):
        super().__init__()
        if not isinstance(backbone, nn.Module) or isinstance(backbone, CIAOModel):
            raise BackboneError(
                f"A backbone is an nn.Module without adapters; got {type(backbone).__name__}. "
                "More adapters go onto a CIAOModel with `add_adapter`."
            )
        self.preprocessing, input_size = agreed_input(backbone, preprocessing, input_size)
        self._borrowed = BorrowedBackbone(backbone, input_size)
        self.backbone = backbone
        self.adapters = AdapterDict()
        self._selection = Selection()
        self.train(self._borrowed.training)

    # -- adapters --------------------------------------------------------------------------------------------------

    @property
    def peft_config(self) -> dict[str, CIAOConfig]:
        """Config of every adapter, by name."""
        return {name: adapter.config for name, adapter in self.adapters.items()}

    @property
    def active_adapter(self) -> str | None:
        """Name of the adapter that reads in this thread, or None."""
        name = self._selection.active
        return name if name in self.adapters else None  # another thread may have deleted it

    @property
    def traceable(self) -> bool:
        """Whether the backbone could be cut, so that its features can be cached."""
        return self._borrowed.open().traceable

    @property
    def input_size(self) -> tuple[int, int, int]:
        """`(C, H, W)` of the pixels."""
        return self._borrowed.input_size

    @property
    def opened(self) -> CutBackbone | HookedBackbone:
        """The backbone, opened where the active adapter masks it; at its terminal convolutions if none is active."""
        name = self.active_adapter
        return self._borrowed.open(None if name is None else self.adapters[name].config.target_modules)

    def add_adapter(self, adapter_name: str, config: CIAOConfig) -> None:
        """Adds a fresh adapter; the active one stays active.

        It is trainable at once where no other adapter is; else the other one stays the only one, as
        `DistributedDataParallel` would wait for the gradients of both, and `train_adapter` chooses which it is.

        Raises:
            AdapterNameError: the name is taken or unsafe.
            TargetModulesError: `config.target_modules` does not fit the backbone.
        """
        self._check_free(adapter_name)
        with self._borrowed.opened_only_on_success():
            opened = self._borrowed.open(config.target_modules)
            adapter = Adapter(replace(config, target_modules=opened.targets), opened)
        adapter.set_trainable(not any(parameter.requires_grad for parameter in self.adapters.parameters()))
        self.adapters[adapter_name] = adapter.train(self.training)

    def load_adapter(
        self,
        source: str | os.PathLike,
        adapter_name: str | None = None,
        *,
        check_backbone: bool = True,
        check_preprocessing: bool = True,
        **hub: Any,
    ) -> str:
        """Loads a saved adapter for reading (`train_adapter` makes it trainable); the active one stays active.

        Args:
            source: A folder that `save_pretrained` wrote, or `user/name` on the Hub.
            adapter_name: Name to hold it under; the source's last part when left out.
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
            HubError: in one of its kinds, when the Hub does not give it. The model is then as it was, as always.
        """
        name = name_from(source, hub.get("subfolder")) if adapter_name is None else adapter_name
        self._check_free(name)
        saved, snapshot = read_adapter(source, **hub)
        self._hold(name, saved, str(snapshot), check_backbone, check_preprocessing)
        return name

    def _hold(self, name: str, saved: SavedAdapter, where: str, *checks: bool) -> None:
        with self._borrowed.opened_only_on_success():
            adapter, preprocessing = restore_adapter(saved, where, self._borrowed, self.preprocessing, *checks)
        self.adapters[name], self.preprocessing = adapter.train(self.training), preprocessing

    def _check_free(self, name: str) -> None:
        check_adapter_name(name)
        if name in self.adapters:
            raise AdapterNameError(
                f"An adapter named {name!r} is loaded already. Loaded adapters: {listed(self.adapters)}. Choose "
                f"another name, or free this one with `model.delete_adapter({name!r})`."
            )

    def resolve_adapter(self, adapter_name: str | None = None) -> str:
        """The name itself if such an adapter is loaded; the active adapter's name when left out.

        Raises:
            AdapterNotFoundError: no adapter has that name.
            NoActiveAdapterError: it was left out, and no adapter is active.
        """
        if adapter_name is None:
            if (active := self.active_adapter) is None:
                raise NoActiveAdapterError(self.adapters)
            return active
        return self._check_loaded(adapter_name)

    def _check_loaded(self, name: str) -> str:
        if name not in self.adapters:
            raise AdapterNotFoundError(name, self.adapters)
        return name

    def set_adapter(self, adapter_name: str) -> None:
        """Chooses the adapter that reads. `requires_grad` stays as it is: see `train_adapter`.

        In a thread the choice holds for that thread; it is also what threads use that made none.

        Raises:
            AdapterNotFoundError: no adapter has that name.
        """
        self._selection.choose(self._check_loaded(adapter_name))

    def train_adapter(self, adapter_name: str) -> None:
        """Chooses the adapter that reads and trains, and switches the gradients of all others off.

        Raises:
            AdapterNotFoundError: no adapter has that name.
        """
        self.set_adapter(adapter_name)
        for name, adapter in self.adapters.items():
            adapter.set_trainable(name == adapter_name)

    def delete_adapter(self, adapter_name: str) -> None:
        """Removes an adapter without a trace. If it was the active one, none is active afterwards.

        Raises:
            AdapterNotFoundError: no adapter has that name.
        """
        config = self.adapters[self._check_loaded(adapter_name)].config
        del self.adapters[adapter_name]
        if not any(other.target_modules == config.target_modules for other in self.peft_config.values()):
            self._borrowed.close(config.target_modules)
        self._selection.forget(adapter_name)

    def disable_adapter(self) -> AbstractContextManager[None]:
        """Inside, the model is the backbone, bit for bit, in this thread; what was before comes back on leaving."""
        return self._selection.off()

    def unload(self) -> nn.Module:
        """The original module object as it was given: no hook, no attribute, modes and `requires_grad` as before."""
        return self._borrowed.give_back()

    def merge_and_unload(self) -> nn.Module:
        """Impossible: M = u / (a + I) is not linear in the input, so no convolution computes it.

        Raises:
            MergeError: always.
        """
        raise MergeError(
            "An adapter of CIAO cannot be merged into the backbone: M = u / (a + I) is no convolution. `unload()` "
            "gives the backbone back; `save_pretrained` keeps the adapter."
        )

    # -- reading ---------------------------------------------------------------------------------------------------

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        features: Sequence[Tensor] | None = None,
        adapter_names: Sequence[str] | None = None,
    ) -> CIAOOutput:
        """Reads a batch with the active adapter, or each row with its own.

        Args:
            pixel_values: `(B, C, H, W)` as the preprocessing makes them; cast to the backbone's dtype. Of clips, where
                the adapter's config has `frames`, `(B, frames, C, H, W)`.
            labels: As `check_labels` describes, for the losses.
            features: What `extract_features` gave, in place of the pixels.
            adapter_names: One name per row, `"__base__"` for the untouched backbone. The trunk runs once. Not in
                training, and without labels.

        Returns:
            A `CIAOOutput`. Under `disable_adapter()`: what the backbone itself returns.

        Raises:
            InputError: pixels, features, labels or `adapter_names` that do not fit.
            AdapterNotFoundError: a name in `adapter_names` is not loaded.
            NoActiveAdapterError: no adapter is active.
        """
        self._borrowed.calm()
        if adapter_names is not None:
            return self._mixed(pixel_values, labels, features, adapter_names)
        if self._selection.is_off:
            if pixel_values is None:
                raise InputError("The backbone itself reads pixels, not features; give `pixel_values`.")
            return self.backbone(self._checked_pixels(pixel_values))
        name = self.resolve_adapter()
        adapter = self.adapters[name]
        source = self._checked_source(pixel_values, features, adapter.config.frames)
        feature_map = self._maps([(None, name)], **source)[0]
        logits, embeddings = adapter.decide(feature_map)
        output = CIAOOutput(logits=logits.to(self._dtype), embeddings=embeddings.float())
        if labels is not None:
            labels = check_labels(labels, adapter.config, len(logits)).to(logits.device)
            losses = total_loss(logits, embeddings, labels, adapter.config)
            output.loss, output.task_loss, output.contrastive_loss = losses
        return output

    def read(
        self,
        pixel_values: Tensor | None = None,
        *,
        features: Sequence[Tensor] | None = None,
        adapter_names: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Reads a batch in every world, with one trunk pass for all adapters that share the frozen trunk.

        Args:
            pixel_values: `(B, C, H, W)`, or `features` as for `forward`.
            adapter_names: The worlds to read in; all when left out.

        Returns:
            Logits `(B, num_labels)` by adapter name, bit for bit those of separate calls.

        Raises:
            InputError: the model is in training mode, the pixels do not fit, or one of the adapters reads clips and
                another does not.
            AdapterNotFoundError: a name is not loaded.
        """
        self._borrowed.calm()
        self._refuse_training("read")
        if isinstance(adapter_names, str):
            raise InputError(f"`adapter_names` takes a list of names; got the text {adapter_names!r}.")
        names = list(self.adapters) if adapter_names is None else [self._check_loaded(name) for name in adapter_names]
        return self._read(names, self.adapters, pixel_values, features)

    def read_with_mask(
        self,
        mask: Callable[[Adapter, int, Tensor, Callable[[], Tensor]], Tensor],
        pixel_values: Tensor | None = None,
        *,
        features: Sequence[Tensor] | None = None,
        adapter_name: str | None = None,
    ) -> Tensor:
        """Reads a batch with something else in place of an adapter's mask: how to look into it, or to change it.

        A copy of the adapter reads, in eval mode whatever the mode of the model; neither of them is changed.

        Args:
            mask: Called as `mask(adapter, index, features, excitation)`, with that copy and what `Adapter.mask` takes;
                returns what goes on in place of u, `(B, C', H', W')`. `Adapter.mask` itself changes nothing.
            pixel_values, features: As for `forward`.
            adapter_name: Which adapter; the active one when left out.

        Returns:
            Its logits, `(B, num_labels)`.

        Raises:
            InputError: pixels or features that do not fit.
            AdapterNotFoundError, NoActiveAdapterError: there is no such adapter.
        """
        name = self.resolve_adapter(adapter_name)
        self._borrowed.calm()
        adapter = copy.deepcopy(self.adapters[name]).eval()
        seen_through = copy.copy(adapter)
        seen_through.mask = partial(mask, adapter)
        return self._read([name], {name: seen_through}, pixel_values, features)[name]

    def _read(
        self,
        names: Sequence[str],
        adapters: Mapping[str, Adapter],
        pixel_values: Tensor | None,
        features: Sequence[Tensor] | None,
    ) -> dict[str, Tensor]:
        source = self._checked_source(pixel_values, features, frames_read(names, adapters))
        requests = [(None, name) for name in names]
        maps = read_maps(requests, adapters, self._borrowed, features_of=self.opened, **source)
        answers = zip(names, maps, strict=True)
        return {name: adapters[name].decide(feature_map)[0].to(self._dtype) for name, feature_map in answers}

    def _mixed(
        self, pixels: Tensor | None, labels: Tensor | None, features: Sequence[Tensor] | None, names: Sequence[str]
    ) -> CIAOOutput:
        self._refuse_training("A mixed batch")
        if labels is not None:
            raise InputError("A mixed batch has no loss: its rows belong to different heads. Leave `labels` out.")
        frames = None if self._selection.is_off else frames_read(names, self.adapters)
        source = self._checked_source(pixels, features, frames)
        batch = source["features"][0] if pixels is None else source["pixel_values"]
        rows = rows_by_adapter(names, len(batch) // (frames or 1), self.adapters)
        if self._selection.is_off:
            rows = {BASE_ADAPTER: list(range(len(names)))}
        indices = {name: torch.tensor(own, device=batch.device) for name, own in rows.items()}
        if frames is not None:  # of a clip all frames, which follow one another
            each = torch.arange(frames, device=batch.device)
            indices = {name: (own[:, None] * frames + each).flatten() for name, own in indices.items()}
        maps = self._maps([(indices[name], name) for name in rows], **source)
        logits: list[Any] = [None] * len(names)
        embeddings: list[Any] = [None] * len(names)
        for (name, own), feature_map in zip(rows.items(), maps, strict=True):
            answers, z = (feature_map, None) if name == BASE_ADAPTER else self.adapters[name].decide(feature_map)
            for place, row in enumerate(own):
                logits[row] = answers[place].to(self._dtype)
                embeddings[row] = None if z is None else z[place].float()
        return CIAOOutput(logits=logits, embeddings=embeddings)

    def _maps(self, requests: list[tuple[Tensor | None, str]], **source: Any) -> list[Tensor]:
        return read_maps(requests, self.adapters, self._borrowed, features_of=self.opened, **source)

    @torch.no_grad()
    def extract_features(self, pixel_values: Tensor, include_excitation: bool = False) -> tuple[Tensor, ...]:
        """The tensors that cross the cut, each with a row per sample; `forward(features=...)` goes on from them.

        They are those of the terminal convolutions, or of the active adapter's `target_modules`.

        Args:
            pixel_values: `(B, C, H, W)`, or clips `(B, T, C, H, W)`; the tensors are then `(B, T, ...)`.
            include_excitation: Behind them u of every frozen conv unit, `(B, C', H', W')`. Where it is given, no pass
                computes a frozen convolution; adapters with a conv unit of their own (`tuning="last_conv"`) take
                theirs.

        Raises:
            UntraceableBackboneError: the backbone could not be cut.
            InputError: the pixels do not fit.
        """
        self._borrowed.calm()
        opened = self.opened
        of_clips = isinstance(pixel_values, Tensor) and pixel_values.ndim == 5
        pixels = self._checked_pixels(pixel_values.flatten(0, 1) if of_clips else pixel_values)
        features = opened.features(opened.rooted, pixels, include_excitation)
        return tuple(f.unflatten(0, pixel_values.shape[:2]) for f in features) if of_clips else features

    @property
    def _dtype(self) -> torch.dtype:
        return self._borrowed.dtype

    def _refuse_training(self, what: str) -> None:
        if self.training:
            raise InputError(
                f"{what} is for inference: dropout would blur what the worlds see. Call `model.eval()` first."
            )

    def _checked_source(
        self, pixel_values: Tensor | None, features: Sequence[Tensor] | None, frames: int | None
    ) -> dict[str, Any]:
        if (pixel_values is None) == (features is None):
            raise InputError("Give either `pixel_values` or `features`.")
        if frames is not None and features is not None:
            features = [features] if isinstance(features, Tensor) else features
            features = [frames_of_clips(one, frames, "features") for one in features]
        elif frames is not None:
            pixel_values = frames_of_clips(pixel_values, frames, "pixel_values")
        if features is None:
            return {"pixel_values": self._checked_pixels(pixel_values), "features": None}
        opened = self.opened
        if not opened.traceable:
            opened.features(opened.rooted, features)  # says why there are none
        shapes = opened.feature_shapes, opened.excitation_shapes
        return {"pixel_values": None, "features": check_features(features, *shapes, self._dtype)}

    def _checked_pixels(self, pixel_values: Tensor) -> Tensor:
        return check_pixels(pixel_values, self.input_size, self._dtype)

    def predict(
        self,
        images: Any,
        *,
        adapter_names: Sequence[str] | None = None,
        batch_size: int = 32,
        disable_tqdm: bool | None = None,
    ) -> Any:
        """Reads pictures with the active adapter, from files to named answers.

        Args:
            images: A path, a PIL image, an array `(H, W)` or `(H, W, 3)` of uint8, or a list of them; or a folder, for
                the pictures that lie in it. Where an adapter reads clips: a list of clips, each a list of pictures.
            adapter_names: Read in these worlds instead; the answers come by world.
            batch_size: Pictures read at once.
            disable_tqdm: No progress bar; when left out, none unless a terminal is there to show it.

        Returns:
            For each picture `{label: probability}`, likeliest first (`{name: value}` for regression); for one picture
            not in a list, its own; for a folder `{path: answer}`, in the order of the file names.

        Raises:
            InputError: the model is in training mode or has no preprocessing.
            DataError: a picture cannot be read, or the folder has none.
            NoActiveAdapterError: no adapter is active and none was named.
        """
        self._refuse_training("predict")
        if self.preprocessing is None:
            raise InputError(
                "This backbone does not say how pictures must be prepared for it; give `preprocessing=` to "
                "get_ciao_model."
            )
        names = [self.resolve_adapter()] if adapter_names is None else [self._check_loaded(n) for n in adapter_names]
        frames = frames_read(names, self.adapters)
        todo = images if isinstance(images, (list, tuple)) else [images]
        todo = pictures_in(images) if is_folder(images) else list(todo)
        device = next(self.backbone.parameters()).device
        answers: list[Any] = read_pictures(
            todo,
            self.preprocessing
            if frames is None
            else partial(clip_pixels, frames=frames, preprocessing=self.preprocessing),
            lambda pixels: self.read(pixels.to(device), adapter_names=names),
            {name: self.adapters[name].config for name in names},
            batch_size=batch_size,
            disable_tqdm=disable_tqdm,
        )
        if adapter_names is None:
            answers = [answer[names[0]] for answer in answers]
        if is_folder(images):
            return {str(path): answer for path, answer in zip(todo, answers, strict=True)}
        return answers if isinstance(images, (list, tuple)) else answers[0]

    # -- on disk ---------------------------------------------------------------------------------------------------

    def backbone_signature(self) -> dict[str, Any]:
        """What tells this backbone from every other; the same for another dtype of the same weights. Plain data."""
        return backbone_signature(self.backbone)

    def save_pretrained(
        self,
        folder: str | os.PathLike,
        adapter_name: str | None = None,
        *,
        training: dict[str, Any] | None = None,
        picture: bytes | None = None,
    ) -> Path:
        """Saves one adapter as a folder: config, safetensors, preprocessing and model card.

        Args:
            folder: Where; replaced as a whole if there is an adapter. What people wrote on its card stays.
            adapter_name: Which; the active one when left out.
            training: What to record of how it was made: dataset, seed, metrics. Plain data; `adapter_card` says what
                the card understands.
            picture: A PNG of what the mask lets through, for the card.

        Returns:
            The folder.

        Raises:
            AdapterFileError: it cannot be written.
            AdapterNotFoundError, NoActiveAdapterError: there is no such adapter.
        """
        return save_with_card(folder, self.saved_adapter(adapter_name, training=training), picture)

    def saved_adapter(self, adapter_name: str | None = None, *, training: dict[str, Any] | None = None) -> SavedAdapter:
        """One adapter as `save_pretrained` writes it: config, tensors and what they belong to.

        Args:
            adapter_name, training: As for `save_pretrained`.

        Raises:
            AdapterNotFoundError, NoActiveAdapterError: there is no such adapter.
        """
        adapter = self.adapters[self.resolve_adapter(adapter_name)]
        opened = self._borrowed.open(adapter.config.target_modules)
        return SavedAdapter(
            config=adapter.config,
            backbone_name=backbone_name(self.backbone),
            backbone_revision=backbone_revision(self.backbone),
            backbone_signature=self.backbone_signature(),
            input_size=self.input_size,
            convolutions=[spec.geometry(self.backbone) for spec in opened.units_spec],
            tensors=adapter.state_dict(),
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
        **hub: Any,
    ) -> CommitInfo:
        """Publishes one adapter in one commit, with a model card.

        Args:
            repo_id: `user/name`; made if there is none.
            adapter_name: Which; the active one when left out.
            training: As for `save_pretrained`.
            picture: As for `save_pretrained`.
            subfolder: Where in the repository, for one that holds several adapters.
            **hub: `private`, `revision`, `create_pr`, `commit_message` and `token`, as `ciao_peft.hub.publish` takes
                them.

        Returns:
            The commit, with `commit_url` and, for a proposal, `pr_url`.

        Raises:
            HubError: in one of its kinds, when the Hub does not take it.
            AdapterNotFoundError, NoActiveAdapterError: there is no such adapter.
        """
        with tempfile.TemporaryDirectory() as aside:
            folder = self.save_pretrained(Path(aside) / "adapter", adapter_name, training=training, picture=picture)
            return publish_adapter(folder, repo_id, subfolder=subfolder, **hub)

    @classmethod
    def from_pretrained(
        cls,
        backbone: nn.Module,
        source: str | os.PathLike,
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
            source: A folder that `save_pretrained` wrote, or `user/name` on the Hub.
            adapter_name: Name to hold it under; the source's last part when left out.
            preprocessing: What the backbone must be fed, as for `get_ciao_model`; taken from the backbone when it
                knows, else from the adapter.
            check_backbone: As for `load_adapter`.
            check_preprocessing: As for `load_adapter`.
            **hub: As for `load_adapter`.

        Raises:
            As `load_adapter`; the backbone is then as it was.
        """
        name = name_from(source, hub.get("subfolder")) if adapter_name is None else adapter_name
        check_adapter_name(name)
        saved, snapshot = read_adapter(source, **hub)
        return cls._from_saved(backbone, name, saved, str(snapshot), preprocessing, check_backbone, check_preprocessing)

    @classmethod
    def _from_saved(
        cls,
        backbone: nn.Module,
        name: str,
        saved: SavedAdapter,
        where: str,
        preprocessing: Preprocessing | None,
        *checks: bool,
    ) -> CIAOModel:
        if preprocessing is not None and preprocessing.input_size != saved.input_size:
            raise BackboneMismatchError(
                f"The adapter in '{where}' takes pixels of {saved.input_size}; `preprocessing` makes some of "
                f"{preprocessing.input_size}. Give it the adapter's `size`."
            )
        model = cls(backbone, input_size=saved.input_size, preprocessing=preprocessing)
        try:
            model._hold(name, saved, where, *checks)
        except BaseException:
            model.unload()
            raise
        model.set_adapter(name)
        return model

    # -- bookkeeping -----------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> CIAOModel:
        """Training mode of the adapters' heads; the backbone stays in eval mode."""
        self.training = mode
        for module in self.children():
            # Not for a moment: the pass of another thread would move the statistics of its batch norm for good.
            module.train(mode and module is not self.backbone)
        return self

    def adapter_parameters(self, adapter_name: str) -> dict[str, list[nn.Parameter]]:
        """What an adapter trains, by part: `mask`, `encoder` and `head`, for groups with their own learning rates."""
        return self.adapters[self._check_loaded(adapter_name)].parameter_groups()

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Numbers that training the active adapter changes, and all numbers of backbone and adapters."""
        active = self.active_adapter
        groups = {} if active is None else self.adapter_parameters(active)
        trainable = sum(p.numel() for group in groups.values() for p in group if p.requires_grad)
        return trainable, sum(p.numel() for p in self.parameters())

    def print_trainable_parameters(self) -> None:
        """Prints how many parameters the active adapter trains, in PEFT's words."""
        trainable, every = self.get_nb_trainable_parameters()
        share = 100 * trainable / every
        print(f"trainable params: {trainable:,} || all params: {every:,} || trainable%: {share:.4f}")
