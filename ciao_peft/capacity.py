"""What a number of faces costs in disk, hours and machines, from what one face costs here."""

from __future__ import annotations

import io
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checking import check_number
from .config import CIAOConfig
from .errors import ConfigError, quoted
from .features import cache_features, readable_size
from .markdown import markdown_table
from .model import CIAOModel, get_ciao_model
from .surroundings import as_tensor
from .trainer import CIAOTrainer, CIAOTrainingArguments

__all__ = ["Capacity", "Rates", "capacity_table", "measure_rates", "plan_capacity"]

_CHECKSUM_BYTES = 4  # of each stored tensor of each row
_SIDE = 224  # of the JPEG that stands for a face that has yet to be decoded


_MOST = 10**15
_SHORTEST = 1e-6  # days


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What one face costs, in bytes and in seconds of one core.

    Args:
        encoder: Its name.
        feature_bytes: Of one stored view: the tensors that cross the cut and, where it is stored, u.
        index_bytes: Of one stored view in the store's index: its checksums.
        decode_seconds: To open a JPEG file of 224x224 pixels and to prepare it.
        trunk_seconds: To hash, check, run through the trunk and keep one view.
        step_seconds: Of one face in one epoch of training one adapter from stored features.
        adapter_bytes: Of one saved adapter's weights.

    Example:
        >>> Rates(encoder="small-face", feature_bytes=16384, trunk_seconds=0.001, step_seconds=0.001).index_bytes
        4
    """

    encoder: str
    feature_bytes: int
    index_bytes: int = _CHECKSUM_BYTES
    decode_seconds: float = 0.0
    trunk_seconds: float
    step_seconds: float
    adapter_bytes: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name == "encoder":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST:
                raise ConfigError(f"`{name}` must be a number from 0 to {_MOST:g}; got {quoted(value)}.")

    def to_dict(self) -> dict[str, Any]:
        """The rates as plain data, as `from_dict` takes them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Rates:
        """Rates that were measured elsewhere.

        Args:
            values: A dict by name.

        Raises:
            ConfigError: a name is missing or unknown, or a value is no number.

        Example:
            >>> rates = Rates(encoder="small-face", feature_bytes=16384, trunk_seconds=0.001, step_seconds=0.001)
            >>> Rates.from_dict(rates.to_dict()) == rates
            True
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"These are no rates: {quoted(values)}. Write them with `--save_rates FILE`.") from error


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What faces cost with one encoder.

    Args:
        faces: How many.
        worlds: Adapters that are trained on all of them.
        disk_bytes: Of the features, with their index.
        index_bytes: Of the index alone.
        store_hours: Of one core, to decode them and to run the trunk, once for all worlds.
        train_hours: Of one core, to train all worlds.
        hours: Of all machines at once.
        machines: That many are counted.
        disk_rate: Bytes a second that each machine must read while it trains.

    Example:
        >>> rates = Rates(encoder="small-face", feature_bytes=16384, trunk_seconds=0.001, step_seconds=0.001)
        >>> plan_capacity(rates, 3_600_000, epochs=10).train_hours
        10.0
    """

    faces: int
    worlds: int
    disk_bytes: int
    index_bytes: int
    store_hours: float
    train_hours: float
    hours: float
    machines: int
    disk_rate: float


def plan_capacity(
    rates: Rates,
    faces: int,
    *,
    worlds: int = 1,
    views: int = 2,
    epochs: int = 12,
    cores: int = 1,
    days: float | None = None,
) -> Capacity:
    r"""What faces cost, from what one costs.

    For N faces, V views, E epochs, K worlds and C cores of a machine:

    $$\text{disk} = N V (b + c), \quad \text{store} = N V (t_d + t_t), \quad \text{train} = N E K t_s$$

    with b and c the bytes of features and index, and the seconds to decode, for the trunk and for a step. Disk and
    trunk are paid once, whatever K is. All of it divides over machines: faces while storing, worlds or batches while
    training.

    Args:
        rates: What one face costs.
        faces: How many, 1 or more.
        worlds: Adapters that are trained on all of them, 1 or more.
        views: Stored views of each face, 1 or more; a training that leaves them out stores 2.
        epochs: Of each training, 1 or more; as many as the recipe "default" has when left out.
        cores: Of each machine, 1 or more.
        days: In how many all must be done, above 0; one machine takes as long as it takes when left out.

    Raises:
        ConfigError: a setting is out of its range.

    Example:
        >>> rates = Rates(encoder="small-face", feature_bytes=16380, trunk_seconds=0.001, step_seconds=0.001)
        >>> plan = plan_capacity(rates, 10**9, worlds=8, cores=16, days=7)
        >>> plan.disk_bytes, round(plan.store_hours), round(plan.train_hours), plan.machines
        (32768000000000, 556, 26667, 11)
    """
    for name, value in (("faces", faces), ("worlds", worlds), ("views", views), ("epochs", epochs), ("cores", cores)):
        check_number(name, value, int, 1, _MOST)
    if days is not None:
        check_number("days", days, float, _SHORTEST, _MOST)
    store = faces * views * (rates.decode_seconds + rates.trunk_seconds) / 3600
    train = faces * epochs * worlds * rates.step_seconds / 3600
    machines = 1 if days is None else max(1, math.ceil((store + train) / (24 * days * cores)))
    return Capacity(
        faces=faces,
        worlds=worlds,
        disk_bytes=faces * views * (rates.feature_bytes + rates.index_bytes),
        index_bytes=faces * views * rates.index_bytes,
        store_hours=store,
        train_hours=train,
        hours=(store + train) / (machines * cores),
        machines=machines,
        disk_rate=cores * rates.feature_bytes / rates.step_seconds if rates.step_seconds else math.inf,
    )


