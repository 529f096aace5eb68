from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ciao_peft import (
    CIAOConfig,
    CIAOTrainer,
    CIAOTrainingArguments,
    cache_features,
    get_ciao_model,
    load_encoder,
    load_faces,
)
from ciao_peft.cli import main
from ciao_peft.errors import ConfigError, DataError, MissingExtraError, TrainingError
from ciao_peft.metrics import compute_metrics
from ciao_peft.study import METHODS, Method, Task, plan_from_dict
from ciao_peft.study.data import load_training_split
from ciao_peft.study.presets import method_from_file
from ciao_peft.study.search import SearchResult, SearchSpace
from ciao_peft.study.search.space import method_with
from helpers.processes import command_of, environment, run
from helpers.searches import OPTIONS, SMALL, TASK, search
from helpers.studies import tiny_encoder

pytest.importorskip("optuna")


def held_out_parts(task: Task, encoder: torch.nn.Module, folder: Path, fraction: float, splits: int, seed: int):
    """Labels, stored features, and by split: who is trained on, who is held out, and what their clips are."""
    loaded = load_training_split(task)
    fold, parts = loaded.folds[0], []
    stored = cache_features(encoder, fold.train, folder)
    for number in range(splits):
        train, held = loaded.held_out(fold, fraction, seed + number)
        clips = None if task.average_by is None else [fold.train[task.average_by][row] for row in held]
        parts.append((stored.select(train), stored.select(held), clips))
    return loaded.labels, stored, parts


def told(result: SearchResult) -> list[tuple]:
    """What the trials tried and reached, without their seconds."""
    return [(trial.index, trial.values, trial.score) for trial in result.trials]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return search(tmp_path_factory.mktemp("search") / "run")


def test_a_search_tries_the_settings_and_keeps_the_best(found):
    assert [trial.index for trial in found.trials] == [0, 1, 2, 3]
    assert found.best.score == max(trial.score for trial in found.trials)
    for trial in found.trials:
        assert set(trial.values) == set(SMALL.names(METHODS["decision layer + CIAO"]))
        for name, value in trial.values.items():
            allowed = getattr(SMALL, name)
            assert value in allowed if name == "batch_size" else allowed[0] <= value <= allowed[1]
    assert len({tuple(trial.values.items()) for trial in found.trials}) == 4


def test_the_same_seed_gives_the_same_trials_and_another_seed_others(found, tmp_path):
    assert told(search(tmp_path / "again")) == told(found)
    other = search(tmp_path / "other", seed=1, trials=1)
    assert other.trials[0].values != found.trials[0].values


def test_the_tree_parzen_estimator_takes_over_after_the_random_trials(tmp_path):
    """The first ten are drawn whatever they score; the others come near to where the score is high."""
    import optuna

    from ciao_peft.study.search.trials import SharedStudy

    def values(folder: Path, scores: list[float]) -> list[float]:
        study = SharedStudy(folder, {}, seed=3)
        with study.counted_as_alive():
            for score in scores:
                trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}, total=len(scores))
                study.tell(trial, score if score is not None else -abs(trial.params["x"] - 0.5))
        return [trial.params["x"] for trial in study.done()]

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    flat, peaked = values(tmp_path / "a", [0.0] * 12), values(tmp_path / "b", [None] * 20)
    assert flat[:10] == peaked[:10]
    assert len({*flat[:10]}) == 10
    assert flat[11] != peaked[11]
    distances = [abs(x - 0.5) for x in peaked]
    assert sum(distances[10:]) < 0.5 * sum(distances[:10])


def test_a_killed_search_goes_on_to_the_same_trials(found, tmp_path):
    assert run("killed_search", tmp_path / "run", 2).returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "best.json").exists()
    assert len(os.listdir(tmp_path / "run" / "workers")) == 1  # the dead one's
    resumed = search(tmp_path / "run")
    assert told(resumed) == told(found)
    assert not os.listdir(tmp_path / "run" / "workers")


