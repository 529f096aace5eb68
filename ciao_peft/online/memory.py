"""A memory of stored features: bounded in bytes, filled by a policy, refused where another encoder made it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from ..checking import check_choice, check_number
from ..config import CIAOConfig
from ..errors import AdapterFileError, ConfigError, MemoryMismatchError, listed
from ..features import readable_size
from ..model import CIAOModel
from ..saving.files import checked_path
from .kept import KeptRows, Policy, Row, bytes_of_face
from .memory_file import read_memory, write_memory
from .reading import Reader
from .rows import Faces, classes_of, sketches_of

__all__ = ["FeatureMemory"]

_DTYPES = {"float16": torch.float16, "float32": torch.float32}


class FeatureMemory(KeptRows):
    """Stored features of some of the faces that an adapter learned, within a bound in bytes.

    Features can show what a face looked like: keep a memory as you keep the pictures. No `save_pretrained` and no
    `push_to_hub` ever writes one; `OnlineTrainer.save` and `save` do.

    - `"reservoir"`: each face that ever came is kept with the same probability (Vitter 1985).
    - `"class_balanced"`: classes have equally many where there are enough; within one, as the reservoir (Chrysakis and
      Moens 2020).
    - `"herding"`: of each class equally many, those whose mean stays nearest to the mean of all that came
      (`ciao_peft.online.herd`).

    A face that is stored already is not stored twice; with another label, the new one takes the place of the old.

    Args:
        max_bytes: Bytes that it takes at most: features, labels, and what is noted of each face and class.
        policy: Which faces stay when it is full.
        held_share: Share of the faces that is held apart from rehearsal, 0 to 0.9: a guard for `OnlineTrainer`.
        dtype: Of the features, `"float16"` or `"float32"`.
        seed: Of what is drawn, 0 or more.

    Attributes:
        key: Whose features they are, as plain data; None while nothing was stored.

    Raises:
        ConfigError: a setting out of its range; or, when a face is stored, `max_bytes` has no room for one.

    Shapes:
        Features are `(C, H, W)` of each tensor that crosses the cut, for each face; labels `(num_labels,)`.

    Example:
        >>> from ciao_peft import get_ciao_model, load_encoder
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3)
        >>> model = get_ciao_model(load_encoder("small-face"), config)
        >>> faces = [{"pixel_values": torch.rand(3, 64, 64), "labels": n % 3} for n in range(12)]
        >>> memory = FeatureMemory.from_dataset(model, faces, max_bytes=100_000)
        >>> len(memory), memory.nbytes <= 100_000, sorted(memory.counts.values())
        (6, True, [2, 2, 2])
    """

    max_bytes: int
    policy: Policy
    held_share: float
    dtype: str
    seed: int
    key: dict[str, Any] | None

    def __init__(
        self,
        max_bytes: int = 20_000_000,
        *,
        policy: Policy = "class_balanced",
        held_share: float = 0.2,
        dtype: str = "float16",
        seed: int = 0,
    ):
        check_number("max_bytes", max_bytes, int, 1, 2**60)
        check_choice("policy", policy, get_args(Policy))
        check_number("held_share", held_share, float, 0, 0.9)
        check_choice("dtype", dtype, _DTYPES)
        check_number("seed", seed, int, 0, 2**63 - 1)
        super().__init__(int(max_bytes), policy, float(held_share), int(seed))
        self.dtype = dtype

    def __repr__(self) -> str:
        classes = f"{len(self.counts)} class{'' if len(self.counts) == 1 else 'es'}"
        faces = f"{len(self)} face{'' if len(self) == 1 else 's'}"
        held = f", {self.num_held} held apart" if self.num_held else ""
        room = f"{readable_size(self.nbytes)} of {readable_size(self.max_bytes)}"
        return f"FeatureMemory({self.policy!r}: {faces} of {classes}{held}, {room})"

    # -- what there is -----------------------------------------------------------------------------------------------

    @property
    def labels(self) -> Tensor:
        """Labels of what is stored, `(N, num_labels)`, float32."""
        return torch.stack([row.label for row in self._rows]) if self._rows else torch.empty(0, 0, device="cpu")

    def faces(self, held: bool | None = None) -> Faces:
        """What is stored.

        Args:
            held: Only what is held apart, or only what is rehearsed; all when left out.

        Returns:
            The faces in the order in which they lie here, in the dtype of the memory.
        """
        return self.faces_of([row for row in self._rows if held is None or row.held == held])

    @property
    def shares(self) -> dict[int, float]:
        """How frequent each class was among all faces that came by, which a balanced memory does not show."""
        total = sum(self._seen.values())
        return {kind: count / total for kind, count in sorted(self._seen.items())}

    def draw(
        self, count: int, generator: torch.Generator, leave_out: Sequence[int] = (), balance: float = 1.0
    ) -> Faces:
        """Draws faces to rehearse: none twice while there are enough, and none that is held apart.

        Args:
            count: How many.
            generator: Source of the draw.
            leave_out: Places of faces that are not drawn.
            balance: 0 draws classes as frequently as they came by, 1 as frequently as they are stored.

        Returns:
            The faces; none where there is nothing to rehearse.
        """
        there = [row for place, row in enumerate(self._rows) if not row.held and place not in set(leave_out)]
        numbers: list[int] = []
        stored, shares = Counter(row.kind for row in there), self.shares
        weights = torch.tensor(
            [(shares[row.kind] / stored[row.kind]) ** (1 - balance) for row in there], dtype=torch.float64, device="cpu"
        )
        while there and len(numbers) < count:
            some = min(count - len(numbers), len(there))
            numbers += torch.multinomial(weights, some, generator=generator).tolist()
        return self.faces_of([there[number] for number in numbers])

    # -- storing -----------------------------------------------------------------------------------------------------

    @classmethod
    def from_dataset(
        cls,
        model: CIAOModel,
        faces: Any,
        adapter_name: str | None = None,
        *,
        max_bytes: int = 20_000_000,
        policy: Policy = "class_balanced",
        held_share: float = 0.2,
        dtype: str = "float16",
        seed: int = 0,
        batch_size: int = 64,
    ) -> FeatureMemory:
        """A memory filled from the data that an adapter was trained on.

        Args:
            model: Holds the adapter.
            faces: What `CIAOTrainer.train` takes, with labels; stored features save the pass through the trunk.
            adapter_name: Which adapter; the active one when left out.
            max_bytes, policy, held_share, dtype, seed: As for `FeatureMemory`.
            batch_size: Faces that go through the trunk at once.

        Raises:
            DataError, InputError, TrainingError: as for `CIAOTrainer.train`.
            FeatureCacheError: stored features that are not of this model.
            ConfigError: a setting out of its range, or no room for one face.
        """
        memory = cls(max_bytes, policy=policy, held_share=held_share, dtype=dtype, seed=seed)
        memory.fill(model, faces, adapter_name, batch_size=batch_size)
        return memory

    def fill(self, model: CIAOModel, faces: Any, adapter_name: str | None = None, *, batch_size: int = 64) -> None:
        """Stores faces of a dataset, as `from_dataset` does.

        Args:
            model, faces, adapter_name, batch_size: As for `from_dataset`.
        """
        reader = Reader(model, adapter_name)
        key, before = reader.key(), self.state()
        self.check_belongs_to(key)
        try:
            for part in reader.read_dataset(faces, "faces", batch_size):
                self.add(part, reader.config, key)
        except BaseException:
            self.restore(before)
            raise

    def check_belongs_to(self, key: dict[str, Any]) -> None:
        """Refuses to mix features of two encoders.

        Args:
            key: Of the model's features, as `model_key` gives it.

        Raises:
            MemoryMismatchError: the memory holds features of another encoder, cut or preprocessing; says which.
        """
        if self.key is None:
            return
        changed = [name for name in sorted({*self.key, *key}) if self.key.get(name) != key.get(name)]
        if changed:
            named = [_KEY_NAMES.get(name, name) for name in changed]
            raise MemoryMismatchError(
                f"This memory holds features of {listed(named)} other than the model's. Make one for this model: "
                "`FeatureMemory.from_dataset(model, faces, max_bytes=...)`."
            )

    def add(self, faces: Faces, config: CIAOConfig, key: dict[str, Any]) -> None:
        """Stores faces, as its policy says.

        Args:
            faces: Their features and labels.
            config: Of the adapter: says what a class is.
            key: Whose features they are.

        Raises:
            MemoryMismatchError: other features are stored here.
            ConfigError: there is no room for one face.
        """
        self.check_belongs_to(key)
        stored = Faces(tuple(t.detach().to("cpu", _DTYPES[self.dtype]) for t in faces.tensors), faces.labels.cpu())
        size = bytes_of_face([tensor[:1] for tensor in stored.tensors], stored.labels[:1])
        if size + 8 > self.max_bytes:
            raise ConfigError(
                f"`max_bytes={self.max_bytes}` has no room for one face, which takes {readable_size(size + 8)} here."
            )
        self.key = dict(key)
        self._to_width(stored.labels.shape[1])
        sketches, kinds = sketches_of(stored.tensors), classes_of(stored.labels, config)
        clips = config.frames is not None
        for place, kind in enumerate(kinds):
            tensors = [tensor[place] for tensor in stored.tensors]
            self._put(Row.of(tensors, stored.labels[place], kind, False, sketches[place]), clips)
        self._shrink(clips)

    def grow(self, num_labels: int) -> None:
        """Gives labels of what is stored more columns, of zeros, for classes that came later.

        Args:
            num_labels: How many columns there are to be; never fewer than now.
        """
        self._to_width(num_labels)
        self._shrink(clips=self.key is not None and self.key.get("frames") is not None)

    # -- on disk --------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes it into a file of safetensors. Whoever has the file has features of faces: keep it as private.

        Args:
            path: The file, such as `memory.safetensors`.

        Returns:
            The path.

        Raises:
            AdapterFileError: the disk refuses.
        """
        return write_memory(path, *self.to_tensors())

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Its tensors by name, and everything else as plain data, as `save` writes them."""
        tensors: dict[str, Tensor] = {}
        if self._rows:
            stored = self.faces()
            tensors |= {f"features.{index}": tensor for index, tensor in enumerate(stored.tensors)}
            tensors["labels"] = stored.labels
            tensors["classes"] = torch.tensor([row.kind for row in self._rows], dtype=torch.int64, device="cpu")
            tensors["held"] = torch.tensor([row.held for row in self._rows], dtype=torch.uint8, device="cpu")
        tensors |= {f"sums.{kind}": total for kind, total in self._sums.items()}
        record = {
            "settings": {name: getattr(self, name) for name in _SETTINGS},
            "key": self.key,
            "seen": {str(kind): count for kind, count in self._seen.items()},
        }
        return tensors, record

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: CIAOModel | None = None) -> FeatureMemory:
        """Reads a file that `save` wrote.

        Args:
            path: The file.
            model: Whose memory it is to be; not compared when left out.

        Raises:
            AdapterFileError: it is missing, damaged, or no memory.
            MemoryMismatchError: another encoder, preprocessing or cut made its features.
        """
        path = checked_path(path)
        tensors, record = read_memory(path)
        try:
            memory = cls.from_tensors(tensors, record)
        except ConfigError as error:
            raise AdapterFileError(f"'{os.fspath(path)}' holds what no memory has: {error}") from error
        if model is not None:
            reader = Reader(model, None)
            memory.check_belongs_to(reader.key())
            if len(memory):
                reader.check_stored(memory.faces_of(memory.state().rows[:1]))
        return memory

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], record: dict[str, Any]) -> FeatureMemory:
        """A memory of what `to_tensors` gave and `read_memory` checked.

        Args:
            tensors: By name.
            record: Plain data.

        Raises:
            ConfigError: a setting is out of its range.
        """
        memory = cls(**record["settings"])
        memory.key = record["key"]
        memory._seen = {int(kind): count for kind, count in record["seen"].items()}
        memory._sums = {int(n.partition(".")[2]): t.clone() for n, t in tensors.items() if n.startswith("sums.")}
        if "labels" in tensors:
            names = sorted((n for n in tensors if n.startswith("features.")), key=lambda n: int(n.partition(".")[2]))
            stored = tuple(tensors[name] for name in names)
            sketches = sketches_of(stored)
            noted = zip(tensors["labels"], tensors["classes"].tolist(), tensors["held"].tolist(), sketches, strict=True)
            memory._hold(
                [
                    Row.of([tensor[place] for tensor in stored], label, kind, bool(held), sketch)
                    for place, (label, kind, held, sketch) in enumerate(noted)
                ]
            )
        return memory


_SETTINGS = ("max_bytes", "policy", "held_share", "dtype", "seed")
_KEY_NAMES = {
    "backbone": "an encoder",
    "backbone_dtype": "a dtype of the encoder",
    "targets": "target modules",
    "preprocessing": "a preprocessing",
    "input_size": "an input size",
    "depths": "depths",
    "frames": "a number of frames",
}
