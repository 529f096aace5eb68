"""From files in each released layout to a trained adapter: the six tasks of the paper."""

import math

import pytest
from test_affectnet import entries, write_2017
from test_emoreact import centre, write_emoreact
from test_fer2013 import rows, write_fer2013
from test_ferplus import ANSWERS, write_tables
from test_jaffe import official_names, write_jaffe

from ciao_peft import CIAOConfig, CIAOTrainer, CIAOTrainingArguments, get_ciao_model, load_encoder, load_faces
from ciao_peft.data import labels_of
from ciao_peft.metrics import main_metric


def write_affectnet(folder):
    write_2017(folder, entries(22))
    return write_2017(folder, entries(11), "validation")


def write_some_of_jaffe(folder):
    return write_jaffe(folder, list(official_names())[:45])


TASKS = {
    "affectnet, categories": ("affectnet", write_affectnet, {}, 8),
    "affectnet, arousal and valence": ("affectnet", write_affectnet, {"task": "dimensional"}, 2),
    "fer2013": ("fer2013", lambda folder: write_fer2013(folder, rows(84)), {}, 7),
    "ferplus, distributions": ("ferplus", lambda folder: write_tables(folder, ANSWERS * 4), {"mode": "probability"}, 8),
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
