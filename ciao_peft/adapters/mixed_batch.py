"""Several adapters on one batch: which of them can share a trunk pass, and which rows are whose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeAlias, TypedDict, cast

import torch
from torch import Tensor, nn

from ..backbone import (
    Depth,
    FrozenBackbone,
    HookedBackbone,
    Mask,
    OpenedBackbone,
    Rooted,
    check_features,
    check_pixels,
    frames_of_clips,
)
from ..config import BASE_ADAPTER
from ..errors import AdapterNotFoundError, InputError, listed, quoted
from .adapter import Adapter
from .seen import Seen, depths_of_rows
from .stack import Stack, decide_all, stacks

__all__ = ["Source", "checked_source", "frames_read", "read_maps", "read_mixed", "rows_by_adapter"]

_Sent: TypeAlias = dict[tuple[torch.device, tuple[int, ...]], tuple[Tensor, Any]]

_SENT: _Sent = {}  # numbers of rows on a GPU, and the stream they were sent in
_HELD: _Sent = {}  # those that a CUDA graph reads
_MOST_SENT = 256


class Source(TypedDict):
    """What a batch is read from: pixels or features, one of the two None.

    Args:
        pixel_values: `(B, C, H, W)` in the backbone's dtype; the frames of clips follow one another.
        features: One tensor `(B, ...)` for each place where the cut is crossed, then u of each conv unit or none.
        depths: What came with the features of earlier units, `(B, n)` each.
    """

    pixel_values: Tensor | None
    features: list[Tensor] | None
    depths: dict[Depth, Tensor]


def checked_source(
    frozen: FrozenBackbone,
    opened: OpenedBackbone,
    pixel_values: Tensor | None,
    features: Tensor | Sequence[Tensor] | None,
    frames: int | None,
    depths: Sequence[Depth] = (),
) -> Source:
    """Checks what a batch is to be read from, and puts the frames of clips one after the other.

    Args:
        frozen: The backbone.
        opened: The same, opened where features are taken.
        pixel_values: `(B, C, H, W)`, or clips `(B, frames, C, H, W)`; None with features.
        features: What `opened.features` gave; of clips `(B, frames, ...)` each.
        frames: Frames in each clip, or None for single pictures.
        depths: Those that features come with, between what crosses the cut and u.

    Returns:
        Pixels or features in the backbone's dtype, with `B * frames` rows for clips.

    Raises:
        InputError: both or neither were given, or what was given does not fit.
        UntraceableBackboneError: features were given, and the backbone could not be cut.

    Example:
        >>> frozen = FrozenBackbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (3, 16, 16))
        >>> source = checked_source(frozen, frozen.open(), torch.rand(2, 5, 3, 16, 16), None, frames=5)
        >>> source["pixel_values"].shape, source["features"]
        (torch.Size([10, 3, 16, 16]), None)
    """
    if (pixel_values is None) == (features is None):
        raise InputError("Give either `pixel_values` or `features`.")
    if features is None:
        if frames is not None:
            pixel_values = frames_of_clips(pixel_values, frames, "pixel_values")
        pixels = check_pixels(pixel_values, frozen.input_size, frozen.dtype, frozen.device)
        return {"pixel_values": pixels, "features": None, "depths": {}}
    if frames is not None:
        tensors = [features] if isinstance(features, Tensor) else features
        features = [frames_of_clips(tensor, frames, "features") for tensor in tensors]
    if isinstance(opened, HookedBackbone):
        raise opened.no_features(opened.rooted)
    shapes, sizes = opened.feature_shapes, opened.depth_sizes(depths)
    checked = check_features(features, shapes, opened.excitation_shapes, frozen.dtype, frozen.device, sizes)
    first, last = len(shapes), len(shapes) + len(sizes)
    averages = dict(zip(depths, checked[first:last], strict=True))
    return {"pixel_values": None, "features": checked[:first] + checked[last:], "depths": averages}


def rows_by_adapter(names: Sequence[str], num_rows: int, loaded: Mapping[str, Adapter]) -> dict[str, list[int]]:
    """Sorts the rows of a mixed batch by the adapter that reads them, in order of first appearance.

    Args:
        names: One name per row; `"__base__"` for the untouched backbone.
        num_rows: Rows of the batch.
        loaded: Adapters by name.

    Returns:
        The indices of each adapter's rows, by its name.

    Raises:
        InputError: not one name for each row.
        AdapterNotFoundError: a name that is neither loaded nor the backbone's.

    Example:
        >>> rows_by_adapter(["fer", "__base__", "fer"], 3, {"fer": None})
        {'fer': [0, 2], '__base__': [1]}
    """
    if isinstance(names, str):
        raise InputError(f"`adapter_names` takes one name per row, a list; got the text {quoted(names)}.")
    if len(names) != num_rows:
        raise InputError(f"`adapter_names` must name an adapter for each of the {num_rows} rows; got {len(names)}.")
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        if name != BASE_ADAPTER and name not in loaded:
            raise AdapterNotFoundError(name, loaded)
        rows.setdefault(name, []).append(row)
    return rows


def frames_read(names: Sequence[str], loaded: Mapping[str, Adapter]) -> int | None:
    """The number of frames in a sample that all of these adapters read, or None for single pictures.

    Args:
        names: Adapters that read one batch; `"__base__"`, the backbone, reads single pictures.
        loaded: Adapters by name.

    Raises:
        InputError: some read clips and some single pictures, or clips of other lengths.

    Example:
        >>> from types import SimpleNamespace
        >>> from ciao_peft import CIAOConfig
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, frames=10, recurrent_size=8)
        >>> frames_read(["clips"], {"clips": SimpleNamespace(config=config)})
        10
    """
    frames = {name: loaded[name].config.frames for name in names if name in loaded}
    if BASE_ADAPTER in names:
        frames[BASE_ADAPTER] = None
    if len(set(frames.values())) > 1:
        said = [
            f"{quoted(name)} reads " + (f"clips of {n} frames" if n else "single pictures")
            for name, n in frames.items()
        ]
        raise InputError(
            f"One batch does not suit them all: {'; '.join(said)}. Name those it suits in `adapter_names`."
        )
    return [*frames.values(), None][0]  # torch 2.8 cannot compile `next` with a default


def read_mixed(
    names: Sequence[str],
    adapters: Mapping[str, Adapter],
    frozen: FrozenBackbone,
    opened: OpenedBackbone,
    *,
    pixel_values: Tensor | None,
    features: Tensor | Sequence[Tensor] | None,
    depths: Sequence[Depth] = (),
    adapters_off: bool = False,
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Reads each row of a batch with its own adapter, after one trunk pass for all.

    Args:
        names: One adapter per row; `"__base__"` for the untouched backbone.
        adapters: By name.
        frozen: The backbone.
        opened: The same, opened where features are taken.
        pixel_values: As for `checked_source`.
        features: As for `checked_source`.
        depths: As for `checked_source`.
        adapters_off: Let the backbone read every row, whatever `names` says.

    Returns:
        For each row its logits `(num_labels,)` in the backbone's dtype, and its embedding `(D,)` in float32; None for
        a row that the backbone read.

    Raises:
        InputError: names, pixels or features that do not fit.
        AdapterNotFoundError: a name is not loaded.

    Example:
        >>> from ciao_peft import CIAOConfig, load_encoder
        >>> frozen = FrozenBackbone(load_encoder("small-face"))
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=7)
        >>> adapters = {"fer": Adapter(config, frozen.open())}
        >>> faces = torch.rand(2, *frozen.input_size)
        >>> logits, z = read_mixed(
        ...     ["fer", "__base__"], adapters, frozen, frozen.open(), pixel_values=faces, features=None
        ... )
        >>> logits[0].shape, z[1] is None
        (torch.Size([7]), True)
    """
    frames = None if adapters_off else frames_read(names, adapters)
    source = checked_source(frozen, opened, pixel_values, features, frames, depths)
    batch = source["pixel_values"] if source["features"] is None else source["features"][0]
    assert batch is not None  # one of the two was given
    rows = rows_by_adapter(names, batch.shape[0] // (frames or 1), adapters)
    if adapters_off:
        rows = {BASE_ADAPTER: list(range(len(names)))}
    order = _on(batch.device, [row for own in rows.values() for row in own])
    indices = dict(zip(rows, order.split([len(own) for own in rows.values()]), strict=True))
    if frames is not None:  # all frames of a clip, which follow one another
        each = torch.arange(frames, device=batch.device)
        indices = {name: (own[:, None] * frames + each).flatten() for name, own in indices.items()}
    requests = [(indices[name], name) for name in rows]
    maps = dict(zip(rows, read_maps(requests, adapters, frozen, features_of=opened, **source), strict=True))
    own_names = [name for name in rows if name != BASE_ADAPTER]
    decided = decide_all([(adapters[name], maps[name]) for name in own_names], frozen.dtype)
    answers: dict[str, tuple[Tensor, Tensor | None]] = dict(zip(own_names, decided, strict=True))
    if BASE_ADAPTER in rows:
        answers[BASE_ADAPTER] = cast(Tensor, maps[BASE_ADAPTER]).to(frozen.dtype), None
    logits: dict[int, Tensor] = {}
    embeddings: dict[int, Tensor | None] = {}
    for name, own in rows.items():
        own_logits, z = answers[name]
        z = None if z is None else z.float()
        for place, row in enumerate(own):
            logits[row] = own_logits[place]
            embeddings[row] = None if z is None else z[place]
    return [logits[row] for row in range(len(names))], [embeddings[row] for row in range(len(names))]


def read_maps(
    requests: Sequence[tuple[Tensor | None, str]],
    adapters: Mapping[str, Adapter],
    frozen: FrozenBackbone,
    *,
    pixel_values: Tensor | None,
    features: Sequence[Tensor] | None,
    features_of: OpenedBackbone,
    depths: Mapping[Depth, Tensor] | None = None,
    masks: Mapping[str, Mask] | None = None,
) -> list[Tensor | Seen]:
    """Computes the final map for each request, with one trunk pass for all that run on the same frozen cut.

    Args:
        requests: Rows of the batch (None for all) and the adapter that reads them, or the backbone's name.
        adapters: By name.
        frozen: The backbone.
        pixel_values: `(B, C, H, W)`, or None with features.
        features: What crossed the cut of `features_of`.
        features_of: Where features were taken.
        depths: What came with the features of earlier units, `(B, n)` each.
        masks: Masks by adapter, to be used in place of `Adapter.mask`.

    Returns:
        For each request the final map `(b, C, H, W)` of its b rows, or more of which the first b count where adapters
        with few and with many rows were stacked; for an adapter that reads depths, with those of the same rows; for the
        backbone's name its output.

    Raises:
        InputError: features are of no use to an adapter that was asked for.

    Example:
        >>> from ciao_peft import CIAOConfig
        >>> frozen = FrozenBackbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (3, 16, 16))
        >>> config = CIAOConfig(problem_type="regression", num_labels=2)
        >>> adapters, requests = {"fer": Adapter(config, frozen.open())}, [(torch.tensor([0, 2]), "fer")]
        >>> pixels = torch.rand(3, 3, 16, 16)
        >>> maps = read_maps(
        ...     requests, adapters, frozen, pixel_values=pixels, features=None, features_of=frozen.open()
        ... )
        >>> maps[0].shape
        torch.Size([2, 8, 14, 14])
    """
    changed = masks is not None
    masks = {name: adapters[name].mask for _, name in requests if name != BASE_ADAPTER} | dict(masks or {})
    batch = pixel_values if features is None else features[0]
    assert batch is not None  # one of the two was given
    results: dict[int, Tensor | Seen] = {}
    shared: dict[int, tuple[OpenedBackbone, list[int]]] = {}
    for index, (rows, name) in enumerate(requests):
        if name == BASE_ADAPTER:
            opened = frozen.open() if features is None else features_of
        else:
            adapter = adapters[name]
            opened = frozen.opened_at(adapter.config.target_modules)
            if adapter.encoder is not None:
                results[index] = _read_with_own_encoder(adapter, masks[name], name, rows, opened, pixel_values)
                continue
            if features is not None:
                _check_of_use(adapter, name, opened, features_of, depths or {})
        shared.setdefault(id(opened), (opened, []))[1].append(index)
    for opened, members in shared.values():
        units = [] if changed else [index for index in members if requests[index][1] != BASE_ADAPTER]
        own = [(requests[index][0], adapters[requests[index][1]]) for index in units]
        stacked = stacks(own, opened, batch.device, batch.shape[0])
        alone = set(members) - {units[place] for stack in stacked for place in stack.places}
        single = [index for index in members if index in alone]
        asked = [(requests[index][0], masks.get(requests[index][1])) for index in single]
        asked += [_request(stack, [own[place][0] for place in stack.places]) for stack in stacked]
        reading = {index: adapters[requests[index][1]].depths for index in members if requests[index][1] in adapters}
        wanted = [*dict.fromkeys(depth for own_depths in reading.values() if own_depths for depth in own_depths)]
        pixels, crossing, averages = pixel_values, features, depths or {}
        if wanted and pixels is not None:
            crossing, averages = _trunk_with_depths(opened, opened.rooted, pixels, wanted, pixels.requires_grad)
            pixels = None
        answers = opened.run(opened.rooted, asked, pixel_values=pixels, features=crossing)
        maps = dict(zip(single, answers, strict=False))
        for stack, feature_map in zip(stacked, answers[len(single) :], strict=True):
            places = [units[place] for place in stack.places]
            if own[stack.places[0]][0] is not None:
                each = feature_map.unflatten(0, (len(places), -1))
            elif feature_map.shape[0] > batch.shape[0]:
                each = feature_map.unflatten(0, (-1, len(places))).movedim(1, 0)
            else:  # none of them has a mask: one answer for all
                each = [feature_map] * len(places)
            maps |= dict(zip(places, each, strict=True))
        results |= maps
        for index in (index for index, own_depths in reading.items() if own_depths):
            rows, feature_map = requests[index][0], maps[index]
            results[index] = Seen(feature_map, depths_of_rows(averages, reading[index], rows, feature_map.shape[0]))
    return [results[index] for index in range(len(requests))]


def _check_of_use(
    adapter: Adapter, name: str, opened: OpenedBackbone, features_of: OpenedBackbone, depths: Mapping[Depth, Tensor]
) -> None:
    if opened.targets != features_of.targets:
        raise InputError(
            f"The adapter {quoted(name)} masks {listed(opened.targets)}, and `features` are those before "
            f"{listed(features_of.targets)}; give `pixel_values`."
        )
    if missing := [depth for depth in adapter.depths if depth not in depths]:
        raise InputError(
            f"The adapter {quoted(name)} reads depths that `features` are without, {_named(missing)}: they have those "
            f"of the active adapter, {_named(depths)}. Give `pixel_values`, or make an adapter active that reads all "
            "of them, and take features with it."
        )


def _named(depths: Iterable[Depth]) -> str:
    return listed(depth.path if depth.grid == 1 else f"{depth.path} in {depth.grid} x {depth.grid}" for depth in depths)


def _trunk_with_depths(
    opened: OpenedBackbone, rooted: Rooted, pixels: Tensor, depths: Sequence[Depth], with_gradients: bool
) -> tuple[tuple[Tensor, ...], dict[Depth, Tensor]]:
    """What crosses the cut, and the averaged answers of earlier units, from one trunk pass."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and with_gradients):
        tensors = opened.features(rooted, pixels, depths=depths)
    first = len(tensors) - len(depths)
    return tensors[:first], dict(zip(depths, tensors[first:], strict=True))


def _request(stack: Stack, rows: Sequence[Tensor | None]) -> tuple[Tensor | None, Mask]:
    """The rows that a stack reads, and its mask; equally many rows for each adapter, the last one again and again."""
    given = [own for own in rows if own is not None]
    if not given:
        return None, stack.masks_of_all
    counts = [len(own) for own in given]
    together, most = torch.cat(given), max(counts)
    if min(counts) < most:
        starts = accumulate(counts, initial=0)
        order = [
            start + min(row, count - 1) for start, count in zip(starts, counts, strict=False) for row in range(most)
        ]
        together = together[_on(together.device, order)]
    return together, stack.masks_of_each


def _on(device: torch.device, rows: list[int]) -> Tensor:
    """Numbers of rows on a device. For a GPU the host never waits, and sends the same ones once for each stream."""
    if device.type != "cuda" or torch.compiler.is_compiling():
        return torch.tensor(rows, device=device)
    key, stream = (device, tuple(rows)), torch.cuda.current_stream(device)
    sent = _HELD.get(key) or _SENT.get(key)
    if torch.cuda.is_current_stream_capturing():
        if sent is None:
            raise InputError(
                "A CUDA graph holds a mixed batch only if one with the same rows was read before; do that first."
            )
        _HELD[key] = sent  # the graph reads there for as long as it lives
    elif sent is None or sent[1] != stream:
        with torch.inference_mode(False):
            here = torch.tensor(rows, device="cpu", pin_memory=True)
            sent = here.to(device, non_blocking=True), stream
        _SENT[key] = sent
        while len(_SENT) > _MOST_SENT:
            _SENT.pop(next(iter(_SENT)), None)
    return sent[0]


def _read_with_own_encoder(
    adapter: Adapter,
    mask: Mask,
    name: str,
    rows: Tensor | None,
    opened: OpenedBackbone,
    pixel_values: Tensor | None,
) -> Tensor | Seen:
    encoder = cast(nn.Module, adapter.encoder)
    if pixel_values is None:
        raise InputError(
            f"The adapter {quoted(name)} owns its whole encoder (tuning='full'), so features of the frozen trunk mean "
            "nothing to it; give `pixel_values`."
        )
    rooted, trains = Rooted(encoder), torch.is_grad_enabled()
    own = pixel_values.to(next(encoder.parameters()).dtype)
    if not adapter.depths:
        return opened.run(rooted, [(rows, mask)], pixel_values=own, train_encoder=trains)[0]
    features, averages = _trunk_with_depths(opened, rooted, own, adapter.depths, trains)
    feature_map = opened.run(rooted, [(rows, mask)], features=features, train_encoder=trains)[0]
    return Seen(feature_map, depths_of_rows(averages, adapter.depths, rows, feature_map.shape[0]))
