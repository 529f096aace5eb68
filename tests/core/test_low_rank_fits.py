"""E and J fit units whose answer has another shape than their convolution says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ciao_peft import CIAOConfig, get_ciao_model
from ciao_peft.inhibition import LowRankConvolution


class PadsItself(nn.Conv2d):
    """As TensorFlow pads; timm has such convolutions."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        missing = [(-(-side // 2) - 1) * 2 + 3 - side for side in input.shape[:1:-1]]  # the last axis first
        padded = nn.functional.pad(input, [part for total in missing for part in (total // 2, total - total // 2)])
        return super().forward(padded)


@pytest.mark.parametrize("size", [(9, 11), (8, 8), (7, 10)], ids=str)
def test_a_convolution_of_low_rank_fits_one_that_pads_by_itself(size):
    conv = PadsItself(4, 6, 3, stride=2, bias=False)
    features = torch.randn(2, 4, *size)
    expected = conv(features)
    change = LowRankConvolution(conv, rank=6, sides=(tuple(expected.shape[2:]), size))
    with torch.no_grad():
        change.down.weight.copy_(conv.weight)
        change.up.weight.copy_(torch.eye(6)[:, :, None, None])
    torch.testing.assert_close(change(features), expected)


@pytest.mark.parametrize("changes", [{}, {"inhibition_rank": 2}, {"inhibition": False, "excitation_rank": 2}], ids=str)
@pytest.mark.parametrize(
    "last",
    [PadsItself(4, 6, 3, stride=2), nn.Sequential(nn.Conv2d(4, 6, 3), nn.GLU(dim=1))],
    ids=["pads by itself", "halves its channels"],
)
def test_excitation_fits_units_whose_answer_is_of_another_shape_than_the_convolution_says(last, changes):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), last).eval()
    config = CIAOConfig(problem_type="regression", num_labels=2, hidden_sizes=(), **changes)
    model = get_ciao_model(net, config, input_size=(3, 12, 12)).train()
    model(torch.rand(4, 3, 12, 12), labels=torch.rand(4, 2)).loss.backward()
    assert all(change.up.weight.grad.any() for change in model.adapters["default"].low_rank_excitation)
