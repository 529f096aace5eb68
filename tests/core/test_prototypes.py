"""Prototypes of classes against their definition, and trainings with them."""

from __future__ import annotations

import math

import pytest
import torch

from ciao_peft import CIAOConfig, CIAOModel
from ciao_peft.errors import ConfigError, InputError, TrainingError
from ciao_peft.losses import contrastive_loss, total_loss
from ciao_peft.prototypes import simplex, with_prototypes
from ciao_peft.trainer import AdapterJob, train_adapters
from helpers.fakes import tiny_backbone
from helpers.losses import VARIANTS, by_definition, value_and_gradient
from helpers.training import assert_same, faces, make_model, make_trainer, weights


def config(kind="simplex", num_labels=3, **changes):
    values = {"problem_type": "single_label_classification", "num_labels": num_labels, "contrastive_prototypes": kind}
    return CIAOConfig(**values | changes)


@pytest.mark.parametrize(("num_labels", "dim"), [(2, 2), (2, 9), (3, 3), (6, 3072), (7, 7), (26, 40), (26, 26)])
def test_the_vertices_have_length_one_and_lie_equally_far_apart(num_labels, dim):
    points = simplex(num_labels, dim)
    expected = torch.full((num_labels, num_labels), -1 / (num_labels - 1), dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(points @ points.T, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(points.sum(dim=0), torch.zeros(dim, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_vertices_are_those_of_the_formula():
    num_labels, dim = 4, 7
    q = [
        [math.sqrt(2 / dim) * math.cos(math.pi * (c + 1) * (d + 0.5) / dim) for d in range(dim)]
        for c in range(num_labels)
    ]
    mean = [sum(column) / num_labels for column in zip(*q, strict=True)]
    factor = math.sqrt(num_labels / (num_labels - 1))
    expected = torch.tensor([[factor * (a - b) for a, b in zip(row, mean, strict=True)] for row in q]).double()
    torch.testing.assert_close(simplex(num_labels, dim), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("denominator", "reduction"), VARIANTS)
@pytest.mark.parametrize("labels", [[0, 0, 1, 2, 1, 0], [0, 0, 0], [1]], ids=["all there", "one class", "one sample"])
def test_the_loss_is_that_of_a_batch_with_one_more_sample_of_each_class(labels, denominator, reduction):
    settings = {"contrastive_denominator": denominator, "contrastive_reduction": reduction, "temperature": 0.3}
    labels = torch.tensor(labels)
    z = torch.randn(len(labels), 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    learned = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for kind, points in (("simplex", simplex(3, 8)), ("learned", learned)):
        own = config(kind, **settings)

        def expected(z, points=points):
            rows, targets = torch.cat([z, points]), torch.cat([labels, torch.arange(3)])
            return by_definition(rows, targets, 0.3, denominator, reduction)

        def computed(z, own=own, kind=kind):
            return contrastive_loss(z, labels, own, learned if kind == "learned" else None)

        one, other = value_and_gradient(expected, z), value_and_gradient(computed, z)
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


def test_by_hand_a_lone_sample_at_its_vertex_of_two_and_one_at_the_other():
    """At tau = 1, with two vertices p and -p: the positive at cosine 1, the other two at -1 (Khosla's denominator)."""
    p = simplex(2, 4)
    loss = contrastive_loss(p, torch.tensor([0, 1]), config(num_labels=2, temperature=1.0))
    assert loss.item() == pytest.approx(math.log(1 + 2 * math.exp(-2)), abs=1e-6)


def test_learned_points_get_a_gradient_and_fixed_ones_need_nothing():
    points = simplex(3, 8).float().requires_grad_(True)
    z, labels = torch.randn(4, 8), torch.tensor([0, 0, 1, 1])
    total_loss(torch.randn(4, 3), z, labels, config("learned"), points).loss.backward()
    assert points.grad is not None and bool(points.grad[2].abs().sum() > 0)  # of the class that is not there, too
    with pytest.raises(InputError, match=r"adapter\.head\.prototypes"):
        total_loss(torch.randn(4, 3), z, labels, config("learned"))


def test_distributions_go_by_their_most_voted_class():
    z, votes = torch.randn(3, 8), torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.0, 0.0, 1.0]])
    assert contrastive_loss(z, votes, config()) == contrastive_loss(z, torch.tensor([0, 1, 2]), config())


@pytest.mark.parametrize("kind", ["simplex", "learned"])
@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_values_and_sets_have_no_prototypes(kind, problem):
    with pytest.raises(ConfigError, match=f"`contrastive_prototypes='{kind}'` goes by the class of each sample"):
        CIAOConfig(problem_type=problem, num_labels=3, contrastive_prototypes=kind)


def test_embeddings_without_room_are_refused_before_anything_changes():
    model = make_model()
    with pytest.raises(ConfigError, match="prototypes of 3 classes need embeddings of 3 numbers or more; these have 2"):
        model.add_adapter("flat", config(embedding_source="hidden", hidden_sizes=(2,)))
    assert list(model.adapters) == ["default"]
    assert with_prototypes(torch.ones(1, 2), torch.tensor([0]), config("none"))[0].shape == (1, 2)


# -- in training ------------------------------------------------------------------------------------------------------

SOURCES = [("features", {}), ("hidden", {}), ("logits", {}), ("features", {"spatial_maps": 2, "hidden_sizes": ()})]


@pytest.mark.parametrize(("source", "changes"), SOURCES)
def test_a_training_moves_learned_points_and_they_are_saved_and_loaded(source, changes, tmp_path):
    model = make_model(contrastive_prototypes="learned", embedding_source=source, **changes)
    before = weights(model)["head.prototypes"]
    trainer = make_trainer(model)
    trainer.train(faces(), faces(6))
    after = weights(model)["head.prototypes"]
    assert bool((before != after).any(dim=1).all())
    trainer.save_adapter(tmp_path / "mine")
    again = CIAOModel.from_pretrained(tiny_backbone(), tmp_path / "mine")
    assert_same(weights(model), weights(again, "mine"))
    pixels = torch.stack([face["pixel_values"] for face in faces(4)])
    model.eval()
    assert torch.equal(model(pixels).logits, again(pixels).logits)


def test_a_simplex_adds_nothing_to_the_adapter_and_changes_what_is_learned():
    plain, fixed = make_trainer(), make_trainer(make_model(contrastive_prototypes="simplex"))
    assert weights(plain.model).keys() == weights(fixed.model).keys()
    plain.train(faces())
    fixed.train(faces())
    assert not all(map(torch.equal, weights(plain.model).values(), weights(fixed.model).values()))


def test_the_model_gives_the_loss_that_the_trainer_takes():
    model = make_model(contrastive_prototypes="learned")
    pixels, labels = torch.stack([face["pixel_values"] for face in faces(4)]), torch.tensor([0, 1, 2, 0])
    output = model(pixels, labels=labels)
    z, points = output.embeddings.double(), weights(model)["head.prototypes"].double()
    expected = by_definition(torch.cat([z, points]), torch.cat([labels, torch.arange(3)]), 0.1, "all", "mean")
    assert output.contrastive_loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_resumed_training_has_the_same_points(tmp_path):
    def training(**changes):
        settings = {"num_train_epochs": 3, "output_dir": tmp_path, "save_strategy": "epoch"}
        return make_trainer(make_model(contrastive_prototypes="learned"), **settings | changes)

    whole = training()
    whole.train(faces())
    folder = str(tmp_path / "checkpoint-3")
    resumed = training(output_dir=None, save_strategy="no", resume_from_checkpoint=folder)
    resumed.train(faces())
    assert_same(weights(whole.model), weights(resumed.model))


def test_without_a_contrastive_loss_there_are_no_points():
    model = make_model(contrastive_prototypes="learned", contrastive_weight=0.0)
    assert "head.prototypes" not in weights(model)
    make_trainer(model).train(faces())


def test_two_steps_have_no_gradient_for_learned_points():
    with pytest.raises(TrainingError, match="contrastive_prototypes='simplex'"):
        make_trainer(make_model(contrastive_prototypes="learned"), two_steps=True).train(faces())
    make_trainer(make_model(contrastive_prototypes="simplex"), two_steps=True).train(faces())


def test_a_class_of_one_sample_is_no_warning_with_prototypes():
    pictures = [*faces(6, label_of=lambda n: 0), *faces(1, label_of=lambda n: 1)]
    with pytest.warns(UserWarning, match="A single training sample each"):
        make_trainer().train(pictures)
    make_trainer(make_model(contrastive_prototypes="simplex")).train(pictures)  # a warning is an error in the tests


@pytest.mark.parametrize("kind", ["simplex", "learned"])
def test_among_many_stacked_trainings_one_with_prototypes_comes_out_as_by_itself(kind, monkeypatch):
    from ciao_peft.adapters import stack

    alone = make_trainer(make_model(contrastive_prototypes=kind))
    alone.train(faces())
    monkeypatch.setattr(stack, "STACKED_ON", {"cpu"})
    model = make_model(contrastive_prototypes=kind)
    model.add_adapter("two", model.adapters["default"].config)
    jobs = [AdapterJob(adapter_name=name, args=alone.args) for name in ("default", "two")]
    train_adapters(model, jobs, faces())
    for name, tensor in weights(alone.model).items():
        torch.testing.assert_close(weights(model, "two")[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    pixels = torch.stack([face["pixel_values"] for face in faces(4)])
    read = model.eval().read(pixels)
    torch.testing.assert_close(read["two"], alone.model.eval()(pixels).logits, rtol=1e-4, atol=1e-4)
