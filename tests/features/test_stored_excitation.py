"""u of the frozen conv units, stored beside the features: what it saves, and that it changes nothing."""

from __future__ import annotations

import json

import pytest
import torch

from ciao_peft import CIAOTrainer, CIAOTrainingArguments, cache_features
from ciao_peft.errors import FeatureCacheError, InputError, TrainingError
from helpers.fakes import (
    SIZE,
    branched_backbone,
    pixels,
    residual_backbone,
    same_bits,
    small_config,
    tiny_backbone,
    wrap,
)
from helpers.features import faces

LABELS = torch.arange(10) % 3


EVERY_KIND = pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (tiny_backbone, [(8, 8, 8), (12, 8, 8)]),
        (residual_backbone, [(8, 8, 8), (8, 8, 8), (8, 8, 8)]),  # the unit's input, the shortcut, u
        (branched_backbone, [(8, 8, 8), (6, 8, 8), (4, 8, 8)]),
    ],
    ids=["chain", "shortcut", "branches"],
)


@EVERY_KIND
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("inhibition", [True, False], ids=["mask", "no-mask"])
def test_stored_u_gives_the_outputs_and_gradients_of_the_live_trunk(make, shapes, dtype, inhibition, tmp_path):
    model = wrap(make().to(dtype), inhibition=inhibition, dropout=0.0).train()
    folder = None if inhibition else tmp_path / "stored"
    stored = cache_features(model, faces(), folder, include_excitation=True, batch_size=10)
    assert sorted(map(tuple, stored.layout.shapes)) == sorted(shapes)
    assert stored.has_excitation and stored.layout.dtype == str(dtype).removeprefix("torch.")
    found = []
    for source in (pixels(10), stored.features(range(10)), stored.features(range(10), include_excitation=False)):
        given = {"pixel_values": source} if isinstance(source, torch.Tensor) else {"features": source}
        output = model(**given, labels=LABELS)
        output.loss.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.requires_grad]
        assert all(gradient.any() for gradient in gradients)
        found.append([output.logits, output.loss, *gradients])
        model.zero_grad()
    for live, with_u, without_u in zip(*found, strict=True):
        assert torch.equal(live, with_u)
        assert torch.equal(live, without_u)


@EVERY_KIND
def test_worlds_and_mixed_batches_read_from_u_what_they_read_from_pixels(make, shapes):
    model = wrap(make(), "one").eval()
    model.add_adapter("two", small_config(inhibition=False, num_labels=5))
    model.add_adapter("three", small_config(tuning="last_conv", num_labels=2))
    features = model.extract_features(pixels(6), include_excitation=True)
    names = ["two", "__base__", "one", "three", "one", "__base__"]
    live, kept = model(pixels(6), adapter_names=names), model(features=features, adapter_names=names)
    for one, other in zip(live.logits, kept.logits, strict=True):
        torch.testing.assert_close(one, other)
    for name, logits in model.read(features=features).items():
        assert torch.equal(logits, model.read(pixels(6))[name])


def calls_of(module):
    """How often a module was called since."""
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize(("with_u", "times"), [(True, 0), (False, 1)])
def test_with_u_no_frozen_convolution_is_left_in_a_training_step(with_u, times):
    backbone = tiny_backbone()
    model = wrap(backbone)
    stored = cache_features(model, faces(), include_excitation=with_u)
    calls = [calls_of(backbone[0]), calls_of(backbone[3])]
    model(features=stored.features([0, 1, 2]), labels=LABELS[:3]).loss.backward()
    assert [len(c) for c in calls] == [0, times]


def test_u_belongs_to_the_key(tmp_path):
    cache_features(tiny_backbone(), faces(), tmp_path / "with", include_excitation=True)
    served = cache_features(tiny_backbone(), faces(), tmp_path / "with")
    assert served.has_excitation and len(served.features([0])) == 2
    cache_features(tiny_backbone(), faces(), tmp_path / "without")
    with pytest.raises(FeatureCacheError, match="are without u, for which `include_excitation=True` asks"):
        cache_features(tiny_backbone(), faces(), tmp_path / "without", include_excitation=True)
    with pytest.raises(FeatureCacheError, match="belong to another number of samples; other pictures"):
        cache_features(tiny_backbone(), faces(9), tmp_path / "with")


