"""`AdapterTrainer`: transformers' `Trainer`, which saves the adapter alone and trains it as `CIAOTrainer` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler
from transformers import Trainer, TrainingArguments

from ..calibration import is_open, start_decay
from ..config import CIAOConfig
from ..errors import ConfigError, DataError, TrainingError, quoted
from ..features import ClipSamples, Samples, check_labels_of, samples_of
from ..model import CIAOModel
from ..trainer import BalancedSampler, adapter_optimizer, note_class_prior
from ..urls import is_url
from .transformers import CIAOForImageClassification

__all__ = ["AdapterTrainer"]


class _Prepared(Dataset[dict[str, Any]]):
    """Pictures or pixel values as `Trainer` reads them: pixel values and, where there are labels, the adapter's ids."""

    def __init__(self, samples: Samples | ClipSamples, config: CIAOConfig):
        self._samples = samples
        self.labels = None if samples.label_key is None else check_labels_of(samples, config, samples.name)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        prepared: list[dict[str, Any]] = [{"pixel_values": pixels} for pixels in self._samples.pixels(indices)]
        if self.labels is not None:
            for sample, index in zip(prepared, indices, strict=True):
                sample["labels"] = self.labels[index]
        return prepared


def _keys_of(dataset: Any) -> set[str]:
    """What a sample of a map-style dataset has; nothing for any other dataset."""
    if isinstance(dataset, (str, bytes, bytearray, type, Mapping)):
        return set()
    sized = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and not isinstance(dataset, Tensor)
    first = dataset[0] if sized and len(dataset) else None
    return set(first) if isinstance(first, Mapping) else set()


