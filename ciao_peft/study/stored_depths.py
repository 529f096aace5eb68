"""Which depths of the frozen trunk a study stores, so that one store serves every method of a plan that reads some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn

from ..config import CIAOConfig
from ..errors import CIAOError
from ..model import CIAOModel, get_ciao_model
from .records import key_of


class StoredDepths(NamedTuple):
    """What a store holds beside the features and u.

    Args:
        paths: Of the units, in the order in which they are stored; none where no method reads any.
        grid: Rows and columns of the grid over which each is averaged.
        needed: Whether the method reads some. One that does not reads a store without, where there is one already.

    Example:
        >>> StoredDepths().suffix, StoredDepths(("0",)).suffix == StoredDepths(("0",), grid=2).suffix
        ('', False)
    """

    paths: tuple[str, ...] = ()
    grid: int = 1
    needed: bool = True

    @property
    def suffix(self) -> str:
        """Of the name of a folder with them; empty without, so that what was stored before there were any is found."""
        return f"-depths-{key_of({'depths': self.paths, 'grid': self.grid})[:8]}" if self.paths else ""


def depths_together(
    encoder: nn.Module, config: Mapping[str, Any], others: Sequence[Mapping[str, Any]] = ()
) -> StoredDepths:
    """Every depth that a method and the others of its plan read in the same grid.

    Args:
        encoder: The backbone.
        config: Settings of the method's adapter; without depths, those of the first of the others that has some count.
        others: Those of all methods.

    Raises:
        ConfigError, TargetModulesError, UntraceableBackboneError: the method asks for what cannot be read.

    Example:
        >>> net = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(3)))
        >>> net.input_size = (3, 8, 8)
        >>> methods = {"depths": 1}, {"depths": ("0",)}, {}
        >>> [depths_together(net, config, methods)[::2] for config in methods]
        [(('0', '1'), True), (('0', '1'), True), (('0', '1'), False)]
    """
    asked = [(_read(encoder, config), True)] if config.get("depths") is not None else []
    for other in (other for other in others if other.get("depths") is not None):
        try:
            asked.append((_read(encoder, other), False))
        except CIAOError:  # its own training will tell
            continue
    if not asked:
        return StoredDepths()
    own = asked[0][0]._replace(needed=asked[0][1])
    paths = tuple(sorted({path for depths, _ in asked if depths.grid == own.grid for path in depths.paths}))
    try:
        return _read(encoder, {"depths": paths, "depth_grid": own.grid})._replace(needed=own.needed)
    except CIAOError:  # two names of one map, or more of them than one adapter may read
        return own


@contextmanager
def reading(encoder: nn.Module, depths: StoredDepths) -> Iterator[CIAOModel | nn.Module]:
    """What `cache_features` takes to store these depths: the encoder, with an adapter that reads them.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
        >>> net.input_size = (3, 8, 8)
        >>> with reading(net, StoredDepths(("0",))) as model:
        ...     [depth.path for depth in model.depths]
        ['0']
    """
    if not depths.paths:
        yield encoder
        return
    model = _reader(encoder, {"depths": depths.paths, "depth_grid": depths.grid})
    try:
        yield model
    finally:
        model.unload()


def _reader(encoder: nn.Module, config: Mapping[str, Any]) -> CIAOModel:
    """With a small adapter that reads the depths of another one's settings."""
    small: dict[str, Any] = {"inhibition": False, "contrastive_weight": 0.0, "pooling": "avg", "hidden_sizes": ()}
    small |= {name: config[name] for name in ("depths", "depth_grid") if name in config}
    return get_ciao_model(encoder, CIAOConfig(problem_type="regression", num_labels=1, **small))


def _read(encoder: nn.Module, config: Mapping[str, Any]) -> StoredDepths:
    model = _reader(encoder, config)
    try:
        return StoredDepths(tuple(depth.path for depth in model.depths), config.get("depth_grid", 1))
    finally:
        model.unload()
