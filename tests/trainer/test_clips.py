"""Adapters that read clips: the LSTM over frames, from pixels and stored features, in training and on disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from ciao_peft import (
    CIAOModel,
    CIAOTrainer,
    CIAOTrainingArguments,
    Preprocessing,
    cache_features,
    get_ciao_model,
    gradcam_plus_plus,
    mask_strength,
)
from ciao_peft.cli import main
from ciao_peft.data import clips
from ciao_peft.errors import AdapterFileError, DataError, FeatureCacheError, InputError, TrainingError
from ciao_peft.features import Augmentation
from ciao_peft.heads import DecisionHead, pool_map
from ciao_peft.study import plan_from_dict, plan_to_dict, read_plan, read_records
from helpers.fakes import NETWORKS, SIZE, Undecided, bits, forge, same_bits, small_config, tiny_backbone, wrap
from helpers.layouts import EMOREACT_FILES, write_video
from helpers.studies import tiny_encoder

T = 3


def recurrent(**changes):
    return small_config(**{"frames": T, "recurrent_size": 7} | changes)


def wrapped(backbone=None, **changes):
    return get_ciao_model(tiny_backbone() if backbone is None else backbone, recurrent(**changes))


def videos(count=4, frames=T, seed=1):
    return torch.rand((count, frames, *SIZE), generator=torch.Generator().manual_seed(seed))


def rows_of_frames(count=6, frames=T, seed=1):
    """One row per frame, as a table has them; of three classes."""
    pixels = videos(count, frames, seed)
    return [
        {"pixel_values": pixels[n, t], "labels": n % 3, "clip": f"clip {n}", "frame": t}
        for n in range(count)
        for t in range(frames)
    ]


# -- the head ----------------------------------------------------------------------------------------------------------


def test_the_lstm_is_that_of_torch():
    head = DecisionHead(10, recurrent(hidden_sizes=())).eval()
    theirs = nn.LSTM(10, 7, batch_first=True)
    theirs.load_state_dict(
        {name.removeprefix("lstm."): t for name, t in head.state_dict().items() if name.startswith("lstm.")}
    )
    pooled = torch.rand(5, T, 10)
    answers, (last, _) = theirs(pooled)
    logits, hidden = head(pooled)
    assert torch.equal(hidden, answers[:, -1])
    assert torch.equal(hidden, last[0])
    assert torch.equal(logits, getattr(head, "0")(last[0]))


def test_one_frame_is_one_step_worked_by_hand():
    # Gates i, f, g, o of one unit over one number x = 2, from c = h = 0: c' = sigma(i) tanh(g), h' = sigma(o) tanh(c').
    head = DecisionHead(1, recurrent(frames=1, recurrent_size=1, hidden_sizes=(), num_labels=2)).eval()
    with torch.no_grad():
        head.lstm.weight_ih_l0.copy_(torch.tensor([[0.5], [9.0], [1.0], [-0.5]]))
        head.lstm.weight_hh_l0.fill_(9.0)
        head.lstm.bias_ih_l0.copy_(torch.tensor([0.0, 9.0, -1.0, 2.0]))
        head.lstm.bias_hh_l0.zero_()
        getattr(head, "0").weight.copy_(torch.tensor([[3.0], [-1.0]]))
        getattr(head, "0").bias.copy_(torch.tensor([0.0, 1.0]))
    cell = 1 / (1 + np.exp(-1.0)) * np.tanh(1.0)
    answer = 1 / (1 + np.exp(-1.0)) * np.tanh(cell)
    logits, hidden = head(torch.full((1, 1, 1), 2.0))
    assert hidden.tolist() == [[pytest.approx(answer, rel=1e-6)]]
    assert logits[0].tolist() == pytest.approx([3 * answer, 1 - answer], rel=1e-6)


def test_dense_layers_follow_the_lstm_and_the_count_is_that_of_arithmetic():
    head = DecisionHead(10, recurrent(hidden_sizes=(6,)))
    assert [tuple(t.shape) for t in head(torch.rand(5, T, 10))] == [(5, 3), (5, 6)]
    assert sum(p.numel() for p in head.parameters()) == 4 * 7 * (10 + 7 + 2) + 8 * 6 + 7 * 3


def test_initial_values_come_from_the_seed_alone_and_fill_the_range_of_an_lstm():
    first = DecisionHead(50, recurrent(recurrent_size=100, init_seed=3)).state_dict()
    state = torch.get_rng_state()
    with torch.device("meta"):
        again = DecisionHead(50, recurrent(recurrent_size=100, init_seed=3)).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert same_bits(first, again)
    other = DecisionHead(50, recurrent(recurrent_size=100, init_seed=4)).state_dict()
    assert not any(torch.equal(first[name], other[name]) for name in first)
    weight = first["lstm.weight_ih_l0"]
    assert weight.abs().max() <= 0.1  # one over the root of the units
    assert weight.std().item() == pytest.approx(0.1 / np.sqrt(3), rel=0.02)


def test_the_lstm_stays_in_training_mode_which_cudnn_needs_for_gradients():
    """Maps are gradients in eval mode. Without dropout between its layers an LSTM answers alike in both modes."""
    head, pooled = DecisionHead(10, recurrent(dropout=0.0)), torch.rand(5, T, 10)
    trains = head.train()(pooled)[0]
    assert torch.equal(head.eval()(pooled)[0], trains)
    assert head.lstm.training
    assert head.lstm.dropout == 0
    assert not head.training


def test_a_head_for_pictures_has_no_lstm():
    assert not any("lstm" in name for name in DecisionHead(10, small_config()).state_dict())


# -- the model ---------------------------------------------------------------------------------------------------------


@NETWORKS
def test_a_clip_is_its_masked_frames_through_the_head(network):
    model = train_on_clips(wrapped(**network)).eval()
    x, adapter = videos(), model.adapters["default"]
    frames = wrap(tiny_backbone(), **network).eval()  # the same mask over single pictures
    shared = {k: v for k, v in adapter.state_dict().items() if not k.startswith("head.")}
    frames.adapters["default"].load_state_dict(shared, strict=False)
    seen = []
    frames.adapters["default"].decide = lambda feature_map: seen.append(feature_map) or (torch.zeros(12, 3),) * 2
    frames(x.flatten(0, 1))
    pooled = pool_map(seen[0], "max").unflatten(0, (4, T))
    torch.testing.assert_close(model(x).logits, adapter.head(pooled)[0])


def train_on_clips(model, steps=3):
    was_training = model.training
    model.train()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for step in range(steps):
        optimiser.zero_grad()
        model(videos(6, seed=step), labels=torch.tensor([0, 0, 1, 1, 2, 2])).loss.backward()
        optimiser.step()
    return model.train(was_training)


def test_the_order_of_frames_counts_and_that_of_clips_does_not():
    model, x = wrapped().eval(), videos()
    logits = model(x).logits
    assert not torch.allclose(model(x.flip(1)).logits, logits, atol=1e-5)
    torch.testing.assert_close(model(x.flip(0)).logits, logits.flip(0))
    torch.testing.assert_close(model(x[1:2]).logits, logits[1:2])


@pytest.mark.parametrize("source", ["features", "hidden", "logits"])
def test_embeddings_are_taken_where_the_config_says(source):
    model, x = wrapped(embedding_source=source).eval(), videos()
    out = model(x)
    assert out.embeddings.shape == (4, {"features": 12 * 4, "hidden": 16, "logits": 3}[source])
    if source == "features":  # the mean over frames forgets their order
        torch.testing.assert_close(model(x.flip(1)).embeddings, out.embeddings)


@pytest.mark.parametrize("tuning", ["decision_layer", "last_conv"])
def test_stored_features_give_the_same_answers_and_gradients_as_pixels(tuning):
    model, labels = wrapped(tuning=tuning).train(), torch.tensor([0, 0, 1, 2])
    model.adapters["default"].head.dropout = 0.0
    features = model.extract_features(videos())
    assert [tuple(f.shape[:2]) for f in features] == [(4, T)]
    found = []
    for source in ({"pixel_values": videos()}, {"features": features}):
        model.zero_grad()
        out = model(**source, labels=labels)
        out.loss.backward()
        grads = [p.grad.clone() for p in model.adapters["default"].parameters() if p.grad is not None]
        found.append([out.logits, out.embeddings, *grads])
    assert len(found[0]) == 2 + len(list(model.adapters["default"].parameters()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert all(bool(gradient.any()) for gradient in found[0][2:])


def test_a_backbone_that_cannot_be_cut_reads_clips():
    torch.testing.assert_close(wrapped(Undecided()).eval()(videos()).logits, wrapped().eval()(videos()).logits)


def test_an_adapter_for_clips_is_saved_and_loaded_bit_for_bit(tmp_path):
    model = train_on_clips(wrapped(tuning="last_conv")).eval()
    model.save_pretrained(tmp_path / "emoreact")
    again = CIAOModel.from_pretrained(tiny_backbone(), tmp_path / "emoreact").eval()
    assert again.peft_config["emoreact"] == model.peft_config["default"]
    assert same_bits(bits(again.adapters["emoreact"]), bits(model.adapters["default"]))
    assert torch.equal(again(videos()).logits, model(videos()).logits)
    train_on_clips(again.train_adapter("emoreact") or again)
    assert not torch.equal(again.eval()(videos()).logits, model(videos()).logits)


def test_a_folder_that_asks_for_a_vast_lstm_is_refused(tmp_path):
    model = wrapped()
    folder = model.save_pretrained(tmp_path / "emoreact")
    forge(folder, config=model.peft_config["default"].to_dict() | {"recurrent_size": 1_000_000})
    with pytest.raises(AdapterFileError, match="lacks numbers for a head"):
        CIAOModel.from_pretrained(tiny_backbone(), folder)


def two_clip_worlds_and_one_of_pictures():
    model = wrapped()
    model.add_adapter("other", recurrent(num_labels=2, init_seed=5, tuning="last_conv"))
    model.add_adapter("pictures", small_config())
    return model.eval()


def test_worlds_of_clips_are_read_together():
    model, x = two_clip_worlds_and_one_of_pictures(), videos()
    expected = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        expected[name] = model(x).logits
    found = model.read(x, adapter_names=["default", "other"])
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    mixed = model(x, adapter_names=["other", "default", "default", "other"])
    for row, name in enumerate(["other", "default", "default", "other"]):
        torch.testing.assert_close(mixed.logits[row], expected[name][row])
    features = model.extract_features(x)
    torch.testing.assert_close(model(features=features, adapter_names=["other"] * 4).logits[3], expected["other"][3])


def test_clips_and_pictures_in_one_batch_are_refused_by_name():
    model = two_clip_worlds_and_one_of_pictures()
    message = "'default' reads clips of 3 frames; .*'pictures' reads single pictures"
    with pytest.raises(InputError, match=message):
        model.read(videos())
    with pytest.raises(InputError, match="'pictures' reads single pictures"):
        model(videos(), adapter_names=["default", "pictures", "other", "other"])
    with pytest.raises(InputError, match="'__base__' reads single pictures"):
        model(videos(), adapter_names=["default", "__base__", "other", "other"])
    assert set(model.read(videos()[:, 0], adapter_names=["pictures"])) == {"pictures"}
    with model.disable_adapter():
        assert torch.equal(model(videos()[:, 0]), model.backbone(videos()[:, 0]))


def test_samples_of_another_kind_are_refused():
    model = wrapped().eval()
    for wrong in (videos()[:, 0], videos(frames=T + 1)):
        with pytest.raises(InputError, match=r"`pixel_values` must be \(B, 3, \.\.\.\): the adapter reads clips of 3"):
            model(wrong)
        with pytest.raises(InputError, match=r"`features` must be \(B, 3, \.\.\.\)"):
            model(features=model.extract_features(wrong))
    with pytest.raises(InputError, match="must be a tensor; got list"):
        model([1])
    with pytest.raises(InputError, match=r"got \(4, 3, 3, 16, 16\). Clips are read by adapters with `frames`"):
        wrap().eval()(videos())


# -- looking -----------------------------------------------------------------------------------------------------------


def test_each_frame_of_a_clip_has_a_map_of_its_own():
    model, x = train_on_clips(wrapped()).eval(), videos()
    strength = mask_strength(model, x)
    plain = wrap().eval()
    plain.adapters["default"].inhibition.load_state_dict(model.adapters["default"].inhibition.state_dict())
    assert torch.equal(strength, mask_strength(plain, x.flatten(0, 1)).unflatten(0, (4, T)))
    maps = gradcam_plus_plus(model, x)
    assert maps.shape == (4, T, *SIZE[1:])
    assert torch.equal(maps.amax(dim=(1, 2, 3)), torch.ones(4))
    assert torch.equal(gradcam_plus_plus(model, features=model.extract_features(x)), maps)
    torch.testing.assert_close(
        gradcam_plus_plus(model, x[1:2], scaled=False), gradcam_plus_plus(model, x, scaled=False)[1:2]
    )


def test_where_nothing_is_left_of_earlier_frames_only_the_last_has_a_map():
    model, x = wrapped().eval(), videos()
    with torch.no_grad():  # the forget gate shut
        lstm = model.adapters["default"].head.lstm
        lstm.weight_hh_l0.zero_()
        lstm.weight_ih_l0[7:14] = 0.0
        lstm.bias_ih_l0[7:14] = -1e4
    maps = gradcam_plus_plus(model, x, scaled=False)
    assert not maps[:, :-1].any()
    assert maps[:, -1].any()


# -- training ----------------------------------------------------------------------------------------------------------


ARGUMENTS = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "report_to": "none", "eval_strategy": "no"}


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


# -- clips out of rows -------------------------------------------------------------------------------------------------


def table(**columns):
    from datasets import Dataset

    return Dataset.from_dict({name: list(values) for name, values in columns.items()})


def test_rows_are_grouped_by_clip_in_order():
    found = clips(table(label=[0, 1, 0, 0, 1], clip="abaab"), frames=3)
    assert found.rows.tolist() == [[0, 2, 3], [1, 4, 4]]
    assert found.names == ["a", "b"]
    assert [clip["label"] for clip in (found[0], found[1])] == [0, 1]
    assert found.select([1]).rows.tolist() == [[1, 4, 4]]
    assert len(found) == 2
    assert found.frames == 3


def test_long_clips_are_thinned_evenly_and_short_ones_stand_still():
    names = "a" * 7 + "b"
    assert clips(table(clip=names), frames=3).rows.tolist() == [[1, 3, 5], [7, 7, 7]]
    assert clips(table(clip=names), frames=1).rows.tolist() == [[3], [7]]


def test_the_number_of_the_frame_says_its_place():
    assert clips(table(clip="aaa", frame=[30, 10, 20]), frames=3).rows.tolist() == [[1, 2, 0]]


def test_each_split_of_several_is_grouped_by_itself():
    found = clips({"train": table(who="ab"), "test": table(who="aa")}, frames=2, column="who")
    assert {split: part.rows.tolist() for split, part in found.items()} == {
        "train": [[0, 0], [1, 1]],
        "test": [[0, 1]],
    }


def test_what_makes_no_clips_is_refused():
    with pytest.raises(DataError, match="which clip a row is of; there is no 'clip'"):
        clips(table(label=[0]))
    with pytest.raises(DataError, match="The rows of the clip 'a' differ in 'label'"):
        clips(table(label=[[0.0, 1.0], [1.0, 1.0]], clip="aa"))
    for frames in (0, True, 2.0):
        with pytest.raises(DataError, match="`frames` must be a whole number of 1 or more"):
            clips(table(clip="a"), frames)


# -- from pictures to answers ------------------------------------------------------------------------------------------


def test_predict_takes_clips_as_lists_of_pictures():
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(5)]
    fed = Preprocessing(size=SIZE[1:], mean=(0.5,) * 3, std=(0.25,) * 3)
    model = get_ciao_model(tiny_backbone(), recurrent(), preprocessing=fed).eval()
    answers = model.predict([frames[:3], frames[3:], frames], batch_size=2)
    for clip, answer in zip(([0, 1, 2], [3, 4, 4], [0, 2, 4]), answers, strict=True):
        logits = model(fed([frames[place] for place in clip])[None]).logits[0].softmax(dim=0)
        assert answer == pytest.approx({f"LABEL_{i}": value for i, value in enumerate(logits.tolist())}, abs=2e-6)
    for wrong, got in ((frames, "got Image"), ([[]], "got an empty list"), ("clip.mp4", "got str")):
        with pytest.raises(InputError, match=f"A clip is a list of its frames, pictures in order; {got}"):
            model.predict(wrong)


# -- EmoReact, end to end ----------------------------------------------------------------------------------------------

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
