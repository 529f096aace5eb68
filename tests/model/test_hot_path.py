"""A forward pass asks no value of the device: on the meta device, which has none, it runs all the same.

There, `.item()`, `bool(tensor)`, `.cpu()`, `.tolist()` and `nonzero()` raise, and so does every step that depends on a
value. A GPU would make the host wait at each of them, and no CUDA graph could hold the call.
"""

from __future__ import annotations

import pytest
import torch

from ciao_peft import CIAOModel
from ciao_peft.errors import InputError
from helpers.fakes import BACKBONES, pixels, small_config, tiny_backbone, wrap

LABELS = {
    "single_label_classification": torch.tensor([0, 1, 2, 0]),
    "regression": torch.rand(4, 2),
    "multi_label_classification": torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]]),
}
PROBLEMS = {
    "classes": {},
    "distributions": {"problem_type": "single_label_classification", "num_labels": 4},
    "negatives": {"contrastive_denominator": "negatives"},
    "values": {"problem_type": "regression", "num_labels": 2},
    "concordance": {"problem_type": "regression", "num_labels": 2, "regression_loss": "ccc"},
    "sets": {"problem_type": "multi_label_classification", "num_labels": 2},
    "overlap": {"problem_type": "multi_label_classification", "num_labels": 2, "multi_label_positives": "jaccard"},
}


def worlds(make=tiny_backbone, **changes) -> CIAOModel:
    model = wrap(make(), "one", **changes)
    model.add_adapter("two", small_config(num_labels=5, tuning="last_conv", pooling="flatten"))
    model.add_adapter("three", small_config(inhibition=False, pooling="avg"))
    return model.eval()


def test_the_meta_device_raises_at_every_look_at_a_value():
    tensor = torch.zeros(2, device="meta")
    for look in (
        bool,
        lambda t: t.sum().item(),
        lambda t: t.tolist(),
        lambda t: t.cpu(),
        lambda t: t.isnan().any().cpu(),
    ):
        with pytest.raises((NotImplementedError, RuntimeError)):
            look(tensor)


@BACKBONES
def test_reading_looks_at_no_value(make):
    model = worlds(make).to("meta")
    images = pixels(4).to("meta")
    assert model(images).logits.shape == (4, 3)
    features = model.extract_features(images, include_excitation=True)
    assert model(features=features).logits.device.type == "meta"
    assert {name: answer.shape[1] for name, answer in model.read(images).items()} == {"one": 3, "two": 5, "three": 3}
    assert len(model.read(features=features)) == 3
    assert len(model(images, adapter_names=["one", "two", "__base__", "one"]).logits) == 4
    with model.disable_adapter():
        model(images)


@pytest.mark.parametrize("changes", PROBLEMS.values(), ids=PROBLEMS)
def test_a_step_looks_at_no_value(changes):
    model = wrap(tiny_backbone(), **changes).train()
    labels = LABELS[model.peft_config["default"].problem_type]
    if changes.get("num_labels") == 4:
        labels = torch.eye(4)
    expected = model(pixels(4), labels=labels)
    model.to("meta")
    output = model(pixels(4).to("meta"), labels=labels.to("meta"))
    output.loss.backward()
    assert output.loss.dtype == expected.loss.dtype
    assert all(p.grad is not None for p in model.adapter_parameters("default")["mask"])


def test_clips_are_read_without_a_look_at_values():
    model = wrap(tiny_backbone(), frames=3, recurrent_size=4).eval().to("meta")
    clips = torch.zeros(2, 3, *model.input_size, device="meta")
    assert model(clips, labels=torch.zeros(2, dtype=torch.long, device="meta")).logits.shape == (2, 3)


def test_pixels_and_features_on_another_device_than_the_model_are_refused():
    model = worlds()
    features = model.extract_features(pixels(4))
    refusals = {
        "`pixel_values` are on meta, and the model is on cpu": [
            lambda: model(pixels(4).to("meta")),
            lambda: model.read(pixels(4).to("meta")),
            lambda: model.extract_features(pixels(4).to("meta")),
            lambda: model(pixels(4).to("meta"), adapter_names=["one"] * 4),
        ],
        "`features` are on meta, and the model is on cpu": [
            lambda: model(features=[f.to("meta") for f in features]),
            lambda: model.read(features=[f.to("meta") for f in features]),
        ],
    }
    for text, calls in refusals.items():
        for call in calls:
            with pytest.raises(InputError, match=rf"{text}. Move one of them: `\w+\.to\('cpu'\)`"):
                call()
    with model.disable_adapter(), pytest.raises(InputError, match="are on meta"):
        model(pixels(4).to("meta"))


def test_on_the_cpu_values_are_still_looked_at():
    model, broken = worlds(), pixels(4)
    broken[2, 0, 1, 1] = float("nan")
    with pytest.raises(InputError, match="first in row 2"):
        model(broken)
    with pytest.raises(InputError, match="`features` hold NaN"):
        model(features=[f.masked_fill(f == f.max(), float("inf")) for f in model.extract_features(pixels(4))])
    with pytest.raises(InputError, match="got 3 at row 1"):
        model(pixels(4), labels=torch.tensor([0, 3, 0, 0]))
