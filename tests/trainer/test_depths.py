"""Training adapters that read depths: from pictures and from stored features, alone and together."""

from __future__ import annotations

import pytest
import torch

from ciao_peft import (
    AdapterJob,
    CIAOConfig,
    CIAOModel,
    CIAOTrainer,
    CIAOTrainingArguments,
    cache_features,
    train_adapters,
)
from ciao_peft.adapters import stack
from ciao_peft.errors import FeatureCacheError
from ciao_peft.features import Augmentation
from ciao_peft.trainer.many import loop
from helpers.fakes import SIZE, residual_backbone
from helpers.training import BALANCED, CLASSES, assert_same, faces, make_model, make_trainer, weights

BOTH = ("stem", "conv1")


def deep(depths=BOTH, **changes):
    return make_model(residual_backbone(), **{"depths": depths, "pooling": "max", "decay_init": 1.0, **changes})


def arguments(**changes):
    values = BALANCED | {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return CIAOTrainingArguments(**(values | changes))


def trained(model, data, **changes):
    trainer = CIAOTrainer(model, arguments(**changes))
    trainer.train(data)
    return weights(model), trainer


@pytest.mark.parametrize("tuning", ["decision_layer", "last_conv"])
def test_stored_depths_train_the_adapter_that_pictures_train(tuning):
    live, _ = trained(deep(tuning=tuning), faces(), feature_cache="never")
    assert any(name.startswith("head.depths.") for name in live)
    for name, start in deep(tuning=tuning).adapters["default"].state_dict().items():
        stays = any(part in name for part in ("running", "num_batches", "start_decay"))
        assert stays or not torch.equal(live[name], start), name
    for data in (faces(), cache_features(deep(), faces()), cache_features(deep(), faces(), include_excitation=True)):
        stored, trainer = trained(deep(tuning=tuning), data)
        for name in live:  # kernels may round batches of 24 otherwise than those of 8
            torch.testing.assert_close(stored[name], live[name], rtol=1e-3, atol=1e-5)
        scores = trainer.evaluate(data)
        assert scores["eval_accuracy"] == trainer.evaluate(faces())["eval_accuracy"]


def test_the_whole_encoder_of_an_adapter_trains_with_depths():
    own, _ = trained(deep(tuning="full"), faces())
    assert all(tensor.isfinite().all() for tensor in own.values() if tensor.is_floating_point())
    assert not torch.equal(own["encoder.stem.0.weight"], residual_backbone().stem[0].weight)


def test_one_store_trains_whoever_reads_fewer_depths():
    stored = cache_features(deep(), faces(), include_excitation=True)
    for depths in (("conv1",), ("conv1", "stem"), None):
        own, _ = trained(deep(depths), cache_features(deep(depths), faces(), include_excitation=True))
        assert_same(trained(deep(depths), stored)[0], own)
        assert_same(trained(deep(depths), stored, feature_device="device")[0], own)
    with pytest.raises(FeatureCacheError, match="are without the depths 'stem', which the adapter reads"):
        trained(deep(("stem",), depth_grid=2), stored)


def test_the_trainer_stores_them_by_itself_and_apart_from_those_without(tmp_path):
    own, _ = trained(deep(), faces(), output_dir=str(tmp_path), save_strategy="no")
    trained(deep(None), faces(), output_dir=str(tmp_path), save_strategy="no")
    assert len([path for path in (tmp_path / "features").iterdir() if path.is_dir()]) == 2
    assert_same(trained(deep(), faces(), output_dir=str(tmp_path), save_strategy="no")[0], own)


def test_views_have_depths_of_their_own():
    flipped = Augmentation(flip=1.0, crop=0.0, brightness=0.0, contrast=0.0, saturation=0.0)
    model = deep()
    stored = cache_features(model, faces(), views=2, augment=flipped)
    mirrored = torch.stack([face["pixel_values"] for face in faces()]).flip(-1)
    for one, other in zip(stored.features(range(24), 1), model.extract_features(mirrored), strict=True):
        torch.testing.assert_close(one, other)
    trained(model, stored)


def test_a_training_goes_on_from_its_checkpoint_to_the_bit(tmp_path):
    whole, _ = trained(deep(), faces(), output_dir=str(tmp_path / "whole"), save_strategy="epoch")
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    model = deep()
    trainer = CIAOTrainer(model, arguments(output_dir=str(tmp_path / "again"), resume_from_checkpoint=str(checkpoint)))
    trainer.train(faces())
    assert_same(weights(model), whole)


def test_a_start_that_is_looked_for_is_found_with_depths():
    model = deep(decay_init=None)
    make_trainer(model, report_to="none", num_train_epochs=1).train(cache_features(model, faces()))
    assert model.peft_config["default"].decay_init is not None
    assert model.peft_config["default"].depths == BOTH


# -- many at once ------------------------------------------------------------------------------------------------------


def config(**changes):
    values = {**CLASSES, "hidden_sizes": (16,), "pooling": "max", "embedding_source": "hidden", "decay_init": 1.0}
    return CIAOConfig(**(values | {"depths": BOTH} | changes))


def model_with(configs):
    model = CIAOModel(residual_backbone().double(), input_size=SIZE)
    for number, each in enumerate(configs):
        model.add_adapter(str(number), each)
    return model.double()


@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "pictures"])
@pytest.mark.parametrize("seeds", [(0, 0, 0), (0, 1, 2)], ids=["shared", "own order"])
def test_alike_adapters_with_depths_train_together_as_each_by_itself(seeds, is_stored, monkeypatch):
    counts, init = [], loop.StackedLoop.__init__

    def counted(self, model, members):
        counts.append(len(members))
        init(self, model, members)

    configs = [config(init_seed=n) for n in range(3)]
    jobs = [AdapterJob(adapter_name=str(n), args=arguments(seed=seed)) for n, seed in enumerate(seeds)]
    data = faces()
    if is_stored:
        model = model_with(configs)
        model.set_adapter("0")
        data = cache_features(model, faces())
    alone = model_with(configs)
    train_adapters(alone, jobs, data)
    monkeypatch.setattr(stack, "STACKED_ON", {"cpu"})
    monkeypatch.setattr(loop.StackedLoop, "__init__", counted)
    together = model_with(configs)
    train_adapters(together, jobs, data)
    assert counts == [3]
    for name in together.adapters:
        for key, tensor in weights(together, name).items():
            torch.testing.assert_close(tensor, weights(alone, name)[key], rtol=1e-6, atol=1e-6)


def test_adapters_with_other_depths_train_apart_on_one_store(monkeypatch):
    monkeypatch.setattr(stack, "STACKED_ON", {"cpu"})
    configs = [config(), config(depths=("stem",)), config(depths=("conv1",)), config(depths=("stem",), init_seed=2)]
    model = model_with(configs)
    model.set_adapter("0")
    stored = cache_features(model, faces())
    jobs = [AdapterJob(adapter_name=str(n), args=arguments()) for n in range(4)]
    trainings = train_adapters(model, jobs, stored)
    assert [trainings[str(n)].together for n in range(4)] == [1, 2, 1, 2]
    train_adapters(model_with(configs[::-1]), jobs, faces())  # each stores its own
