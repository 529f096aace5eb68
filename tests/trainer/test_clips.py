"""Training on clips: from stored frames as from pixels."""

from __future__ import annotations

import pytest
import torch

from ciao_peft import (
    CIAOTrainer,
    CIAOTrainingArguments,
    cache_features,
)
from ciao_peft.data import clips
from ciao_peft.errors import FeatureCacheError, TrainingError
from ciao_peft.features import Augmentation
from helpers.clips import T, videos, wrapped
from helpers.fakes import bits, wrap
from helpers.training import BALANCED


def rows_of_frames(count=6, frames=T, seed=1):
    """One row per frame, as a table has them; of three classes."""
    pixels = videos(count, frames, seed)
    return [
        {"pixel_values": pixels[n, t], "labels": n % 3, "clip": f"clip {n}", "frame": t}
        for n in range(count)
        for t in range(frames)
    ]


ARGUMENTS = BALANCED | {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "report_to": "none",
    "eval_strategy": "no",
}


def trained(dataset, **arguments):
    model = wrapped()
    trainer = CIAOTrainer(model, CIAOTrainingArguments(**ARGUMENTS | arguments))
    trainer.train(dataset)
    return model, trainer


def test_training_from_stored_frames_is_training_from_pixels(tmp_path):
    faces = rows_of_frames()
    stored = cache_features(wrapped(), clips(faces, T), tmp_path)
    assert [tuple(t.shape[:1]) for t in stored.tensors] == [(18,)]  # one row per frame
    ready = [{"pixel_values": videos(6)[n], "labels": n % 3} for n in range(6)]
    expected, _ = trained(ready, feature_cache="never")
    for dataset, cache in ((stored, "auto"), (clips(faces, T), "auto"), (clips(faces, T), "never"), (ready, "auto")):
        found, trainer = trained(dataset, feature_cache=cache)
        for name, tensor in bits(expected.adapters["default"]).items():
            torch.testing.assert_close(bits(found.adapters["default"])[name], tensor)
        torch.testing.assert_close(trainer.predict(clips(faces, T)).logits, expected.eval()(videos(6)).logits)
        assert trainer.evaluate(dataset)["eval_accuracy"] == trainer.evaluate(ready)["eval_accuracy"]


def test_training_brings_the_loss_down():
    _, trainer = trained(clips(rows_of_frames(), T), num_train_epochs=40, learning_rate=1e-2)
    losses = [entry["loss"] for entry in trainer.log_history if "loss" in entry]
    assert losses[-1] < losses[0] / 2


def test_frames_are_stored_once_for_clips_and_pictures_alike(tmp_path):
    faces = rows_of_frames(frames=2)  # too short: each clip stands still at its last frame
    of_clips = cache_features(wrapped(), clips(faces, T), tmp_path)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.bin"))
    alone = cache_features(wrapped(), faces, tmp_path)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.bin")) == before
    assert (len(of_clips), len(alone), of_clips.frames, alone.frames) == (6, 12, T, None)
    (features,), (frames,) = of_clips.features([4]), alone.features([8, 9, 9])
    assert torch.equal(features[0], frames)
    assert of_clips.labels.tolist() == [0, 1, 2, 0, 1, 2]
    part = of_clips.select([4, 0])
    assert torch.equal(part.features([0])[0], features)
    assert (part[1]["labels"].item(), part[1]["features"][0].shape[0]) == (0, T)


def test_all_frames_of_a_clip_are_taken_from_one_view():
    faces, moved = rows_of_frames(count=2), Augmentation(brightness=0, contrast=0, saturation=0)
    stored = cache_features(wrapped(), clips(faces, T), views=3, augment=moved)
    (mixed,) = stored.features([0, 1], views=torch.tensor([2, 1]))
    (second,), (third,) = stored.features([0, 1], views=1), stored.features([0, 1], views=2)
    assert torch.equal(mixed, torch.stack([third[0], second[1]]))
    assert not torch.equal(second, third)


def test_data_of_another_kind_than_the_adapter_reads_is_refused_before_the_trunk_runs():
    faces = rows_of_frames()
    frames = cache_features(wrapped(), faces)
    for dataset in (frames, frames.clips([[0, 1], [2, 3]]), clips(faces, 2)):
        with pytest.raises(TrainingError, match="and the adapter 'default' reads clips of 3 frames"):
            trained(dataset)
    pictures = CIAOTrainer(wrap(), CIAOTrainingArguments(**ARGUMENTS))
    with pytest.raises(TrainingError, match="has clips of 3 frames, and the adapter 'default' reads single pictures"):
        pictures.train(clips(faces, T))
    with pytest.raises(FeatureCacheError, match="are clips, and features are stored of frames: give `ciao_peft"):
        cache_features(wrapped(), [{"pixel_values": videos(1)[0], "labels": 0}])
