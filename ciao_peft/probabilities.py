"""From logits to probabilities: the frequencies of the classes, and how sure an adapter may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor

from ._shapes import Float, Shaped
from .checking import all_finite, is_number
from .config import CIAOConfig
from .errors import ConfigError, InputError, listed, quoted
from .labels import widest_dtype

__all__ = ["Prior", "adjusted_logits", "check_has_probabilities", "class_prior", "fit_temperature", "probabilities"]

Prior = Mapping[str, float] | Literal["uniform", "training"]
"""How frequent the classes are where answers are wanted: by name, all alike, or as in the training."""


def class_prior(labels: Shaped[Tensor, ...], num_labels: int, balance: float = 0.0) -> tuple[float, ...]:
    r"""How frequent the classes are in what an adapter is trained on, with one sample more of each.

    $$\pi_y \propto (n_y + 1)^{1 - b}$$

    Args:
        labels: `(N,)` class ids or `(N, num_labels)` distributions, of the training data.
        num_labels: Number of classes.
        balance: b, from 0 to 1: how far batches are balanced (`CIAOTrainingArguments.class_balance`).

    Returns:
        `num_labels` shares above 0 that add up to 1.

    Example:
        >>> class_prior(torch.tensor([0, 0, 0, 1, 1]), num_labels=3)
        (0.5, 0.375, 0.125)
    """
    rows = labels.detach().cpu()
    counts = torch.bincount(rows, minlength=num_labels).double() if rows.ndim == 1 else rows.double().sum(dim=0)
    weights = (counts + 1) ** (1 - balance)
    return tuple((weights / weights.sum()).tolist())


def _logs(shares: tuple[float, ...], like: Tensor) -> Tensor:
    logs = [math.log(share) if share else -math.inf for share in shares]  # log 0: never that class
    return torch.tensor(logs, dtype=like.dtype, device=like.device)


def adjusted_logits(logits: Float[Tensor, "batch num_labels"], config: CIAOConfig) -> Float[Tensor, "batch num_labels"]:
    r"""The logits as the task loss sees them: `logits + τ log π` (logit adjustment, Menon et al. 2021, Eq. 10).

    A common class must then win by more than its frequency gives it for free, so that rare classes are learned too.

    Args:
        logits: `(B, num_labels)`.
        config: Gives τ as `logit_adjustment`, and π as `class_prior`.

    Returns:
        `(B, num_labels)`, in the dtype of the logits.

    Raises:
        ConfigError: τ is above 0, and the config has no `class_prior`.

    Example:
        >>> config = CIAOConfig(
        ...     problem_type="single_label_classification", num_labels=2, logit_adjustment=1.0, class_prior=(0.8, 0.2)
        ... )
        >>> adjusted_logits(torch.zeros(1, 2), config).softmax(dim=1)
        tensor([[0.8000, 0.2000]])
    """
    if config.logit_adjustment == 0:
        return logits
    if config.class_prior is None:
        raise ConfigError(
            f"`logit_adjustment={config.logit_adjustment}` needs the frequencies of the classes. CIAOTrainer notes "
            "them; in a loop of your own give `class_prior=ciao_peft.probabilities.class_prior(labels, num_labels)`."
        )
    return logits + config.logit_adjustment * _logs(config.class_prior, logits)


def probabilities(
    logits: Float[Tensor, "batch num_labels"], config: CIAOConfig, prior: Prior | None = None
) -> Float[Tensor, "batch num_labels"]:
    r"""The probability of each class, of one class of several; of each label by itself, where several may be on.

    $$p(y) \propto \exp\left(\frac{s_y}{T} + \log \pi'_y - (1 - \tau) \log \pi_y\right)$$

    s are the logits, T is the config's `probability_temperature`, π the frequencies of the training, τ its
    `logit_adjustment`, and π' the frequencies where the answers are wanted (Saerens et al. 2002). Without π', the last
    two terms are left out.

    Args:
        logits: `(B, num_labels)`.
        config: Config of the adapter that gave them.
        prior: π': a share for each class by name, 0 or more; `"uniform"`, or `"training"` for π.

    Returns:
        `(B, num_labels)` from 0 to 1, in float32 or wider; of one class of several, rows add up to 1.

    Raises:
        ConfigError: regression, which has no probabilities; a `prior` for other than one class of several, for an
            adapter without `class_prior`, or one that does not name each class.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2, class_prior=(0.8, 0.2))
        >>> unsure = torch.tensor([[0.8, 0.2]]).log()
        >>> probabilities(unsure, config), probabilities(unsure, config, "uniform")
        (tensor([[0.8000, 0.2000]]), tensor([[0.5000, 0.5000]]))
    """
    if config.problem_type == "regression":
        raise ConfigError("A regressed value has no probability; the logits are the values.")
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) / config.probability_temperature
    if config.problem_type == "multi_label_classification":
        if prior is not None:
            raise ConfigError("`prior` is for one class of several; here each label is on or off by itself.")
        return scaled.sigmoid()
    if prior is not None:
        scaled = scaled + _shift(prior, config, scaled)
    return scaled.softmax(dim=1)


def _shift(prior: Prior, config: CIAOConfig, like: Tensor) -> Tensor:
    if config.class_prior is None:
        raise ConfigError(
            "`prior` goes from the frequencies of the training to others, and this adapter does not know the first: "
            "it was not trained by CIAOTrainer, which notes them, or by a version that did not. Train it, or set "
            "`class_prior` in its config."
        )
    before = (1 - config.logit_adjustment) * _logs(config.class_prior, like)
    if isinstance(prior, str) and prior in ("uniform", "training"):  # an array would compare each of its numbers
        return -before if prior == "uniform" else _logs(config.class_prior, like) - before
    return _logs(_by_class(prior, config), like) - before


def _by_class(prior: object, config: CIAOConfig) -> tuple[float, ...]:
    names = [config.id2label[index] for index in range(config.num_labels)]
    expected = f"'uniform', 'training', or a share of 0 or more for each of {listed(names)}, not all of them 0"
    if not isinstance(prior, Mapping) or set(cast("Mapping[object, object]", prior)) != set(names):
        raise ConfigError(f"`prior` must be {expected}; got {quoted(prior)}.")
    shares = [cast("Mapping[str, object]", prior)[name] for name in names]
    if not all(is_number(share, float, 0, 1e300) for share in shares) or not any(shares):
        raise ConfigError(f"`prior` must be {expected}; got {quoted(prior)}.")
    numbers = [float(cast("float", share)) for share in shares]
    return tuple(number / max(numbers) for number in numbers)  # near 1, whose logarithm any dtype holds well


def check_has_probabilities(config: CIAOConfig) -> None:
    """Refuses to look for a temperature of regressed values.

    Args:
        config: Of the adapter.

    Raises:
        ConfigError: it is of regression.

    Example:
        >>> check_has_probabilities(CIAOConfig(problem_type="single_label_classification", num_labels=2))
    """
    if config.problem_type == "regression":
        raise ConfigError("A regressed value has no probability, and no temperature.")


def fit_temperature(logits: Float[Tensor, "batch num_labels"], labels: Tensor, config: CIAOConfig) -> float:
    r"""Finds the T at which the probabilities of held-out samples are likeliest (temperature scaling, Guo et al. 2017).

    It changes how sure the answers are, and never which one is first.

    Args:
        logits: `(B, num_labels)`, of samples that the adapter was not trained on.
        labels: `(B,)` class ids or `(B, num_labels)` distributions; sets of labels `(B, num_labels)`.
        config: Config of the adapter that gave the logits; its own `probability_temperature` does not count.

    Returns:
        T, from 0.01 to 100.

    Raises:
        ConfigError: regression, which has no probabilities.
        InputError: there are no samples, or logits that are not finite.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> logits = torch.tensor([[8.0, 0.0]] * 3 + [[0.0, 8.0]])  # sure of everything, and wrong once in four times
        >>> round(fit_temperature(logits, torch.tensor([0, 0, 0, 0]), config), 2)  # 8 / log(3)
        7.28
    """
    check_has_probabilities(config)
    if not len(logits) or not all_finite(logits):
        raise InputError(f"A temperature is fitted to finite logits of one sample or more; got {tuple(logits.shape)}.")
    exact = logits.detach().to("cpu").to(widest_dtype(torch.device("cpu")))
    target = labels.detach().to("cpu")
    target = target.to(exact.dtype) if target.ndim == 2 else target
    one_of_many = config.problem_type == "single_label_classification"
    loss = torch.nn.functional.cross_entropy if one_of_many else torch.nn.functional.binary_cross_entropy_with_logits
    log_t = torch.zeros((), dtype=exact.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(exact / log_t.clamp(-4.6, 4.6).exp(), target)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    return math.exp(min(max(log_t.item(), -4.6), 4.6))
