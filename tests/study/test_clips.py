"""A study of clips from EmoReact's files to its scores."""

from __future__ import annotations

import pytest
import yaml

from ciao_peft.cli import main
from ciao_peft.study import plan_from_dict, plan_to_dict, read_plan, read_records
from helpers.layouts import EMOREACT_FILES, write_video
from helpers.studies import tiny_encoder

CLIPS_PER_SPLIT = {"Train": 16, "Validation": 2, "Test": 8}


def brightening_and_darkening(folder):
    """EmoReact on disk, of painted faces: every other clip is another one backwards, and labelled differently."""
    for split, count in CLIPS_PER_SPLIT.items():
        names = [f"{split}{number}_1.mp4" for number in range(count)]
        labels = [[1, 0] if number % 2 else [0, 1] for number in range(count)]
        for number, name in enumerate(names):
            shades = [10 + 2 * (number // 2) + 42 * step for step in range(6)]
            write_video(folder / "Data" / split / name, shades[:: 1 if number % 2 else -1])
        (folder / "Labels").mkdir(exist_ok=True)
        (folder / EMOREACT_FILES[split][0]).write_text("\n".join(f"'{name}'" for name in names))
        rows = [",".join(map(str, [*pair, *[0] * 6, 4])) for pair in labels]
        (folder / "Labels" / EMOREACT_FILES[split][1]).write_text("\n".join(rows))
    return folder


PLAN = """
tasks:
  emoreact:
    data_dir: {data}
    options: {{frames_per_clip: 4, detector: haar, missing: whole, margin: 0.8}}
    config: {{hidden_sizes: [8], dropout: 0.0, decay_init: 3.0}}
encoders: {{tiny: {encoder}}}
methods:
  decision layer + CIAO:
  decision layer + CIAO, recurrent:
    kind: network
    config: {{frames: 4, recurrent_size: 16, pooling: max, embedding_source: hidden}}
    rate: mask_learning_rate
    rates: [3.0e-3, 1.0e-2]
  full, recurrent:
    kind: network
    config: {{frames: 4, recurrent_size: 16, pooling: max, tuning: full, inhibition: false, contrastive_weight: 0.0}}
    rate: encoder_learning_rate
    needs: pixels
    rates: [1.0e-3]
seeds: 1
epochs: 25
search_rates: 2
search_epochs: 1
arguments: {{per_device_train_batch_size: 8, learning_rate: 3.0e-2}}
"""


@pytest.fixture(scope="module")
def painted_emoreact(tmp_path_factory):
    pytest.importorskip("av")
    pytest.importorskip("cv2")
    return brightening_and_darkening(tmp_path_factory.mktemp("emoreact") / "EmoReact_V_1.0")


def test_a_study_scores_clips_with_averaged_frames_and_with_the_recurrent_head(painted_emoreact, tmp_path):
    """What only the order of the frames tells, the mean over frames cannot."""
    encoder = tiny_encoder(tmp_path / "encoder")
    (tmp_path / "plan.yaml").write_text(PLAN.format(data=painted_emoreact, encoder=encoder.source))
    assert plan_from_dict(plan_to_dict(read_plan(tmp_path / "plan.yaml"))) == read_plan(tmp_path / "plan.yaml")
    command = ["reproduce", "--plan", str(tmp_path / "plan.yaml"), "--output_dir", str(tmp_path / "run")]
    assert main(command) == 0
    tested = {record.method: record for record in read_records(tmp_path / "run") if record.split == "test"}
    both = ("f1_curiosity", "f1_uncertainty")
    averaged = tested["decision layer + CIAO"]
    assert averaged.samples == {"train": 64, "test": 32, "scored": 8}  # frames, of 8 clips
    assert min(averaged.scores[label] for label in both) < 0.9
    for method in ("decision layer + CIAO, recurrent", "full, recurrent"):
        assert tested[method].samples == {"train": 16, "test": 8, "scored": 8}  # clips
        assert [tested[method].scores[label] for label in both] == [1.0, 1.0]
        assert tested[method].kind == "network"


def test_a_method_that_reads_clips_needs_a_task_that_has_them(tmp_path, capsys):
    encoder = tiny_encoder(tmp_path / "encoder")
    plan = {
        "tasks": {"painted_faces": {"options": {"num_train": 8, "num_validation": 2, "num_test": 4, "size": 32}}},
        "encoders": {"tiny": encoder.source},
        "methods": {
            "recurrent": {"config": {"frames": 4, "recurrent_size": 8}},
            "another": {"rival": "lora", "config": {"frames": 4, "recurrent_size": 8}},
        },
        "seeds": 1,
        "search_rates": 0,
        "epochs": 1,
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert main(["reproduce", "--plan", str(tmp_path / "plan.yaml"), "--output_dir", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().out
    assert "'recurrent' reads clips, and the task 'painted_faces' has no `average_by` to tell them by." in said
    assert "The baseline 'another' reads single pictures" in said