def test_an_interrupted_search_goes_on_to_the_same_trials(found, tmp_path, monkeypatch):
    from ciao_peft.study.search.objective import Objective

    score = Objective.score

    def interrupted(self, method, report):
        score(self, method, report)
        raise KeyboardInterrupt

    monkeypatch.setattr(Objective, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "run")
    monkeypatch.undo()
    assert told(search(tmp_path / "run")) == told(found)


def test_more_trials_may_be_asked_for_later(found, tmp_path):
    assert told(search(tmp_path / "run", trials=2)) == told(found)[:2]
    assert told(search(tmp_path / "run", trials=4)) == told(found)


def test_two_processes_share_the_trials(tmp_path):
    tiny_encoder(tmp_path / "encoder")
    command = command_of("killed_search", tmp_path / "run", -1)
    both = [subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    result = search(tmp_path / "run")
    assert [trial.index for trial in result.trials] == [0, 1, 2, 3]
    assert len({tuple(trial.values.items()) for trial in result.trials}) == 4


def painted_folder(folder: Path, test_seed: int) -> Path:
    """Six faces of each of two classes in `train`, by three people; noise as `test`."""
    faces = load_faces("painted_faces", **(OPTIONS | {"num_train": 12}))["train"]
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        lines = ["file_name,label,identity"]
        for number, image in enumerate(faces["image"]):
            if split == "test":
                image = Image.new("RGB", (32, 32), ((test_seed * 40 + number) % 255, 9, 200))
            image.save(folder / split / f"{number}.png")
            lines.append(f"{number}.png,{'ab'[number % 2]},p{number % 3}{split}")
        (folder / split / "metadata.csv").write_text("\n".join(lines))
    return folder


def test_the_test_split_changes_nothing(tmp_path):
    results = []
    for seed in (0, 1):
        folder = painted_folder(tmp_path / f"faces{seed}", seed)
        task = Task(name="folder", dataset="imagefolder", data_dir=str(folder), group_by="identity")
        task = replace(task, options={"min_images_per_class": 0})
        results.append(search(tmp_path / f"run{seed}", task, trials=2))
    assert told(results[0]) == told(results[1])
    about = [json.loads((result.folder / "best.json").read_text())["search"] for result in results]
    assert about[0] == about[1]


def test_who_is_held_out_is_nobody_who_is_trained_on(tmp_path):
    task = replace(TASK, options=OPTIONS | {"num_train": 64})
    faces = load_faces("painted_faces", **task.options)["train"]
    encoder = load_encoder(tiny_encoder(tmp_path / "encoder").source)
    _, stored, parts = held_out_parts(task, encoder, tmp_path / "features", 0.4, 3, 0)
    assert len(stored) == len(faces)
    held_out_rows = set()
    for train, held_out, _ in parts:
        rows = [set(part._rows.tolist()) for part in (train, held_out)]
        assert rows[0] | rows[1] == set(range(len(faces)))
        assert not rows[0] & rows[1]
        who = [{faces[row]["identity"] for row in part} for part in rows]
        assert not who[0] & who[1]
        held_out_rows.add(frozenset(rows[1]))
    assert len(held_out_rows) > 1  # every split holds out others


def test_frames_of_a_clip_stay_together(tmp_path):
    task = replace(TASK, group_by=None, average_by="identity")
    encoder = load_encoder(tiny_encoder(tmp_path / "encoder").source)
    faces = load_faces("painted_faces", **OPTIONS)["train"]
    _, _, [(train, held_out, things)] = held_out_parts(task, encoder, tmp_path / "features", 0.4, 1, 0)
    assert not {faces[i]["identity"] for i in train._rows.tolist()} & {
        faces[i]["identity"] for i in held_out._rows.tolist()
    }
    assert things == [faces[i]["identity"] for i in held_out._rows.tolist()]


def test_a_clip_is_scored_once_by_the_mean_answer_to_its_frames(tmp_path):
    task = replace(TASK, average_by="identity")
    by_hand, found = [], search(tmp_path / "search", task, trials=1)
    method = method_from_file(found.folder / "best.json")
    encoder = load_encoder(tiny_encoder(tmp_path / "encoder").source)
    labels, _, [(train, held_out, things)] = held_out_parts(task, encoder, tmp_path / "features", 0.4, 1, 0)
    config = CIAOConfig(**labels.as_config(), **method.config)
    trainer = CIAOTrainer(
        get_ciao_model(encoder, config), CIAOTrainingArguments(num_train_epochs=1, **method.arguments)
    )
    trainer.train(train)
    logits = trainer.predict(held_out).logits
    first = {name: row for row, name in reversed(list(enumerate(things)))}
    for name in dict.fromkeys(things):
        by_hand.append(logits[[row for row, other in enumerate(things) if other == name]].mean(dim=0))
    truth = held_out.labels[[first[name] for name in dict.fromkeys(things)]]
    assert found.best.score == pytest.approx(compute_metrics(torch.stack(by_hand), truth, config)["concordance"])
    assert len(by_hand) < len(things)


def test_a_score_is_that_of_training_with_the_settings_by_hand(found, tmp_path):
    """`best.json` read back, trained on the same part, scored on the same rest."""
    method = method_from_file(found.folder / "best.json")
    assert method == found.method
    encoder = load_encoder(tiny_encoder(found.folder.parent / "encoder").source)
    labels, _, [(train, held_out, _)] = held_out_parts(TASK, encoder, tmp_path / "features", 0.4, 1, 0)
    model = get_ciao_model(encoder, CIAOConfig(**labels.as_config(), **method.config))
    trainer = CIAOTrainer(model, CIAOTrainingArguments(num_train_epochs=1, seed=0, **method.arguments))
    trainer.train(train)
    assert trainer.evaluate(held_out)["eval_concordance"] == found.best.score


def test_the_best_setting_has_the_values_of_the_best_trial(found):
    config, arguments, values = found.method.config, found.method.arguments, found.best.values
    assert config["hidden_sizes"] == [values["hidden_size"]] * values["hidden_layers"]
    assert arguments["per_device_train_batch_size"] == values["batch_size"]
    for name in ("dropout", "temperature", "contrastive_weight"):
        assert config[name] == pytest.approx(values[name], rel=6e-3)
    for name in ("learning_rate", "mask_learning_rate"):
        assert arguments[name] == pytest.approx(values[name], rel=6e-3)
    assert found.method.rates == (arguments["mask_learning_rate"],)
    assert found.method.name == "decision layer + CIAO, searched"


def test_the_table_has_every_trial_the_best_first(found):
    lines = (found.folder / "trials.md").read_text().splitlines()
    assert len(lines) == 2 + 4
    assert lines[2].startswith(f"| {found.best.index} | {found.best.score:.4f} |")


def test_the_pictures_are_pictures(found):
    for name in ("history", "slices"):
        with Image.open(found.folder / f"{name}.png") as picture:
            picture.load()
            assert picture.width > 300
            assert len(picture.convert("L").getcolors()) > 8  # something is drawn
            assert np.asarray(picture.convert("L"))[[0, -1]].min() == 255  # and nothing is cut off


def test_drawing_a_search_leaves_pyplot_as_it_was(tmp_path):
    """Optuna draws with the caller's pyplot, in a style of its own."""
    import matplotlib
    import optuna
    from matplotlib import pyplot

    from ciao_peft.study.search.figures import draw_search

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for score in (0.5, 0.7, None, 0.6):
        rate = optuna.distributions.FloatDistribution(1e-3, 1.0, log=True)
        trial = study.ask({"learning_rate": rate, "dropout": optuna.distributions.FloatDistribution(0, 0)})
        study.tell(trial, score, state=None if score else optuna.trial.TrialState.PRUNED)
    mine = pyplot.figure()
    settings, backend, names = dict(matplotlib.rcParams), matplotlib.get_backend(), pyplot.get_fignums()
    draw_search(study, ["learning_rate", "dropout"], "accuracy", tmp_path)
    assert (dict(matplotlib.rcParams), matplotlib.get_backend(), pyplot.get_fignums()) == (settings, backend, names)
    pyplot.close(mine)
    assert sorted(os.listdir(tmp_path)) == ["history.png", "importances.png", "slices.png"]


def test_importances_are_shares(tmp_path):
    result = search(tmp_path / "run", trials=6, space=replace(SMALL, learning_rate=(1e-3, 1e-1)))
    assert len({trial.score for trial in result.trials}) > 1
    assert sum(result.importances.values()) == pytest.approx(1)
    assert (result.folder / "importances.png").exists()


def test_several_splits_are_averaged(found, tmp_path):
    both = search(tmp_path / "two", splits=2, trials=1)
    second = search(tmp_path / "one", trials=1)
    assert both.trials[0].values == second.trials[0].values
    encoder = load_encoder(tiny_encoder(tmp_path / "encoder").source)
    labels, _, parts = held_out_parts(TASK, encoder, tmp_path / "features", 0.4, 2, 0)
    method, scores = method_with(METHODS["decision layer + CIAO"], both.trials[0].values), []
    for train, held_out, _ in parts:
        model = get_ciao_model(encoder, CIAOConfig(**labels.as_config(), **method.config))
        trainer = CIAOTrainer(model, CIAOTrainingArguments(num_train_epochs=1, seed=0, **method.arguments))
        trainer.train(train)
        scores.append(trainer.evaluate(held_out)["eval_concordance"])
        model.unload()
    assert both.trials[0].score == pytest.approx(sum(scores) / 2)


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_trials_that_fall_behind_are_given_up(tmp_path, pruner):
    """The trials report 1, 2, 3, ... times their own level: from some trial on the low ones end early."""
    import optuna

    from ciao_peft.study.search.trials import SharedStudy

    study, given_up = SharedStudy(tmp_path, {}, seed=0, pruner=pruner), 0
    with study.counted_as_alive():
        for number in range(20):
            trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}, total=20)
            level = -number
            for step in range(1, 10):
                trial.report(level * step, step)
                if trial.should_prune():
                    study.tell(trial, None)
                    given_up += 1
                    break
            else:
                study.tell(trial, level * 9)
    assert given_up > 3
    assert len(study.done()) == 20


