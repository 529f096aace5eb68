"""One adapter as plain data. Needs no torch."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

from .checking import check_choice, check_flag, check_known, check_number, is_number, make_plain
from .config_folder import ConfigOfFolder
from .errors import AdapterNameError, ConfigError, listed, quoted
from .presets import PRESETS

__all__ = [
    "BASE_ADAPTER",
    "CIAOConfig",
    "ContrastivePrototypes",
    "Denominator",
    "EmbeddingSource",
    "InhibitionForm",
    "InhibitionStart",
    "MultiLabelPositives",
    "Pooling",
    "ProblemType",
    "Reduction",
    "RegressionLoss",
    "TaskLossTrains",
    "Tuning",
    "check_adapter_name",
]

ProblemType = Literal["single_label_classification", "regression", "multi_label_classification"]
Tuning = Literal["decision_layer", "last_conv", "full"]
Pooling = Literal["flatten", "max", "avg"]
EmbeddingSource = Literal["features", "hidden", "logits"]
Denominator = Literal["all", "negatives", "class_average"]
ContrastivePrototypes = Literal["none", "learned", "simplex"]
Reduction = Literal["mean", "sum"]
RegressionLoss = Literal["mse", "ccc"]
MultiLabelPositives = Literal["same_set", "jaccard"]
InhibitionForm = Literal["rescaled", "divisive", "gain", "additive", "subtractive"]
InhibitionStart = Literal["copy", "random"]
TaskLossTrains = Literal["all", "head"]

_CHOICES = {
    "problem_type": ProblemType,
    "tuning": Tuning,
    "pooling": Pooling,
    "embedding_source": EmbeddingSource,
    "contrastive_denominator": Denominator,
    "contrastive_prototypes": ContrastivePrototypes,
    "contrastive_reduction": Reduction,
    "regression_loss": RegressionLoss,
    "multi_label_positives": MultiLabelPositives,
    "inhibition_form": InhibitionForm,
    "inhibition_start": InhibitionStart,
    "task_loss_trains": TaskLossTrains,
}

EXCITATION_RANK = 32
"""Rank of E beside a mask on the frozen encoder, where a config leaves it out."""

BASE_ADAPTER = "__base__"
"""In `adapter_names`, this name stands for the untouched backbone."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_-])?")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)  # on Windows


def check_adapter_name(name: object) -> str:
    """Checks that a name can be an adapter's: it is a folder name on every system, and not reserved.

    Args:
        name: 1 to 96 letters, digits, `_`, `-` or `.`. It starts with a letter, a digit or `_`, does not end with `.`,
            and is neither a device of Windows, such as `con`, nor `BASE_ADAPTER`.

    Returns:
        The name.

    Raises:
        AdapterNameError: it cannot be an adapter's name.

    Example:
        >>> check_adapter_name("jaffe-2.1")
        'jaffe-2.1'
        >>> check_adapter_name("__base__")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.AdapterNameError: '__base__' stands for the untouched backbone; give the adapter another name.
    """
    if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name) or _DEVICE.fullmatch(name):
        raise AdapterNameError(
            f"An adapter cannot be named {quoted(name)}: a name has 1 to 96 letters, digits, '_', '-' or '.', starts "
            "with a letter, digit or '_', does not end with '.' and is no device such as 'con', so that it can be a "
            "folder's name everywhere."
        )
    if name == BASE_ADAPTER:
        raise AdapterNameError(f"{BASE_ADAPTER!r} stands for the untouched backbone; give the adapter another name.")
    return name


def _as_index(key: Any) -> int:
    return int(key) if isinstance(key, str) else operator.index(key)  # JSON keys are text