def test_what_was_stored_before_u_could_be_is_still_read(tmp_path):
    cache_features(tiny_backbone(), faces(), tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    del index["key"]["excitation"], index["digest"]
    index["format_version"] = 1
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert not cache_features(tiny_backbone(), faces(), tmp_path).has_excitation
    with pytest.raises(FeatureCacheError, match="are without u"):
        cache_features(tiny_backbone(), faces(), tmp_path, include_excitation=True)


def test_the_size_that_is_told_counts_u(tmp_path, capsys):
    for folder, size in ((tmp_path / "one", "20.5 kB"), (None, "20.5 kB")):
        cache_features(tiny_backbone(), faces(), folder, disable_tqdm=False)
        assert f"10 rows of 2.05 kB, {size}" in "".join(capsys.readouterr())
    cache_features(tiny_backbone(), faces(), tmp_path / "two", include_excitation=True, disable_tqdm=False)
    assert "10 rows of 5.12 kB, 51.2 kB" in "".join(capsys.readouterr())


def test_features_and_u_that_do_not_go_together_are_refused():
    model = wrap()
    features = model.extract_features(pixels(4), include_excitation=True)
    for wrong in (features[:1] * 2, (*features, features[0]), (features[0], features[1][:2]), features[1:]):
        with pytest.raises(InputError, match=r"are \(B, 8, 8, 8\).*behind them \(B, 12, 8, 8\) if u is included; got"):
            model(features=wrong)


# -- in training ------------------------------------------------------------------------------------------------------


def trained(data, tuning="decision_layer", **changes):
    """An adapter after two epochs from these data, and its trainer."""
    model = wrap(tuning=tuning, dropout=0.0)
    arguments = CIAOTrainingArguments(num_train_epochs=2, per_device_train_batch_size=5, **changes)
    trainer = CIAOTrainer(model, arguments)
    trainer.train(data)
    return model.adapters["default"].state_dict(), trainer


@pytest.mark.parametrize("tuning", ["decision_layer", "last_conv"])
def test_training_from_stored_u_gives_the_same_adapter(tuning):
    own, _ = trained(cache_features(tiny_backbone(), faces()), tuning)
    with_u, _ = trained(cache_features(tiny_backbone(), faces(), include_excitation=True), tuning)
    for name in own:  # kernels may round u of ten rows differently than of five
        torch.testing.assert_close(with_u[name], own[name], rtol=1e-3, atol=1e-5)


def test_the_trainer_stores_u_where_it_is_of_use_and_there_is_room(tmp_path, monkeypatch):
    def stored(folder, **changes):
        trained(faces(), output_dir=folder, **changes)
        (index,) = (tmp_path / folder).glob("features/*/index.json")
        return json.loads(index.read_text())["key"]["excitation"], index.parent.name

    with_u, name = stored(tmp_path / "one")
    assert with_u
    assert stored(tmp_path / "two", tuning="last_conv") == (False, name)
    monkeypatch.setattr("ciao_peft.features.extraction.free_disk", lambda folder: 2 * 51_200 - 1)
    assert stored(tmp_path / "three") == (False, name)
    monkeypatch.undo()
    before = {path: path.read_bytes() for path in (tmp_path / "three").glob("features/*/*.bin")}
    assert stored(tmp_path / "three") == (False, name)  # what is there without u is used as it is
    assert {path: path.read_bytes() for path in (tmp_path / "three").glob("features/*/*.bin")} == before


def test_a_whole_encoder_is_not_trained_from_u():
    model = wrap(tuning="full")
    stored = cache_features(tiny_backbone(), faces(), include_excitation=True)
    with pytest.raises(TrainingError, match="give it the pictures"):
        CIAOTrainer(model).train(stored)


# -- accidents --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["nan", "shape"])
def test_a_failed_pass_names_the_sample_and_does_not_block_the_mended_data(bad, tmp_path):
    broken = faces()
    right = broken[7]["pixel_values"]
    broken[7]["pixel_values"] = right[:, 1:] if bad == "shape" else torch.full(SIZE, float("nan"))
    message = "differ in shape" if bad == "shape" else "sample 7 of the dataset hold NaN or infinite values"
    for _ in range(2):  # the same again fails again
        with pytest.raises(ValueError, match=message):
            cache_features(tiny_backbone(), broken, tmp_path / "stored", batch_size=4)
    broken[7]["pixel_values"] = right
    stored = cache_features(tiny_backbone(), broken, tmp_path / "stored", batch_size=4)
    whole = cache_features(tiny_backbone(), faces(), batch_size=4)
    assert torch.equal(stored.tensors[0], whole.tensors[0])
    assert not list((tmp_path / "stored").glob("done.bin"))


def test_an_interrupted_pass_of_other_data_stays_refused(tmp_path, monkeypatch):
    from ciao_peft.features import store

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store.FeatureWriter, "put", stop)
    with pytest.raises(KeyboardInterrupt):
        cache_features(tiny_backbone(), faces(), tmp_path / "stored")
    monkeypatch.undo()
    with pytest.raises(FeatureCacheError, match="belong to other pictures"):
        cache_features(tiny_backbone(), faces(seed=2), tmp_path / "stored")
    assert len(cache_features(tiny_backbone(), faces(), tmp_path / "stored")) == 10


def test_features_that_half_precision_cannot_hold_are_refused_by_sample():
    backbone = tiny_backbone()
    data = [face | {"pixel_values": face["pixel_values"] * (1e6 if n == 3 else 1)} for n, face in enumerate(faces())]
    with pytest.raises(FeatureCacheError, match="features of sample 3 of the dataset do not fit into float16"):
        cache_features(backbone, data, dtype="float16")
    assert len(cache_features(backbone, data, dtype="bfloat16")) == 10


def test_a_list_that_was_changed_after_training_is_read_anew():
    data = faces()
    _, trainer = trained(data)
    before = trainer.predict(data).logits
    data[2] = {"pixel_values": 1 - data[2]["pixel_values"], "labels": 1}
    after = trainer.predict(data)
    live = trainer.model.eval()(pixel_values=torch.stack([face["pixel_values"] for face in data])).logits
    torch.testing.assert_close(after.logits, live, rtol=1e-4, atol=1e-5)
    assert not torch.equal(after.logits[2], before[2])
    assert after.labels[2] == 1


def test_only_the_labels_changed_and_the_features_are_still_good(monkeypatch):
    data = faces()
    _, trainer = trained(data)
    data[0]["labels"] = 2
    monkeypatch.setattr(type(trainer.model), "extract_features", None)
    assert trainer.predict(data).labels[0] == 2
    assert same_bits({"": trainer.predict(data).logits}, {"": trainer.predict(data).logits})
