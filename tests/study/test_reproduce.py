from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
import yaml
from filelock import FileLock

from ciao_peft.cli import main
from ciao_peft.data import paint_face
from ciao_peft.errors import ConfigError, TrainingError
from ciao_peft.study import Encoder, Method, Plan, Task, plan_from_dict, read_plan, read_records, write_plan
from ciao_peft.study.data import Material, load_study_encoder, load_task
from ciao_peft.study.plan import Run, select_from_plan
from ciao_peft.study.records import PROTOCOL_VERSION, append_record
from ciao_peft.study.training import Training
from ciao_peft.study.worklist import Progress, Worklist
from helpers.processes import run
from helpers.studies import SMALL, painted, plan_of


def written(plan: Plan, path: Path) -> str:
    write_plan(plan, path)
    return str(path)


def outcome(records: list) -> dict[str, tuple]:
    """What was measured, without what differs between two runs of the same training."""
    return {r.key: (r.task, r.method, r.split, r.seed, r.arguments, r.scores, r.confusion, r.history) for r in records}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Plan, Path]:
    """A plan, and the folder of the study in which it was worked off without interruption."""
    folder = tmp_path_factory.mktemp("study")
    plan = plan_of(folder)
    progress = Worklist(plan, folder / "run", say=lambda line: None).work()
    assert (progress.done, progress.total, progress.failed, progress.skipped) == (16, 16, {}, {})
    return plan, folder / "run"


def test_one_command_killed_in_the_middle_goes_on_to_the_same_results(finished, tmp_path):
    """Two tasks, two networks, two seeds; killed in the sixth training, and finished by two processes."""
    plan, whole = finished
    folder = tmp_path / "run"
    command = ["reproduce", "--plan", written(plan, tmp_path / "plan.yaml"), "--output_dir", str(folder)]
    assert run("killed_study", 5, *command).returncode == -signal.SIGKILL
    before = (folder / "results.jsonl").read_bytes()
    assert len(read_records(folder)) == 5

    with (folder / "results.jsonl").open("ab") as file:
        file.write(b'{"torn in the mid')  # what a kill in the middle of a line leaves
    assert main(["reproduce", "--output_dir", str(folder), "--num_processes", "2", "--num_threads", "1"]) == 0

    records = read_records(folder)
    assert (folder / "results.jsonl").read_bytes().startswith(before)
    assert Counter(record.key for record in records).most_common(1)[0][1] == 1  # nothing was trained twice
    assert outcome(records) == outcome(read_records(whole))


def test_a_finished_study_trains_nothing_again(finished, capsys):
    _, folder = finished
    before = (folder / "results.jsonl").read_bytes()
    plan, _ = finished
    write_plan(plan, folder / "plan.yaml")
    assert main(["reproduce", "--output_dir", str(folder)]) == 0
    assert (folder / "results.jsonl").read_bytes() == before
    assert "16 of 16 trainings" in capsys.readouterr().out


def test_the_rate_of_every_test_record_is_the_one_that_did_best_on_held_out_people(finished):
    plan, folder = finished
    records = read_records(folder)
    for task in plan.tasks:
        for method in plan.methods:
            own = [r for r in records if (r.task, r.method) == (task.name, method.name)]
            tried = {r.arguments[method.rate]: r.score for r in own if r.split == "validation"}
            assert set(tried) == {1e-3, 1e-2}
            best = min(rate for rate in tried if tried[rate] == max(tried.values()))
            tested = [r for r in own if r.split == "test"]
            assert [(r.seed, r.arguments[method.rate]) for r in tested] == [(0, best), (1, best)]


