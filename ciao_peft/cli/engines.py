"""`--engine`: who does work that can be shared out."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..engine import RayEngine

__all__ = ["add_engine", "engine_of"]


def add_engine(parser: argparse._ActionsContainer) -> None:
    """Adds `--engine` and `--ray_workers`.

    Args:
        parser: Gets the flags; a group of flags of a parser, too.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_engine(parser)
        >>> parser.parse_args([]).engine, parser.parse_args(["--engine", "ray"]).engine
        (None, 'ray')
    """
    parser.add_argument(
        "--engine", choices=["ray"], help="who trains: the workers of Ray, here or of the cluster at RAY_ADDRESS"
    )
    parser.add_argument(
        "--ray_workers", type=int, metavar="N", help="how many at once (default: the cluster's GPUs, or else cores)"
    )


def engine_of(options: argparse.Namespace, what: str) -> RayEngine | None:
    """The engine that the flags of `add_engine` name; None is this process itself.

    Args:
        options: As they were parsed.
        what: What it is for; the subject of a message.

    Raises:
        ConfigError: there are workers without an engine, or none of them.
        MissingExtraError: Ray is not installed.

    Example:
        >>> engine_of(argparse.Namespace(engine=None, ray_workers=None), "A study") is None
        True
    """
    if options.engine is None:
        if options.ray_workers is not None:
            raise ConfigError("`--ray_workers` says how many workers Ray has; give `--engine ray` as well.")
        return None
    from ..engine import RayEngine, engine_from

    return engine_from(RayEngine(workers=options.ray_workers), what)
