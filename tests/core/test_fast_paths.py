"""The quick ways give what the plain ones give: channels last, half precision, compiled code, loading in place."""

from __future__ import annotations

import pytest
import torch

from ciao_peft import contrastive
from ciao_peft.heads import DecisionHead
from ciao_peft.losses import supervised_contrastive_loss
from ciao_peft.model import CIAOModel
from helpers.fakes import BACKBONES, NETWORKS, bits, pixels, same_bits, small_config, tiny_backbone, train, wrap

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def worlds(make=tiny_backbone, dtype=torch.float32):
    """Three adapters of different shape on one backbone, in eval mode."""
    model = wrap(make().to(dtype), "one")
    model.add_adapter("two", small_config(num_labels=5, tuning="last_conv", pooling="flatten"))
    model.add_adapter("three", small_config(inhibition=False, pooling="avg"))
    for name in model.adapters:
        train(model, name)
    return model.eval()


def step(model, *args, **kwargs):
    model.zero_grad()
    output = model(*args, labels=LABELS, **kwargs)
    output.loss.backward()
    return output.logits, output.loss, [p.grad.clone() for p in model.parameters() if p.requires_grad]


@BACKBONES
@NETWORKS
def test_channels_last_gives_the_same_outputs_and_gradients(make, network):
    plain, turned = wrap(make(), dropout=0.0, **network).train(), wrap(make(), dropout=0.0, **network).train()
    turned.to(memory_format=torch.channels_last)
    images = pixels(6).to(memory_format=torch.channels_last)
    assert images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(step(turned, images), step(plain, pixels(6)), rtol=1e-4, atol=1e-5)


@BACKBONES
def test_channels_last_features_and_worlds_are_those_of_the_plain_layout(make):
    model, images = worlds(make), pixels(6).to(memory_format=torch.channels_last)
    expected = model.read(pixels(6))
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model.read(images), expected, rtol=1e-4, atol=1e-5)
    features = [f.contiguous() for f in model.extract_features(images)]  # as a cache on disk gives them back
    torch.testing.assert_close(model.read(features=features), expected, rtol=1e-4, atol=1e-5)


@BACKBONES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_half_precision_worlds_read_together_are_those_read_alone(make, dtype):
    model = worlds(make, dtype)
    together = model.read(pixels(6))
    for name, logits in together.items():
        model.set_adapter(name)
        assert logits.dtype == dtype
        assert torch.equal(logits, model(pixels(6)).logits)


@BACKBONES
def test_in_bfloat16_a_mixed_batch_gives_each_row_its_own_world(make):
    model, names = worlds(make, torch.bfloat16), ["one", "three", "two", "one", "__base__", "two"]
    rows = model(pixels(6), adapter_names=names).logits
    for row, name in enumerate(names):
        if name == "__base__":
            alone = model.backbone(pixels(6).bfloat16())[row]
        else:
            alone = model.read(pixels(6), adapter_names=[name])[name][row]
        torch.testing.assert_close(rows[row], alone, rtol=0.02, atol=0.02)


@BACKBONES
def test_under_autocast_the_answers_are_near_those_of_float32(make):
    model = worlds(make)
    expected = model.read(pixels(6))
    with torch.autocast("cpu", torch.bfloat16):
        found = model.read(pixels(6))
    for name, logits in found.items():
        torch.testing.assert_close(logits.float(), expected[name], rtol=0.05, atol=0.05)


@BACKBONES
@pytest.mark.usefixtures("no_shape_checks")
def test_compiled_reading_from_features_gives_the_same_answers(make):
    model = worlds(make)
    features = model.extract_features(pixels(6))
    compiled = torch.compile(lambda *tensors: model.read(features=tensors), fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(*features), model.read(features=features))


@BACKBONES
@pytest.mark.usefixtures("no_shape_checks")
def test_a_compiled_training_step_gives_the_same_loss_and_gradients(make):
    model = wrap(make(), dropout=0.0).train()
    expected = step(model, pixels(6))
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(step(compiled, pixels(6)), expected)


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9),
    reason="torch 2.8 cannot compile what checks the shapes while tests run, even where it checks none",
)
@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("block_size", [4, 8])
@pytest.mark.parametrize("by_products", [False, True], ids=["by class", "by products"])
@pytest.mark.parametrize("denominator", ["all", "negatives"])
def test_the_compiled_contrastive_loss_is_the_same_in_one_graph(denominator, by_products, block_size, monkeypatch):
    monkeypatch.setattr(contrastive, "_counts_by_products", lambda device: by_products)

    def loss(z):
        return supervised_contrastive_loss(z, LABELS, denominator=denominator, block_size=block_size)

    results = []
    z = torch.randn(6, 8)
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        own = z.clone().requires_grad_(True)
        value = function(own)
        value.backward()
        results.append((value, own.grad))
    torch.testing.assert_close(*results)


# -- loading -------------------------------------------------------------------------------------------------------


@BACKBONES
@NETWORKS
def test_an_adapter_is_loaded_without_drawing_values_to_overwrite(make, network, tmp_path, monkeypatch):
    model = train(wrap(make(), "one", **network)).eval()
    model.save_pretrained(tmp_path / "one")
    before, state = bits(model.backbone), torch.get_rng_state()
    monkeypatch.setattr(DecisionHead, "reset", lambda *_: pytest.fail("initial values were drawn"))
    model.load_adapter(tmp_path / "one", "two")
    assert same_bits(bits(model.backbone), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert same_bits(bits(model.adapters["one"]), bits(model.adapters["two"]))
    answers = model.read(pixels())
    assert torch.equal(answers["one"], answers["two"])


@NETWORKS
def test_what_is_loaded_is_ready_to_train_and_shares_memory_with_nobody(network, tmp_path):
    model = train(wrap(tiny_backbone(), "one", **network)).eval()
    model.save_pretrained(tmp_path / "one")
    for name in ("two", "three"):
        model.load_adapter(tmp_path / "one", name)
        assert all(t.device.type == "cpu" for t in model.adapters[name].state_dict().values())
        assert {p.dtype for p in model.adapters[name].parameters()} == {torch.float32}
        assert not any(p.requires_grad for p in model.adapters[name].parameters())
    addresses = [t.untyped_storage().data_ptr() for t in model.state_dict().values()]
    assert len(set(addresses)) == len(addresses)
    three, one = bits(model.adapters["three"]), bits(model.adapters["one"])
    train(model, "two")
    trained = {n for n, p in model.adapters["two"].named_parameters() if p.requires_grad}
    assert trained == model.adapters["one"].trainable
    assert not same_bits(bits(model.adapters["two"]), one)
    assert same_bits(bits(model.adapters["three"]), three)
    assert same_bits(bits(model.adapters["one"]), one)


def test_an_adapter_in_half_precision_is_loaded_in_float32(tmp_path):
    wrap(tiny_backbone().bfloat16(), "one").eval().save_pretrained(tmp_path / "one")
    model = CIAOModel.from_pretrained(tiny_backbone().bfloat16(), tmp_path / "one").eval()
    assert {p.dtype for p in model.adapters["one"].parameters()} == {torch.float32}
    assert model(pixels()).logits.isfinite().all()
