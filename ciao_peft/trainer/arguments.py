"""How one adapter is trained, as plain data. Needs no torch."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..checking import check_choice, check_flag, check_known, check_number, make_plain
from ..config import CIAOConfig
from ..errors import ConfigError, quoted
from ..urls import is_url
from .flag_values import flag_or_text, text_or_texts
from .recipes import RECIPES, recipe_for, recipe_settings
from .setting_groups import LENGTH, ON_THE_WAY, RANGES, UNLABELLED, UNLABELLED_FLAGS, WHEN, WHERE

if TYPE_CHECKING:
    from ..features import Augmentation

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["linear", "cosine", "constant"]
Strategy = Literal["no", "steps", "epoch"]
FeatureDevice = Literal["auto", "cpu", "device"]
Compile = Literal[False, True, "inductor", "cuda-graphs"]

if TYPE_CHECKING:
    FlagOrText = bool | str
    FlagOrTextOrNone = bool | str | None
    TextOrTexts = str | tuple[str, ...]
else:  # `HfArgumentParser` calls what is no type that it knows with the text of the flag
    FlagOrText = FlagOrTextOrNone = flag_or_text
    TextOrTexts = text_or_texts

MASK_RATE_FACTOR = 10.0
"""`mask_learning_rate` over `learning_rate` where it is left out: divided features move that much slower."""

ENCODER_RATE_FACTOR = {"last_conv": 2.0, "full": 0.3}
"""`encoder_learning_rate` over `learning_rate` where it is left out, by `tuning`."""

_CHOICES = {
    "optim": Optimizer,
    "lr_scheduler_type": Schedule,
    "eval_strategy": Strategy,
    "save_strategy": Strategy,
    "feature_device": FeatureDevice,
}
_ALONE = {"nargs": "?", "const": True}  # for argparse: `--bf16` without a value


@dataclass(frozen=True, kw_only=True)
class CIAOTrainingArguments:
    """Settings of one training. Frozen; names are those of transformers' `TrainingArguments` wherever it has one.

    With all left out it is, for the default adapter, the recipe "small-data" below 2,000 samples, and "default" from
    there on (`recipe`).

    Args:
        output_dir: Folder for log, learning curve, checkpoints and stored features; nothing is written when left out.
        num_train_epochs: Passes over the training data; fractions allowed. When left out, 60 below 2,000 samples, and
            12 from there on.
        max_steps: Updates to make instead, when above 0.
        per_device_train_batch_size: Samples of a micro-batch on each process; when left out, 32 below 2,000 samples,
            and 128 from there on. The contrastive loss compares the samples of one micro-batch, over all processes.
        per_device_eval_batch_size: Samples read at once in evaluation; changes no result.
        gradient_accumulation_steps: Micro-batches per update. They share no pairs: accumulation gives a larger batch to
            the task loss, but not to the contrastive loss.
        learning_rate: Highest learning rate of the decision head.
        mask_learning_rate: Learning rate of the inhibitory units, their decay and E; ten times `learning_rate` when
            left out, because the division makes them move an order of magnitude slower. `recipe(name, config)` has the
            rate for forms that do not divide.
        encoder_learning_rate: Learning rate of the adapter's own copy of the last convolution (twice `learning_rate`
            when left out) or of the whole encoder (three tenths of it).
        weight_decay: Weight decay of weights; biases, gains and the decay `a` have none.
        optim: The optimizer: `"adamw"` or `"sgd"` (with Nesterov's momentum).
        adam_beta1: Decay of AdamW's running mean of gradients, 0 to below 1.
        adam_beta2: Decay of AdamW's running mean of their squares, 0 to below 1.
        adam_epsilon: Term added to AdamW's denominator, above 0.
        sgd_momentum: Momentum of SGD, 0 to below 1.
        lr_scheduler_type: After the warm-up, rates decay to 0 linearly (`"linear"`) or along a cosine
            (`"cosine"`), or stay `"constant"`.
        warmup_ratio: Share of all updates over which the rates rise from 0.
        warmup_steps: Updates over which they rise instead, when above 0.
        max_grad_norm: Gradients longer than this are scaled down to it; 0 leaves them alone.
        bf16: Mixed precision in bfloat16. `"auto"` takes it where the processor has instructions for it, and float32
            elsewhere; `True` warns where it has none, because bfloat16 is then several times slower than float32.
        fp16: Mixed precision in float16; needs a GPU, whose updates then wait for the host. With neither, the precision
            that `accelerate launch` chose.
        class_balanced_batches: Draw samples by class, in pairs of one class, so that no batch lacks a positive pair
            where that can be avoided. Otherwise every sample comes once per epoch, in random order.
        class_balance: With `class_balanced_batches`, from 0, classes as frequent as in the data, to 1, all equally
            frequent: a class of n samples is drawn in proportion to `n ** (1 - class_balance)`.
        eval_strategy: Evaluate during training never (`"no"`), every `eval_steps` updates or every `"epoch"`; without
            an evaluation dataset never.
        eval_steps: Updates between two evaluations, for `eval_strategy="steps"`.
        save_strategy: Write a checkpoint never (`"no"`), every `save_steps` updates or every `"epoch"`; needs
            `output_dir`.
        save_steps: Updates between two checkpoints, for `save_strategy="steps"`.
        save_total_limit: Checkpoints to keep, those written last; all when left out.
        load_best_model_at_end: At the end, restore the best evaluated weights.
        metric_for_best_model: Name of a metric, with or without `eval_`; when left out, the one of the problem:
            accuracy, concordance or macro F1.
        greater_is_better: When left out, false for a loss or an error and true otherwise.
        early_stopping_patience: Stop after this many evaluations in a row without a better metric.
        early_stopping_threshold: By how much it must be better to count.
        logging_steps: Updates between two entries of the log.
        report_to: `"jsonl"` (`trainer_log.jsonl` in `output_dir`), `"none"`, or trackers that Accelerate knows, such as
            `"tensorboard"` (in `runs` of `output_dir`) and `"trackio"`; one name or several.
        two_steps: In place of one update on the sum of Eq. 5, two per batch, as in the code that came with the paper:
            the contrastive loss updates mask and own copies of the encoder, then the task loss updates the head. In one
            process.
        views: Views of each picture that a training learns from: 1, the picture as it is; 2, and its mirror image;
            more, and that many less one that are mirrored by chance and cropped by up to a tenth. One is drawn each
            time a picture comes up, and evaluations see none but the first. When left out, 2 where a dataset shows
            the same picture each time, and 1 where it shows another view by itself. Features that are stored
            beforehand show the views that `cache_features` gave them, and with 1 none but the first.
        average_last: Share of the updates at the end over which the weights are averaged, 0 to 1; 0 for none. From the
            first of them on, evaluations see the mean so far, and so do the best adapter and the one at the end. A
            training that stops before them ends without.
        unlabelled_ratio: Pictures without labels for each labelled one of a batch, where `train` is given `unlabelled`.
        unlabelled_weight: Weight of the loss of pseudo-labels (Eq. 8 of docs/method.md); 0 for none.
        unlabelled_warmup: Share of the updates before pseudo-labels count, 0 to 1.
        pseudo_label_share: Of the pictures of a batch with one pseudo-label, the surest share that counts, 0 to 1.
        pseudo_label_confidence: Probability from which on a pseudo-label counts, 0 to 1.
        pseudo_label_alignment: From 0, pseudo-labels as the adapter gives them, to 1, classes as often as among labels.
        adaptive_confidence: Let it count from the mean probability of its class so far on, too, where that is less.
        contrast_unlabelled: Let views of a picture without labels be a positive pair of the contrastive loss (Eq. 6).
        seed: Seed of the order of samples, the stored views and the dropout.
        dataloader_num_workers: Processes that prepare pictures; changes no result.
        ddp_timeout: Seconds that one of several processes waits for the others before it gives up with a
            `LaunchError` that names the silent ones; more than any of them spends alone, as on writing a checkpoint or
            in a callback. While features are stored, the variable `CIAO_DDP_TIMEOUT` says how long a process may show
            no sign of work.
        disable_tqdm: True: say nothing. When left out, a bar shows loss and score in a terminal or notebook, and a
            notebook a table of the evaluations; in a log, each evaluation is one line. False: bars everywhere.
        resume_from_checkpoint: A checkpoint folder; `True`: the one in `output_dir` that was written last, whatever its
            number; `"auto"`: that one, or from the start if there is none. `num_train_epochs` may be more than before.
        feature_cache: `"auto"`: run the frozen trunk once and train from stored features wherever that gives the same
            adapter, up to the rounding of mixed precision in the trunk (in `output_dir`, or in memory without one);
            `"never"`; or the folder to keep them in.
        feature_device: Where stored features are read from. `"auto"`: on a GPU they are copied to it before the first
            update, where half of its free memory holds them; elsewhere they stay where they are, and batches are copied
            while the GPU computes. `"cpu"`: they stay. `"device"`: they are read into the memory of the device that
            trains, or the training is refused. Changes no result.
        compile: `False`: updates run operation by operation. `"cuda-graphs"`: on a GPU, they are captured once for
            each size of a batch and replayed, which takes the host out of small updates. `True` or `"inductor"`: model
            and losses are compiled by `torch.compile`, which takes a minute at first and pays in long trainings.
            The result is the same up to rounding; the same setting gives the same bits.

    Example:
        >>> arguments = CIAOTrainingArguments(num_train_epochs=5, learning_rate=1e-3)
        >>> CIAOTrainingArguments.from_dict(arguments.to_dict()) == arguments
        True
        >>> CIAOTrainingArguments(num_epochs=5)
        Traceback (most recent call last):
        ...
        TypeError: CIAOTrainingArguments.__init__() got an unexpected keyword argument 'num_epochs'

    Raises:
        ConfigError: a value is of the wrong type, out of its range, or does not go with another.
    """

    output_dir: str | None = None
    num_train_epochs: float | None = None
    max_steps: int = -1
    per_device_train_batch_size: int | None = None
    per_device_eval_batch_size: int = 128
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    mask_learning_rate: float | None = None
    encoder_learning_rate: float | None = None
    weight_decay: float = 0.01
    optim: Optimizer = "adamw"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    sgd_momentum: float = 0.9
    lr_scheduler_type: Schedule = "cosine"
    warmup_ratio: float = 0.1
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    bf16: FlagOrText = field(default=False, metadata=_ALONE)
    fp16: bool = False
    class_balanced_batches: bool = False
    class_balance: float = 0.5
    eval_strategy: Strategy = "epoch"
    eval_steps: int | None = None
    save_strategy: Strategy = "no"
    save_steps: int | None = None
    save_total_limit: int | None = None
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    early_stopping_patience: int | None = None
    early_stopping_threshold: float = 0.0
    logging_steps: int = 10
    report_to: TextOrTexts = "jsonl"
    two_steps: bool = False
    views: int | None = None
    average_last: float = 0.0
    unlabelled_ratio: int = 2
    unlabelled_weight: float = 1.0
    unlabelled_warmup: float = 0.3
    pseudo_label_share: float = 0.6
    pseudo_label_confidence: float = 0.95
    pseudo_label_alignment: float = 0.0
    adaptive_confidence: bool = False
    contrast_unlabelled: bool = False
    seed: int = 42
    dataloader_num_workers: int = 0
    ddp_timeout: int = 60
    disable_tqdm: bool | None = None
    resume_from_checkpoint: FlagOrTextOrNone = field(default=None, metadata=_ALONE)
    feature_cache: str = "auto"
    feature_device: FeatureDevice = "auto"
    compile: FlagOrText = field(default=False, metadata=_ALONE)

    def __post_init__(self) -> None:
        make_plain(self)
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), get_args(choices))
        if not isinstance(self.bf16, bool) and self.bf16 != "auto":
            raise ConfigError(f"`bf16` must be true, false or 'auto'; got {quoted(self.bf16)}.")
        if not isinstance(self.compile, bool):  # 1 and 0 are equal to True and False
            check_choice("compile", self.compile, [choice for choice in get_args(Compile) if isinstance(choice, str)])
        for name in ("fp16", "class_balanced_batches", "load_best_model_at_end", "two_steps", *UNLABELLED_FLAGS):
            check_flag(name, getattr(self, name))
        for name in ("greater_is_better", "disable_tqdm"):
            if getattr(self, name) is not None:
                check_flag(name, getattr(self, name))
        self._check_numbers()
        self._check_texts()
        self._check_together()

    def _check_numbers(self) -> None:
        for name, (kind, low, high) in RANGES.items():
            value = getattr(self, name)
            if value is None and getattr(type(self), name) is None:  # may be left out
                continue
            check_number(name, value, kind, low, high)
            object.__setattr__(self, name, kind(value))

    def _check_texts(self) -> None:
        for name in ("output_dir", "resume_from_checkpoint", "feature_cache"):
            if isinstance(getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(getattr(self, name)))
        if isinstance(self.output_dir, str):
            if is_url(self.output_dir):
                raise ConfigError(
                    f"`output_dir` must be a folder on this disk; got {quoted(self.output_dir)}, which is a URL. "
                    "`trainer.save_adapter` and `model.save_pretrained` take URLs."
                )
            object.__setattr__(self, "output_dir", os.path.expanduser(self.output_dir))  # `~` is the home
        if isinstance(self.report_to, list):
            object.__setattr__(self, "report_to", tuple(self.report_to))
        for name, kinds in (
            ("output_dir", (str, type(None))),
            ("resume_from_checkpoint", (bool, str, type(None))),
            ("feature_cache", str),
            ("metric_for_best_model", (str, type(None))),
            ("report_to", (str, tuple)),
        ):
            value = getattr(self, name)
            parts = value if isinstance(value, tuple) else ()
            if not isinstance(value, kinds) or value == "" or not all(isinstance(part, str) for part in parts):
                raise ConfigError(f"`{name}` must be text; got {quoted(value)}.")

    def _check_together(self) -> None:
        if self.bf16 and self.fp16:
            raise ConfigError("Choose one of `bf16` and `fp16`; both are set.")
        for strategy, steps in (("eval_strategy", "eval_steps"), ("save_strategy", "save_steps")):
            chosen, every = getattr(self, strategy), getattr(self, steps)
            if (chosen == "steps") != (every is not None):
                raise ConfigError(f"`{steps}` goes with `{strategy}='steps'`; got {every!r} with {chosen!r}.")
        if self.output_dir is None:
            on_disk = {
                "save_strategy": self.save_strategy != "no",
                "resume_from_checkpoint": self.resume_from_checkpoint in (True, "auto"),
                "report_to": any(name not in ("jsonl", "none") for name in self.trackers),
            }
            for name in (name for name, needs in on_disk.items() if needs):
                raise ConfigError(
                    f"`{name}={quoted(getattr(self, name))}` writes or reads files: give `output_dir` as well."
                )
        if self.compile and self.two_steps:
            raise ConfigError("`two_steps` is not compiled; leave out `compile` or `two_steps`.")
        if self.compile == "cuda-graphs" and self.fp16:
            raise ConfigError("A graph cannot hold the scaling of `fp16`; take `bf16=True` with compile='cuda-graphs'.")
        if self.eval_strategy == "no":
            for name in ("load_best_model_at_end", "early_stopping_patience"):
                if getattr(self, name):
                    raise ConfigError(f"`{name}` needs evaluations during training; `eval_strategy` is 'no'.")

    @classmethod
    def recipe(cls, name: str, config: CIAOConfig | None = None, **changes: Any) -> CIAOTrainingArguments:
        """The settings of a training by name; docs/howto/recipes.md says which to take.

        - `"paper"`: 30 epochs of batches of 64, balanced by class, as docs/results.md has it under the paper's name.
        - `"default"`: 12 epochs of batches of 128 in random order, with a warm-up, of each picture and its mirror.
        - `"small-data"`: the same for some hundred pictures: batches of 32, and 60 epochs, so that there are enough
          updates.
        - `"thorough"`: 24 epochs, of four views of each picture.

        Args:
            name: Of the recipe.
            config: Of the adapter: the form of its mask decides `mask_learning_rate`. When left out, the default form.
            changes: Settings of your own, which go before the recipe's.

        Raises:
            ConfigError: there is no such recipe, or what the settings refuse.

        Example:
            >>> arguments = CIAOTrainingArguments.recipe("default", seed=7)
            >>> arguments.num_train_epochs, arguments.views, arguments.seed
            (12.0, 2, 7)
            >>> CIAOTrainingArguments.recipe("papers")
            Traceback (most recent call last):
            ...
            ciao_peft.errors.ConfigError: Unknown recipe 'papers' of CIAOTrainingArguments; did you mean 'paper'?
        """
        return cls.from_dict(recipe_settings(name, config) | changes)

    @property
    def augmentation(self) -> Augmentation | None:
        """How the views of a picture differ, for `cache_features(views=arguments.views, augment=...)`; None with 1.

        With `views` left out, those of two; `completed` says how many they are.

        Example:
            >>> CIAOTrainingArguments(views=2).augmentation
            Augmentation(flip=1.0, crop=0.0, brightness=0.0, contrast=0.0, saturation=0.0, seed=0)
        """
        from ..features import Augmentation

        return Augmentation.of_views(2 if self.views is None else self.views)

    @property
    def trackers(self) -> tuple[str, ...]:
        """`report_to` as a tuple."""
        return self.report_to if isinstance(self.report_to, tuple) else (self.report_to,)

    def completed(self, num_samples: int, views: int = 2) -> CIAOTrainingArguments:
        """The settings with what was left out chosen for the data: those that `CIAOTrainer.train` trains with.

        Args:
            num_samples: Samples of the training data, which decide the recipe.
            views: Of each sample, where `views` is left out.

        Example:
            >>> settings = CIAOTrainingArguments(num_train_epochs=5).completed(num_samples=190)
            >>> settings.num_train_epochs, settings.per_device_train_batch_size, settings.views
            (5.0, 32, 2)
        """
        check_number("num_samples", num_samples, int, 0)
        check_number("views", views, int, 1)
        recipe = RECIPES[recipe_for(num_samples)] | {"views": views}
        left_out = ("num_train_epochs", "per_device_train_batch_size", "views")
        return replace(self, **{name: recipe[name] for name in left_out if getattr(self, name) is None})

    def learning_rates(self, tuning: str) -> dict[str, float]:
        """The highest learning rate of each part of an adapter.

        Args:
            tuning: The `CIAOConfig.tuning` of the adapter; decides the rate of the encoder where it is left out.

        Returns:
            Rates of `head`, `mask` and `encoder`.

        Example:
            >>> CIAOTrainingArguments(learning_rate=0.5, mask_learning_rate=3.0).learning_rates("last_conv")
            {'head': 0.5, 'mask': 3.0, 'encoder': 1.0}
        """
        head, mask, encoder = self.learning_rate, self.mask_learning_rate, self.encoder_learning_rate
        return {
            "head": head,
            "mask": head * MASK_RATE_FACTOR if mask is None else mask,
            "encoder": head * ENCODER_RATE_FACTOR.get(tuning, 1.0) if encoder is None else encoder,
        }

    def rate_factor(self, step: int, total_steps: int) -> float:
        """What every learning rate is multiplied by at an update, 0 to 1.

        Args:
            step: Updates made before it.
            total_steps: Updates of the whole training.

        Example:
            >>> arguments = CIAOTrainingArguments(lr_scheduler_type="linear", warmup_steps=2)
            >>> [arguments.rate_factor(step, 6) for step in range(6)]
            [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
        """
        warmup = min(self.warmup_steps or math.ceil(self.warmup_ratio * total_steps), total_steps)
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(total_steps - warmup, 1)
        if self.lr_scheduler_type == "linear":
            return 1 - progress
        return 0.5 * (1 + math.cos(math.pi * progress)) if self.lr_scheduler_type == "cosine" else 1.0

    def weight_settings(self, may_go_on: bool = True) -> dict[str, Any]:
        """The settings that decide the trained weights, as plain data. A resumed training must have the same.

        Args:
            may_go_on: Leave out the length of a training with a constant learning rate, which may be resumed for
                longer. `False` keeps the length, to compare finished trainings.

        Example:
            >>> settings = CIAOTrainingArguments(output_dir="runs", learning_rate=0.1).weight_settings()
            >>> settings["learning_rate"], "output_dir" in settings
            (0.1, False)
        """
        aside = {*ON_THE_WAY, *WHERE, *WHEN, *UNLABELLED, "per_device_eval_batch_size"}
        if not self.load_best_model_at_end and self.early_stopping_patience is None:
            aside |= {"metric_for_best_model", "greater_is_better", "early_stopping_threshold"}
        if may_go_on and self.lr_scheduler_type == "constant" and not self.warmup_ratio and not self.average_last:
            aside |= set(LENGTH) - {"warmup_steps"}  # may go on for longer
        return {name: value for name, value in self.to_dict().items() if name not in aside}

    def what_decides_the_weights(self, may_go_on: bool = True) -> dict[str, Any]:
        """The old name of `weight_settings`, for one release."""
        text = "`what_decides_the_weights` is called `weight_settings` now; the old name goes with the next release."
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return self.weight_settings(may_go_on)

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain data for JSON; `from_dict` gives equal arguments back.

        Example:
            >>> CIAOTrainingArguments(report_to=("jsonl", "tensorboard"), output_dir="runs").to_dict()["report_to"]
            ['jsonl', 'tensorboard']
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CIAOTrainingArguments:
        """The arguments that `to_dict` wrote.

        Raises:
            ConfigError: an unknown setting, or a value out of range.

        Example:
            >>> CIAOTrainingArguments.from_dict({"learning_rate": 0.1, "optim": "sgd"}).optim
            'sgd'
        """
        check_known("setting", values, [f.name for f in fields(cls)], "of CIAOTrainingArguments")
        return cls(**values)
