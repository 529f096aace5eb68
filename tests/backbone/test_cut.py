"""What crosses the cut between the frozen part and the rest, and that the pieces compute what the network does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ciao_peft.backbone import CutBackbone, open_backbone
from ciao_peft.backbone.pieces import PerRow, per_row
from ciao_peft.errors import UntraceableBackboneError
from helpers.fakes import SIZE, _fill, pixels, residual_backbone
from helpers.networks import Fake, check_alike, cut, example, halved, pooled, run

# -- what crosses the cut ----------------------------------------------------------------------------------------------


def shortcut(self, x: Tensor) -> Tensor:
    x = self.stem(x)
    return pooled(self, self.conv(x) + x)


def shape_of_before(self, x: Tensor) -> Tensor:
    before = self.stem(x).relu()
    shape = before.shape
    return pooled(self, self.conv(before).flatten(1).view(shape) * shape[0] / before.size(0))


def windows(self, x: Tensor) -> Tensor:
    """Cuts the picture into four windows, folded into the batch, and puts them together after the cut."""
    batch_size, channels, height, width = self.stem(x).shape
    x = self.stem(x).view(batch_size, channels, 2, height // 2, 2, width // 2)
    x = x.permute(0, 2, 4, 1, 3, 5).reshape(batch_size * 4, channels, height // 2, width // 2)
    x = self.conv(x).view(batch_size, 2, 2, channels, height // 2, width // 2).permute(0, 3, 1, 4, 2, 5)
    return pooled(self, x.reshape(batch_size, channels, height, width))


def positions(self, x: Tensor) -> Tensor:
    """Adds what depends on the picture's size alone, in the dtype and on the device of what came before."""
    before = self.stem(x)
    rows = torch.arange(before.shape[2], device=before.device).to(before.dtype)
    return pooled(self, self.conv(before) + rows[:, None] / 3)


def constant(self, x: Tensor) -> Tensor:
    return pooled(self, self.conv(self.stem(x - torch.tensor([0.5, 0.25, 0.0])[:, None, None])) * torch.tensor(3.0))


def parts(self, x: Tensor) -> Tensor:
    first, second = self.stem(x).chunk(2, dim=1)
    u = self.conv(torch.cat([first, second], dim=1))
    third, fourth = u.split([6, 6], dim=1)
    return pooled(self, torch.cat([third * first, fourth], dim=1))


def into_its_input(self, x: Tensor) -> Tensor:
    x = x.sub_(0.5)
    return pooled(self, self.conv(self.stem(x)))


def into_what_crosses(self, x: Tensor) -> Tensor:
    x = self.stem(x)
    x = x.add_(self.conv(x))
    return pooled(self, x)


def into_its_answer(self, x: Tensor) -> Tensor:
    return pooled(self, self.conv(self.stem(x)).add_(1))


def two_answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
    x = self.conv(self.stem(x))
    return pooled(self, x), x


def named_answers(self, x: Tensor) -> dict[str, Tensor]:
    x = self.conv(self.stem(x))
    return {"hidden": x, "logits": pooled(self, x)}


def decides_by_shape(self, x: Tensor) -> Tensor:
    x = self.stem(x)
    if x.shape[2] % 3:
        x = nn.functional.pad(x, (0, 3 - x.shape[2] % 3))
    return pooled(self, self.conv(x))


@pytest.mark.parametrize(
    "between",
    [
        shortcut,
        shape_of_before,
        windows,
        positions,
        constant,
        parts,
        into_its_input,
        into_what_crosses,
        into_its_answer,
        two_answers,
        named_answers,
        decides_by_shape,
    ],
    ids=lambda between: between.__name__,
)
def test_the_pieces_compute_what_the_network_computes(between):
    opened = open_backbone(Fake(between), SIZE)
    assert opened.traceable
    assert opened.targets == ("conv",)
    check_alike(opened)


def test_pixels_are_not_written_into():
    opened = cut(into_its_input)
    x = example()
    before = x.clone()
    run(opened, x, halved)
    assert torch.equal(x, before)


@pytest.mark.parametrize("between", [positions, constant, windows], ids=lambda between: between.__name__)
def test_a_cut_survives_a_change_of_dtype(between):
    opened = cut(between)
    opened.rooted.double()
    x = example().double()
    with torch.no_grad():
        assert torch.allclose(run(opened, x), opened.rooted(x), rtol=0, atol=1e-9)
    assert run(opened, x).dtype == torch.float64


def test_numbers_are_constant_or_proportional_to_the_batch():
    assert per_row((1, 64, 8), (2, 64, 8), batch_size=2) == (PerRow(1), 64, 8)
    assert per_row(12, 24, batch_size=2) == PerRow(12)
    assert per_row(None, None, batch_size=2) is None
    for one, other in ((1, 3), (0.5, 0.5), ((1, 2), (1, 2, 3)), (torch.ones(1), torch.ones(1))):
        with pytest.raises(UntraceableBackboneError, match="depends on the pixels"):
            per_row(one, other, batch_size=2)


# -- pixels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_backbones_in_other_dtypes_are_cut(dtype):
    opened = open_backbone(residual_backbone().to(dtype), SIZE)
    assert opened.traceable
    assert run(opened, pixels().to(dtype), halved).dtype == dtype


def test_gray_and_oblong_pictures_are_welcome():
    gray = _fill(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, bias=False), nn.ReLU()), 0)
    opened = open_backbone(gray, (1, 12, 20))
    assert opened.targets == ("2",)
    assert opened.map_shape == (6, 8, 16)
    check_alike(opened)


def test_a_deep_chain_opens_as_fast_as_it_is_long():
    """Twice the layers take about twice the graph's look-ups, not four times."""
    import sys

    def lookups(depth: int) -> int:
        layers = [layer for _ in range(depth) for layer in (nn.Conv2d(3, 3, 1), nn.ReLU())]
        backbone = nn.Sequential(*layers).eval()
        calls = 0

        def count(frame, event, argument):
            nonlocal calls
            calls += event == "call" and "places.py" in frame.f_code.co_filename

        sys.setprofile(count)
        try:
            CutBackbone(backbone, example((3, 4, 4)))
        finally:
            sys.setprofile(None)
        return calls

    assert lookups(80) < 3 * lookups(40)
