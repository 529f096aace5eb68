"""From files in each released layout to a trained adapter: the six tasks of the paper."""

import math

import pytest

from ciao_peft import CIAOConfig, CIAOTrainer, CIAOTrainingArguments, get_ciao_model, load_encoder, load_faces
from ciao_peft.data import labels_of
from ciao_peft.metrics import main_metric
from helpers.layouts import (
    FERPLUS_ANSWERS,
    affectnet_entries,
    centre,
    fer2013_rows,
    jaffe_names,
    write_affectnet,
    write_emoreact,
    write_fer2013,
    write_ferplus,
    write_jaffe,
)


def write_both_lists(folder):
    write_affectnet(folder, affectnet_entries(22))
    return write_affectnet(folder, affectnet_entries(11), "validation")


def write_more_votes(folder):
    return write_ferplus(folder, FERPLUS_ANSWERS * 4)


def write_some_of_jaffe(folder):
    return write_jaffe(folder, list(jaffe_names())[:45])


TASKS = {
    "affectnet, categories": ("affectnet", write_both_lists, {}, 8),
    "affectnet, arousal and valence": ("affectnet", write_both_lists, {"task": "dimensional"}, 2),
    "fer2013": ("fer2013", lambda folder: write_fer2013(folder, fer2013_rows(84)), {}, 7),
    "ferplus, distributions": ("ferplus", write_more_votes, {"mode": "probability"}, 8),
    "jaffe, one woman left out": ("jaffe", write_some_of_jaffe, {"fold": "KA"}, 7),
    "emoreact, frames": ("emoreact", write_emoreact, {"frames_per_clip": 2, "detector": centre}, 8),
}


@pytest.mark.parametrize("task", TASKS)
def test_each_task_trains_and_is_scored(task, tmp_path):
    name, write, settings, num_labels = TASKS[task]
    faces = load_faces(name, write(tmp_path / "files"), cache_dir=tmp_path / "cache", **settings)
    labels = labels_of(faces["train"])
    config = CIAOConfig(**labels.as_config())
    assert config.num_labels == num_labels
    model = get_ciao_model(load_encoder("small-face"), config, adapter_name="task")
    arguments = CIAOTrainingArguments(output_dir=str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=8)
    trainer = CIAOTrainer(model, arguments)
    trainer.train(faces["train"])
    metrics = {key.removeprefix("test_"): value for key, value in trainer.predict(faces["test"]).metrics.items()}
    assert math.isfinite(metrics[main_metric(config.problem_type)])
    trainer.end_training()
