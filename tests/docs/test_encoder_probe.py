"""benchmarks/encoder_probe.py: its probes are what scikit-learn has by that name, and nobody is on both sides."""

from __future__ import annotations

import csv
import json
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image

from ciao_peft import load_encoder
from ciao_peft.encoders import save_encoder
from helpers.places import REPOSITORY


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return import_module("encoder_probe")


@pytest.fixture
def asked(script, monkeypatch):
    """What the probes fit and what they predict, as rows: pairs that fill while a test runs."""
    rows, predict = [], script.Ridge.predict

    def recorded(self, fit, test, ridge, balanced):
        rows.append(({*fit.tolist()}, {*test.tolist()}))
        return predict(self, fit, test, ridge, balanced)

    monkeypatch.setattr(script.Ridge, "predict", recorded)
    return rows


# -- the ridge ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("ridge", "scaled"), [(1e-2, False), (1.0, False), (1e-2, True), (1.0, True)])
def test_it_answers_as_sklearns_ridge_on_the_features_themselves(script, ridge, balanced, scaled):
    from sklearn.linear_model import Ridge
    from sklearn.utils.class_weight import compute_sample_weight

    generator = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 2] * 8)
    features = generator.normal(size=(64, 20)) * np.linspace(0.1, 5, 20) + labels[:, None]
    fit, test = np.arange(40), np.arange(40, 64)
    mine = script.Ridge(torch.tensor(features).float(), torch.tensor(labels), scaled)
    predicted = mine.predict(torch.tensor(fit), torch.tensor(test), ridge, balanced)

    features = features - features.mean(axis=0)
    if scaled:
        spread = features.std(axis=0, ddof=1)
        features = features / (spread + 0.1 * spread.mean())
    targets, weights = np.eye(3)[labels[fit]], np.ones(40)
    if balanced:
        weights = compute_sample_weight("balanced", labels[fit])
    mean = np.average(targets, axis=0, weights=weights)
    alpha = ridge * (features[fit] ** 2).sum(axis=1).mean()
    other = Ridge(alpha=alpha, fit_intercept=False, solver="cholesky")
    other.fit(features[fit], targets - mean, sample_weight=weights)
    expected = (other.predict(features[test]) + mean).argmax(axis=1)
    assert len({*expected}) == 3  # or the comparison would say nothing
    assert predicted.tolist() == expected.tolist()


def test_scores_are_those_of_sklearn(script):
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    predicted, labels = torch.randint(0, 4, (50,)), torch.randint(0, 4, (50,)).clamp(max=2)
    expected = accuracy_score(labels, predicted), recalls(labels, predicted)
    assert script.scores(predicted, labels) == pytest.approx(expected)
    same = labels.flip(0)
    assert script.scores(same, labels)[1] == pytest.approx(balanced_accuracy_score(labels, same))


def recalls(labels, predicted):
    from sklearn.metrics import recall_score

    return recall_score(labels, predicted, labels=labels.unique(), average="macro")


def test_the_ridge_is_chosen_by_what_is_held_out_of_the_fit(script, asked):
    features, labels = torch.randn(40, 6), torch.arange(40) % 4
    fit, held = torch.arange(20), torch.arange(0, 20, 3)
    best = script.Ridge(features, labels).chosen(fit, held, balanced=False)
    assert best in script.RIDGES
    assert asked == [({*range(20)} - {*held.tolist()}, {*held.tolist()})] * len(script.RIDGES)


def test_scaling_undoes_what_a_training_made_of_its_features(script):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    features = torch.randn(200, 100, generator=generator)
    features[:, 0] = 5 * labels + torch.randn(200, generator=generator)  # one number knows, and speaks up
    fit, test = torch.arange(20), torch.arange(20, 200)
    right = [
        script.scores(script.Ridge(features, labels, scaled).predict(fit, test, 1.0, balanced=False), labels[test])[0]
        for scaled in (False, True)
    ]
    assert right[0] > 0.9 > 0.75 > right[1]


# -- who is on which side ----------------------------------------------------------------------------------------------


def test_half_of_each_persons_faces_are_fitted_and_the_other_half_judged(script, asked):
    people = torch.tensor([0] * 4 + [1] * 5 + [2] * 6)[torch.randperm(15)]
    found = script.probe_identity(torch.nn.functional.one_hot(people, 9).float(), people, splits=3)
    assert found == [1.0] * 3  # each has a feature of their own
    finals = [pair for pair in asked if len(pair[0] | pair[1]) == 15]
    assert len(finals) == 3
    for fit, test in asked:
        assert not fit & test
    for fit, test in finals:
        assert [sum(people[row] == who for row in fit) for who in range(3)] == [2, 2, 3]
        assert [sum(people[row] == who for row in test) for who in range(3)] == [2, 3, 3]
    assert finals[0] != finals[1] != finals[2]
    for fit, held in asked:  # those that chose the ridge saw nothing of what is judged
        assert any(fit | held <= final_fit for final_fit, _ in finals) or (fit, held) in finals


