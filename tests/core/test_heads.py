from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from ciao_peft.adapters import Adapter
from ciao_peft.backbone import open_backbone
from ciao_peft.errors import ConfigError
from ciao_peft.heads import DecisionHead, pool_map
from helpers.fakes import small_config

VGG_AT_96 = (512, 6, 6)  # of 96x96 faces, before the last pooling


@pytest.mark.parametrize(("pooling", "size"), [("max", 4608), ("flatten", 18432), ("avg", 512)])
def test_the_papers_encoders_have_the_sizes_of_the_paper(pooling, size):
    assert pool_map(torch.rand(2, *VGG_AT_96), pooling).shape == (2, size)


def test_pooling_worked_by_hand():
    feature_map = torch.tensor([[1.0, 5.0, 2.0], [3.0, 4.0, 9.0], [6.0, 7.0, 8.0]]).view(1, 1, 3, 3)
    assert pool_map(feature_map, "flatten").tolist() == [[1, 5, 2, 3, 4, 9, 6, 7, 8]]
    assert pool_map(feature_map, "max").tolist() == [[5]]  # the odd row and column are left over
    assert pool_map(feature_map, "avg").tolist() == [[5]]
    assert pool_map(feature_map[:, :, :2, :2], "max").tolist() == [[5]]


@pytest.mark.parametrize(
    ("height", "width", "positions"), [(1, 1, 1), (1, 6, 3), (6, 1, 3), (49, 1, 24), (3, 3, 1), (2, 7, 3)]
)
def test_max_pooling_takes_maps_however_thin(height, width, positions):
    assert pool_map(torch.rand(2, 5, height, width), "max").shape == (2, 5 * positions)


@pytest.mark.parametrize("pooling", ["flatten", "max"])
def test_positions_are_kept_unless_averaged(pooling):
    here, there = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    here[0, 0, 0, 0] = there[0, 0, 3, 3] = 1.0
    assert not torch.equal(pool_map(here, pooling), pool_map(there, pooling))
    assert torch.equal(pool_map(here, "avg"), pool_map(there, "avg"))


@pytest.mark.parametrize("sizes", [(), (6,), (6, 4)], ids=str)
def test_a_head_gives_logits_and_its_last_hidden_answers(sizes):
    head = DecisionHead(10, small_config(hidden_sizes=sizes)).eval()
    logits, hidden = head(torch.rand(5, 10))
    assert logits.shape == (5, 3)
    assert hidden.shape == (5, sizes[-1] if sizes else 10)
    assert sum(p.numel() for p in head.parameters()) == sum(
        (a + 1) * b for a, b in zip((10, *sizes), (*sizes, 3), strict=True)
    )


def test_a_head_is_dense_relu_dense_worked_by_hand():
    head = DecisionHead(2, small_config(hidden_sizes=(2,), num_labels=2)).eval()
    values = {
        "0.weight": [[1.0, 2], [-1, 0]],
        "0.bias": [0.5, 0.25],
        "1.weight": [[2.0, 3], [0, 1]],
        "1.bias": [1.0, -1],
    }
    head.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    logits, hidden = head(torch.tensor([[1.0, 1.0]]))
    assert hidden.tolist() == [[3.5, 0.0]]
    assert logits.tolist() == [[8.0, -1.0]]


def test_without_hidden_layers_the_embedding_is_what_was_pooled():
    pooled = torch.rand(5, 10)
    assert torch.equal(DecisionHead(10, small_config(hidden_sizes=()))(pooled)[1], pooled)


def test_initial_values_depend_on_the_seed_alone():
    first = DecisionHead(10, small_config(init_seed=3)).state_dict()
    torch.manual_seed(99)
    torch.rand(7)
    state = torch.get_rng_state()
    again = DecisionHead(10, small_config(init_seed=3)).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = DecisionHead(10, small_config(init_seed=4)).state_dict()
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_initial_values_are_the_same_where_tensors_are_made_elsewhere():
    """As under `torch.set_default_device`, and in the context that large models are built in."""
    expected = DecisionHead(10, small_config()).state_dict()
    with torch.device("meta"):
        found = DecisionHead(10, small_config()).state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_initial_values_are_the_same_in_another_process():
    code = (
        "from ciao_peft.config import CIAOConfig; from ciao_peft.heads import DecisionHead; import torch; "
        "torch.manual_seed(5); config = CIAOConfig(problem_type='regression', num_labels=2, hidden_sizes=(3,));"
        "print([t.sum().item() for t in DecisionHead(4, config).state_dict().values()])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    config = small_config(problem_type="regression", num_labels=2, hidden_sizes=(3,))
    assert found.strip() == str([t.sum().item() for t in DecisionHead(4, config).state_dict().values()])


def test_initial_values_fill_the_range_of_a_linear_layer():
    weight = DecisionHead(400, small_config(hidden_sizes=(300,))).state_dict()["0.weight"]
    bound = 1 / math.sqrt(400)
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)  # of a uniform distribution
    assert weight.mean().abs() < bound / 100