def test_records_say_what_was_trained(finished):
    plan, folder = finished
    encoder = load_study_encoder(plan.encoders[0])
    size = cast("tuple[int, int, int]", encoder.module.input_size)
    assert encoder.module(torch.zeros(1, *size)).shape == (1, 4)  # an embedding of 4
    records = read_records(folder)
    for record in records:
        assert record.encoder_revision == encoder.revision
        assert record.epochs == 1.0
        assert len(record.history) == 1 and record.history[0]["loss"] > 0
        assert record.samples["train"] == (40 if record.split == "test" else 40 - record.samples["test"])
        assert (record.confusion is None) == (record.task in ("affect", "signals"))
        assert record.protocol == PROTOCOL_VERSION
        starts = [start for start in record.decay_starts if 1e-4 <= start <= 1e4]
        assert len(starts) == len(record.decay_starts) == ("CIAO" in record.method)
    without = next(r for r in records if r.method == "decision layer")
    with_ciao = next(r for r in records if r.method == "decision layer + CIAO" and r.task == without.task)
    added = with_ciao.parameters["trained"] - without.parameters["trained"]
    assert added >= 8 * 12 * 9  # the mask's copy: 3x3, from 8 channels to 12


def test_seeds_make_different_trainings_of_the_same_data(finished):
    _, folder = finished
    by_seed = {
        r.seed: r for r in read_records(folder) if (r.task, r.method, r.split) == ("affect", "decision layer", "test")
    }
    assert by_seed[0].samples == by_seed[1].samples
    assert by_seed[0].scores != by_seed[1].scores


def test_nobody_held_out_for_the_search_is_trained_on_and_no_test_face_takes_part(tmp_path):
    loaded = load_task(painted("moods"))
    fold = loaded.folds[0]
    who = list(fold.train["identity"])
    held_out = set()
    for seed in range(3):
        rest, held = loaded.held_out(fold, 0.3, seed)
        assert sorted(rest + held) == list(range(40))
        assert not {who[row] for row in rest} & {who[row] for row in held}
        held_out.add(tuple(held))
    assert len(held_out) > 1
    assert not set(who) & set(fold.test["identity"])


def test_keys_tell_apart_what_decides_the_result_and_nothing_else(tmp_path):
    plan = plan_of(tmp_path)
    material = Material(load_task(plan.tasks[0]), load_study_encoder(plan.encoders[0]), tmp_path / "features")
    run = Run(task=plan.tasks[0], encoder=plan.encoders[0], method=plan.methods[1], seed=0, rate=1e-3)
    training = Training(run, plan, material)

    def key(plan: Plan = plan, **changes: object) -> str:
        return replace(training, run=replace(run, **changes), plan=plan).key

    same = [
        key(),
        key(method=replace(plan.methods[1], kind="ablation", rates=(1e-5,))),
        key(method=replace(plan.methods[1], config={"temperature": 0.1}), plan=replace(plan, epochs=1)),
        key(plan=replace(plan, seeds=(7,), search_rates=4)),
        key(encoder=Encoder(name="tiny", source="elsewhere")),
    ]
    assert len(set(same)) == 1
    different = [
        key(),
        key(seed=1),
        key(method=replace(plan.methods[1], name="another row of the table")),
        key(rate=1e-2),
        key(split="validation"),
        key(split="validation", plan=replace(plan, search_fraction=0.5)),
        key(method=replace(plan.methods[1], config={"temperature": 0.5})),
        key(method=replace(plan.methods[1], arguments={"two_steps": True})),
        key(method=replace(plan.methods[1], baseline="lora", settings={"rank": 4})),
        key(plan=replace(plan, epochs=2.0)),
        key(plan=replace(plan, feature_dtype="bfloat16")),
        key(plan=replace(plan, arguments={**plan.arguments, "views": 2})),
        key(task=replace(plan.tasks[0], train_fraction=0.5)),
    ]
    assert len(set(different)) == len(different)
    other = Material(
        load_task(painted("affect", options=SMALL | {"world": "affect", "seed": 9})), material.encoder, tmp_path
    )
    assert replace(training, material=other).key != training.key