class AdapterTrainer(Trainer):
    """transformers' `Trainer` for one adapter of a `CIAOModel`.

    Plain `Trainer` trains, evaluates and resumes a `CIAOModel`, too; it gives all parts one learning rate, draws
    samples without regard to pairs, and saves the backbone with every checkpoint. This one gives the mask its own rate,
    draws pair-balanced batches, starts `a` by how strongly the backbone answers, and saves the adapter alone, in
    folders that `CIAOModel.load_adapter` reads; it resumes from them and loads the best of them.

    Args:
        model: A `CIAOModel`, or a `CIAOForImageClassification`; its active adapter is trained.
        args: As for `Trainer`.
        train_dataset: As for `Trainer`: a map-style dataset of `{"pixel_values": (C, H, W), "labels": label}`; or of
            `image` and `label`, as `load_faces` gives: pictures are prepared as the backbone needs them. Labels with
            names are joined by name, as in `CIAOTrainer`.
        eval_dataset: The same, or a dict of several.
        mask_learning_rate: Rate of the mask; ten times `args.learning_rate` when left out.
        encoder_learning_rate: Rate of the adapter's own copies of the encoder, as in `CIAOTrainingArguments`.
        class_balance: As in `CIAOTrainingArguments` with `class_balanced_batches=True`; None draws every sample once,
            without regard to pairs, as `CIAOTrainer` does by itself.
        **kwargs: As for `Trainer`: `compute_metrics`, `callbacks` and the like.

    Raises:
        TrainingError: `model` is something else, or has no active adapter; a dataset names labels that the adapter does
            not have, or, in training, has none.
        DataError: the backbone does not say how pictures are prepared.
        InputError: a label is out of range or not finite.
        ConfigError: `args.output_dir` is a URL.

    Shapes:
        As for `CIAOModel`.

    Example:
        >>> import tempfile
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> model = get_ciao_model(load_encoder("small-face"), config)
        >>> faces = [{"pixel_values": torch.rand(3, 64, 64), "labels": n % 2} for n in range(8)]
        >>> quiet = {"report_to": "none", "disable_tqdm": True, "logging_strategy": "no", "use_cpu": True}
        >>> args = TrainingArguments(tempfile.mkdtemp(), max_steps=1, save_strategy="no", **quiet)
        >>> trainer = AdapterTrainer(model, args, train_dataset=faces)
        >>> output = trainer.train()  # doctest: +ELLIPSIS
        {'train_runtime': ...}
        >>> output.global_step
        1
    """

    def __init__(
        self,
        model: CIAOModel | CIAOForImageClassification,
        args: TrainingArguments | None = None,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        mask_learning_rate: float | None = None,
        encoder_learning_rate: float | None = None,
        class_balance: float | None = 0.5,
        **kwargs: Any,
    ):
        ciao = model.model if isinstance(model, CIAOForImageClassification) else model
        if not isinstance(ciao, CIAOModel):
            raise TrainingError(f"`model` must be a CIAOModel; got {type(model).__name__}. `Trainer` takes others.")
        if args is not None and not isinstance(args, TrainingArguments):
            raise ConfigError(
                f"`args` must be transformers' TrainingArguments; got {type(args).__name__}. `CIAOTrainer` takes "
                "CIAOTrainingArguments."
            )
        if args is not None and is_url(args.output_dir):
            raise ConfigError(
                f"`output_dir` must be a folder on this disk; got {quoted(args.output_dir)}, which is a URL. "
                "`model.save_pretrained` takes URLs."
            )
        self.ciao_model = ciao
        self.adapter_name = ciao.resolve_adapter()
        self._rates = {"mask_learning_rate": mask_learning_rate, "encoder_learning_rate": encoder_learning_rate}
        self._class_balance = class_balance
        ciao.train_adapter(self.adapter_name)
        super().__init__(
            model,
            args,
            train_dataset=self._with_pixels(train_dataset, "train_dataset"),
            eval_dataset=self._with_pixels(eval_dataset, "eval_dataset"),
            **kwargs,
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimiser of `adapter_optimizer` with the rates of `args`; AdamW, or SGD with `args.optim="sgd"`.

        Args:
            model: As for `Trainer`; the adapter's own parameters are taken in any case.
        """
        if self.optimizer is None:
            args = self.args
            self.optimizer = adapter_optimizer(
                self.ciao_model,
                self.adapter_name,
                learning_rate=args.learning_rate,
                weight_decay=args.weight_decay,
                adam_beta1=args.adam_beta1,
                adam_beta2=args.adam_beta2,
                adam_epsilon=args.adam_epsilon,
                optim="sgd" if args.optim == "sgd" else "adamw",
                **self._rates,
            )
        return self.optimizer

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; before the first update, `a` starts by how strongly the backbone answers, and the adapter
        notes how frequent its classes are.

        Args:
            args, kwargs: As for `Trainer.train`.
        """
        adapter = self.ciao_model.adapters[self.adapter_name]
        if "pixel_values" in _keys_of(self.train_dataset):
            note_class_prior(adapter, self._labels(self.train_dataset), self._class_balance or 0.0)
        if self.train_dataset is not None and is_open(adapter):
            device = self.args.device
            self.ciao_model.to(device)
            batches = (
                {name: value.to(device) for name, value in batch.items() if name in ("pixel_values", "features")}
                for batch in self.get_train_dataloader()
            )
            start_decay(self.ciao_model, batches, self.adapter_name)
        return super().train(*args, **kwargs)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As `Trainer.evaluate`.

        Args:
            eval_dataset: As for the constructor; what was given there when left out.
            args, kwargs: As for `Trainer.evaluate`.
        """
        return super().evaluate(self._with_pixels(eval_dataset, "eval_dataset"), *args, **kwargs)

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.predict`.

        Args:
            test_dataset: As `eval_dataset`; labels may be missing.
            args, kwargs: As for `Trainer.predict`.

        Raises:
            DataError: this is no dataset.
        """
        if not isinstance(test_dataset, IterableDataset) and not _keys_of(test_dataset):
            raise DataError(
                "`test_dataset` must be a dataset of samples with `image` or `pixel_values`; got "
                f"{quoted(test_dataset)}. A picture, a folder or a list of pictures is read by `model.predict(...)`."
            )
        return super().predict(self._with_pixels(test_dataset, "test_dataset"), *args, **kwargs)

    def _with_pixels(self, dataset: Any, name: str) -> Any:
        """A dataset of pictures, or of labels with names, as pixel values and the adapter's ids; any other as it is."""
        if isinstance(dataset, dict):
            return {key: self._with_pixels(one, f"{name}[{key!r}]") for key, one in dataset.items()}
        keys = _keys_of(dataset)
        if isinstance(dataset, _Prepared) or not keys & {"image", "pixel_values"}:
            return dataset
        samples = samples_of(dataset, self.ciao_model.preprocessing, name)
        if "pixel_values" in keys and samples.label_names is None:
            return dataset
        return _Prepared(samples, self.ciao_model.peft_config[self.adapter_name])

    def _labels(self, dataset: Any) -> Tensor:
        """The labels of a training dataset, as the adapter numbers them."""
        config = self.ciao_model.peft_config[self.adapter_name]
        samples = samples_of(dataset, self.ciao_model.preprocessing, "train_dataset")
        return check_labels_of(samples, config, samples.name)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self._class_balance is None or not hasattr(dataset, "__len__"):
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        config = self.ciao_model.peft_config[self.adapter_name]
        size = self.args.train_batch_size
        return BalancedSampler(self._labels(dataset), config, size, class_balance=self._class_balance, seed=seed)

    # -- the adapter alone on disk -----------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            folder = str(self.args.output_dir if output_dir is None else output_dir)
            record = {"seed": self.args.seed, "global_step": self.state.global_step}
            self.ciao_model.save_pretrained(folder, self.adapter_name, training=record)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._restore(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self._restore(self.state.best_model_checkpoint)

    def _restore(self, folder: str) -> None:
        self.ciao_model.hotswap_adapter(folder, self.adapter_name)