def capacity_table(plans: Sequence[Capacity]) -> str:
    """Plans as a table in Markdown.

    Args:
        plans: One for each row.

    Example:
        >>> rates = Rates(encoder="small-face", feature_bytes=16384, trunk_seconds=0.001, step_seconds=0.001)
        >>> print(capacity_table([plan_capacity(rates, 10**8)]).splitlines()[2])
        | 100,000,000 | 1 | 3.28 TB | 800 MB | 55.6 | 333.3 | 1 | 388.9 |
    """
    head = ["faces", "worlds", "disk", "of it index", "core-hours to store", "core-hours to train", "machines", "hours"]
    rows = [
        [
            f"{plan.faces:,}",
            f"{plan.worlds:,}",
            readable_size(plan.disk_bytes),
            readable_size(plan.index_bytes),
            f"{plan.store_hours:,.1f}",
            f"{plan.train_hours:,.1f}",
            f"{plan.machines:,}",
            f"{plan.hours:,.1f}",
        ]
        for plan in plans
    ]
    return markdown_table(head, rows)


class PaintedNoise:
    """Pixels of noise, each made when it is asked for and the same one every time; two classes.

    Args:
        count: How many.
        size: `(C, H, W)`.

    Example:
        >>> faces = PaintedNoise(8, (3, 4, 4))
        >>> len(faces), faces[7]["pixel_values"].shape, faces[7]["labels"]
        (8, torch.Size([3, 4, 4]), 1)
    """

    def __init__(self, count: int, size: tuple[int, int, int]):
        self.labels = [index % 2 for index in range(count)]
        self._first = torch.rand(size, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self._first.flatten().roll(index).view_as(self._first), "labels": self.labels[index]}


def measure_rates(
    encoder: nn.Module,
    *,
    faces: int = 128,
    dtype: str | None = None,
    include_excitation: bool = False,
    batch_size: int = 32,
) -> Rates:
    """Measures on this machine what one face costs, with faces of noise. Seconds are of the processor.

    Args:
        encoder: As `load_encoder` gives it; it is as before afterwards.
        faces: How many go through it, 4 or more; more make the rates steadier.
        dtype: In which features are stored; as for `cache_features`.
        include_excitation: Whether u is stored.
        batch_size: While storing and while training.

    Raises:
        ConfigError: a setting is out of its range.
        UntraceableBackboneError: the encoder cannot be cut, so that nothing is stored.

    Example:
        >>> from ciao_peft import load_encoder
        >>> rates = measure_rates(load_encoder("small-face"), faces=8, batch_size=4)
        >>> rates.feature_bytes, rates.trunk_seconds > 0
        (32768, True)
    """
    check_number("faces", faces, int, 4, 10**6)
    check_number("batch_size", batch_size, int, 1)
    config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
    model = get_ciao_model(encoder, config)
    settings: dict[str, Any] = {"num_train_epochs": 1, "per_device_train_batch_size": batch_size, "report_to": "none"}
    trainer = CIAOTrainer(model, CIAOTrainingArguments(**settings, disable_tqdm=True))
    try:
        with tempfile.TemporaryDirectory() as folder:
            seconds = {}
            for name, count in (("first", min(faces, 2 * batch_size)), ("measured", faces)):  # all is loaded by then
                start = time.process_time()
                stored = cache_features(
                    model,
                    PaintedNoise(count, model.input_size),
                    Path(folder, name),
                    dtype=dtype,
                    include_excitation=include_excitation,
                    batch_size=batch_size,
                    disable_tqdm=True,
                )
                between = time.process_time()
                trainer.train(stored)
                seconds = {"trunk": (between - start) / count, "step": (time.process_time() - between) / count}
            index = _CHECKSUM_BYTES * len(stored.layout.shapes)
        return Rates(
            encoder=str(getattr(encoder, "name", type(encoder).__name__)),
            feature_bytes=stored.layout.row_bytes(),
            index_bytes=index,
            decode_seconds=_decode_seconds(model),
            trunk_seconds=seconds["trunk"],
            step_seconds=seconds["step"],
            adapter_bytes=sum(tensor.nbytes for tensor in model.adapters["default"].state_dict().values()),
        )
    finally:
        model.unload()


def _decode_seconds(model: CIAOModel, count: int = 16) -> float:
    if model.preprocessing is None:
        return 0.0
    from PIL import Image

    noise = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))[None]
    smooth = nn.functional.interpolate(noise, size=(_SIDE, _SIDE), mode="bilinear")[0]
    file = io.BytesIO()
    Image.fromarray((smooth * 255).byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=90)
    start = time.process_time()
    for _ in range(count):
        as_tensor(model.preprocessing(Image.open(io.BytesIO(file.getvalue()))))
    return (time.process_time() - start) / count
