"""Adapters that read clips: from pixels and stored features, in mixed batches, and on disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ciao_peft import (
    CIAOModel,
    Preprocessing,
    get_ciao_model,
    gradcam_plus_plus,
    mask_strength,
)
from ciao_peft.errors import AdapterFileError, InputError
from ciao_peft.heads import pool_map
from helpers.clips import T, recurrent, videos, wrapped
from helpers.fakes import NETWORKS, SIZE, Undecided, bits, forge, same_bits, small_config, tiny_backbone, wrap

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
    for change in model.adapters["default"].low_rank_excitation:
        torch.nn.init.normal_(change.up.weight)  # zero at the start, so that what lies before it has no gradient
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
