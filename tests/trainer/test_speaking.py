"""What a training says: in a terminal, a log and a notebook; callbacks; pictures; trackers; going on for longer."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys
import types
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback
from transformers.trainer_callback import EarlyStoppingCallback

from ciao_peft import (
    CIAOConfig,
    CIAOTrainer,
    CIAOTrainingArguments,
    get_ciao_model,
    load_encoder,
    saliency_picture,
)
from ciao_peft.drawing import Picture, as_png, blank_figure
from ciao_peft.errors import ConfigError, TrainingError
from ciao_peft.features import Augmentation, FeatureDataset, FeatureLayout, samples_of
from ciao_peft.progress import hides_bars, in_notebook, place_to_speak
from ciao_peft.trainer.callbacks import EVENTS
from ciao_peft.trainer.loader import BatchDataset
from ciao_peft.trainer.speaking import Speaker
from helpers.processes import environment
from helpers.training import assert_same, faces, make_model, make_trainer, scripted, weights


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def notebook(monkeypatch):
    """As in a cell of Jupyter: IPython has a shell with a kernel. Shown tables land in the list."""
    shown = []

    class Handle:
        def update(self, what):
            shown[-1] = what

    def display(what, display_id):
        shown.append(what)
        return Handle()

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object(), config={})
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.HTML, ipython.display.display = str, display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    monkeypatch.setattr("ciao_peft.trainer.accelerator.progress_bar", None)  # whose bar would need a real IPython
    return shown


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("default:")]


def test_a_log_has_one_line_per_evaluation(capsys):
    trainer = make_trainer(num_train_epochs=3)
    trainer.compute_metrics = scripted([0.5, 0.75, 0.25])
    trainer.args = CIAOTrainingArguments(**{**trainer.args.to_dict(), "metric_for_best_model": "score"})
    trainer.train(faces(), faces(6))
    captured = capsys.readouterr()
    start, first, second, third, advice = lines_of(captured.err)
    assert start == "default: 24 samples, 3 epochs of batches of 8"
    assert first.startswith("default: epoch 1, update 3 of 9: loss ") and first.endswith("(the best so far)")
    assert "eval_score 0.75" in second and second.endswith("(the best so far)")
    assert "eval_score 0.25" in third and third.endswith("0.25")
    assert "the best score was 0.75, after update 6" in advice and "`load_best_model_at_end=True`" in advice
    assert "\r" not in captured.err and captured.out == ""


def test_the_start_says_what_an_update_is_made_of(capsys):
    data = samples_of(faces(), None)
    source = BatchDataset(data, data.labels())
    args = CIAOTrainingArguments(max_steps=1_234_567, per_device_train_batch_size=4, gradient_accumulation_steps=3)
    Speaker("faces", 1, disable_tqdm=None).begins(source, args, num_processes=2)
    said = "24 samples, 1,234,567 updates of batches of 4 on each of 2 processes, 3 of them for an update\n"
    assert capsys.readouterr().err == f"faces: {said}"


@pytest.mark.parametrize(
    ("settings", "mirrored"), [({}, False), ({"contrast": 0, "saturation": 0, "brightness": 0}, True)]
)
def test_features_are_called_mirrored_where_nothing_else_differs(settings, mirrored):
    augment = Augmentation(flip=1.0, crop=0.0, **settings)
    key = {"augmentation": augment.to_dict(), "views": 2, "num_samples": 2}
    stored = FeatureDataset(key, FeatureLayout((), "float32", 2), torch.tensor([0, 1]), ())
    assert BatchDataset(stored, torch.tensor([0, 1]), views=2).is_mirrored == mirrored


def test_a_log_without_evaluations_has_a_line_per_epoch(capsys):
    make_trainer(num_train_epochs=2).train(faces())
    assert [line.split(":")[1] for line in lines_of(capsys.readouterr().err)] == [
        " 24 samples, 2 epochs of batches of 8",
        " epoch 1, update 3 of 6",
        " epoch 2, update 6 of 6",
    ]


@pytest.mark.parametrize("evaluated", [False, True])
def test_a_line_says_the_loss_of_its_own_updates(evaluated, capsys):
    """However seldom losses are logged."""
    losses = []
    trainer = make_trainer(num_train_epochs=3, logging_steps=1)
    trainer.on_log = lambda entry: losses.append(entry["loss"]) if "loss" in entry else None
    trainer.train(faces(), faces(6) if evaluated else None)
    means = [f"{np.mean(losses[first : first + 3]):.4g}" for first in (0, 3, 6)]
    capsys.readouterr()
    for logging_steps in (1, 500):
        make_trainer(num_train_epochs=3, logging_steps=logging_steps).train(faces(), faces(6) if evaluated else None)
        lines = [line for line in lines_of(capsys.readouterr().err) if ": loss " in line]
        assert [line.split(": loss ")[1].split(",")[0] for line in lines] == means


def test_nothing_is_advised_where_the_best_comes_back_or_is_the_last(capsys):
    for scores, changes in (([0.9, 0.1], {"load_best_model_at_end": True}), ([0.1, 0.9], {})):
        trainer = make_trainer(metric_for_best_model="score", **changes)
        trainer.compute_metrics = scripted(scores)
        trainer.train(faces(), faces(6))
    assert "the best score was" not in capsys.readouterr().err


def test_who_hides_bars_hears_nothing(capsys):
    make_trainer(disable_tqdm=True).train(faces(), faces(6))
    assert capsys.readouterr() == ("", "")


def test_the_bar_of_a_terminal_shows_loss_and_score(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    make_trainer().train(faces(), faces(6))
    last = terminal.getvalue().split("\r")[-1]
    assert "training default" in last and "loss=" in last and "accuracy=" in last
    assert "of 6" not in terminal.getvalue()  # no lines between the bars


def test_a_notebook_shows_a_table(notebook, monkeypatch):
    from ciao_peft.trainer import speaking

    shown = {}

    def bar(name, step, total, disable):
        from tqdm import tqdm

        shown["hidden"] = disable
        return tqdm(total=total, file=io.StringIO(), disable=disable)

    monkeypatch.setattr(speaking, "progress_bar", bar)
    assert in_notebook() and place_to_speak(None) == "notebook" and not hides_bars(None)
    make_trainer(num_train_epochs=3).train(faces(), faces(6))
    assert shown["hidden"] is False
    (table,) = notebook
    assert table.count("<tr>") == 4 and "<th>eval_accuracy</th>" in table and "<th>training loss</th>" in table
    assert "best" in table


def test_speaking_changes_nothing(monkeypatch):
    results = []
    for disable in (True, False, None):
        monkeypatch.setattr(sys, "stderr", Terminal())
        trainer = make_trainer(disable_tqdm=disable)
        trainer.train(faces(), faces(6))
        results.append(weights(trainer.model))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


# -- callbacks ---------------------------------------------------------------------------------------------------------


class Recorder(TrainerCallback):
    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def __getattribute__(self, name):
        if name not in EVENTS:
            return super().__getattribute__(name)

        def record(args, state, control, **more):
            assert isinstance(args, CIAOTrainingArguments) and more["model"].active_adapter == "default"
            self.seen.append((name, state.global_step))
            if name == "on_log":
                assert more["logs"]["step"] == state.global_step
            if name == "on_evaluate":
                assert "eval_accuracy" in more["metrics"]

        return record


def trained_with(callbacks, **changes):
    values = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "logging_steps": 3, "disable_tqdm": True}
    trainer = CIAOTrainer(make_model(), CIAOTrainingArguments(**values | changes), callbacks=callbacks)
    output = trainer.train(faces(), faces(6))
    return trainer, output


def test_callbacks_are_called_in_order():
    recorder = Recorder()
    trainer, _ = trained_with([recorder])
    step = ["on_step_begin", "on_step_end"]
    epoch = ["on_epoch_begin", *step * 3, "on_log", "on_log", "on_evaluate", "on_epoch_end"]
    assert [name for name, _ in recorder.seen] == ["on_train_begin", *epoch, *epoch, "on_log", "on_train_end"]
    assert recorder.seen[-1] == ("on_train_end", 6)
    assert_same(weights(trainer.model), weights(trained_with([])[0].model))


def test_a_callback_ends_the_training():
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **more):
            control.should_training_stop = state.global_step == 2
            return control

    assert trained_with([Stop])[1].global_step == 2


def test_a_callback_asks_for_an_evaluation_and_a_checkpoint(tmp_path):
    class Ask:
        def on_step_end(self, args, state, control, **more):
            control.should_save = control.should_evaluate = control.should_log = state.global_step == 2

    changes = {"eval_strategy": "no", "output_dir": str(tmp_path), "logging_steps": 100}
    trainer, _ = trained_with([Ask()], **changes)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert [entry["step"] for entry in trainer.log_history if "eval_loss" in entry] == [2]
    assert [entry["step"] for entry in trainer.log_history if "loss" in entry] == [2, 6]


def test_transformers_own_early_stopping_works():
    class Worse:
        """Scores that only get worse."""

        count = 0

        def __call__(self, logits, labels):
            self.count += 1
            return {"score": 1 / self.count}

    args = CIAOTrainingArguments(
        num_train_epochs=9,
        per_device_train_batch_size=8,
        disable_tqdm=True,
        metric_for_best_model="eval_score",
        greater_is_better=True,
        load_best_model_at_end=True,
    )
    stop = EarlyStoppingCallback(early_stopping_patience=2)
    output = CIAOTrainer(make_model(), args, compute_metrics=Worse(), callbacks=[stop]).train(faces(), faces(6))
    assert output.global_step == 9 and output.metrics["best_step"] == 3


def test_what_is_no_callback_is_refused():
    with pytest.raises(TrainingError, match="on_step_end"):
        CIAOTrainer(make_model(), callbacks=[print])


def test_an_error_of_a_callback_ends_the_training():
    class Broken:
        def on_log(self, args, state, control, **more):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        trained_with([Broken()])


# -- longer, tracked, shown --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_a_training_goes_on_for_more_epochs(schedule, tmp_path, capsys):
    common = {"output_dir": str(tmp_path), "save_strategy": "epoch", "lr_scheduler_type": schedule}
    make_trainer(num_train_epochs=2, **common).train(faces())
    longer = make_trainer(num_train_epochs=4, resume_from_checkpoint=True, **common)
    assert longer.train(faces()).global_step == 12
    rates = [entry["learning_rate"] for entry in longer.log_history if "learning_rate" in entry]
    steps = [entry["step"] for entry in longer.log_history if "learning_rate" in entry]
    expected = [1e-3 * longer.args.rate_factor(step - 1, 12) for step in range(7, 13)]
    assert steps == list(range(1, 13)) and rates[6:] == pytest.approx(expected)
    said = capsys.readouterr().out
    assert ("rates follow the schedule of this one" in said) == (schedule != "constant")


def test_a_training_of_the_same_length_still_resumes_to_the_same_bits(tmp_path):
    straight = make_trainer(num_train_epochs=2)
    straight.train(faces())
    common = {"output_dir": str(tmp_path), "num_train_epochs": 2}
    make_trainer(save_strategy="epoch", **common).train(faces())
    again = make_trainer(resume_from_checkpoint=str(tmp_path / "checkpoint-3"), **common)
    again.train(faces())
    assert_same(weights(again.model), weights(straight.model))


@pytest.mark.parametrize(
    ("output_dir", "expected"), [("out", "out/runs/default"), ("runs/mine", "runs/mine"), ("runs", "runs/default")]
)
def test_tensorboards_folder_is_not_doubled(output_dir, expected, tmp_path):
    pytest.importorskip("tensorboard")
    make_trainer(output_dir=str(tmp_path / output_dir), report_to="tensorboard").train(faces())
    folders = {path.parent for path in tmp_path.rglob("events.out.tfevents*")}
    assert min(folders, key=lambda folder: len(folder.parts)).relative_to(tmp_path) == Path(expected)


def test_trackio_is_told(tmp_path):
    """Through Accelerate's own tracker, with a stand-in for the package, which need not be there."""
    (tmp_path / "trackio").mkdir()
    (tmp_path / "trackio" / "__init__.py").write_text(
        "import json, pathlib\n"
        "LOG = []\n"
        "class config:\n"
        "    update = staticmethod(lambda values, allow_val_change: LOG.append(['config', values]))\n"
        "class Run:\n"
        "    def log(self, values, **more): LOG.append(['log', values])\n"
        "    def finish(self): LOG.append(['finish', None])\n"
        "def init(project, **more):\n"
        "    LOG.append(['init', project])\n"
        "    return Run()\n"
    )
    (tmp_path / "trackio-1.0.dist-info").mkdir()
    (tmp_path / "trackio-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: trackio\nVersion: 1.0\n")
    code = (
        "import json, sys, trackio\nfrom helpers.training import faces, make_trainer\n"
        "make_trainer(output_dir=sys.argv[1], report_to='trackio').train(faces(), faces(6))\n"
        "print(json.dumps(trackio.LOG))"
    )
    paths = environment()
    paths["PYTHONPATH"] = os.pathsep.join([str(tmp_path), paths["PYTHONPATH"]])
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], env=paths, capture_output=True, check=True
    )
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told[0] == ["init", "default"] and told[1][0] == "config" and told[-1][0] == "finish"
    assert any("eval_accuracy" in values for kind, values in told if kind == "log")


