"""From logits to probabilities, against their definitions, and what the trainer notes for them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ciao_peft import CIAOConfig, CIAOModel, CIAOTrainer, CIAOTrainingArguments, get_ciao_model
from ciao_peft.errors import ConfigError, InputError
from ciao_peft.losses import task_loss
from ciao_peft.metrics import calibration_error, compute_metrics
from ciao_peft.prediction import named_answers
from ciao_peft.preprocessing import Preprocessing
from ciao_peft.probabilities import adjusted_logits, class_prior, fit_temperature, probabilities
from helpers.fakes import pixels, small_config, tiny_backbone, wrap

PRIOR = (0.7, 0.2, 0.1)


def classes(**changes):
    return CIAOConfig(**{"problem_type": "single_label_classification", "num_labels": 3, **changes})


# -- the frequencies of the classes ---------------------------------------------------------------------------------


def test_frequencies_count_one_sample_more_of_each_class():
    assert class_prior(torch.tensor([0, 0, 0, 2]), 3) == pytest.approx((4 / 7, 1 / 7, 2 / 7))
    assert class_prior(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), 3) == pytest.approx((2.5 / 5, 1.5 / 5, 1 / 5))


def test_balanced_batches_draw_by_a_power_of_the_frequencies():
    assert class_prior(torch.tensor([0] * 8 + [1] * 3), 2, balance=0.5) == pytest.approx((3 / 5, 2 / 5))
    assert class_prior(torch.tensor([0] * 8 + [1] * 3), 2, balance=1.0) == pytest.approx((0.5, 0.5))


def test_the_adjusted_task_loss_is_the_definition():
    config = classes(class_prior=PRIOR, logit_adjustment=0.5)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    expected = 0.0
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        weights = [math.exp(s) * p**0.5 for s, p in zip(row, PRIOR, strict=True)]
        expected -= math.log(weights[label] / sum(weights)) / 6
    assert task_loss(logits, labels, config).item() == pytest.approx(expected, rel=1e-5)
    assert adjusted_logits(logits, classes(class_prior=PRIOR)) is logits


def test_an_adjustment_without_frequencies_is_refused():
    with pytest.raises(ConfigError, match="CIAOTrainer notes them"):
        task_loss(torch.randn(2, 3), torch.tensor([0, 1]), classes(logit_adjustment=1.0))


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0])
def test_answers_for_other_frequencies_are_those_of_bayes(tau):
    config = classes(class_prior=PRIOR, logit_adjustment=tau)
    likelihood = torch.tensor([[0.2, 0.3, 0.9], [0.5, 0.1, 0.4]], dtype=torch.float64)  # p(x | y)
    before = torch.tensor(PRIOR, dtype=torch.float64)
    logits = (likelihood * before ** (1 - tau)).log()  # what the adjusted loss learns
    for prior, shares in {"uniform": [1, 1, 1], "training": PRIOR, "named": [0.1, 0.0, 0.9]}.items():
        given = dict(zip(("LABEL_0", "LABEL_1", "LABEL_2"), shares, strict=True)) if prior == "named" else prior
        expected = likelihood * torch.tensor(shares, dtype=torch.float64)
        expected /= expected.sum(dim=1, keepdim=True)
        torch.testing.assert_close(probabilities(logits, config, given), expected)


@pytest.mark.parametrize(
    "prior",
    ["even", {"LABEL_0": 1.0}, {"LABEL_0": 0, "LABEL_1": 0, "LABEL_2": 0}, [1, 1, 1], 3, np.ones(3), torch.ones(3)]
    + [{"LABEL_0": value, "LABEL_1": 1, "LABEL_2": 1} for value in (-1, float("nan"), float("inf"), "1", None, True)],
    ids=str,
)
def test_frequencies_that_are_none_are_refused(prior):
    with pytest.raises(ConfigError, match="`prior` must be 'uniform'"):
        probabilities(torch.zeros(1, 3), classes(class_prior=PRIOR), prior)


@pytest.mark.parametrize("size", [1e-60, 1e300, 5e-324], ids=str)
def test_shares_count_by_their_ratio_whatever_their_size(size):
    logits, config = torch.randn(2, 3), classes(class_prior=PRIOR)
    given = {"LABEL_0": size, "LABEL_1": 0, "LABEL_2": size}
    expected = probabilities(logits, config, {"LABEL_0": 0.5, "LABEL_1": 0.0, "LABEL_2": 0.5})
    assert torch.equal(probabilities(logits, config, given), expected)
    assert (expected[:, 1] == 0).all()
    assert expected.isfinite().all()


def test_frequencies_are_refused_where_they_have_no_meaning():
    with pytest.raises(ConfigError, match="does not know the first"):
        probabilities(torch.zeros(1, 3), classes(), "uniform")
    several = classes(problem_type="multi_label_classification")
    with pytest.raises(ConfigError, match="each label is on or off"):
        probabilities(torch.zeros(1, 3), several, "uniform")
    with pytest.raises(ConfigError, match="has no probability"):
        probabilities(torch.zeros(1, 3), classes(problem_type="regression"))


# -- the temperature -------------------------------------------------------------------------------------------------


def test_the_temperature_divides_the_logits():
    logits = torch.randn(4, 3)
    hot = classes(probability_temperature=2.0)
    torch.testing.assert_close(probabilities(logits, hot), (logits / 2).softmax(dim=1))
    several = classes(problem_type="multi_label_classification", probability_temperature=2.0)
    torch.testing.assert_close(probabilities(logits, several), (logits / 2).sigmoid())
    answer = named_answers(logits[:1], hot)[0]
    assert list(answer.values()) == pytest.approx(
        sorted((logits[0] / 2).softmax(dim=0).tolist(), reverse=True), abs=1e-6
    )


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
@pytest.mark.parametrize("truth", [0.5, 1.0, 4.0])
def test_the_fitted_temperature_is_the_one_that_the_labels_were_drawn_with(problem_type, truth):
    generator = torch.Generator().manual_seed(2)
    config = classes(problem_type=problem_type)
    logits = 3 * torch.randn(20_000, 3, generator=generator)
    if problem_type == "single_label_classification":
        labels = torch.multinomial((logits / truth).softmax(dim=1), 1, generator=generator)[:, 0]
    else:
        labels = torch.bernoulli((logits / truth).sigmoid(), generator=generator)
    assert fit_temperature(logits, labels, config) == pytest.approx(truth, rel=0.04)


def test_where_every_answer_is_right_or_wrong_the_temperature_stays_within_its_bounds():
    logits = 5 * torch.eye(3)
    assert 0.01 <= fit_temperature(logits, torch.arange(3), classes()) < 0.5
    assert fit_temperature(logits, torch.tensor([1, 2, 0]), classes()) <= 100


@pytest.mark.parametrize("logits", [torch.zeros(0, 3), torch.full((2, 3), float("nan"))], ids=["none", "nan"])
def test_a_temperature_of_nothing_is_refused(logits):
    with pytest.raises(InputError, match="finite logits of one sample or more"):
        fit_temperature(logits, torch.zeros(len(logits), dtype=torch.long), classes())


def test_the_calibration_error_counts_the_temperature():
    logits, labels = torch.tensor([[4.0, 0.0, 0.0]] * 4), torch.tensor([0, 0, 1, 2])
    sharp, fitted = classes(), classes(probability_temperature=fit_temperature(logits, labels, classes()))
    assert compute_metrics(logits, labels, sharp)["calibration_error"] > 0.4
    assert compute_metrics(logits, labels, fitted)["calibration_error"] < 0.01


@pytest.mark.parametrize("values", [[], [[0.5, 1.5]], [[-0.5, 1.5]], [0.5], [[float("nan"), 1]]], ids=str)
def test_what_is_no_probability_has_no_calibration_error(values):
    with pytest.raises(InputError, match="Probabilities are"):
        calibration_error(values, [0])


# -- answers ---------------------------------------------------------------------------------------------------------


def reader(**changes):
    preprocessing = Preprocessing(size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)
    model = get_ciao_model(tiny_backbone(), small_config(**changes), preprocessing=preprocessing).eval()
    return model, [np.full((16, 16, 3), level, dtype=np.uint8) for level in (0, 90, 250)]


def test_answers_follow_the_frequencies_that_are_given():
    model, pictures = reader(class_prior=PRIOR)
    plain, even = model.predict(pictures), model.predict(pictures, prior="uniform")
    for before, after in zip(plain, even, strict=True):
        weights = {name: value / PRIOR[int(name[-1])] for name, value in before.items()}
        total = sum(weights.values())
        assert after == pytest.approx({name: value / total for name, value in weights.items()}, abs=1e-5)
        assert list(after) == sorted(after, key=after.__getitem__, reverse=True)
    rare = model.predict(pictures[0], prior={"LABEL_0": 0.0, "LABEL_1": 0.0, "LABEL_2": 1.0}, adapter_names=["default"])
    assert rare["default"]["LABEL_2"] == 1.0
    with pytest.raises(ConfigError, match="`prior` must be"):
        model.predict(["not/there.png"], prior={"happy": 1.0})  # before any picture is opened


def test_answers_below_a_confidence_are_none():
    model, pictures = reader()
    answers = model.predict(pictures)
    bound = sorted(max(answer.values()) for answer in answers)[1]
    kept = model.predict(pictures, min_confidence=bound)
    assert kept == [answer if max(answer.values()) >= bound else None for answer in answers]
    assert None in kept and any(kept)
    assert model.predict(pictures[0], min_confidence=1.0) is None
    assert model.predict(pictures, min_confidence=0) == answers


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "1", True])
def test_a_confidence_that_is_none_is_refused(value):
    model, pictures = reader()
    with pytest.raises(ConfigError, match="`min_confidence` must be"):
        model.predict(pictures, min_confidence=value)


def test_a_world_of_values_has_no_confidence():
    model, pictures = reader(problem_type="regression")
    with pytest.raises(ConfigError, match="one class of several"):
        model.predict(pictures, min_confidence=0.5)
    with pytest.raises(ConfigError, match="has no probability"):
        model.predict(pictures, prior="uniform")


# -- what the trainer notes -------------------------------------------------------------------------------------------


def faces(count=12):
    return [{"pixel_values": row, "labels": min(n % 4, 2)} for n, row in enumerate(pixels(count))]


@pytest.mark.parametrize("balanced", [True, False])
def test_a_training_notes_the_frequencies_and_saves_them(balanced, tmp_path):
    model = wrap(logit_adjustment=1.0)
    args = CIAOTrainingArguments(max_steps=2, class_balanced_batches=balanced, report_to="none")
    CIAOTrainer(model, args).train(faces())
    expected = torch.tensor([4.0, 4.0, 7.0]) ** (0.5 if balanced else 1)
    noted = model.peft_config["default"].class_prior
    assert noted == pytest.approx((expected / expected.sum()).tolist(), rel=1e-5)
    model.save_pretrained(tmp_path / "adapter")
    again = CIAOModel.from_pretrained(tiny_backbone(), tmp_path / "adapter")
    assert again.peft_config["adapter"].class_prior == noted


def test_frequencies_that_the_config_gives_stay():
    model = wrap(class_prior=(0.25, 0.25, 0.5))
    CIAOTrainer(model, CIAOTrainingArguments(max_steps=1, report_to="none")).train(faces())
    assert model.peft_config["default"].class_prior == (0.25, 0.25, 0.5)


def test_a_training_goes_on_with_the_frequencies_that_it_noted(tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "report_to": "none"}
    settings["output_dir"] = str(tmp_path / "whole")
    whole = wrap(logit_adjustment=1.0)
    CIAOTrainer(whole, CIAOTrainingArguments(**settings)).train(faces())
    resumed = wrap(logit_adjustment=1.0)
    folder = str(tmp_path / "whole" / "checkpoint-2")
    CIAOTrainer(resumed, CIAOTrainingArguments(**settings, resume_from_checkpoint=folder)).train(faces())
    assert resumed.peft_config["default"].class_prior == whole.peft_config["default"].class_prior is not None
    for one, other in zip(resumed.adapters.parameters(), whole.adapters.parameters(), strict=True):
        assert torch.equal(one, other)


def test_calibrating_makes_held_out_answers_likelier_and_is_saved(tmp_path):
    model = wrap()
    trainer = CIAOTrainer(model, CIAOTrainingArguments(max_steps=30, learning_rate=1e-2, report_to="none"))
    trainer.train(faces())
    held_out = faces(24)[12:]
    before, logits = trainer.evaluate(held_out)["eval_loss"], trainer.predict(held_out).logits
    temperature = trainer.calibrate(held_out)
    assert temperature == model.peft_config["default"].probability_temperature != 1.0
    assert torch.equal(trainer.predict(held_out).logits, logits)  # the logits stay as they are
    labels = torch.tensor([face["labels"] for face in held_out])
    tempered = torch.nn.functional.cross_entropy(logits / temperature, labels).item()
    assert tempered < before
    model.save_pretrained(tmp_path / "adapter")
    again = CIAOModel.from_pretrained(tiny_backbone(), tmp_path / "adapter")
    assert again.peft_config["adapter"].probability_temperature == temperature
