"""The worlds of a page: shared by all visitors, counted, and let go of when nobody reads in them."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..auto import AutoCIAOModel
from ..checking import check_number
from ..config import CIAOConfig
from ..errors import AdapterNotFoundError, BackboneMismatchError, InputError, listed, quoted
from ..hub import ADAPTER_FILES, RepoFile, download, is_hub_id, list_adapters, name_from
from ..model import CIAOModel
from ..prediction import label_names
from ..saving import SavedAdapter, load_adapter

__all__ = ["MAX_VISITORS_BYTES", "World", "WorldPool"]

MAX_VISITORS_BYTES = 64 * 2**20
"""The largest file that is downloaded because a visitor gave a name; owners may have larger ones."""

MOST_COPIES = 32
"""Worlds that visitors let learn, at once on one page."""

MAX_COPY_BYTES = 16 * 2**20
"""The largest adapter that a visitor can have a copy of."""

_LONGEST_NAME = 200
_IN_PACKAGE = ("dlib-face", "small-face")  # encoders that cost neither a download nor much memory


@dataclass(frozen=True, eq=False)
class World:
    """An adapter that a page reads with.

    Args:
        key: What tells it from the others of its page.
        source: What was asked for: a name, or a folder.
        model: The model that holds it; other worlds may be on it, too.
        adapter_name: Its name there.
    """

    key: str
    source: str
    model: CIAOModel
    adapter_name: str

    @property
    def config(self) -> CIAOConfig:
        """Its settings."""
        return self.model.peft_config[self.adapter_name]

    @property
    def title(self) -> str:
        """The last part of its source, for people."""
        return name_from(self.source)

    def described(self) -> dict[str, object]:
        """What it is, as plain data for JSON."""
        config = self.config
        return {"world": self.key, "problem_type": config.problem_type, "labels": label_names(config)}


class WorldPool:
    """Worlds on as few models as their encoders allow.

    The owner's worlds stay. A visitor's are counted, and unloaded when the last visitor who added them let go. They
    come from the package, from the Hub without the owner's token, into a folder that is gone afterwards; or from
    below one folder of the owner's. They must sit on an encoder that is there already or in this package.

    Args:
        sources: Folders, names of `ciao_peft.list_adapters()` or `user/name` on the Hub.
        folders: Visitors may name adapter folders inside this one; none when left out.
        device: Where to read, such as `"cuda"`; where the encoders are made when left out.
        most: Worlds that are held at once, the owner's included.

    Raises:
        CIAOError: as `AutoCIAOModel.from_pretrained` says.
        InputError: there is no source, or an adapter reads clips.

    Example:
        >>> pool = WorldPool(["ciao/painted-affect"])
        >>> world = pool.add("ciao/painted-eight")
        >>> world.title, world.model is pool.worlds[0].model, len(pool.worlds)
        ('painted-eight', True, 2)
        >>> pool.release(world.key)
        >>> [world.key for world in pool.worlds]
        ['ciao/painted-affect']
    """

    def __init__(
        self,
        sources: Iterable[str | os.PathLike[str]],
        *,
        folders: str | os.PathLike[str] | None = None,
        device: str | None = None,
        most: int = 32,
    ):
        check_number("most", most, int, 1)
        self.folders = None if folders is None else Path(folders).expanduser().resolve()
        if self.folders is not None and not self.folders.is_dir():
            raise InputError(
                f"`folders` must be a folder that holds adapters; there is none at {quoted(str(folders))}."
            )
        self.device, self.most = device, most
        self._worlds: dict[str, World] = {}
        self._counts: dict[str, int] = {}
        self._copies = 0
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        for source in dict.fromkeys(os.fspath(source) for source in sources):
            self._load(source, source, visitor=False)
        if not self._worlds:
            raise InputError("A page needs a world: give the folder or name of an adapter.")
        self.own = tuple(self._worlds)

    folders: Path | None
    device: str | None
    most: int
    own: tuple[str, ...]

    @property
    def worlds(self) -> list[World]:
        """All that are held, the owner's first."""
        with self._lock:
            return list(self._worlds.values())

    def add(self, source: str) -> World:
        """Gives a visitor a world, loading it if nobody has it yet; `release` gives it back.

        Args:
            source: As the visitor wrote it: a name of the package, `user/name` on the Hub, or a folder inside
                `folders`.

        Raises:
            InputError: it is none of these, reads clips, or there are `most` worlds already.
            BackboneMismatchError: it sits on an encoder that is neither here nor in the package.
            AdapterFileError, HubError: it is damaged, or the Hub does not give it.

        Example:
            >>> WorldPool(["ciao/painted-affect"]).add("/etc")
            Traceback (most recent call last):
            ...
            ciao_peft.errors.InputError: '/etc' is no adapter that this page can add. Give the name of one on the Hub \
as user/name, or one of the package: ciao/everyday-six and others.
        """
        key, place = self._asked(source)
        with self._lock:
            if key in self._worlds:
                return self._counted(key)
            self._check_room()
        if place is not None:
            return self._load(key, place, visitor=True)
        # Without the owner's token, cache and working folder: a name must not open what is the owner's alone.
        files = [RepoFile(f.name, min(f.max_bytes, MAX_VISITORS_BYTES), f.required) for f in ADAPTER_FILES]
        with tempfile.TemporaryDirectory(prefix="ciao-demo-") as cache:
            return self._load(key, str(download(key, files, token=False, cache_dir=cache).folder), visitor=True)

    def release(self, key: str) -> None:
        """Takes a world back that `add` gave; the owner's stay, and an unknown key is nothing to take back."""
        with self._lock:
            if key not in self._counts:
                return
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]
                world = self._worlds.pop(key)
                world.model.delete_adapter(world.adapter_name)

    def copy(self, world: World) -> World:
        """Gives a visitor a copy of a world for themselves, with the same key; `drop` takes it away.

        Args:
            world: Held meanwhile.

        Raises:
            InputError: there are `MOST_COPIES` already, or the adapter is larger than `MAX_COPY_BYTES`.

        Example:
            >>> pool = WorldPool(["ciao/painted-affect"])
            >>> own = pool.copy(pool.worlds[0])
            >>> own.key, own.adapter_name == pool.worlds[0].adapter_name, len(pool.worlds)
            ('ciao/painted-affect', False, 1)
            >>> pool.drop(own)
        """
        model, name = world.model, f"own-{next(self._numbers)}"
        size = sum(tensor.nbytes for tensor in model.adapters[world.adapter_name].state_dict().values())
        if size > MAX_COPY_BYTES:
            raise InputError(
                f"{quoted(world.title)} is too large to learn here: {size / 1e6:.0f} MB of its own numbers."
            )
        with self._lock:
            if self._copies >= MOST_COPIES:
                raise InputError(f"This page lets {MOST_COPIES} worlds learn at once; come back later.")
            self._copies += 1
        try:
            model.add_adapter(name, world.config)
            own = model.adapters[name]
            own.load_tensors({key: one.clone() for key, one in model.adapters[world.adapter_name].state_dict().items()})
            own.set_trainable(False)
            own.eval()
        except BaseException:
            with self._lock:
                self._copies -= 1
            raise
        return World(world.key, world.source, model, name)

    def drop(self, world: World) -> None:
        """Takes a copy away that `copy` gave.

        Args:
            world: The copy.
        """
        world.model.delete_adapter(world.adapter_name)
        with self._lock:
            self._copies -= 1

    @contextmanager
    def held(self, keys: Sequence[str]) -> Iterator[list[World]]:
        """Keeps worlds loaded inside a `with` block, whatever visitors let go of meanwhile.

        Args:
            keys: Of worlds that are held.

        Raises:
            AdapterNotFoundError: one of them is not.

        Example:
            >>> pool = WorldPool(["ciao/painted-affect"])
            >>> with pool.held(["ciao/painted-affect"]) as worlds:
            ...     worlds[0].described()["labels"]
            ['arousal', 'valence']
        """
        with self._lock:
            for key in keys:
                if key not in self._worlds:
                    raise AdapterNotFoundError(key, self._worlds)
            worlds = [self._counted(key) for key in keys]
        try:
            yield worlds
        finally:
            for key in keys:
                self.release(key)

    def _counted(self, key: str) -> World:
        if key in self._counts:
            self._counts[key] += 1
        return self._worlds[key]

    def _check_room(self) -> None:
        if len(self._worlds) >= self.most:
            raise InputError(f"This page holds {self.most} worlds already. Remove one, or come back later.")

    def _asked(self, source: object) -> tuple[str, str | None]:
        """The key of what a visitor asked for, and where it lies; None for the Hub."""
        name = source.strip() if isinstance(source, str) else ""
        if not 0 < len(name) <= _LONGEST_NAME:
            raise InputError("Give the name of an adapter as user/name.")
        if name in self.own or name in list_adapters():
            return name, name
        if self.folders is not None and "\0" not in name:
            folder = (self.folders / name).resolve()
            if folder.is_relative_to(self.folders) and folder.is_dir():
                return str(folder.relative_to(self.folders)), str(folder)
        if is_hub_id(name):
            return name, None
        inside = "" if self.folders is None else ", a folder inside the owner's"
        raise InputError(
            f"{quoted(name)} is no adapter that this page can add. Give the name of one on the Hub as user/name"
            f"{inside}, or one of the package: {next(iter(list_adapters()))} and others."
        )

    def _load(self, key: str, place: str, visitor: bool) -> World:
        with self._lock:
            if key in self._worlds:  # two asked at once
                return self._counted(key)
            self._check_room()
            name = f"world-{next(self._numbers)}"
            model = self._on_a_model(place, name, visitor)
            world = World(key, key, model, name)
            frames = world.config.frames
            if frames is not None:
                model.delete_adapter(name)
                raise InputError(f"{quoted(key)} reads clips of {frames} frames, and this page reads faces one by one.")
            self._worlds[key] = world
            if visitor:
                self._counts[key] = 1
            return world

    def _on_a_model(self, place: str, name: str, visitor: bool) -> CIAOModel:
        models = {id(world.model): world.model for world in self._worlds.values()}
        for model in models.values():
            try:
                model.load_adapter(place, name)
            except BackboneMismatchError:
                continue
            return model.eval()
        if visitor:
            self._check_encoder(place)
        model = AutoCIAOModel.from_pretrained(place, name)
        if model.preprocessing is None:
            raise InputError(f"{quoted(place)} does not say how pictures must be prepared for it.")
        return model if self.device is None else model.to(self.device)

    def _check_encoder(self, place: str) -> None:
        if place in list_adapters():
            return
        saved: SavedAdapter = load_adapter(place)
        if saved.backbone_name not in _IN_PACKAGE:
            raise BackboneMismatchError(
                f"This adapter sits on the encoder {quoted(saved.backbone_name)}. The page has those of its own worlds "
                f"and {listed(_IN_PACKAGE)}; whoever runs it can add others: `ciao demo ADAPTER`."
            )
