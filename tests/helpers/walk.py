"""One adapter's life on a model of a family, and what it met there.

`backbone/test_families.py` lives it, and `docs/make_backbones.py` makes a table of it.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ciao_peft.config import CIAOConfig
from ciao_peft.model import CIAOModel, get_ciao_model

from .zoo import Family


@dataclass(frozen=True, kw_only=True)
class Found:
    """What an adapter met on a family's model.

    Args:
        family: The family.
        convolutions: How many `Conv2d` ran with an output larger than 1x1.
        masked: Paths of those that carry a mask.
        unit: What goes into their inhibitory copies: the convolution and what directly follows it.
        map_shape: `(C, H, W)` of what the head sees.
        reason: Why the network was not cut, so that its features cannot be cached; None where it was.
        parameters: Trained by the masks.
    """

    family: Family
    convolutions: int
    masked: tuple[str, ...]
    unit: tuple[str, ...]
    map_shape: tuple[int, int, int]
    reason: str | None
    parameters: int

    def cells(self) -> list[object]:
        """Its row of the table in docs/backbones.md."""
        size = "x".join(map(str, self.family.input_size[1:]))
        cached = "yes" if self.reason is None else f"no: {self.reason}"
        masked = shorter(self.masked)
        cells = [self.family.name, self.family.model, size, self.convolutions, masked, "+".join(self.unit)]
        return [*cells, "x".join(map(str, self.map_shape)), cached, f"{self.parameters:,}"]


def shorter(paths: tuple[str, ...]) -> str:
    """`block.conv1`, `.conv2`: paths with what they begin with in common named once."""
    common = 0
    parts = [path.split(".") for path in paths]
    while len(parts) > 1 and len({tuple(p[: common + 1]) for p in parts}) == 1:
        common += 1
    rest = [".".join(["", *p[common:]] if common else p) for p in parts[1:]]
    return ", ".join(f"`{path}`" for path in (*paths[:1], *rest))


@torch.no_grad()
def make_seeing(backbone: nn.Module, seed: int = 0) -> nn.Module:
    """Gives a network with random weights an output in which every part of it can be seen.

    Many start with gains of zero (a ResNet's last batch norm of a block), of a millionth (layer scale) or with weights
    so small that attention attends to nothing: a mask there would change nothing that float32 can show.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in backbone.parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        first = parameter.flatten()[0]
        if bool((parameter == first).all()):
            low = 0.5 if first != 0 else -0.1
            parameter.copy_(low + 0.5 * torch.rand(parameter.shape, generator=generator))
        elif parameter.ndim > 1:
            size = parameter.norm() * parameter[0].numel() ** 0.5 / parameter.numel() ** 0.5
            if size < 0.7:  # the norm that one answer to inputs of norm one has on average
                parameter.mul_(1 / size)
    return backbone.eval()


def walk(family: Family) -> Found:
    """Wraps the family's model and lives one adapter's life on it.

    Raises:
        AssertionError: says which promise the family breaks.
    """
    torch.manual_seed(0)
    backbone = make_seeing(family.build())
    fresh = copy.deepcopy(backbone)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    pixels = torch.rand(3, *family.input_size)
    fresh.requires_grad_(False)  # torch.matmul picks another kernel, and with it other last bits, for frozen weights
    with torch.no_grad():
        untouched = _tensor(fresh(pixels))

    config = CIAOConfig(problem_type="single_label_classification", num_labels=3, pooling="flatten", hidden_sizes=())
    model = get_ciao_model(backbone, config, input_size=family.input_size)
    opened = model.opened
    adapter = model.adapters["default"]

    for change in adapter.low_rank_excitation:
        torch.nn.init.normal_(change.up.weight, std=0.1)  # zero at the start, so that nothing before it has a gradient
    model.train()
    output = model(pixels, labels=torch.tensor([0, 1, 1]))
    output.loss.backward()
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), f"{name} gets no gradient"
        assert parameter.grad.abs().max() > 0, f"the gradient of {name} is zero"
    assert all(p.grad is None for p in backbone.parameters()), "a gradient reached the backbone"

    model.eval()
    with torch.no_grad():
        source = {"features": model.extract_features(pixels)} if model.traceable else {"pixel_values": pixels}
        logits = model(**source).logits
        assert logits.isfinite().all() and logits.shape == (3, 3)
        for layer in adapter.inhibition:
            earlier = logits
            layer.raw_decay += 0.5 + torch.rand_like(layer.raw_decay)
            logits = model(**source).logits
            assert (logits - earlier).abs().max() > 1e-6, "a mask does not reach the output"
        assert torch.equal(model(pixels).logits, logits), "cached features give another answer"
        with model.disable_adapter():
            assert torch.equal(_tensor(model(pixels)), untouched), "without adapter it is not the backbone"
        with tempfile.TemporaryDirectory() as folder:
            path = model.save_pretrained(Path(folder) / "adapter")
            loaded = CIAOModel.from_pretrained(fresh, path).eval()
        assert torch.equal(loaded(pixels).logits, logits), "the loaded adapter gives another answer"

    after = backbone.state_dict()
    assert list(after) == list(before), "the backbone's keys changed"
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items()), "the backbone's bits changed"
    return Found(
        family=family,
        convolutions=count_convolutions(fresh, pixels[:2]),
        masked=opened.targets,
        unit=tuple(name for name, _ in opened.units_spec[0].steps),
        map_shape=opened.map_shape,
        reason=None if opened.traceable else opened.reason,
        parameters=sum(p.numel() for p in adapter.inhibition.parameters()),
    )


def count_convolutions(backbone: nn.Module, pixels: Tensor) -> int:
    """How many `Conv2d` run with an output larger than 1x1."""
    seen = set()

    def note(module: nn.Module, args: tuple, output: Tensor) -> None:
        if output.shape[-2] * output.shape[-1] > 1:
            seen.add(module)

    handles = [m.register_forward_hook(note) for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        backbone(pixels)
    for handle in handles:
        handle.remove()
    return len(seen)


def _tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits if hasattr(output, "logits") else output[0]
