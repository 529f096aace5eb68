"""Several adapters on one batch: which of them can share a trunk pass, and which rows are whose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backbone import CutBackbone, HookedBackbone, Rooted
from ..backbone.frozen import BorrowedBackbone
from ..config import BASE_ADAPTER
from ..errors import AdapterNotFoundError, InputError, listed
from .adapter import Adapter


def rows_by_adapter(names: Sequence[str], num_rows: int, loaded: Mapping[str, Adapter]) -> dict[str, list[int]]:
    """The rows of a mixed batch by the adapter that reads them, in order of first appearance.

    Raises:
        InputError: not one name for each row.
        AdapterNotFoundError: a name that is neither loaded nor the backbone's.

    Example:
        >>> rows_by_adapter(["fer", "__base__", "fer"], 3, {"fer": None})
        {'fer': [0, 2], '__base__': [1]}
    """
    if isinstance(names, str):
        raise InputError(f"`adapter_names` takes one name per row, a list; got the text {names!r}.")
    if len(names) != num_rows:
        raise InputError(f"`adapter_names` must name an adapter for each of the {num_rows} rows; got {len(names)}.")
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        if name != BASE_ADAPTER and name not in loaded:
            raise AdapterNotFoundError(name, loaded)
        rows.setdefault(name, []).append(row)
    return rows


def frames_read(names: Sequence[str], loaded: Mapping[str, Adapter]) -> int | None:
    """How many frames a sample has that all of these adapters read, or None for single pictures.

    Raises:
        InputError: some read clips and some single pictures, or clips of other lengths.
    """
    frames = {name: loaded[name].config.frames for name in names if name in loaded}
    if BASE_ADAPTER in names:
        frames[BASE_ADAPTER] = None
    if len(set(frames.values())) > 1:
        said = [f"{name!r} reads " + (f"clips of {n} frames" if n else "single pictures") for name, n in frames.items()]
        raise InputError(
            f"One batch does not suit them all: {'; '.join(said)}. Name those it suits in `adapter_names`."
        )
    return next(iter(frames.values()), None)


def read_maps(
    requests: Sequence[tuple[Tensor | None, str]],
    adapters: Mapping[str, Adapter],
    borrowed: BorrowedBackbone,
    *,
    pixel_values: Tensor | None,
    features: Sequence[Tensor] | None,
    features_of: CutBackbone | HookedBackbone,
) -> list[Tensor]:
    """The final map of each request, with one trunk pass for all that run on the same frozen cut.

    Args:
        requests: Rows of the batch (None for all) and the adapter that reads them; for the backbone's name its output.
        adapters: By name.
        borrowed: The backbone.
        pixel_values: `(B, C, H, W)`, or None with features.
        features: What crossed the cut of `features_of`.
        features_of: Where features were taken.

    Raises:
        InputError: features are of no use to an adapter that was asked for.
    """
    results: list[Any] = [None] * len(requests)
    shared: dict[int, tuple[CutBackbone | HookedBackbone, list[int]]] = {}
    for index, (rows, name) in enumerate(requests):
        adapter = None if name == BASE_ADAPTER else adapters[name]
        if adapter is None:
            opened = borrowed.open() if features is None else features_of
        else:
            opened = borrowed.open(adapter.config.target_modules)
        if adapter is not None and adapter.encoder is not None:
            results[index] = _own_encoder(adapter, name, rows, opened, pixel_values)
            continue
        if features is not None and opened is not features_of:
            raise InputError(
                f"The adapter {name!r} masks {listed(opened.targets)}, and `features` are those before "
                f"{listed(features_of.targets)}; give `pixel_values`."
            )
        shared.setdefault(id(opened), (opened, []))[1].append(index)
    for opened, members in shared.values():
        wanted = [requests[index] for index in members]
        masks = [(rows, None if name == BASE_ADAPTER else adapters[name].mask) for rows, name in wanted]
        maps = opened.run(opened.rooted, masks, pixel_values=pixel_values, features=features)
        for index, feature_map in zip(members, maps, strict=True):
            results[index] = feature_map
    return results


def _own_encoder(
    adapter: Adapter,
    name: str,
    rows: Tensor | None,
    opened: CutBackbone | HookedBackbone,
    pixel_values: Tensor | None,
) -> Tensor:
    if pixel_values is None:
        raise InputError(
            f"The adapter {name!r} owns its whole encoder (tuning='full'), so features of the frozen trunk mean "
            "nothing to it; give `pixel_values`."
        )
    own = pixel_values.to(next(adapter.encoder.parameters()).dtype)
    request = [(rows, adapter.mask)]
    return opened.run(Rooted(adapter.encoder), request, pixel_values=own, train_encoder=torch.is_grad_enabled())[0]