def test_no_person_is_fitted_and_judged(script, asked):
    people = [f"p{i // 3}" for i in range(60)]  # 20 people to fit, and 30 faces of others behind them
    labels = torch.arange(90) % 3
    found = script.probe_expression(torch.randn(90, 10), labels, people, splits=4)
    assert {name: len(values) for name, values in found.items()} == {"accuracy": 4, "balanced": 4}
    finals = 0
    for fit, test in asked:
        fitted = {people[row] for row in fit}
        assert max(fit) < 60
        if max(test) < 60:  # to choose the ridge: faces of other people, of whom all faces are held out
            assert not fitted & {people[row] for row in test}
        else:
            finals += 1
            assert test == {*range(60, 90)}
            assert len(fitted) == 14  # seven tenths
    assert finals == 8
    assert len({frozenset(fit) for fit, test in asked if max(test) >= 60}) == 4


def test_what_only_tells_people_apart_says_nothing_about_expressions_of_others(script):
    generator = torch.Generator().manual_seed(3)
    person = torch.arange(120) // 3
    features = torch.randn(40, 50, generator=generator)[person]
    labels = torch.randint(0, 2, (40,), generator=generator)[person]
    found = script.probe_expression(features, labels, [f"p{i}" for i in person[:60].tolist()], splits=5)
    assert sum(found["accuracy"]) / 5 == pytest.approx(0.5, abs=0.2)
    leaked = script.probe_expression(
        torch.cat([features[:60], features[:60]]),
        torch.cat([labels[:60], labels[:60]]),
        [f"p{i}" for i in person[:60].tolist()],
        splits=5,
    )
    assert sum(leaked["accuracy"]) / 5 > 0.8  # the same people on both sides would look like knowledge


# -- from files to a table ---------------------------------------------------------------------------------------------


@pytest.fixture
def faces(script, tmp_path):
    """Painted noise: 18 people who are fitted, one of them in the test split too, and three others there."""
    generator, folder = np.random.default_rng(0), tmp_path / "faces"
    for split, people in (("train", [f"p{i % 18}" for i in range(36)]), ("test", ["p0"] * 2 + ["x", "y", "z"] * 4)):
        (folder / split).mkdir(parents=True)
        with (folder / split / "metadata.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "expression", "identity"])
            for number, person in enumerate(people):
                pixels = generator.integers(0, 256, (12, 12), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / f"{number}.png")
                expression = "fear" if number % 7 == 6 else script.EXPRESSIONS[number % 7]
                table.writerow([f"{number}.png", expression, person])
    return folder


def test_people_of_the_training_split_are_not_in_the_test_split(script, faces):
    splits = script.load(str(faces))
    assert {*splits["test"]["identity"]} == {"x", "y", "z"}
    assert len(splits["test"]) == 12
    assert len(splits["train"]) == 36


def test_a_networks_scores_are_written_and_never_measured_twice(script, faces, tmp_path, monkeypatch, capsys):
    def tiny(seed):
        torch.manual_seed(seed)
        return load_encoder("prior_knowledge", pretrained=False, channels=[4, 4, 4, 8])

    folder, path = save_encoder(tiny(1), tmp_path / "mine", training={"seconds": 3}), tmp_path / "results.json"
    probed, probe = [], script.probe

    def counted(encoder, *rest):
        probed.append(encoder.revision)
        return probe(encoder, *rest)

    monkeypatch.setattr(script, "probe", counted)
    words = f"--data_dir {faces} --encoder pk={folder} --splits 2 --random_seeds 2 --results {path}"

    def run():
        probed.clear()
        script.main(script.parse_args(words.split()))
        return json.loads(path.read_text())["pk"]

    first = run()
    assert probed == [load_encoder(folder).revision, "random", "random"]
    assert first["training"] == {"seconds": 3}
    assert first["trained"]["size"] == 8 * 6 * 6  # an encoder of random weights has the channels of the trained one
    assert all(random["size"] == 8 * 6 * 6 for random in first["random"].values())
    assert first["random"]["0"]["verification"] != first["random"]["1"]["verification"]
    assert {name: len(values) for name, values in first["trained"].items() if name != "size"} == {
        "verification": 1,
        "identity": 2,
        "identity_scaled": 2,
        "expression_accuracy": 2,
        "expression_accuracy_scaled": 2,
        "expression_balanced": 2,
        "expression_balanced_scaled": 2,
    }
    assert run() == first
    assert probed == []
    save_encoder(tiny(2), folder)
    assert run()["trained"] != first["trained"]
    assert len(probed) == 1
