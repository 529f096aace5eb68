"""The forward pass in all its forms: one adapter, each row with its own, all worlds, features, files of pictures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..adapters import Adapter, Source, checked_source, decide_all, frames_read, read_maps, read_mixed
from ..backbone import Depth, Mask, check_pixels
from ..detection import finder_of
from ..errors import AdapterNotFoundError, InputError, quoted
from ..labels import check_labels
from ..losses import total_loss
from ..prediction import check_preprocessing, is_folder, is_several, predict
from ..probabilities import Prior
from ..scenes import WorldReader, predict_scenes, warn_of_scene
from ..surroundings import outside_inference
from .base import AdaptedBackbone
from .output import CIAOOutput

__all__ = ["ReadingModel"]

MaskOfAdapter = Callable[[Adapter, int, Tensor, Callable[[], Tensor]], Tensor]
"""From an adapter and the arguments of `Adapter.mask` to what goes on in place of a conv unit's answer."""


class ReadingModel(AdaptedBackbone):
    """The part of `CIAOModel` that reads: from pixels, features or files to logits, losses and named answers.

    Args:
        backbone, input_size, preprocessing: As for `get_ciao_model`.

    Shapes:
        pixel_values: `(B, C, H, W)` with `(C, H, W)` the model's `input_size`; clips `(B, T, C, H, W)`.
        features: One tensor `(B, ...)` for each place where the cut is crossed; of clips `(B, T, ...)`.
        logits: `(B, num_labels)`.

    Example:
        >>> from ciao_peft import CIAOConfig, load_encoder
        >>> model = ReadingModel(load_encoder("small-face"))
        >>> model.add_adapter("fer", CIAOConfig(problem_type="single_label_classification", num_labels=7))
        >>> model.set_adapter("fer")
        >>> model(torch.rand(4, *model.input_size)).logits.shape
        torch.Size([4, 7])
    """

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        features: Tensor | Sequence[Tensor] | None = None,
        adapter_names: Sequence[str] | None = None,
    ) -> CIAOOutput:
        """Reads a batch with the active adapter, or each row with its own.

        Args:
            pixel_values: `(B, C, H, W)` as the preprocessing makes them; cast to the backbone's dtype. For an adapter
                whose config has `frames`, clips `(B, frames, C, H, W)`.
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

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=7)
            >>> model = get_ciao_model(load_encoder("small-face"), config, "fer").eval()
            >>> model.add_adapter("arousal", CIAOConfig(problem_type="regression", num_labels=1))
            >>> faces = torch.rand(2, *model.input_size)
            >>> [row.shape for row in model(faces, adapter_names=["arousal", "fer"]).logits]
            [torch.Size([1]), torch.Size([7])]
        """
        self._frozen.keep_in_eval_mode()
        if adapter_names is not None:
            return self._forward_mixed(pixel_values, labels, features, adapter_names)
        if self._active.is_off:
            if pixel_values is None:
                raise InputError("The backbone itself reads pixels, not features; give `pixel_values`.")
            return self.backbone(self._checked_pixels(pixel_values))
        name = self.resolve_adapter()
        adapter = self._at_rest(self._loaded(name))
        opened = self._frozen.opened_at(adapter.config.target_modules)
        frames, depths = adapter.config.frames, adapter.depths
        source = checked_source(self._frozen, opened, pixel_values, features, frames, depths)
        seen = read_maps([(None, name)], {name: adapter}, self._frozen, features_of=opened, **source)[0]
        logits, embeddings = adapter.decide(seen)
        answers = {"logits": logits.to(self._frozen.dtype), "embeddings": embeddings.float()}
        if labels is None:
            return CIAOOutput(**answers)
        labels = check_labels(labels, adapter.config, len(logits)).to(logits.device, non_blocking=True)
        losses = total_loss(logits, embeddings, labels, adapter.config, adapter.head.prototypes)
        return CIAOOutput(loss=losses[0], **answers, task_loss=losses[1], contrastive_loss=losses[2])

    def _forward_mixed(
        self,
        pixel_values: Tensor | None,
        labels: Tensor | None,
        features: Tensor | Sequence[Tensor] | None,
        names: Sequence[str],
    ) -> CIAOOutput:
        self._refuse_training("A mixed batch")
        if labels is not None:
            raise InputError("A mixed batch has no loss: its rows belong to different heads. Leave `labels` out.")
        logits, embeddings = read_mixed(
            names,
            {name: self._at_rest(adapter) for name, adapter in self.adapters.items()},
            self._frozen,
            self.opened,
            pixel_values=pixel_values,
            features=features,
            depths=self.depths,
            adapters_off=self._active.is_off,
        )
        return CIAOOutput(logits=logits, embeddings=embeddings)

    def read(
        self,
        pixel_values: Tensor | None = None,
        *,
        features: Tensor | Sequence[Tensor] | None = None,
        adapter_names: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Reads a batch in every world, with one trunk pass for all adapters that share the frozen trunk.

        Args:
            pixel_values: `(B, C, H, W)`, as for `forward`.
            features: What `extract_features` gave, in place of the pixels.
            adapter_names: The worlds to read in; all when left out.

        Returns:
            Logits `(B, num_labels)` by adapter name: on a CPU bit for bit those of separate calls. On a GPU, where
            adapters of equal shape are computed in one product, up to rounding (1e-5 in float32).

        Raises:
            InputError: the model is in training mode, the pixels do not fit, or one of the adapters reads clips and
                another does not.
            AdapterNotFoundError: a name is not loaded.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=7)
            >>> model = get_ciao_model(load_encoder("small-face"), config, "fer").eval()
            >>> model.add_adapter("arousal", CIAOConfig(problem_type="regression", num_labels=1))
            >>> answers = model.read(torch.rand(2, *model.input_size))
            >>> {name: tuple(logits.shape) for name, logits in answers.items()}
            {'fer': (2, 7), 'arousal': (2, 1)}
        """
        self._frozen.keep_in_eval_mode()
        self._refuse_training("read")
        if isinstance(adapter_names, str):
            raise InputError(f"`adapter_names` takes a list of names; got the text {quoted(adapter_names)}.")
        adapters = self._chosen(adapter_names)
        return self._read(list(adapters), adapters, pixel_values, features)

    def _chosen(self, names: Sequence[str] | None) -> dict[str, Adapter]:
        """Adapters by name, as they are at this moment; all when no names are given."""
        adapters = self.adapters.snapshot()
        for name in names or ():
            if name not in adapters:
                raise AdapterNotFoundError(name, adapters)
        return {name: self._at_rest(adapters[name]) for name in (adapters if names is None else names)}

    def _at_rest(self, adapter: Adapter) -> Adapter:
        """The adapter, or a copy in eval mode of one that another thread is just training."""
        if self.training or not adapter.training or not adapter.hold.is_elsewhere:
            return adapter
        return copy.deepcopy(adapter).eval()

    def read_with_mask(
        self,
        mask: MaskOfAdapter,
        pixel_values: Tensor | None = None,
        *,
        features: Tensor | Sequence[Tensor] | None = None,
        adapter_name: str | None = None,
    ) -> Tensor:
        """Reads a batch with another mask in place of an adapter's own: to look into the mask, or to change it.

        A copy of the adapter reads, in eval mode whatever the mode of the model; neither of them is changed.

        Args:
            mask: Called as `mask(adapter, index, features, excitation)`, with that copy and what `Adapter.mask` takes;
                returns what goes on in place of u, `(B, C', H', W')`. `Adapter.mask` itself changes nothing.
            pixel_values: `(B, C, H, W)`, as for `forward`.
            features: What `extract_features` gave, in place of the pixels.
            adapter_name: Which adapter; the active one when left out.

        Returns:
            The adapter's logits, `(B, num_labels)`.

        Raises:
            InputError: pixels or features that do not fit.
            AdapterNotFoundError, NoActiveAdapterError: there is no such adapter.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
            >>> def uninhibited(adapter, index, features, excitation):
            ...     return excitation()  # u, as though there were no inhibition
            >>> model.read_with_mask(uninhibited, torch.rand(4, *model.input_size)).shape
            torch.Size([4, 2])
        """
        name = self.resolve_adapter(adapter_name)
        self._frozen.keep_in_eval_mode()
        adapter = copy.deepcopy(self._loaded(name)).eval()
        return self._read([name], {name: adapter}, pixel_values, features, {name: partial(mask, adapter)})[name]

    def _read(
        self,
        names: Sequence[str],
        adapters: Mapping[str, Adapter],
        pixel_values: Tensor | None,
        features: Tensor | Sequence[Tensor] | None,
        masks: Mapping[str, Mask] | None = None,
    ) -> dict[str, Tensor]:
        source = self._checked_source(pixel_values, features, frames_read(names, adapters))
        requests = [(None, name) for name in names]
        seen = read_maps(requests, adapters, self._frozen, features_of=self.opened, masks=masks, **source)
        asked = [(adapters[name], own) for name, own in zip(names, seen, strict=True)]
        decided = decide_all(asked, self._frozen.dtype)
        return {name: logits for name, (logits, _) in zip(names, decided, strict=True)}

    @torch.no_grad()
    def extract_features(
        self, pixel_values: Tensor, include_excitation: bool = False, depths: Sequence[Depth] | None = None
    ) -> tuple[Tensor, ...]:
        """Computes the tensors that cross the cut, each with a row per sample; `forward(features=...)` reads them.

        The cut is at the terminal convolutions, or at the active adapter's `target_modules`.

        Args:
            pixel_values: `(B, C, H, W)`, or clips `(B, T, C, H, W)`.
            include_excitation: Add u of every frozen conv unit, `(B, C', H', W')`. Where it is given, no pass computes
                a frozen convolution; adapters with a conv unit of their own (`tuning="last_conv"`) take theirs.
            depths: Earlier units whose averaged answers are added, `(B, n)` each; those that the active adapter reads
                when left out, without which it cannot read features.

        Returns:
            One tensor `(B, ...)` for each place where the cut is crossed, then those of the depths, then those of u; of
            clips `(B, T, ...)`.

        Raises:
            UntraceableBackboneError: the backbone could not be cut.
            TargetModulesError: one of `depths` is no map before the masks.
            InputError: the pixels do not fit.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
            >>> faces = torch.rand(4, *model.input_size)
            >>> features = model.eval().extract_features(faces)
            >>> torch.equal(model(features=features).logits, model(faces).logits)
            True
        """
        if torch.is_inference_mode_enabled():  # what is read later in a training must not come from there
            with outside_inference():
                features = self.extract_features(pixel_values, include_excitation, depths)
                return tuple(f.clone() if f.is_inference() else f for f in features)
        self._frozen.keep_in_eval_mode()
        opened = self.opened
        of_clips = isinstance(pixel_values, Tensor) and pixel_values.ndim == 5
        pixels = self._checked_pixels(pixel_values.flatten(0, 1) if of_clips else pixel_values)
        features = opened.features(opened.rooted, pixels, include_excitation, self.depths if depths is None else depths)
        return tuple(f.unflatten(0, pixel_values.shape[:2]) for f in features) if of_clips else features

    def predict(
        self,
        images: Any,
        *,
        adapter_names: Sequence[str] | None = None,
        faces: Any = None,
        prior: Prior | None = None,
        min_confidence: float | None = None,
        batch_size: int = 32,
        disable_tqdm: bool | None = None,
    ) -> Any:
        """Reads pictures with the active adapter, from files to named answers.

        A picture is taken for one face that fills it. A single one of at least 256 pixels each way is looked at first,
        and a warning says where it shows no face, several, or a small one.

        Args:
            images: A path, a PIL image, an array `(H, W)` or `(H, W, 3)` of uint8, or a list of them; or a folder, for
                the pictures that lie in it. Where an adapter reads clips: a list of clips, each a list of pictures.
            adapter_names: Read in these worlds instead; the answers come by world.
            faces: Find the faces of each picture and read each of them: `True`, a detector such as `"yunet"`, or a
                `ciao_peft.detection.FaceFinder`. `False` does not even look for more than one.
            prior: How frequent the classes are where the answers are wanted: a share for each class by name,
                `"uniform"`, or `"training"`. When left out, the probabilities are those that the training left.
            min_confidence: Answer None where the likeliest class is less probable than this, 0 to 1.
            batch_size: Pictures read at once.
            disable_tqdm: No progress bar; when left out, none unless a terminal is there to show it.

        Returns:
            For each picture `{label: probability}`, likeliest first (`{name: value}` for regression); for one picture
            not in a list, its own; for a folder `{path: answer}`, in the order of the file names. With `faces`, in the
            place of an answer a list of `ciao_peft.scenes.Face`, the largest first, whose answers are by world.

        Raises:
            InputError: the model is in training mode or has no preprocessing; with `faces`, an adapter reads clips.
            ConfigError: `prior` or `min_confidence` does not fit: a class is missing, the adapter does not know the
                frequencies of its training, or it does not answer with one class of several.
            DataError: a picture cannot be read, or the folder has none.
            NoActiveAdapterError: no adapter is active and none was named.

        Example:
            >>> import numpy as np
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> moods = {"num_labels": 2, "id2label": {0: "sad", 1: "glad"}}
            >>> config = CIAOConfig(problem_type="single_label_classification", **moods)
            >>> model = get_ciao_model(load_encoder("small-face"), config).eval()
            >>> sorted(model.predict(np.zeros((64, 64, 3), dtype=np.uint8)))
            ['glad', 'sad']
        """
        self._refuse_training("predict")
        preprocessing = check_preprocessing(self.preprocessing)
        adapters = self._chosen([self.resolve_adapter()] if adapter_names is None else adapter_names)
        names = list(adapters)
        device = next(self.backbone.parameters()).device
        configs = {name: adapter.config for name, adapter in adapters.items()}

        def read(pixels: Tensor) -> dict[str, Tensor]:
            return self._read(names, adapters, pixels.to(device), None)

        if faces is not None and faces is not False:
            named = {"prior": prior, "min_confidence": min_confidence, "batch_size": batch_size}
            worlds = WorldReader(read=read, configs=configs, preprocessing=preprocessing, **named)
            return predict_scenes(images, finder_of(faces), worlds)
        if faces is None and not is_several(images) and not is_folder(images):
            warn_of_scene(images)
        return predict(
            images,
            preprocessing,
            read,
            configs,
            frames=frames_read(names, adapters),
            by_world=adapter_names is not None,
            prior=prior,
            min_confidence=min_confidence,
            batch_size=batch_size,
            disable_tqdm=disable_tqdm,
        )

    def _refuse_training(self, what: str) -> None:
        if self.training:
            raise InputError(
                f"{what} is for inference: dropout would blur what the worlds see. Call `model.eval()` first."
            )

    def _checked_source(
        self, pixel_values: Tensor | None, features: Tensor | Sequence[Tensor] | None, frames: int | None
    ) -> Source:
        return checked_source(self._frozen, self.opened, pixel_values, features, frames, self.depths)

    def _checked_pixels(self, pixel_values: Tensor) -> Tensor:
        return check_pixels(pixel_values, self.input_size, self._frozen.dtype, self._frozen.device)
