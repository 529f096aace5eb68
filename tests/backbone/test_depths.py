"""Earlier units of the trunk as the backbone gives them: which there are, their averages, and what is refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from ciao_peft.backbone import CutBackbone, Depth, check_features, example_pixels, open_backbone
from ciao_peft.errors import InputError, TargetModulesError, UntraceableBackboneError
from helpers.fakes import SIZE, Undecided, branched_backbone, pixels, residual_backbone, tiny_backbone


def opened(net, targets=None) -> CutBackbone:
    return CutBackbone(net, example_pixels(net, SIZE), targets)


def answer_of(net, path, x):
    """What a module gives in a pass of the network itself, before anything else writes into it."""
    seen = []
    handle = net.get_submodule(path).register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    net(x)
    handle.remove()
    return seen[0]


class Blocks(nn.Module):
    """Two blocks whose activations write into what they are given, squeezed channels between them, then the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True))
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.two = nn.Sequential(nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6))
        self.last = nn.Conv2d(6, 4, 3)

    def forward(self, x):
        x = self.one(x)
        x = self.two(x * self.squeeze(x))
        x = torch.relu_(x)  # writes into the answer of `two`
        return self.last(x).mean(dim=(2, 3))


def blocks():
    torch.manual_seed(0)
    return Blocks().eval()


@pytest.mark.parametrize(
    ("make", "path", "module"),
    [
        (tiny_backbone, "0", "2"),  # of a convolution, the answer of its conv unit
        (residual_backbone, "stem", "stem"),
        (residual_backbone, "stem.1", "stem.1"),
        (branched_backbone, "stem", "stem"),
        (blocks, "one", "one"),
        (blocks, "two", "two"),
    ],
)
@pytest.mark.parametrize("grid", [1, 2, 16])
def test_a_depth_is_the_average_of_what_the_module_answers(make, path, module, grid):
    net, x = make(), pixels(5)
    cut = opened(net)
    depths = cut.find_depths((path,), grid)
    assert depths == (Depth(path, grid),)
    *crossing, average = cut.features(cut.rooted, x, depths=depths)
    expected = answer_of(net, module, x)
    side = min(grid, *expected.shape[2:])
    cells = [
        rows.mean(dim=(2, 3))
        for strip in torch.tensor_split(expected, side, dim=2)
        for rows in torch.tensor_split(strip, side, dim=3)
    ]
    if expected.shape[2] % side == 0:  # cells of other grids overlap
        torch.testing.assert_close(average, torch.stack(cells, dim=2).flatten(1))
    assert average.shape == (5, *cut.depth_sizes(depths))
    for one, other in zip(crossing, cut.features(cut.rooted, x), strict=True):
        assert torch.equal(one, other)


def test_depths_lie_between_what_crosses_the_cut_and_u():
    cut = opened(residual_backbone())
    depths = cut.find_depths(("conv1", "stem"))
    shapes = [tuple(t.shape[1:]) for t in cut.features(cut.rooted, pixels(2), True, depths)]
    assert shapes == [*cut.feature_shapes, (8,), (8,), *cut.excitation_shapes]
    assert cut.depth_sizes(depths) == [8, 8]


def test_a_number_means_that_many_conv_units_evenly_spaced_the_last_before_the_mask_among_them():
    net = nn.Sequential(*[part for n in range(9) for part in (nn.Conv2d(3 if n == 0 else 4, 4, 1), nn.ReLU())]).eval()
    cut = opened(net)
    assert cut.targets == ("16",)  # eight come before it: 0, 2, 4, ... 14
    chosen = {count: [depth.path for depth in cut.find_depths(count)] for count in (1, 2, 3, 4, 8)}
    assert chosen == {
        1: ["14"],
        2: ["6", "14"],
        3: ["2", "8", "14"],
        4: ["2", "6", "10", "14"],
        8: ["0", "2", "4", "6", "8", "10", "12", "14"],
    }
    assert cut.find_depths(None) == ()