@dataclass(frozen=True, kw_only=True)
class CIAOConfig(ConfigOfFolder):
    """Settings of one adapter. Frozen: `dataclasses.replace(config, temperature=0.2)` makes a new one.

    The defaults were chosen by measuring on real faces; docs/results/defaults.md has the measurements.

    Args:
        problem_type: Sets the task loss: cross-entropy, mean squared error or binary cross-entropy.
        num_labels: Number of classes, regressed values (2 for arousal and valence) or labels, by `problem_type`.
        id2label: Name of each class, value or label by its index; `LABEL_0`, `LABEL_1`, ... when left out.
        tuning: What is trained besides the head and the mask: nothing more (`"decision_layer"`), a copy of the
            last convolution for u (`"last_conv"`), or a copy of the whole encoder (`"full"`). The backbone itself
            stays frozen in all three cases.
        inhibition: Whether the adapter has the mask of Eq. 1. `False` gives the "-" columns of the paper's Table I.
        inhibition_form: How I acts on u: `"divisive"`, `M = u / (a + I)`, which is Eq. 1; `"rescaled"`, `M = max(1, a0)
            u / (a + I)`, which is Eq. 1 times the value at which a starts where that is above 1, so that a loud u does
            not reach the head as a faint M; `"gain"`, `M = u (a0 + relu(u)) / (a + I)`, which is u at the start,
            whatever follows the unit; or, for comparison, `"additive"`, `M = (u + I) / a`, and `"subtractive"`, `M = (u
            - I) / a`.
        inhibition_rank: Learn I as a change of this rank to u, `I = relu(u + J)`, 1 to 65536; when left out, I is a
            full copy of the convolution, as in the paper.
        excitation_rank: Add a learned change E of this rank to u, wherever u stands in `inhibition_form`, 0 to 65536;
            0 for none, as in the paper. Without inhibition, `M = u + E`, which is LoRA on the convolution of a unit
            without normalisation and activation. When left out, 32 where a mask is trained on the frozen encoder, and
            0 otherwise; `dataclasses.replace` and `to_dict` keep that number, whatever else they change.
        inhibition_start: Initial weights of the inhibitory copy: `"copy"` takes the convolution's, as in the paper;
            `"random"` draws them as for a fresh convolution, seeded by `init_seed` (a full copy only).
        target_modules: Exact paths of the convolutions to mask; the last ones when left out
            (docs/backbones.md).
        decay_init: Starting value of `a` in Eq. 1, 1e-5 to 1e6, in the units of the activation it is added to. When
            left out, `CIAOTrainer` sets it before the first update, to about nine standard deviations of u over a few
            hundred training samples (`ciao_peft.calibration.decay_start`), and writes it into the adapter's config. An
            `a` that a training loop of your own has changed stays.
        learn_decay: Whether `a` is learned; otherwise it stays at `decay_init`.
        pooling: What the head receives of the masked map: all of it (`"flatten"`), its 2x2 maxima (`"max"`), or its
            mean (`"avg"`, which forgets where in the face something happened).
        spatial_maps: Let the head read the pooled map through this many learned maps of its positions, 1 to 1024,
            followed by a layer normalisation: with `hidden_sizes=()`, a head of some ten thousand numbers in place of
            some hundred thousand. When left out, the head reads every position by itself.
        depths: Earlier units of the frozen trunk whose answers, averaged over positions, the head reads beside the
            masked map: exact paths of convolutions (their conv unit answers) or of other modules that give a map, up to
            64; or how many of the conv units before the mask, evenly spaced, whose paths the adapter's config then
            holds. None when left out, as in the paper.
        depth_grid: Rows and columns of the grid over whose cells `depths` are averaged, 1 to 16; 1 for one mean of each
            channel.
        frames: For clips, the number of frames in each: a sample is then `(T, C, H, W)`, and the masked maps of its
            frames go through an LSTM before the dense layers. For single pictures when left out.
        recurrent_size: Units of that LSTM; required with `frames`, and only with it.
        hidden_sizes: Units of the head's dense ReLU layers (Fig. 2), up to 16 of them; empty for a linear head.
        dropout: Share of a dense layer's outputs zeroed in training, 0 to 0.999.
        temperature: τ of Eq. 2, 1e-6 to 1e6. At small values the hardest negatives dominate.
        contrastive_weight: Factor λ of the contrastive loss in Eq. 5, at least 0.
        task_loss_trains: What the task loss of Eq. 5 trains: `"all"` parameters of the adapter; or the `"head"` alone,
            so that the mask and the adapter's own copies of the encoder learn from the contrastive loss only.
        contrastive_denominator: What k runs over in Eq. 2: `"all"` other samples (Khosla et al. 2020), the
            `"negatives"` only, as the paper writes, or all with the `"class_average"` of each class in place of its
            sum (Zhu et al. 2022), so that common classes do not outweigh rare ones; classes only.
        contrastive_prototypes: One more sample of each class for the contrastive loss of every batch, so that none is
            missing there: a `"learned"` point (Zhu et al. 2022) or a fixed vertex of a `"simplex"`; classes only.
        contrastive_reduction: `"mean"` over pairs, then over anchors; or `"sum"`: Eq. 3-4 as written.
        embedding_source: What serves as the embedding z: the pooled `"features"` (for a clip their mean over the
            frames), the output of the head's last `"hidden"` layer, or its `"logits"`.
        num_bins: Cells per dimension into which regressed values are sorted to find positives, 2 to 1000.
        label_range: Lowest and highest regressed value, for those cells.
        multi_label_positives: Which samples of several labels are a positive pair: those with the `"same_set"` of
            labels, or all with the weight of their `"jaccard"` overlap.
        regression_loss: `"mse"`, as in the paper, or `"ccc"`: one minus the concordance over the batch.
        logit_adjustment: τ of the task loss on `logits + τ log π`, 0 to 10, π being the frequencies of the classes in
            the training (Menon et al. 2021): above 0, rare classes are learned better, at some cost in common ones.
            Single-label classification only.
        class_prior: π, a share above 0 for each class; `CIAOTrainer` notes it. `predict(..., prior=...)` needs it to
            answer for other frequencies.
        probability_temperature: Logits are divided by it before they become probabilities, 0.01 to 100;
            `CIAOTrainer.calibrate` finds it on held-out samples. It changes no order of the answers.
        train_batch_norm: Whether the batch-norm statistics of the adapter's own copies follow its data. When `False`
            they stay the backbone's, so that a batch of one trains as well as any; gains and biases still learn.
        init_seed: Seed of the head's initial values, 0 or more. The global random state is never touched.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, id2label={0: "arousal", 1: "valence"})
        >>> dataclasses.replace(config, temperature=0.2).temperature
        0.2
        >>> CIAOConfig.from_dict({"problem_type": "regression", "num_labels": 2, "temprature": 1})
        Traceback (most recent call last):
        ...
        ciao_peft.errors.ConfigError: Unknown setting 'temprature' of CIAOConfig; did you mean 'temperature'?

    Raises:
        ConfigError: a value is of the wrong type or out of its range; the message names the setting.
    """

    problem_type: ProblemType
    num_labels: int
    id2label: Mapping[int, str] = cast("Mapping[int, str]", None)  # `__post_init__` puts the names in
    tuning: Tuning = "decision_layer"
    inhibition: bool = True
    inhibition_form: InhibitionForm = "rescaled"
    inhibition_rank: int | None = None
    excitation_rank: int = cast("int", None)  # `__post_init__` puts the number in
    inhibition_start: InhibitionStart = "copy"
    target_modules: tuple[str, ...] | None = None
    decay_init: float | None = None
    learn_decay: bool = True
    pooling: Pooling = "flatten"
    spatial_maps: int | None = None
    depths: tuple[str, ...] | int | None = None
    depth_grid: int = 1
    frames: int | None = None
    recurrent_size: int | None = None
    hidden_sizes: tuple[int, ...] = (256,)
    dropout: float = 0.5
    temperature: float = 0.1
    contrastive_weight: float = 0.1
    task_loss_trains: TaskLossTrains = "all"
    contrastive_denominator: Denominator = "all"
    contrastive_prototypes: ContrastivePrototypes = "none"
    contrastive_reduction: Reduction = "mean"
    embedding_source: EmbeddingSource = "features"
    num_bins: int = 10
    label_range: tuple[float, float] = (-1.0, 1.0)
    multi_label_positives: MultiLabelPositives = "jaccard"
    regression_loss: RegressionLoss = "mse"
    logit_adjustment: float = 0.0
    class_prior: tuple[float, ...] | None = None
    probability_temperature: float = 1.0
    train_batch_norm: bool = False
    init_seed: int = 0

    def __post_init__(self) -> None:
        make_plain(self)
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), get_args(choices))
        for name in ("inhibition", "learn_decay", "train_batch_norm"):
            check_flag(name, getattr(self, name))
        if getattr(self, "excitation_rank") is None:  # noqa: B009 - whatever the caller gave, None included
            has_mask = self.inhibition and self.tuning == "decision_layer"
            object.__setattr__(self, "excitation_rank", EXCITATION_RANK if has_mask else 0)
        check_number("num_labels", self.num_labels, int, 1, 1_000_000)
        check_number("num_bins", self.num_bins, int, 2, 1000)
        check_number("init_seed", self.init_seed, int, 0, 2**63 - 1)
        if self.decay_init is not None:
            check_number("decay_init", self.decay_init, float, 1e-5, 1e6)  # `a` itself stays above 1e-6
        check_number("temperature", self.temperature, float, 1e-6, 1e6)
        check_number("contrastive_weight", self.contrastive_weight, float, 0, 1e6)
        check_number("dropout", self.dropout, float, 0, 0.999)
        check_number("logit_adjustment", self.logit_adjustment, float, 0, 10)
        check_number("probability_temperature", self.probability_temperature, float, 0.01, 100)
        self._check_compact()
        self._check_for_classes()
        self._check_clips()
        self._check_sequences()
        self._check_id2label()
        self._check_prior()
        if self.problem_type == "single_label_classification" and self.num_labels < 2:
            raise ConfigError("`num_labels` must be 2 or more for single_label_classification; got 1.")

    def _check_for_classes(self) -> None:
        if self.problem_type == "single_label_classification":
            return
        for name, for_all in (("contrastive_denominator", {"all", "negatives"}), ("contrastive_prototypes", {"none"})):
            if getattr(self, name) not in for_all:
                raise ConfigError(
                    f"`{name}={getattr(self, name)!r}` goes by the class of each sample, with problem_type="
                    f"'single_label_classification'; this is {self.problem_type!r}."
                )

    def _check_compact(self) -> None:
        check_number("excitation_rank", self.excitation_rank, int, 0, 65_536)
        if self.inhibition_rank is not None:
            check_number("inhibition_rank", self.inhibition_rank, int, 1, 65_536)
            if self.inhibition and self.inhibition_start == "random":
                raise ConfigError(
                    "`inhibition_start='random'` draws the weights of a full copy, and `inhibition_rank="
                    f"{self.inhibition_rank}` has none; leave one of them out."
                )

        if self.spatial_maps is not None:
            check_number("spatial_maps", self.spatial_maps, int, 1, 1024)
            if self.pooling == "avg":
                raise ConfigError("`spatial_maps` weights positions, and `pooling='avg'` leaves none; use one of them.")

        check_number("depth_grid", self.depth_grid, int, 1, 16)

    def _check_clips(self) -> None:
        if (self.frames is None) != (self.recurrent_size is None):
            raise ConfigError(
                "`frames` and `recurrent_size` go together: clips need both, single pictures neither; got "
                f"{quoted(self.frames)} and {quoted(self.recurrent_size)}."
            )
        if self.frames is not None:
            check_number("frames", self.frames, int, 1, 10_000)
            check_number("recurrent_size", self.recurrent_size, int, 1, 1_000_000)

    def _check_sequences(self) -> None:
        def refuse(name: str, expected: str) -> None:
            raise ConfigError(f"`{name}` must be {expected}; got {quoted(getattr(self, name))}.")

        def as_tuple(name: str) -> tuple[Any, ...] | None:
            value: Any = getattr(self, name)
            if not isinstance(value, list | tuple):
                return None
            entries = tuple(cast("Sequence[Any]", value))
            object.__setattr__(self, name, entries)  # JSON makes lists of tuples
            return entries

        sizes = as_tuple("hidden_sizes")
        if sizes is None or len(sizes) > 16 or not all(is_number(size, int, 1, 1e6) for size in sizes):
            refuse("hidden_sizes", "up to 16 whole numbers of 1 or more")
        bounds = as_tuple("label_range")
        if (
            bounds is None
            or len(bounds) != 2
            or not all(is_number(bound, float, -1e30, 1e30) for bound in bounds)
            or not bounds[0] < bounds[1]
        ):
            refuse("label_range", "two finite numbers, the lower one first")
        paths_in = [name for name in ("target_modules", "depths") if getattr(self, name) is not None]
        for name in paths_in:
            if name == "depths" and is_number(self.depths, int, 1, 64):
                continue
            paths = as_tuple(name)
            if not paths or not all(isinstance(path, str) and path for path in paths):
                number = ", or a number of units, 1 to 64" if name == "depths" else ""
                refuse(name, f"a non-empty tuple of module paths{number}")
            elif len(set(paths)) != len(paths):
                refuse(name, "without repetition")
            elif name == "depths" and len(paths) > 64:
                refuse(name, "64 paths at most")

    def _check_prior(self) -> None:
        single = self.problem_type == "single_label_classification"
        if not single and (self.logit_adjustment or self.class_prior is not None):
            raise ConfigError(
                "`logit_adjustment` and `class_prior` are for one class of several, "
                f"problem_type='single_label_classification'; this is {self.problem_type!r}."
            )
        if self.class_prior is None:
            return
        shares: Any = self.class_prior
        shares = tuple(cast("Sequence[Any]", shares)) if isinstance(shares, list | tuple) else ()
        if len(shares) != self.num_labels or not all(is_number(share, float, 1e-12, 1) for share in shares):
            raise ConfigError(
                f"`class_prior` must be {self.num_labels} shares above 0, one for each class; got "
                f"{quoted(self.class_prior)}."
            )
        if abs(sum(shares) - 1) > 1e-6:
            raise ConfigError(f"The shares of `class_prior` must add up to 1; they add up to {sum(shares)}.")
        object.__setattr__(self, "class_prior", shares)

    def _check_id2label(self) -> None:
        given: Any = getattr(self, "id2label")  # noqa: B009 - whatever the caller gave, None included
        if given is None:
            names = {i: f"LABEL_{i}" for i in range(self.num_labels)}
        else:
            refusal = ConfigError(f"`id2label` must map indices to names; got {quoted(given)}.")
            try:
                pairs = [(_as_index(index), str(name)) for index, name in dict(given).items()]
            except (TypeError, ValueError):
                raise refusal from None
            names = dict(pairs)
            if len(names) < len(pairs):
                raise refusal
        if sorted(names) != list(range(self.num_labels)):
            raise ConfigError(
                f"`id2label` must name every index from 0 to {self.num_labels - 1} (`num_labels` is "
                f"{self.num_labels}); it names {sorted(names)}."
            )
        for name in names.values():
            if any("\ud800" <= sign <= "\udfff" for sign in name):
                raise ConfigError(f"{quoted(name)} of `id2label` is no text: half of a sign is missing.")
        if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
            raise ConfigError(f"`id2label` must give each index a name of its own; {listed(twice)} is there twice.")
        object.__setattr__(self, "id2label", {index: names[index] for index in range(self.num_labels)})

    def __hash__(self) -> int:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return hash(tuple((values | {"id2label": tuple(self.id2label.items())}).values()))

    def to_dict(self) -> dict[str, Any]:
        """Turns the settings into plain data for JSON.

        Returns:
            Every setting by name, where tuples have become lists and label indices text. `from_dict` makes an equal
            config of it.

        Example:
            >>> data = CIAOConfig(problem_type="regression", num_labels=1, hidden_sizes=(64,)).to_dict()
            >>> data["hidden_sizes"], data["id2label"]
            ([64], {'0': 'LABEL_0'})
        """
        values: dict[str, Any] = {}
        for setting in fields(self):
            value = getattr(self, setting.name)
            values[setting.name] = [*value] if isinstance(value, tuple) else value
        return values | {"id2label": {str(index): name for index, name in self.id2label.items()}}

    @classmethod
    def preset(cls, name: str, **changes: Any) -> CIAOConfig:
        """Makes a config of settings that stay under their name, whatever the defaults become.

        `"paper"` is CIAO as docs/results.md measures it: Eq. 1-5, and one choice wherever the paper leaves one. Eq. 2-4
        to the letter are that with `contrastive_denominator="negatives"` and `contrastive_reduction="sum"`. `"compact"`
        is what the adapters in the package are: the gain form with ranks of 16, and a head of eight maps of positions.
        `"small-data"` is for some hundred pictures: the rescaled form without E, which few pictures do not teach.

        Args:
            name: `"paper"`, `"compact"` or `"small-data"`.
            changes: Settings of its own, `problem_type` and `num_labels` among them; they go before the preset's.

        Raises:
            ConfigError: there is no such preset, or what `from_dict` refuses.

        Example:
            >>> config = CIAOConfig.preset("paper", problem_type="regression", num_labels=2, dropout=0.1)
            >>> config.inhibition_form, config.hidden_sizes, config.dropout
            ('divisive', (256,), 0.1)
        """
        check_known("preset", [name], [*PRESETS], "of CIAOConfig")
        return cls.from_dict(PRESETS[name] | changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CIAOConfig:
        """Makes a config of what `to_dict` returned.

        Args:
            values: Settings by name. Those with a default may be missing.

        Raises:
            ConfigError: an unknown or missing setting, or a value out of range. A key that this version does not know
                is never dropped: it could change the mathematics.

        Example:
            >>> config = CIAOConfig(problem_type="regression", num_labels=2)
            >>> CIAOConfig.from_dict(config.to_dict()) == config
            True
        """
        check_known("setting", values, [f.name for f in fields(cls)], "of CIAOConfig")
        required = {f.name for f in fields(cls) if f.default is dataclasses.MISSING}
        if missing := required - set(values):
            raise ConfigError(f"CIAOConfig needs {listed(missing)}.")
        return cls(**values)