def test_dropout_is_there_in_training_only():
    head = DecisionHead(10, small_config(hidden_sizes=(1000,), dropout=0.25))
    pooled = torch.rand(3, 10)
    assert torch.equal(head.eval()(pooled)[0], head(pooled)[0])
    head.train()
    assert not torch.equal(head(pooled)[0], head(pooled)[0])


def test_dropout_zeroes_its_share_and_keeps_the_mean_but_not_in_the_embedding():
    head = DecisionHead(1, small_config(hidden_sizes=(100_000,), dropout=0.25, num_labels=2)).train()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.fill_(0.0)
        getattr(head, "0").bias.fill_(1.0)  # every hidden answer is 1
        getattr(head, "1").weight.fill_(1 / 100_000)  # logits are their mean after dropout
    logits, hidden = head(torch.rand(1, 1))
    assert logits[0].tolist() == pytest.approx([1.0, 1.0], abs=0.01)
    assert hidden.unique().tolist() == [1.0]
    assert logits[0, 0] != 1.0


def test_without_dropout_training_and_inference_agree():
    head, pooled = DecisionHead(10, small_config(dropout=0.0)), torch.rand(3, 10)
    assert torch.equal(head.train()(pooled)[0], head.eval()(pooled)[0])


def test_a_head_in_float32_takes_a_map_in_half_precision():
    logits, _ = DecisionHead(10, small_config())(torch.rand(3, 10, dtype=torch.float16))
    assert logits.dtype == torch.float32


def compact(**changes):
    return small_config(hidden_sizes=(), spatial_maps=2, **changes)


def test_learned_maps_worked_by_hand():
    head = DecisionHead(2 * 3, compact(num_labels=2), positions=3).eval()
    head.maps.weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    pooled = torch.tensor([[1.0, 2.0, 4.0, 5.0, 0.0, 2.0]])  # two channels of three positions
    sums = torch.tensor([[1.0, 3.0, 5.0, 1.0]])  # by channel, then by map
    normalised = (sums - 2.5) / math.sqrt(sums.var(correction=0).item() + 1e-5)
    logits, hidden = head(pooled)
    torch.testing.assert_close(hidden, normalised)
    torch.testing.assert_close(
        logits, torch.nn.functional.linear(normalised, getattr(head, "0").weight, getattr(head, "0").bias)
    )


@pytest.mark.parametrize("pooling", ["flatten", "max"])
def test_a_head_of_maps_knows_the_positions_that_the_pooling_leaves(pooling):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
    adapter = Adapter(compact(pooling=pooling), open_backbone(net, (3, 11, 15)))
    logits, _ = adapter.decide(torch.rand(4, 8, 9, 13))
    assert logits.shape == (4, adapter.config.num_labels)
    assert adapter.head.maps.in_features == (9 * 13 if pooling == "flatten" else 4 * 6)


def test_a_head_of_maps_tells_apart_where_something_happens():
    head = DecisionHead(2 * 3, compact(), positions=3)
    here, there = torch.tensor([[1.0, 0, 0, 0, 0, 2]]), torch.tensor([[0.0, 1, 0, 0, 0, 2]])
    assert not torch.allclose(head(here)[0], head(there)[0])


def test_one_position_has_no_maps_to_learn():
    with pytest.raises(ConfigError, match="there is one position"):
        DecisionHead(8, compact(pooling="max"), positions=1)


def test_a_head_of_maps_reads_clips_frame_by_frame():
    config = compact(frames=4, recurrent_size=5)
    head = DecisionHead(2 * 3, config, positions=3).eval()
    clips = torch.rand(2, 4, 6)
    assert head(clips)[0].shape == (2, config.num_labels)
    assert not torch.allclose(head(clips)[0], head(clips.flip(1))[0])