@pytest.mark.parametrize(
    ("depths", "message"),
    [
        (
            ("stem.7",),
            r"`depths` names 'stem.7', which matches no module. Conv units before the mask end with: stem.0, co",
        ),
        (("0",), r"names '0', which matches no module. Did you mean 'stem.0'\?"),
        (("conv2",), "names 'conv2', which is masked or comes after a mask"),
        (("bn2",), "names 'bn2', which is masked or comes after a mask"),
        (("classifier",), "names 'classifier', which is masked or comes after a mask"),
        (("relu",), "names 'relu', which runs more than once in one pass"),
        (("stem", "stem.2"), "names 'stem' and 'stem.2', which are the same map; keep one"),
        (3, "`depths=3` asks for more conv units than the 2 that come before the mask here: stem.0, conv1"),
    ],
)
def test_what_is_no_earlier_map_is_refused(depths, message):
    with pytest.raises(TargetModulesError, match=message):
        opened(residual_backbone()).find_depths(depths)


def test_an_answer_that_is_no_map_is_refused():
    cut = opened(blocks())
    for path in ("squeeze", "squeeze.1"):
        with pytest.raises(TargetModulesError, match=rf"names '{path}', whose answer is no map .* but \(B, 8, 1, 1\)"):
            cut.find_depths((path,))
    with pytest.raises(TargetModulesError, match="names '3', which is masked or comes after"):
        opened(tiny_backbone(), ("0",)).find_depths(("3",))


class Unused(nn.Sequential):
    """Has a part that never runs."""

    def forward(self, input):
        return self[2](self[1](self[0](input)))


def test_a_module_that_does_not_run_is_refused():
    net = Unused(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)).eval()
    with pytest.raises(TargetModulesError, match="names '3', which runs not at all"):
        opened(net).find_depths(("3",))


def test_a_backbone_that_cannot_be_cut_has_no_depths():
    hooked = open_backbone(Undecided().eval(), SIZE)
    assert hooked.find_depths(None) == () and hooked.depth_sizes(()) == []
    with pytest.raises(UntraceableBackboneError, match="`depths` are read in the trunk of a backbone that can be cut"):
        hooked.find_depths(1)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda cut: pickle.loads(pickle.dumps(cut))], ids=["copy", "pickle"])
def test_copies_of_a_cut_have_the_same_depths(again):
    cut, x = opened(residual_backbone()), pixels(3)
    depths = cut.find_depths(("stem", "conv1"), 2)
    other = again(cut)
    expected = cut.features(cut.rooted, x, depths=depths)
    for one, found in zip(expected, other.features(other.rooted, x, depths=depths), strict=True):
        assert torch.equal(one, found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_depths_have_the_dtype_of_the_backbone(dtype):
    net = residual_backbone().to(dtype)
    cut = opened(net)
    depths = cut.find_depths(("stem",), 3)
    found = cut.features(cut.rooted, pixels(2).to(dtype), depths=depths)[-1]
    assert found.dtype == dtype and found.shape == (2, 8 * 9)


def test_an_opened_network_keeps_no_answers_of_its_example():
    cut = opened(residual_backbone())
    nodes = cut._before_cut[0]
    assert not any(node.meta for node in nodes if node.op != "get_attr")


def test_features_without_the_depths_that_are_read_say_what_to_do():
    with pytest.raises(InputError, match=r"are without the depths that the adapter reads.*Take them anew"):
        check_features([torch.zeros(2, 8, 8, 8)], [(8, 8, 8)], [(4, 8, 8)], torch.float32, depth_sizes=[5])
    with pytest.raises(InputError, match=r"`features` of this backbone are \(B, 8, 8, 8\), \(B, 5\)"):
        check_features([torch.zeros(2, 8, 8, 7)], [(8, 8, 8)], [(4, 8, 8)], torch.float32, depth_sizes=[5])
