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
from helpers.graphs import Recorded

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


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Values are not at hand, as on a GPU."""
    for module in ("backbone.inputs", "labels"):
        monkeypatch.setattr(f"ciao_peft.{module}.values_at_hand", lambda tensor: False)


def worlds(make=tiny_backbone, **changes) -> CIAOModel:
    model = wrap(make(), "one", **changes)
    model.add_adapter("two", small_config(num_labels=5, tuning="last_conv", pooling="flatten"))
    model.add_adapter("three", small_config(inhibition=False, pooling="avg"))
    return model.eval()


def test_the_meta_device_raises_at_every_look_at_a_value():
    for look in (
        bool,
        lambda t: t.sum().item(),
        lambda t: t.tolist(),
        lambda t: t.cpu(),
        lambda t: t.isnan().any().cpu(),
    ):
        look(torch.zeros(1))
        with pytest.raises(RuntimeError, match="meta tensor"):
            look(torch.zeros(1, device="meta"))


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


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@torch.no_grad()
def test_a_mixed_batch_on_a_gpu_never_waits_and_fits_into_a_graph():
    model, images = worlds().cuda(), pixels(4).cuda()
    orders = [["one", "two", "__base__", "one"], ["three", "one", "one", "two"]]
    waiting = [[row.cpu() for row in model(images.clone(), adapter_names=names).logits] for names in orders]
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    torch.cuda.set_sync_debug_mode("error")
    try:
        here = [model(images, adapter_names=names).logits for names in orders]
        with torch.cuda.stream(stream):
            aside = [model(images, adapter_names=names).logits for names in orders]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        captured = [model(images, adapter_names=names).logits for names in orders]
    graph.replay()
    for answers in (here, aside, captured):
        for rows, expected in zip(answers, waiting, strict=True):
            assert all(torch.allclose(row.cpu(), e, atol=1e-5) for row, e in zip(rows, expected, strict=True))


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


# -- graphs and compiled code of users --------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_on_a_gpu")
@BACKBONES
@torch.no_grad()
def test_a_graph_of_reading_holds_all_of_it(make):
    """A graph knows tensors by their place: new pixels are copied there, and a replay reads them."""
    model, images = worlds(make), pixels(4)
    features = model.extract_features(images)
    calls = {
        "pixels": (lambda: model(images).logits, [images]),
        "features": (lambda: model(features=features).logits, [*features]),
        "worlds": (lambda: model.read(images), [images]),
        "worlds from features": (lambda: model.read(features=features), [*features]),
    }
    for name, (call, places) in calls.items():
        with Recorded() as graph:
            answer = call()
        for place in places:
            place.copy_(place.flip(0) * 0.5)
        graph.again()
        torch.testing.assert_close(answer, call(), rtol=0, atol=0, msg=name)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_graph_of_a_training_step_follows_labels_and_weights():
    model, images, labels = wrap(tiny_backbone(), dropout=0.0).train(), pixels(4), torch.tensor([0, 1, 2, 0])
    trained = [p for p in model.parameters() if p.requires_grad]

    def step():
        for parameter in trained:
            parameter.grad = None
        loss = model(images, labels=labels).loss
        loss.backward()
        return [loss.detach(), *[p.grad for p in trained]]

    with Recorded() as graph:
        answer = step()
    with torch.no_grad():
        images.mul_(0.5)
        labels.copy_(torch.tensor([1, 1, 0, 2]))
        trained[0].mul_(1.1)
    graph.again()
    found = [tensor.clone() for tensor in answer]
    torch.testing.assert_close(found, step(), rtol=0, atol=0)


@BACKBONES
@pytest.mark.usefixtures("no_shape_checks")
@torch.no_grad()
def test_one_compiled_model_reads_batches_of_any_size(make):
    model = worlds(make)
    compiled = torch.compile(model, backend="aot_eager", dynamic=True, fullgraph=True)
    read = torch.compile(lambda images: model.read(images), backend="aot_eager", dynamic=True, fullgraph=True)
    torch._dynamo.utils.counters.clear()
    for count in (2, 5, 3, 7, 4):
        torch.testing.assert_close(compiled(pixels(count)).logits, model(pixels(count)).logits)
        torch.testing.assert_close(read(pixels(count)), model.read(pixels(count)))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


@pytest.mark.cuda
@torch.no_grad()
def test_on_a_gpu_a_graph_reads_what_is_put_in_its_place():
    model = worlds().to("cuda")
    images = pixels(4).to("cuda")
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        model.read(images)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=aside):
        answers = model.read(images)
    images.copy_(pixels(4).flip(0))
    graph.replay()
    torch.testing.assert_close(answers, model.read(images))