def test_who_finds_a_training_claimed_does_another_one(finished, tmp_path):
    plan, _ = finished
    folder = tmp_path / "run"
    worklist = Worklist(replace(plan, tasks=plan.tasks[:1], search_rates=0), folder, say=lambda line: None)
    worklist.look()
    claimed, free = list(worklist._open_runs())[:2]
    with FileLock(folder / "claims" / f"{worklist._training(claimed).key}.lock"):
        calls = []

        def three_trainings(progress: Progress, doing: str) -> None:
            calls.append(doing)
            if len(calls) == 6:  # the claimed one is waited for, for ever
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            worklist.work(three_trainings)
    done = [(r.method, r.seed) for r in read_records(folder)]
    assert (free.method.name, free.seed) in done
    assert (claimed.method.name, claimed.seed) not in done


def test_a_task_whose_files_are_not_there_is_skipped_and_said_so(finished, tmp_path, capsys):
    plan, _ = finished
    absent = Task(name="fer", dataset="fer2013", data_dir=str(tmp_path / "nowhere"))
    small = replace(plan, tasks=(absent, plan.tasks[0]), methods=plan.methods[:1], search_rates=0)
    command = ["reproduce", "--plan", written(small, tmp_path / "plan.yaml"), "--output_dir", str(tmp_path / "run")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "task fer is skipped: " in said and "is not a folder" in said
    assert "2 of 2 trainings" in said


def test_a_study_of_which_nothing_is_there_is_an_error(finished, tmp_path, capsys):
    absent = Task(name="fer", dataset="fer2013", data_dir=str(tmp_path / "nowhere"))
    plan = replace(finished[0], tasks=(absent,))
    command = ["reproduce", "--plan", written(plan, tmp_path / "plan.yaml"), "--output_dir", str(tmp_path / "run")]
    assert main(command) == 1
    heard = capsys.readouterr()
    assert "Nothing could be trained" in heard.err
    assert "Not done: task fer: " in heard.out


def test_why_the_only_task_cannot_be_loaded_is_said(tmp_path, capsys):
    for split in ("train", "test"):
        for label in ("calm", "glad"):
            (tmp_path / "faces" / split / label).mkdir(parents=True)
            for seed in range(20):
                paint_face(seed=seed).save(tmp_path / "faces" / split / label / f"{seed}.png")
    command = ["reproduce", "--tasks", f"faces={tmp_path / 'faces'}", "--output_dir", str(tmp_path / "run")]
    assert main(command) == 1
    heard = capsys.readouterr()
    assert "every task or every encoder of the plan was skipped" in heard.err
    assert re.search(r"Not done: task faces: .*'identity'", heard.out)


def test_what_cannot_be_trained_is_named_and_the_rest_goes_on(finished, tmp_path, capsys):
    plan, _ = finished
    wrong = Method(name="hopeless", baseline="no such baseline")
    small = replace(plan, tasks=plan.tasks[:1], methods=(wrong, plan.methods[0]), search_rates=0)
    command = ["reproduce", "--plan", written(small, tmp_path / "plan.yaml"), "--output_dir", str(tmp_path / "run")]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert "Not done: affect, tiny, hopeless, seed 0: There is no baseline 'no such baseline'." in captured.out
    assert "2 of the trainings could not be done" in captured.err
    assert {r.method for r in read_records(tmp_path / "run")} == {"decision layer"}


def test_a_rate_at_which_training_diverges_is_a_result_of_the_search_and_never_chosen(finished, tmp_path):
    plan, _ = finished
    wild = {"optim": "sgd", "max_grad_norm": 0.0, "num_train_epochs": 3}
    method = replace(plan.methods[0], rates=(1e-3, 1e9), arguments=wild)
    worklist = Worklist(replace(plan, tasks=plan.tasks[:1], methods=(method,)), tmp_path / "run", say=lambda line: None)
    assert worklist.work().failed == {}
    records = read_records(tmp_path / "run")
    assert [(r.arguments["learning_rate"], r.error is None) for r in records if r.split == "validation"] == [
        (1e-3, True),
        (1e9, False),
    ]
    assert {r.arguments["learning_rate"] for r in records if r.split == "test"} == {1e-3}
    everything_diverges = replace(method, rates=(1e8, 1e9))
    worklist = Worklist(
        replace(plan, tasks=plan.tasks[:1], methods=(everything_diverges,)), tmp_path / "run2", say=lambda line: None
    )
    assert list(worklist.work().failed) == ["affect, tiny, decision layer"]
    assert "gave a result" in worklist.progress.failed["affect, tiny, decision layer"]


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(finished, tmp_path):
    plan, _ = finished
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "ciao_peft.cli", "reproduce", "--plan", written(plan, tmp_path / "plan.yaml")]
    command += ["--output_dir", str(folder), "--num_processes", "2"]
    restored = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **restored)
    while not (folder / "results.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert f"go on with: ciao reproduce --output_dir {folder}" in said
    assert "Traceback" not in said and "Warning" not in said.rpartition("Stopped.")[2]
    assert 0 < len(read_records(folder)) < 16


def test_clips_are_scored_once_each(finished, tmp_path):
    """Two frames a clip: sixteen test faces are eight answers."""
    from ciao_peft.study.data import FoldFaces, LoadedTask

    plan, _ = finished
    task = painted("moods", options=SMALL | {"num_train": 64})
    loaded = load_task(task)
    fold = loaded.folds[0]
    rows = [row for row in range(len(fold.test)) if row % 8 < 4][:8]
    test = fold.test.select(rows * 2).add_column("clip", [f"{row}" for row in rows] * 2)
    clipped = FoldFaces("", fold.train, test)
    by_clip = replace(task, average_by="clip")
    loaded = LoadedTask(by_clip, (clipped,), loaded.labels, "accuracy", "by clip")
    material = Material(loaded, load_study_encoder(plan.encoders[0]), tmp_path)
    record = Training(
        Run(task=by_clip, encoder=plan.encoders[0], method=plan.methods[0], seed=0), plan, material
    ).train()
    assert sum(map(sum, record.confusion)) == 8
    assert record.samples == {"train": 64, "test": 16, "scored": 8}


def test_narrowing_to_a_name_that_is_not_in_the_plan_lists_those_that_are(tmp_path):
    plan = plan_of(tmp_path)
    assert [m.name for m in select_from_plan(plan, methods=["decision layer"], tasks=[]).methods] == ["decision layer"]
    with pytest.raises(
        ConfigError, match=r"The plan's methods are 'decision layer', 'decision layer \+ CIAO'; got 'LoRA'"
    ):
        select_from_plan(plan, methods=["LoRA"])


def test_a_plan_file_gives_an_equal_plan(tmp_path):
    # Named as presets and different from them: what the file leaves out must not come back from the preset.
    methods = (Method(name="full"), Method(name="mine", baseline="lora"), *plan_of(tmp_path).methods)
    tasks = (Task(name="jaffe", dataset="jaffe"), painted("affect"))
    tasks = (*tasks, painted("few", train_fraction=0.05))
    aligned = Encoder(name="dlib-face", preprocessing={"align": "five-points"})
    plan = plan_of(tmp_path, search_seeds=2, search_epochs=0.5, feature_dtype="float16", methods=methods, tasks=tasks)
    plan = replace(plan, encoders=(*plan.encoders, aligned))
    write_plan(plan, tmp_path / "plan.yaml")
    assert read_plan(tmp_path / "plan.yaml") == plan
    values = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    with pytest.raises(ConfigError, match="did you mean 'seeds'"):
        plan_from_dict(values | {"seed": 3})
    with pytest.raises(ConfigError, match="did you mean 'preprocessing'"):
        plan_from_dict(values | {"encoders": {"mine": {"preprocess": {}}}})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--plan", "x.yaml", "--seeds", "3"], "stands in the file; leave out `--seeds`"),
        (["--plan", "x.yaml", "--methods", "rivals", "--bf16"], "leave out `--methods`, `--bf16`"),
        (["--seeds", "30", "--encoders", "vggface2"], "`--encoders`, `--seeds` without `--tasks`"),
        (["--tasks", "nobody=here"], "There is no task 'nobody'"),
        (["--tasks", "fer=x", "--methods", "magic"], "There is no method 'magic'"),
        ([], "holds no study to go on with"),
    ],
)
def test_what_the_command_cannot_do_it_says_before_it_begins(words, message, tmp_path, capsys):
    assert main(["reproduce", "--output_dir", str(tmp_path / "run"), *words]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_two_writers_never_mix_their_lines(finished, tmp_path):
    records = read_records(finished[1])
    path = tmp_path / "results.jsonl"
    script = (
        "import sys, json; from ciao_peft.study.records import *; r = Record.from_dict(json.loads(sys.argv[2]))\n"
        "for _ in range(20): append_record(sys.argv[1], r)"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, str(path), json.dumps(records[0].to_dict())])
    for _ in range(20):
        append_record(path, records[1])
    assert writer.wait() == 0
    assert Counter(record.key for record in read_records(path)) == {records[0].key: 20, records[1].key: 20}


