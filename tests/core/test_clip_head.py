"""The LSTM over frames: torch's own, worked by hand, and where it starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ciao_peft.heads import DecisionHead
from helpers.clips import T, recurrent
from helpers.fakes import same_bits, small_config


def test_the_lstm_is_that_of_torch():
    head = DecisionHead(10, recurrent(hidden_sizes=())).eval()
    theirs = nn.LSTM(10, 7, batch_first=True)
    theirs.load_state_dict(
        {name.removeprefix("lstm."): t for name, t in head.state_dict().items() if name.startswith("lstm.")}
    )
    pooled = torch.rand(5, T, 10)
    answers, (last, _) = theirs(pooled)
    logits, hidden = head(pooled)
    assert torch.equal(hidden, answers[:, -1])
    assert torch.equal(hidden, last[0])
    assert torch.equal(logits, getattr(head, "0")(last[0]))


def test_one_frame_is_one_step_worked_by_hand():
    # Gates i, f, g, o of one unit over one number x = 2, from c = h = 0: c' = sigma(i) tanh(g), h' = sigma(o) tanh(c').
    head = DecisionHead(1, recurrent(frames=1, recurrent_size=1, hidden_sizes=(), num_labels=2)).eval()
    with torch.no_grad():
        head.lstm.weight_ih_l0.copy_(torch.tensor([[0.5], [9.0], [1.0], [-0.5]]))
        head.lstm.weight_hh_l0.fill_(9.0)
        head.lstm.bias_ih_l0.copy_(torch.tensor([0.0, 9.0, -1.0, 2.0]))
        head.lstm.bias_hh_l0.zero_()
        getattr(head, "0").weight.copy_(torch.tensor([[3.0], [-1.0]]))
        getattr(head, "0").bias.copy_(torch.tensor([0.0, 1.0]))
    cell = 1 / (1 + np.exp(-1.0)) * np.tanh(1.0)
    answer = 1 / (1 + np.exp(-1.0)) * np.tanh(cell)
    logits, hidden = head(torch.full((1, 1, 1), 2.0))
    assert hidden.tolist() == [[pytest.approx(answer, rel=1e-6)]]
    assert logits[0].tolist() == pytest.approx([3 * answer, 1 - answer], rel=1e-6)


def test_dense_layers_follow_the_lstm_and_the_count_is_that_of_arithmetic():
    head = DecisionHead(10, recurrent(hidden_sizes=(6,)))
    assert [tuple(t.shape) for t in head(torch.rand(5, T, 10))] == [(5, 3), (5, 6)]
    assert sum(p.numel() for p in head.parameters()) == 4 * 7 * (10 + 7 + 2) + 8 * 6 + 7 * 3


def test_initial_values_come_from_the_seed_alone_and_fill_the_range_of_an_lstm():
    first = DecisionHead(50, recurrent(recurrent_size=100, init_seed=3)).state_dict()
    state = torch.get_rng_state()
    with torch.device("meta"):
        again = DecisionHead(50, recurrent(recurrent_size=100, init_seed=3)).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert same_bits(first, again)
    other = DecisionHead(50, recurrent(recurrent_size=100, init_seed=4)).state_dict()
    assert not any(torch.equal(first[name], other[name]) for name in first)
    weight = first["lstm.weight_ih_l0"]
    assert weight.abs().max() <= 0.1  # one over the root of the units
    assert weight.std().item() == pytest.approx(0.1 / np.sqrt(3), rel=0.02)


def test_the_lstm_stays_in_training_mode_which_cudnn_needs_for_gradients():
    """Maps are gradients in eval mode. Without dropout between its layers an LSTM answers alike in both modes."""
    head, pooled = DecisionHead(10, recurrent(dropout=0.0)), torch.rand(5, T, 10)
    trains = head.train()(pooled)[0]
    assert torch.equal(head.eval()(pooled)[0], trains)
    assert head.lstm.training
    assert head.lstm.dropout == 0
    assert not head.training


def test_a_head_for_pictures_has_no_lstm():
    assert not any("lstm" in name for name in DecisionHead(10, small_config()).state_dict())
