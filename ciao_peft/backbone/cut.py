"""Cuts a traced network at its terminal convolutions into trunk, conv units and tail."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import InputError, TargetModulesError, UntraceableBackboneError
from .depths import Depth, DepthNodes
from .identity import example_pixels, size_of
from .maps import average_cells
from .masks import Mask, Request
from .pieces import make_piece, per_row
from .places import Places, ancestors, descendants, find_places, is_tensor, path_of
from .skipped import SkippedHooks
from .tracing import Rooted, trace
from .units import UnitSpec
from .whole import WholeRun

__all__ = ["CutBackbone", "Mask", "Request"]


def _cut_again(backbone: nn.Module, input_size: tuple[int, int, int], targets: tuple[str, ...] | None) -> CutBackbone:
    return CutBackbone(backbone.eval(), example_pixels(backbone, input_size), targets)


class CutBackbone:
    """A backbone in four pieces, each a function of the backbone and tensors.

    | piece | from | to |
    | --- | --- | --- |
    | trunk | pixels | the features that cross the cut |
    | units | features | u, the answers of the conv units |
    | tail | features and masks | the final map, which the head sees |
    | rest | features and u | the backbone's own output |

    The pieces run on the modules of whatever `Rooted` they are given, so any copy of the backbone can be run with them.
    The backbone itself is held by reference, and nothing of it is copied.

    Args:
        backbone: The network, in eval mode.
        example: `(2, C, H, W)` pixels; the cut is checked on them against the backbone itself.
        targets: Paths of the convolutions to mask, or None for the terminal ones.

    Attributes:
        rooted: The backbone under a common call: pixels in, one tensor out.
        input_size: `(C, H, W)` of the pixels.
        units_spec: What each masked conv unit is.
        feature_shapes: Shape of each tensor that crosses the cut, without its batch dimension.
        excitation_shapes: Shape of each u, without its batch dimension.
        map_shape: `(C, H, W)` of the final map.
        embeds_patches: Whether the masked convolutions are the network's first, followed by layers of other kinds.

    Shapes:
        pixel_values: `(B, C, H, W)`; features `(B, *shape)` for each of `feature_shapes`.
        u and masks: `(B, C', H', W')`; final map `(B, *map_shape)`.

    Raises:
        UntraceableBackboneError: the graph cannot be followed, or computes something else than the backbone.
        BackboneError: no spatial convolution is on the way to the output.
        TargetModulesError: `targets` do not name convolutions side by side on the way to the output.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()
        >>> cut = CutBackbone(net, example_pixels(net, (3, 16, 16)))
        >>> cut.targets, cut.feature_shapes, cut.map_shape
        (('2',), [(8, 14, 14)], (16, 6, 6))
        >>> def halved(index, features, excitation):
        ...     return excitation() / 2
        >>> pixels = torch.rand(4, 3, 16, 16)
        >>> output, final_map = cut.run(cut.rooted, [(None, None), (None, halved)], pixel_values=pixels)
        >>> torch.equal(output, net(pixels)), torch.allclose(final_map, net(pixels) / 2)
        (True, True)
    """

    traceable = True
    rooted: Rooted
    input_size: tuple[int, int, int]
    units_spec: list[UnitSpec]
    feature_shapes: list[tuple[int, ...]]
    excitation_shapes: list[tuple[int, ...]]
    map_shape: tuple[int, ...]
    embeds_patches: bool

    def __init__(self, backbone: nn.Module, example: Tensor, targets: tuple[str, ...] | None = None) -> None:
        self.rooted = Rooted(backbone)
        self.input_size = size_of(example)
        self._targets = targets
        nodes = list(trace(backbone, example[:1]).nodes)
        silent: set[fx.Node] = set()
        while True:
            places = find_places(backbone, nodes, targets, silent)
            self.units_spec, self._layout = places.units, places.layout
            try:
                self._split(nodes, places, example)
                heard = self._check(example)
            except UntraceableBackboneError:
                raise
            except Exception as error:  # a batch size, or what follows from it, that the graph holds for good
                raise UntraceableBackboneError(f"The graph runs on one batch size only: {error}") from error
            more = [conv for conv, is_heard in zip(places.convs, heard, strict=True) if not is_heard]
            if not more:
                break
            if targets is not None:
                raise TargetModulesError(
                    f"`target_modules` names {path_of(more[0])!r}, whose answer changes nothing in "
                    "the backbone's output. Leave it out."
                )
            silent.update(more)
        self.embeds_patches = places.embeds_patches
        self._depths = DepthNodes(backbone, nodes, places.convs)
        after = descendants([places.map]) - {places.map}
        self._skipped = SkippedHooks(
            backbone,
            [path_of(node) for node in nodes if node.op == "call_module"],
            [path_of(node) for node in nodes if node.op == "call_module" and node in after],
        )
        self._whole: WholeRun | None = None
        for node in nodes:  # a trunk with depths is made of them when one is asked for, without their values
            if node.op != "get_attr":
                node.meta.clear()

    @property
    def targets(self) -> tuple[str, ...]:
        """Paths of the masked convolutions."""
        return tuple(unit.conv for unit in self.units_spec)

    @property
    def keeps_rows(self) -> bool:
        """Whether every tensor that crosses the cut has one row for each sample: attention folds heads into rows."""
        return set(self._folds) | set(self._answer_folds) == {1}

    def __reduce__(self) -> tuple[Any, ...]:
        return _cut_again, (self.rooted.backbone, self.input_size, self._targets)  # compiled code has no pickle

    def __deepcopy__(self, memo: dict[int, Any]) -> CutBackbone:
        other = copy.copy(self)
        other.rooted = copy.deepcopy(self.rooted, memo)
        other._skipped = copy.deepcopy(self._skipped, memo)
        other._whole = None
        return other

    def __copy__(self) -> CutBackbone:
        other = object.__new__(CutBackbone)
        vars(other).update(vars(self))
        return other

    # -- cutting ---------------------------------------------------------------------------------------------------

    def _split(self, nodes: list[fx.Node], places: Places, example: Tensor) -> None:
        pixels = next(node for node in nodes if node.op == "placeholder")
        output = places.output
        data, after = descendants([pixels], by_data=True), descendants(places.convs)
        # What depends on the pixels' shape alone is computed again after the cut; it needs no more than numbers.
        crossing: set[fx.Node] = set()
        seen: set[fx.Node] = set()
        todo = [node for node in ancestors([output, places.map]) if node in after]
        while todo:
            for node in todo.pop().all_input_nodes:
                if node in seen or node in after:
                    continue
                seen.add(node)
                if node in data or any(operand in data for operand in node.all_input_nodes):
                    crossing.add(node)
                else:
                    todo.append(node)
        tensors = [node for node in nodes if node in crossing and node in data]
        scalars = [node for node in nodes if node in crossing and node not in data]
        if not all(map(is_tensor, tensors)):
            raise UntraceableBackboneError("Several tensors cross the cut as one value.")
        self._input_index = [tensors.index(conv.all_input_nodes[0]) for conv in places.convs]

        with torch.no_grad():
            values = make_piece(self.rooted, nodes, [pixels], [*tensors, *scalars])(self.rooted, example.clone())
        # Attention folds heads into the batch: keep such tensors as (B, heads, ...), so that rows are samples.
        self._folds: list[int] = []
        for value in values[: len(tensors)]:
            if value.ndim == 0 or len(value) % len(example):
                raise UntraceableBackboneError("A tensor without a batch dimension crosses the cut.")
            self._folds.append(len(value) // len(example))
        self.feature_shapes = [
            tuple(v.shape[1:]) if k == 1 else (k, *v.shape[1:])
            for v, k in zip(values[: len(tensors)], self._folds, strict=True)
        ]
        known = {
            node: per_row(node.meta["value"], value, len(example))
            for node, value in zip(scalars, values[len(tensors) :], strict=True)
        }
        both, fold = [*tensors, *places.ends], self._folds[0]
        self._before_cut = nodes, pixels, tensors
        self._trunks: dict[tuple[Depth, ...], Callable[..., tuple[Tensor, ...]]] = {}
        self._trunk = make_piece(self.rooted, nodes, [pixels], tensors)
        self._units = make_piece(self.rooted, nodes, tensors, places.ends, known, fold)
        self._tail = make_piece(self.rooted, nodes, both, [places.map], known, fold)
        self._rest = make_piece(self.rooted, nodes, both, [output], known, fold)
        self.map_shape = tuple(self._layout.as_map(places.map.meta["value"]).shape[1:])
        read = ancestors([places.map], until={*both, *known})
        self._tail_reads = [node in read for node in tensors]

    @torch.no_grad()
    def _check(self, example: Tensor) -> list[bool]:
        """Compares the pieces with the backbone, notes which tensors they write into, and says which unit is heard."""
        self._written = [False] * len(self._folds)
        self._writes_masks = False
        reference = self.rooted(example.clone())

        def written(tensors: Sequence[Tensor], run: Callable[[], Any]) -> tuple[list[bool], Any]:
            versions = [t._version for t in tensors]
            result = run()
            return [t._version != v for t, v in zip(tensors, versions, strict=True)], result

        pixels = example.clone()
        (self._writes_pixels,), features = written([pixels], lambda: self._trunk(self.rooted, pixels))
        fresh = [f.clone() for f in features]
        flags, answers = written(fresh, lambda: self._units(self.rooted, *fresh))
        answers = [a.clone() for a in answers]
        self._answer_folds = [len(a) // len(example) for a in answers]
        self.excitation_shapes = [
            tuple(a.shape[1:]) if k == 1 else (k, *a.shape[1:])
            for a, k in zip(answers, self._answer_folds, strict=True)
        ]
        self._written = [a | b for a, b in zip(self._written, flags, strict=True)]
        for piece in (self._tail, self._rest):
            fresh = [t.clone() for t in (*features, *answers)]
            flags, result = written(fresh, lambda piece=piece, fresh=fresh: piece(self.rooted, *fresh)[0])
            self._written = [a | b for a, b in zip(self._written, flags[: len(features)], strict=True)]
            self._writes_masks |= any(flags[len(features) :])
        if result.shape != reference.shape or not torch.allclose(
            result, reference, rtol=1e-3, atol=1e-4, equal_nan=True
        ):
            raise UntraceableBackboneError("The traced graph computes something else than the backbone.")

        def heard(index: int) -> bool:
            # NaN passes gains of zero, so this is about the network's shape and not about its values.
            altered = [a.clone() for a in answers]
            altered[index].fill_(float("nan"))
            return not torch.equal(self._rest(self.rooted, *[f.clone() for f in features], *altered)[0], result)

        return [heard(index) for index in range(len(answers))]

    # -- depths ----------------------------------------------------------------------------------------------------

    def find_depths(self, depths: tuple[str, ...] | int | None, grid: int = 1) -> tuple[Depth, ...]:
        """Finds the earlier units that a head is to read.

        Args:
            depths: `CIAOConfig.depths`.
            grid: `CIAOConfig.depth_grid`.

        Raises:
            TargetModulesError: one of them is no map before the masks, or there are not as many.

        Example:
            >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
            >>> cut = CutBackbone(net, example_pixels(net, (3, 16, 16)))
            >>> cut.find_depths(1), cut.find_depths(None)
            ((Depth(path='0', grid=1),), ())
        """
        found = tuple(Depth(path, grid) for path in self._depths.chosen(depths))
        if found:
            self._trunk_with(found)
        return found

    def depth_sizes(self, depths: Sequence[Depth]) -> list[int]:
        """How many numbers are read of each depth.

        Args:
            depths: As `find_depths` gives them.

        Raises:
            TargetModulesError: one of them is no map before the masks.

        Example:
            >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
            >>> cut = CutBackbone(net, example_pixels(net, (3, 16, 16)))
            >>> cut.depth_sizes(cut.find_depths(("0",), grid=2))
            [32]
        """
        maps = [torch.empty(1, *self._depths.shape(depth.path), device="meta") for depth in depths]
        return [average_cells(each, depth.grid).shape[1] for each, depth in zip(maps, depths, strict=True)]

    def _trunk_with(self, depths: tuple[Depth, ...]) -> Callable[..., tuple[Tensor, ...]]:
        """The trunk that gives some depths behind the tensors that cross the cut."""
        if not depths:
            return self._trunk
        if depths not in self._trunks:
            nodes, pixels, tensors = self._before_cut
            pooled = [(self._depths.find(depth.path), depth.grid) for depth in depths]
            self._trunks[depths] = make_piece(self.rooted, nodes, [pixels], tensors, pooled=pooled)
        return self._trunks[depths]

    # -- running ---------------------------------------------------------------------------------------------------

    def features(
        self,
        rooted: Rooted,
        pixel_values: Tensor,
        include_excitation: bool = False,
        depths: Sequence[Depth] = (),
    ) -> tuple[Tensor, ...]:
        """Computes the tensors that cross the cut.

        Args:
            rooted: The modules to run on.
            pixel_values: `(B, C, H, W)`.
            include_excitation: Add the answer u of each conv unit.
            depths: Earlier units whose averaged answers are added, as `find_depths` gives them.

        Returns:
            One tensor `(B, *shape)` for each of `feature_shapes`, then `(B, n)` for each of `depth_sizes(depths)`,
            then one for each of `excitation_shapes` if asked for.

        Example:
            >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
            >>> cut = CutBackbone(net, example_pixels(net, (3, 16, 16)))
            >>> features, u = cut.features(cut.rooted, torch.rand(4, 3, 16, 16), include_excitation=True)
            >>> features.shape, u.shape
            (torch.Size([4, 8, 14, 14]), torch.Size([4, 16, 12, 12]))
        """
        trunk = self._trunk_with(tuple(depths)) if depths else self._trunk
        answers = trunk(rooted, pixel_values.clone() if self._writes_pixels else pixel_values)
        crossing, averages = answers[: len(self._folds)], answers[len(self._folds) :]
        features = tuple(f.unflatten(0, (-1, k)) if k > 1 else f for f, k in zip(crossing, self._folds, strict=True))
        if not include_excitation:
            return features + averages
        answers = self._units(rooted, *self._safe(features))
        folds = self._answer_folds
        u = tuple(u.unflatten(0, (-1, k)) if k > 1 else u for u, k in zip(answers, folds, strict=True))
        return features + averages + u

    def run(
        self,
        rooted: Rooted,
        requests: Sequence[Request],
        *,
        pixel_values: Tensor | None = None,
        features: Sequence[Tensor] | None = None,
        train_encoder: bool = False,
    ) -> list[Tensor]:
        """Answers several requests from one trunk pass.

        Args:
            rooted: The modules to run on: the backbone, or an adapter's own copy of it.
            requests: Each the rows it reads (None for all) and its mask. A request without mask is for the backbone's
                output.
            pixel_values: `(B, C, H, W)`; not needed with `features`.
            features: What `features` returned before, with or without u; with u, no frozen unit is computed.
            train_encoder: Whether gradients go to the modules before the mask.

        Returns:
            For each request the final map `(b, C, H, W)` of its b rows, or the output. Tokens come as the map they lie
            on, or as a column `(b, C, N, 1)`.

        Raises:
            InputError: neither pixels nor features were given.
        """
        if not torch.compiler.is_compiling():
            has_mask = any(mask is not None for _, mask in requests)
            if pixel_values is not None and features is None and self._skipped.is_around(rooted):
                self._whole = self._whole or WholeRun(self.units_spec, self.run)
                results = self._whole.run(rooted, requests, pixel_values, train_encoder)
                if results is not None:
                    fires = partial(self._whole.passes, rooted, pixel_values) if has_mask else lambda path: True
                    self._skipped.warn(rooted, has_mask, fires)
                    return results
            self._skipped.warn(rooted, has_mask)
        if features is None:
            if pixel_values is None:
                raise InputError("Give either `pixel_values` or `features`.")
            before_mask = torch.is_grad_enabled() and (train_encoder or pixel_values.requires_grad)
            with torch.set_grad_enabled(before_mask):
                features = self.features(rooted, pixel_values)
        else:
            before_mask = torch.is_grad_enabled() and (train_encoder or any(f.requires_grad for f in features))
        features, stored = features[: len(self._folds)], features[len(self._folds) :]
        answers: list[Sequence[Tensor]] = [_unfolded(stored, self._answer_folds)] if stored else []

        def excitation() -> Sequence[Tensor]:  # u of all rows, computed when it is needed first
            if not answers:
                with torch.set_grad_enabled(before_mask):
                    answers.append(self._units(rooted, *self._safe(features)))
            return answers[0]

        results = []
        for rows, mask in requests:
            chosen = features if rows is None else [f[rows] for f in features]
            tensors = _unfolded(chosen, self._folds)

            def unit_answer(index: int, rows: Tensor | None = rows) -> Tensor:
                u = excitation()[index]
                if rows is None:
                    return u
                folds = u.shape[0] // features[0].shape[0]
                return u.unflatten(0, (-1, folds))[rows].flatten(0, 1)

            if mask is None:
                u = [unit_answer(index).clone() for index in range(len(self.units_spec))]
                results.append(self._rest(rooted, *self._safe(chosen), *u)[0])
                continue
            masks = [
                mask(index, tensors[place], lambda index=index: unit_answer(index))
                for index, place in enumerate(self._input_index)
            ]
            if self._writes_masks:  # without inhibition the mask is u itself, which others may still read
                masks = [m.clone() for m in masks]
            first = tensors[self._input_index[0]]
            count, rows_read = masks[0].shape[0], first.shape[0]
            copies = count // rows_read if count > rows_read else 1
            crossing = self._safe(chosen) if copies == 1 else self._repeated(chosen, copies)
            results.append(self._layout.as_map(self._tail(rooted, *crossing, *masks)[0]))
        return results

    def _repeated(self, features: Sequence[Tensor], copies: int) -> list[Tensor]:
        """Each row of features several times over, in a row; of what the tail does not read, the shape alone."""
        repeated = []
        for tensor, is_read in zip(_unfolded(features, self._folds), self._tail_reads, strict=True):
            if is_read:
                repeated.append(tensor.repeat_interleave(copies, dim=0))
            else:
                repeated.append(tensor[:1].expand(tensor.shape[0] * copies, *tensor.shape[1:]))
        return repeated

    def _safe(self, features: Sequence[Tensor]) -> list[Tensor]:
        features = _unfolded(features, self._folds)
        return [f.clone() if w else f for f, w in zip(features, self._written, strict=True)]


def _unfolded(tensors: Sequence[Tensor], folds: Sequence[int]) -> list[Tensor]:
    return [t.flatten(0, 1) if k > 1 else t for t, k in zip(tensors, folds, strict=True)]
