"""The depths that lie in a folder of features, by its key, and at which places of its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from ..backbone import Depth
from ..checking import is_number
from ..errors import FeatureCacheError, listed

__all__ = ["as_key", "depths_of", "places_of"]


def as_key(depths: Sequence[Depth]) -> dict[str, Any]:
    """The part of a key that says which depths are stored; nothing where there are none, as before there were any.

    Example:
        >>> as_key([Depth("layer1"), Depth("layer2", grid=2)]), as_key([])
        ({'depths': [['layer1', 1], ['layer2', 2]]}, {})
    """
    return {"depths": [list(depth) for depth in depths]} if depths else {}


def depths_of(key: Mapping[str, Any]) -> tuple[Depth, ...]:
    """The depths that a key speaks of.

    Args:
        key: Whose features they are; from a file, anything may stand there.

    Raises:
        FeatureCacheError: it has depths that are none.

    Example:
        >>> depths_of({"views": 1, "depths": [["layer1", 1]]}), depths_of({"views": 1})
        ((Depth(path='layer1', grid=1),), ())
    """
    entries: Any = key.get("depths", [])
    if not isinstance(entries, list) or not all(map(_is_depth, cast("list[Any]", entries))):
        raise FeatureCacheError("its depths are none")
    return tuple(Depth(*entry) for entry in cast("list[Any]", entries))


def _is_depth(entry: Any) -> bool:
    pair = cast("list[Any]", entry) if isinstance(entry, list) else []
    return len(pair) == 2 and isinstance(pair[0], str) and is_number(pair[1], int, 1)


def places_of(
    key: Mapping[str, Any], num_tensors: int, include_excitation: bool, depths: Sequence[Depth] | None
) -> list[int]:
    """Which of the stored tensors are read: what crosses the cut, then some depths, then u.

    Args:
        key: Whose features they are.
        num_tensors: How many are stored.
        include_excitation: Whether u is read, if it is stored.
        depths: Those that are read, in this order; all when None.

    Raises:
        FeatureCacheError: one of the depths is not stored.

    Example:
        >>> key = {"targets": ["2"], "excitation": True, "depths": [["0", 1], ["1", 1]]}
        >>> places_of(key, 4, include_excitation=True, depths=[Depth("1")])
        [0, 2, 3]
    """
    stored, num_u = depths_of(key), len(key["targets"]) if key.get("excitation", False) else 0
    wanted = stored if depths is None else tuple(depths)
    if missing := [depth.path for depth in wanted if depth not in stored]:
        raise FeatureCacheError(
            f"The stored features are without the depths {listed(missing)}, which the adapter reads. Make them anew "
            "with `cache_features(model, dataset, folder)` while that adapter is active."
        )
    first = num_tensors - num_u - len(stored)
    u = range(num_tensors - num_u, num_tensors) if include_excitation else ()
    return [*range(first), *(first + stored.index(depth) for depth in wanted), *u]