def test_trackio_itself_keeps_what_a_training_logs(tmp_path):
    pytest.importorskip("trackio", reason="comes with `pip install trackio`")
    code = (
        "import sys\nfrom helpers.training import faces, make_trainer\n"
        "make_trainer(output_dir=sys.argv[1], report_to='trackio').train(faces(), faces(6))"
    )
    here = environment() | {"TRACKIO_DIR": str(tmp_path / "kept"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], env=here, capture_output=True, check=True)
    with closing(sqlite3.connect(tmp_path / "kept" / "default.db")) as kept:
        logged = [json.loads(values) for (values,) in kept.execute("SELECT metrics FROM metrics ORDER BY id")]
        ((settings,),) = kept.execute("SELECT config FROM configs")
    lines = [json.loads(line) for line in (tmp_path / "out" / "trainer_log.jsonl").read_text().splitlines()]
    assert [entry["eval_accuracy"] for entry in logged if "eval_accuracy" in entry] == [
        line["eval_accuracy"] for line in lines if "eval_accuracy" in line
    ]
    assert [entry["loss"] for entry in logged if "loss" in entry] == [line["loss"] for line in lines if "loss" in line]
    assert json.loads(settings)["adapter.num_labels"] == 3


def test_a_tracker_that_is_missing_is_told(tmp_path):
    with pytest.raises(ConfigError, match="pip install trackio"):
        make_trainer(output_dir=str(tmp_path), report_to="no-such-tracker")


def test_pictures_show_themselves():
    picture = as_png(blank_figure(2, 1), dpi=50)
    assert isinstance(picture, Picture) and isinstance(picture, bytes)
    assert picture._repr_png_() == bytes(picture) and type(picture._repr_png_()) is bytes
    assert repr(picture).startswith("<PNG of 100 x 50 pixels")
    config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
    model = get_ciao_model(load_encoder("small-face"), config).eval()
    assert isinstance(saliency_picture(model, np.zeros((64, 64, 3), dtype=np.uint8)), Picture)
