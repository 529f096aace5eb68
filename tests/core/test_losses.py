"""The contrastive loss against its definition, and what makes a positive pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ciao_peft.errors import ConfigError, InputError
from ciao_peft.losses import (
    contrastive_targets,
    discretise,
    jaccard_overlap,
    supervised_contrastive_loss,
)
from helpers.fakes import default_config as config
from helpers.losses import VARIANTS, by_definition, value_and_gradient

BY_WEIGHTS = [(d, r) for d, r in VARIANTS if d != "class_average"]
BATCHES = {
    "pairs": [0, 0, 1, 1, 2, 2],
    "one-alone": [0, 0, 0, 1, 1, 2],
    "uneven": [4, 4, 4, 4, 4, 1],
    "shuffled": [2, 0, 1, 0, 2, 2],
}


def on_circle(*degrees):
    """Unit vectors in the plane: the cosine of two embeddings is the cosine of the angle between them."""
    radians = torch.tensor(degrees).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


@pytest.mark.parametrize(("denominator", "reduction"), VARIANTS)
@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES.keys())
def test_matches_the_definition_in_float64(labels, denominator, reduction):
    z, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor(labels)
    settings = {"temperature": 0.1, "denominator": denominator, "reduction": reduction}
    value, gradient = value_and_gradient(lambda z: supervised_contrastive_loss(z, labels, **settings), z)
    expected, expected_gradient = value_and_gradient(lambda z: by_definition(z, labels, **settings), z)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mixed_precision", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("temperature", [0.005, 0.02, 0.1, 1.0])
@pytest.mark.parametrize(("denominator", "reduction"), VARIANTS)
def test_is_within_1e_5_of_float64_at_every_temperature(denominator, reduction, temperature, dtype, mixed_precision):
    z = torch.randn(12, 16).to(dtype)
    z[6:] = z[:6] + (0.05 * torch.randn(6, 16)).to(dtype)  # near neighbours, where float32 similarities are too coarse
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 1, 2, 0, 1, 2, 0])
    settings = {"temperature": temperature, "denominator": denominator, "reduction": reduction}
    expected, expected_gradient = value_and_gradient(lambda z: by_definition(z, labels, **settings), z.double())
    embeddings = z.clone().requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision):
        loss = supervised_contrastive_loss(embeddings, labels, **settings)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    error = (embeddings.grad.double() - expected_gradient).norm() / expected_gradient.norm()
    # The gradient comes back in the embeddings' own dtype: half precision can hold it no better than this.
    assert error <= max(1e-5, torch.finfo(dtype).eps if dtype != torch.float32 else 0)


@pytest.mark.parametrize(("denominator", "reduction"), VARIANTS)
def test_gradcheck(denominator, reduction):
    labels = torch.tensor([0, 0, 1, 1, 2])
    z = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    settings = {"temperature": 0.3, "denominator": denominator, "reduction": reduction}
    assert torch.autograd.gradcheck(lambda z: supervised_contrastive_loss(z, labels, **settings), (z,))


@pytest.mark.parametrize(("denominator", "reduction"), VARIANTS)
def test_gradients_have_gradients(denominator, reduction):
    labels = torch.tensor([0, 0, 1, 1, 2])
    z = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    settings = {"temperature": 0.3, "denominator": denominator, "reduction": reduction}
    assert torch.autograd.gradgradcheck(lambda z: supervised_contrastive_loss(z, labels, **settings), (z,))


@pytest.mark.parametrize("temperature", [1e-4, 0.005, 0.1])
@pytest.mark.parametrize(("denominator", "reduction"), BY_WEIGHTS)
@pytest.mark.parametrize("block_size", [1, 3, 7, 20, 21, 64])
def test_no_block_size_changes_the_result(block_size, denominator, reduction, temperature):
    z, labels = torch.randn(21, 5, dtype=torch.float64), torch.randint(0, 6, (21,)) - 2
    settings = {"temperature": temperature, "denominator": denominator, "reduction": reduction}
    weights = (labels[:, None] == labels[None, :]).double()  # pair weights know no blocks
    expected = value_and_gradient(lambda z: supervised_contrastive_loss(z, weights, **settings), z)
    settings["block_size"] = block_size
    found = value_and_gradient(lambda z: supervised_contrastive_loss(z, labels, **settings), z)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 / temperature)


class Sizes(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation inside makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        found = [t.numel() for t in (result if isinstance(result, (tuple, list)) else [result]) if torch.is_tensor(t)]
        self.largest = max(self.largest, *found, 0)
        return result


@pytest.mark.parametrize("denominator", ["all", "negatives"])
def test_with_class_ids_no_matrix_of_all_pairs_is_made_or_kept(denominator):
    embeddings, labels = torch.randn(300, 16, requires_grad=True), torch.arange(300) % 7
    kept = []
    with Sizes() as sizes, torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        supervised_contrastive_loss(embeddings, labels, denominator=denominator, block_size=32).backward()
    assert sizes.largest == 300 * 16  # the embeddings in float64
    assert sum(kept) <= 300 * 16 + 2 * 300 + 2


@pytest.mark.parametrize("block_size", [0, -1, 2.5, True])
def test_block_sizes_that_are_none_are_refused(block_size):
    with pytest.raises(ConfigError, match="`block_size` must be a whole number of 1 or more; got"):
        supervised_contrastive_loss(torch.randn(2, 2), torch.tensor([0, 0]), block_size=block_size)


def test_two_opposite_pairs_worked_by_hand():  # one positive at cosine 1, two negatives at cosine -1
    z, labels = on_circle(0.0, 0.0, 180.0, 180.0), torch.tensor([0, 0, 1, 1])
    one = math.log(math.e + 2 * math.exp(-1)) - 1
    other = math.log(2 * math.exp(-1)) - 1
    for denominator, expected in (("all", one), ("negatives", other)):
        settings = {"temperature": 1.0, "denominator": denominator}
        mean = supervised_contrastive_loss(z, labels, **settings)
        assert mean.item() == pytest.approx(expected, rel=1e-6)
        total = supervised_contrastive_loss(z, labels, **settings, reduction="sum")
        assert total.item() == pytest.approx(4 * expected / 3, rel=1e-6)  # four anchors, each divided by N - 1 = 3


def test_the_negatives_only_loss_falls_below_zero_for_well_separated_classes():
    z, labels = on_circle(0.0, 0.0, 180.0, 180.0), torch.tensor([0, 0, 1, 1])
    assert supervised_contrastive_loss(z, labels, temperature=0.5, denominator="negatives") < 0
    assert supervised_contrastive_loss(z, labels, temperature=0.5) > 0


def test_lone_samples_are_no_anchors_and_embeddings_are_scaled():
    """Where libraries differ: ours scales, and averages over pairs, then over the anchors that have a positive."""
    z, labels = 3 * torch.randn(6, 8, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 1, 2])
    ours = supervised_contrastive_loss(z, labels, temperature=0.1).item()
    over_anchors = by_definition(z, labels, 0.1, "all", "mean").item()
    assert ours == pytest.approx(over_anchors, rel=1e-12)
    over_the_batch = over_anchors * 5 / 6  # the lone sample counts as an anchor with loss 0
    assert abs(ours - over_the_batch) > 0.01
    rows = z.numpy() / 0.1**0.5  # not scaled to unit length
    scores = rows @ rows.T
    unscaled = []
    for i in range(5):
        others = np.delete(scores[i], i)
        total = others.max() + math.log(np.exp(others - others.max()).sum())
        positives = [p for p in range(6) if p != i and labels[p] == labels[i]]
        unscaled.append(np.mean([total - scores[i, p] for p in positives]))
    assert abs(ours - np.mean(unscaled)) > 0.01


@pytest.mark.parametrize(("denominator", "reduction"), VARIANTS)
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_with_no_positive_pair_the_loss_and_its_gradient_are_zero(batch_size, denominator, reduction):
    embeddings = torch.randn(batch_size, 8, requires_grad=True)
    labels = torch.arange(batch_size)
    loss = supervised_contrastive_loss(embeddings, labels, denominator=denominator, reduction=reduction)
    loss.backward()
    assert loss.item() == 0.0
    assert not embeddings.grad.any()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_with_one_class_only_everybody_is_drawn_together(reduction):
    embeddings, labels = torch.randn(4, 8, requires_grad=True), torch.zeros(4, dtype=torch.long)
    loss = supervised_contrastive_loss(embeddings, labels, reduction=reduction)
    expected = by_definition(embeddings.detach().double(), labels, 0.1, "all", reduction)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert embeddings.grad.isfinite().all()
    assert embeddings.grad.any()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_without_a_negative_the_negatives_only_loss_and_its_gradient_are_zero(reduction):
    embeddings = torch.randn(4, 8, requires_grad=True)
    labels = torch.zeros(4, dtype=torch.long)
    loss = supervised_contrastive_loss(embeddings, labels, denominator="negatives", reduction=reduction)
    loss.backward()
    assert loss.item() == 0.0
    assert not embeddings.grad.any()


def test_a_lone_sample_still_pushes_others_away():
    embeddings = torch.randn(3, 8, requires_grad=True)
    supervised_contrastive_loss(embeddings, torch.tensor([0, 0, 1])).backward()
    assert embeddings.grad[2].any()


@pytest.mark.parametrize(("denominator", "reduction"), VARIANTS)
def test_depends_on_no_scale_no_order_and_no_rotation(denominator, reduction):
    z, labels = torch.randn(6, 4), torch.tensor([0, 0, 0, 1, 1, 2])
    settings = {"denominator": denominator, "reduction": reduction}
    expected = supervised_contrastive_loss(z, labels, **settings)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    scale = torch.tensor([[1e-30], [1e-12], [1e-3], [1.0], [1e3], [1e30]])
    rotation = torch.linalg.qr(torch.randn(4, 4)).Q
    renamed = torch.tensor([7, 7, 7, -2, -2, 0])
    for changed, own in ((scale * z, labels), (z[order], labels[order]), (z @ rotation, labels), (z, renamed)):
        torch.testing.assert_close(
            supervised_contrastive_loss(changed, own, **settings), expected, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("denominator", ["all", "negatives"])
def test_embeddings_of_zeros_get_no_gradient_and_harm_nobody(denominator, reduction):
    """A dead ReLU layer answers zeros: a direction they do not have."""
    embeddings = torch.cat([torch.zeros(2, 4), torch.randn(4, 4)]).requires_grad_(True)
    labels = torch.tensor([0, 1, 0, 0, 1, 1])
    loss = supervised_contrastive_loss(embeddings, labels, denominator=denominator, reduction=reduction)
    loss.backward()
    assert loss.isfinite()
    assert not embeddings.grad[:2].any()
    assert embeddings.grad.isfinite().all()
    assert embeddings.grad[2:].any(dim=1).all()


def test_identical_embeddings_give_the_value_of_chance():
    loss = supervised_contrastive_loss(torch.ones(6, 4), torch.tensor([0, 0, 0, 1, 1, 1]), temperature=0.005)
    assert loss.item() == pytest.approx(math.log(5), rel=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_pair_weights_weigh_the_positives(reduction):
    z = torch.randn(4, 3, dtype=torch.float64)
    weights = torch.tensor([[9.0, 1.0, 0.5, 0.0], [1.0, 9.0, 0.0, 0.0], [0.5, 0.0, 9.0, 0.0], [0.0, 0.0, 0.0, 9.0]])
    rows = nn.functional.normalize(z, dim=1)
    scores = rows @ rows.T / 0.1
    expected = []
    for i in range(3):  # the fourth has no positive
        total = math.log(sum(math.exp(scores[i, k]) for k in range(4) if k != i))
        pairs = [(weights[i, p].item(), total - scores[i, p].item()) for p in range(4) if p != i]
        weighted = sum(w * loss for w, loss in pairs)
        expected.append(weighted / sum(w for w, _ in pairs) if reduction == "mean" else weighted / 3)
    loss = supervised_contrastive_loss(z, weights, temperature=0.1, reduction=reduction)
    assert loss.item() == pytest.approx(np.mean(expected) if reduction == "mean" else sum(expected), rel=1e-9)


@pytest.mark.parametrize(("denominator", "reduction"), BY_WEIGHTS)
def test_weights_of_0_and_1_are_the_same_as_class_ids(denominator, reduction):
    z, labels = torch.randn(6, 4), torch.tensor([0, 0, 0, 1, 1, 2])
    weights = (labels[:, None] == labels[None, :]).float()
    settings = {"denominator": denominator, "reduction": reduction}
    assert supervised_contrastive_loss(z, weights, **settings) == supervised_contrastive_loss(z, labels, **settings)


@pytest.mark.parametrize("temperature", [1e-4, 0.005, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("block_size", [1, 3, 7, 20, 21])
def test_averages_of_classes_are_the_definitions_in_every_block_size(block_size, reduction, temperature):
    labels = torch.tensor([0] * 11 + [1] * 6 + [2, 2, 3])[torch.randperm(20)]
    z = torch.randn(20, 5, dtype=torch.float64)
    settings = {"temperature": temperature, "denominator": "class_average", "reduction": reduction}
    found = value_and_gradient(lambda z: supervised_contrastive_loss(z, labels, **settings, block_size=block_size), z)
    expected = value_and_gradient(lambda z: by_definition(z, labels, **settings), z)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_with_equal_classes_their_averages_are_their_sums(reduction):
    z, labels = torch.randn(8, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3] * 2)
    averages, sums = (
        supervised_contrastive_loss(z, labels, denominator=denominator, reduction=reduction)
        for denominator in ("class_average", "all")
    )
    torch.testing.assert_close(averages, sums)


def test_averages_of_classes_need_classes():
    with pytest.raises(ConfigError, match="give class ids"):
        supervised_contrastive_loss(torch.randn(3, 4), torch.eye(3), denominator="class_average")


def test_a_sample_is_never_its_own_positive():
    z = torch.randn(3, 4)
    assert supervised_contrastive_loss(z, torch.eye(3)) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be above 0; got 0.0"),
        ({"temperature": -1}, "`temperature` must be above 0; got -1"),
        ({"temperature": float("nan")}, "`temperature` must be above 0; got nan"),
        (
            {"denominator": "positives"},
            "`denominator` is one of 'all', 'class_average', 'negatives' .* got 'positives', 'mean'",
        ),
        ({"reduction": "none"}, "`reduction` one of 'mean', 'sum'; got 'all', 'none'"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        supervised_contrastive_loss(torch.randn(2, 2), torch.tensor([0, 0]), **changes)


@pytest.mark.parametrize("shapes", [((4,), (4,)), ((4, 2, 2), (4,)), ((4, 2), (3,)), ((4, 2), (4, 3))], ids=str)
def test_shapes_that_do_not_fit_are_refused(shapes):
    embeddings, labels = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(
        InputError, match=r"`embeddings` must be \(B, D\), with `labels` of \(B,\) class ids or \(B, B\)"
    ):
        supervised_contrastive_loss(embeddings, labels)


# -- what makes a positive pair ----------------------------------------------------------------------------------------


def test_class_ids_are_their_own_targets():
    labels = torch.tensor([2, 0, 2])
    assert torch.equal(contrastive_targets(labels, config()), labels)


def test_a_distribution_counts_as_its_most_voted_class():
    votes = torch.tensor([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0], [0.0, 0.4, 0.6]])
    assert contrastive_targets(votes, config()).tolist() == [1, 0, 2]


@pytest.mark.parametrize(("bins", "bounds"), [(2, (-1.0, 1.0)), (10, (-1.0, 1.0)), (7, (0.0, 9.0)), (3, (-4, -1))])
def test_cells_are_of_equal_width_and_hold_the_bounds_and_whatever_lies_outside(bins, bounds):
    low, high = bounds
    width = (high - low) / bins
    middles = torch.tensor([[low + (k + 0.5) * width] for k in range(bins)])
    assert discretise(middles, bins, bounds).tolist() == list(range(bins))
    edges = torch.tensor([[low], [high], [low - 100.0], [high + 100.0]])
    assert discretise(edges, bins, bounds).tolist() == [0, bins - 1, 0, bins - 1]


def test_two_values_share_a_cell_exactly_when_each_shares_its_own():
    values = torch.rand(60, 2, dtype=torch.float64) * 2.4 - 1.2
    cells = discretise(values, 5, (-1.0, 1.0))
    edges = np.linspace(-1, 1, 6)[1:-1]
    own = [tuple(row) for row in np.digitize(values.numpy(), edges).tolist()]
    for i in range(60):
        for j in range(60):
            assert (cells[i] == cells[j]) == (own[i] == own[j])


def test_many_values_or_labels_do_not_run_out_of_numbers():
    values = torch.zeros(3, 40)
    values[1, 39] = 0.9
    cells = discretise(values, 1000, (-1.0, 1.0))
    assert cells[0] == cells[2] != cells[1]
    sets = torch.zeros(3, 100)
    sets[1, 0] = 1
    targets = contrastive_targets(sets, config("multi_label_classification", 100, multi_label_positives="same_set"))
    assert targets[0] == targets[2] != targets[1]


def test_regressed_values_use_the_configs_cells():
    values = torch.tensor([[-0.9, 0.1], [-0.8, 0.4], [0.9, 0.1], [-0.9, 0.6]])
    four = contrastive_targets(values, config("regression", 2, num_bins=4))
    assert four[0] == four[1]
    assert len(set(four.tolist())) == 3
    wide = contrastive_targets(values, config("regression", 2, num_bins=2, label_range=(-10.0, 10.0)))
    assert len(set(wide.tolist())) == 2  # arousal below and above 0


def test_jaccard_overlap_is_shared_over_all_labels():
    rows = (torch.rand(9, 5) > 0.6).float()
    rows[0] = rows[1] = 0
    overlap = jaccard_overlap(rows)
    sets = [set(row.nonzero().flatten().tolist()) for row in rows]
    for i, one in enumerate(sets):
        for j, other in enumerate(sets):
            expected = len(one & other) / len(one | other) if one | other else 1.0
            assert overlap[i, j].item() == pytest.approx(expected)


def test_multi_label_positives_are_equal_sets_or_jaccard_weights():
    rows = torch.tensor([[1.0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]])
    same = contrastive_targets(rows, config("multi_label_classification", multi_label_positives="same_set"))
    assert same[0] == same[1]
    assert len(set(same.tolist())) == 3
    weights = contrastive_targets(rows, config("multi_label_classification"))
    torch.testing.assert_close(weights[0].float(), torch.tensor([1.0, 1.0, 0.5, 0.0]))