def is_running(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads processes from /proc")
def test_the_processes_of_a_study_end_when_the_one_that_started_them_is_killed(finished, tmp_path):
    plan, folder = finished[0], tmp_path / "run"
    command = [sys.executable, "-m", "ciao_peft.cli", "reproduce", "--plan", written(plan, tmp_path / "plan.yaml")]
    with (tmp_path / "said").open("w") as said:
        study = subprocess.Popen([*command, "--output_dir", str(folder), "--num_processes", "2"], stderr=said)
        while not (folder / "results.jsonl").exists() and study.poll() is None:
            time.sleep(0.05)
        started = [int(word) for word in Path(f"/proc/{study.pid}/task/{study.pid}/children").read_text().split()]
        assert len(started) >= 2
        study.kill()
        study.wait()
    limit = time.monotonic() + 60
    while any(map(is_running, started)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(map(is_running, started))
    assert 0 < len(read_records(folder)) < 16
    assert "Traceback" not in (tmp_path / "said").read_text()


def test_a_killed_process_is_named_and_the_others_train_what_it_was_at(finished, tmp_path):
    plan, whole = finished
    folder = tmp_path / "run"
    command = ["reproduce", "--plan", written(plan, tmp_path / "plan.yaml"), "--output_dir", str(folder)]
    study = run("killed_worker", tmp_path / "mark", *command, "--num_processes", "2")
    assert study.returncode == 1, study.stderr
    assert re.search(r"Not done: process [12] of 2: it was killed, or ended before its work; the same", study.stdout)
    assert "Traceback" not in study.stderr
    assert outcome(read_records(folder)) == outcome(read_records(whole))


def test_lines_for_people_that_several_processes_say_are_shown_once(finished, tmp_path, capsys):
    plan, _ = finished
    absent = Task(name="fer", dataset="fer2013", data_dir=str(tmp_path / "nowhere"))
    small = replace(plan, tasks=(absent, plan.tasks[0]), methods=plan.methods[:1], search_rates=0)
    command = ["reproduce", "--plan", written(small, tmp_path / "plan.yaml"), "--output_dir", str(tmp_path / "run")]
    assert main([*command, "--num_processes", "2"]) == 0
    said = capsys.readouterr().out
    assert said.count("task fer is skipped: ") == 1
    assert "2 of 2 trainings" in said


def test_every_rate_failing_says_which_were_tried(tmp_path):
    worklist = Worklist(plan_of(tmp_path), tmp_path / "run", say=lambda line: None)
    plan = worklist.plan
    assert worklist._load(plan.tasks[0], plan.encoders[0])
    with pytest.raises(TrainingError, match=r"No learning rate of '0\.001', '0\.01' gave a result"):
        worklist.chosen_rate(plan.tasks[0], plan.encoders[0], plan.methods[0])