def test_a_diverged_trial_counts_as_given_up(tmp_path):
    hot = SearchSpace(hidden_layers=(1, 1), hidden_size=(8, 8), learning_rate=(1e9, 1e9), batch_size=(8,))
    arguments = {"max_grad_norm": 0.0, "optim": "sgd", "logging_steps": 1}
    with pytest.raises(TrainingError, match="None of 1 trials has a score: all diverged"):
        search(tmp_path / "run", trials=1, space=hot, epochs=3.0, arguments=arguments)


def test_a_folder_of_another_search_is_refused(found):
    with pytest.raises(ConfigError, match=r"other settings \(epochs: 1.0 there, 2.0 here\)"):
        search(found.folder, epochs=2.0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"trials": 0}, ConfigError, "`trials` must be a whole number of 1 or more; got 0"),
        ({"splits": 1.5}, ConfigError, "`splits` must be a whole number of 1 or more; got 1.5"),
        ({"fraction": 1.0}, DataError, "`fraction` must lie between 0 and 1; got 1.0"),
        ({"pruner": "axe"}, ConfigError, "`pruner` must be one of 'hyperband', 'median', 'none'; got 'axe'"),
        ({"method": METHODS["full + CIAO"]}, ConfigError, "'full \\+ CIAO' has no decision layer on stored features"),
        ({"task": replace(TASK, group_by="clip")}, DataError, "names the column 'clip'; there are 'identity'"),
        (
            {"task": replace(TASK, options={"fold": "all"})},
            ConfigError,
            "tested on every row, fold by fold.*Name one fold",
        ),
        ({"arguments": {"num_epochs": 1}}, ConfigError, "Unknown setting 'num_epochs'.*did you mean"),
    ],
    ids=["trials", "splits", "fraction", "pruner", "method", "column", "folds", "arguments"],
)
def test_what_cannot_be_searched_is_refused(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        search(tmp_path / "run", **changes)


@pytest.mark.parametrize(
    "space",
    [
        {"dropout": (0.5, 0.1)},
        {"hidden_size": (0, 4)},
        {"hidden_size": (1.5, 4)},
        {"learning_rate": (0.0, 1.0)},
        {"batch_size": (8, 8)},
        {"batch_size": ()},
        {"temperature": 0.1},
    ],
    ids=str,
)
def test_a_range_that_is_none_is_refused(space):
    with pytest.raises(ConfigError, match=f"`{next(iter(space))}` of a search must be"):
        SearchSpace(**space)


def test_settings_that_mean_nothing_to_a_method_are_not_searched():
    space = SearchSpace()
    every = set(SearchSpace.__dataclass_fields__)
    assert set(space.names(METHODS["last convolution + CIAO"])) == every
    assert every - set(space.names(METHODS["last convolution"])) == {
        "mask_learning_rate",
        "temperature",
        "contrastive_weight",
    }


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"needs optuna: pip install 'ciao_peft\[search\]'"):
        search(tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is missing"), ("{", "is no JSON"), ('{"name": "x", "temperature": 1}', "Unknown key 'temperature'")],
    ids=["missing", "torn", "unknown"],
)
def test_files_that_hold_no_method_are_refused(tmp_path, content, message):
    path = tmp_path / "best.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        method_from_file(path)


def test_a_method_in_a_file_needs_no_search(tmp_path):
    (tmp_path / "mine.json").write_text('{"name": "mine", "config": {"temperature": 0.3}}')
    assert method_from_file(tmp_path / "mine.json") == Method(name="mine", config={"temperature": 0.3})


def test_the_command_searches_and_says_what_it_found(tmp_path, capsys):
    (tmp_path / "space.yaml").write_text("hidden_size: [4, 8]\nbatch_size: [8]\n")
    settings = [word for name, value in OPTIONS.items() for word in ("--setting", f"{name}={value}")]
    command = ["search", "--task", "painted_faces", *settings, "--encoder", tiny_encoder(tmp_path / "encoder").source]
    command += ["--output_dir", str(tmp_path / "run"), "--trials", "2", "--epochs", "1", "--fraction", "0.4"]
    assert main([*command, "--space", str(tmp_path / "space.yaml")]) == 0
    told = capsys.readouterr().out
    assert "| trial | concordance | hidden layers |" in told
    assert f"concordance {json.loads((tmp_path / 'run' / 'best.json').read_text())['search']['score']:.4f}" in told
    (tmp_path / "space.yaml").write_text("hidden_sizes: [4, 8]\n")
    assert main([*command, "--space", str(tmp_path / "space.yaml")]) == 1
    assert "Unknown key 'hidden_sizes' in a search space; did you mean 'hidden_size'?" in capsys.readouterr().err


def test_the_files_of_a_search_keep_the_old_name_of_a_baseline(found):
    """The settings are compared with those of the search that a folder holds, which may be of an earlier release."""
    import optuna

    study = optuna.load_study(study_name="search", storage=f"sqlite:///{found.folder / 'search.db'}")
    assert "rival" in study.user_attrs["settings"]["method"]
    assert "baseline" not in study.user_attrs["settings"]["method"]
    assert "rival" in json.loads((found.folder / "best.json").read_text())["search"]["method"]


def test_the_best_setting_takes_part_in_a_study(found, tmp_path):
    faces = [word for name, value in OPTIONS.items() for word in (f"{name}: {value}",)]
    plan = {
        "tasks": {"painted_faces": {"options": OPTIONS, "group_by": None}},
        "encoders": {"tiny": tiny_encoder(found.folder.parent / "encoder").source},
        "methods": {found.method.name: {"config": found.method.config, "arguments": found.method.arguments}},
    }
    assert faces and plan_from_dict(plan).methods[0].config == found.method.config
