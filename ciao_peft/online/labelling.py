"""Labels of corrections, by name or by number, as rows of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from ..checking import check_plain, closest, is_number
from ..config import CIAOConfig
from ..errors import ContradictionError, CorrectionError, InputError, UnknownLabelError, listed, quoted, shortened
from ..labels import check_labels
from ..surroundings import as_tensor
from .reading import as_rows
from .rows import same_faces

__all__ = ["check_values", "distinct", "label_rows", "new_names"]

_LARGEST = torch.finfo(torch.float32).max


def new_names(given: Any, config: CIAOConfig, count: int) -> list[str]:
    """Names among labels that the adapter does not know, in the order in which they come.

    Args:
        given: As for `label_rows`.
        config: Of the adapter.
        count: Number of faces.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2, id2label={0: "a", 1: "b"})
        >>> new_names(["a", "confused"], config, 2)
        ['confused']
    """
    known = set(config.id2label.values())
    names: list[str] = []
    for entry in _entries(given, config, count) or ():
        parts = [entry] if isinstance(entry, str) else entry if _is_names(entry) else ()
        names += [name for name in parts if name not in known]
    return list(dict.fromkeys(names))


def label_rows(given: Any, config: CIAOConfig, count: int) -> Tensor:
    """Labels of faces as rows of numbers.

    Args:
        given: For each face by `problem_type`: the name or the id of its class, or `{name: share}`; the names of its
            labels; `{name: value}`. Or a tensor, an array or lists of numbers, as `check_labels` takes them. For one
            face also its label alone.
        config: Of the adapter.
        count: Number of faces.

    Returns:
        `(count, num_labels)`, float32: shares of classes, 0 and 1, or values.

    Raises:
        UnknownLabelError: the adapter does not know a label.
        InputError: there are more or fewer labels than faces, or they are none of this problem.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2, id2label={0: "a", 1: "b"})
        >>> label_rows(["b", "a"], config, 2)
        tensor([[0., 1.],
                [1., 0.]])
        >>> label_rows("c", config, 1)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.UnknownLabelError: The adapter knows no 'c'; it knows 'a', 'b'. `add_class=True` adds it.
    """
    if given is None:
        raise CorrectionError("Corrections need labels: give one for each face.")
    entries = _entries(given, config, count)
    if entries is None:
        raise InputError(f"`labels` of {count} faces are names or numbers, one for each; got {quoted(given)}.")
    if len(entries) != count:
        raise InputError(f"There are {count} faces and {len(entries)} labels; give one label for each face.")
    if any(isinstance(entry, (str, Mapping)) or _is_names(entry) for entry in entries):
        return torch.stack([_row(entry, config) for entry in entries]) if entries else _empty(config)
    return _from_numbers(given, config, count)


def _from_numbers(given: Any, config: CIAOConfig, count: int) -> Tensor:
    tensor = _numbers(given, config)
    if count == 1 and (tensor.ndim == 0 or (tensor.ndim == 1 and len(tensor) == config.num_labels > 1)):
        tensor = tensor[None]
    whole = not tensor.is_floating_point() and not tensor.is_complex()
    if tensor.ndim == 1 and whole and config.problem_type == "single_label_classification":
        ids = tensor.tolist()
        for number in ids:
            if not 0 <= int(number) < config.num_labels:
                _unknown(number, config)
    return as_rows(check_labels(tensor, config, count), config)


def _numbers(given: Any, config: CIAOConfig) -> Tensor:
    """Numbers as a tensor that has values."""
    try:
        tensor = as_tensor(given)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        why = shortened(str(error).splitlines()[0] if str(error) else type(error).__name__, 80)
        raise InputError(f"`labels` are no labels of {config.problem_type}: {quoted(given)} ({why}).") from None
    check_plain("labels", tensor, has_values=True)
    return tensor


def check_values(rows: Tensor, config: CIAOConfig, known: Tensor) -> None:
    """Refuses regressed values that the adapter cannot have learned: one of them would tear all weights along.

    Args:
        rows: `(B, V)`, as `label_rows` gives them.
        config: Of the adapter: gives `label_range`. Labels of other problems are checked by `label_rows`.
        known: Labels of the memory, `(N, V)`, which widen the range where they lie beyond it.

    Raises:
        InputError: a value lies outside.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, id2label={0: "arousal"})
        >>> check_values(torch.tensor([[1e38]]), config, torch.empty(0, 1))
        Traceback (most recent call last):
        ...
        ciao_peft.errors.InputError: 'arousal' of correction 0 is 1e+38; values here run from -1 to 1 (`label_range`).
    """
    if config.problem_type != "regression":
        return
    low, high = config.label_range
    if known.numel():
        low, high = min(low, float(known.min())), max(high, float(known.max()))
    outside = ((rows < low) | (rows > high)).nonzero()
    if len(outside):
        row, column = outside[0].tolist()
        name, value = config.id2label[column], rows[row, column].item()
        raise InputError(
            f"{quoted(name)} of correction {row} is {value:g}; values here run from {low:g} to {high:g} "
            "(`label_range`)."
        )


def _row(entry: Any, config: CIAOConfig) -> Tensor:
    places = {name: index for index, name in config.id2label.items()}
    row = torch.zeros(config.num_labels, dtype=torch.float32, device="cpu")
    kind = config.problem_type
    if isinstance(entry, Mapping):
        values = cast("Mapping[Any, Any]", entry)
        for name, value in values.items():
            if name not in places:
                _unknown(name, config)
            if not is_number(value, float, -_LARGEST, _LARGEST):
                raise InputError(
                    f"The label {quoted(name)} has {quoted(value)}, which is no number that float32 holds."
                )
            row[places[name]] = float(value)
        if kind == "regression" and len(values) < config.num_labels:
            raise InputError(f"A correction gives all values, {listed(places)}; got {listed(values)}.")
        return check_labels(row[None], config)[0]
    if isinstance(entry, int) and not isinstance(entry, bool) and kind == "single_label_classification":
        if not 0 <= entry < config.num_labels:
            _unknown(entry, config)
        names: Sequence[Any] = [config.id2label[entry]]
    else:
        names = [entry] if isinstance(entry, str) else list(cast("Any", entry)) if _is_names(entry) else []
    if kind == "regression" or (not names and not _is_names(entry)):
        raise InputError(f"A label of {kind} with the names {listed(places)} cannot be {quoted(entry)}.")
    if kind == "single_label_classification" and len(names) != 1:
        raise InputError(f"A face has one class; got {quoted(entry)}.")
    for name in names:
        if name not in places:
            _unknown(name, config)
        row[places[name]] = 1.0
    return row


def _unknown(label: Any, config: CIAOConfig) -> NoReturn:
    names = list(config.id2label.values())
    close = closest(label, names) if isinstance(label, str) else []
    if isinstance(label, str) and config.problem_type != "regression":
        hint = f" Did you mean {close[0]!r}?" if close else " `add_class=True` adds it."
    else:
        hint = f" Ids run from 0 to {config.num_labels - 1}." if config.problem_type != "regression" else ""
    raise UnknownLabelError(f"The adapter knows no {quoted(label)}; it knows {listed(names)}.{hint}")


def _entries(given: Any, config: CIAOConfig, count: int) -> Any:
    """Labels face by face; None where they are no sequence."""
    if isinstance(given, (str, Mapping)) or (is_number(given) and not hasattr(given, "shape")):
        return [given]
    if getattr(getattr(given, "dtype", None), "kind", "") in ("U", "S", "O"):  # names in an array of NumPy
        given = given.tolist()
    if isinstance(given, Tensor) or hasattr(given, "__array__"):
        tensor = _numbers(given, config)
        one = tensor.ndim == 0 or (count == 1 and tensor.ndim == 1 and len(tensor) == config.num_labels > 1)
        return [given] if one else list(tensor)
    several = count != 1 or config.problem_type != "multi_label_classification"
    if isinstance(given, Sequence) and not isinstance(given, (bytes, bytearray)):  # such as a column of `datasets`
        given = list(cast("Sequence[Any]", given))
    if not isinstance(given, list if several else (list, set, frozenset)):
        return None  # a set has no order by which its names would belong to faces
    entries = list(cast("Sequence[Any]", given))
    alone = config.problem_type == "multi_label_classification" and all(isinstance(entry, str) for entry in entries)
    values = config.num_labels > 1 and len(entries) == config.num_labels and all(map(is_number, entries))
    if count == 1 and (alone or (values and count != len(entries))):
        return [entries]
    return entries


def _is_names(entry: Any) -> bool:
    return isinstance(entry, (list, tuple, set, frozenset)) and all(isinstance(part, str) for part in entry)


def _empty(config: CIAOConfig) -> Tensor:
    return torch.empty(0, config.num_labels, dtype=torch.float32, device="cpu")


def distinct(sketches: Tensor, labels: Tensor, names: Sequence[str]) -> list[int]:
    """The first of each face, where one was given several times.

    Args:
        sketches: `(B, 16)`, of `sketches_of`.
        labels: `(B, num_labels)`.
        names: Of the labels, for the message.

    Returns:
        Numbers of the faces that are kept.

    Raises:
        ContradictionError: a face has two labels.

    Example:
        >>> distinct(torch.ones(3, 16), torch.tensor([[0.0, 1.0]]).expand(3, 2), ["sad", "glad"])
        [0]
    """
    kept: list[int] = []
    for place in range(len(labels)):
        found = same_faces(sketches[place : place + 1], sketches[kept])[0]
        if found < 0:
            kept.append(place)
        elif not torch.equal(labels[kept[found]], labels[place]):
            first = kept[found]
            said = [_said(labels[number], names) for number in (first, place)]
            raise ContradictionError(
                f"Corrections {first} and {place} show the same face, as {said[0]} and as {said[1]}. Leave one of them "
                "out; across calls, the newest counts."
            )
    return kept


def _said(row: Tensor, names: Sequence[str]) -> str:
    on = [name for name, value in zip(names, row.tolist(), strict=True) if value]
    is_set = bool(((row == 0) | (row == 1)).all())
    return listed(on) if is_set else quoted([round(value, 4) for value in row.tolist()])
