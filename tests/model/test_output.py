"""`CIAOOutput` keeps the contract of transformers' `ModelOutput`."""

import copy
import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from ciao_peft import CIAOConfig, CIAOModel, CIAOOutput, get_ciao_model


def made(**settings: object) -> CIAOModel:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    config = CIAOConfig(problem_type="single_label_classification", num_labels=3, **settings)
    return get_ciao_model(net, config, input_size=(3, 12, 12)).eval()


@pytest.fixture
def answer() -> CIAOOutput:
    with torch.no_grad():
        return made()(torch.rand(4, 3, 12, 12), labels=torch.tensor([0, 0, 1, 2]))


def same(one: object, other: object) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.to_tuple(), other.to_tuple(), strict=True))


def test_it_is_read_as_a_model_output_is(answer: CIAOOutput) -> None:
    """Beside one of transformers' own with the same entries, asked the same questions."""
    from transformers.modeling_outputs import ImageClassifierOutput

    theirs = ImageClassifierOutput(loss=answer.loss, logits=answer.logits)
    ours = CIAOOutput(loss=answer.loss, logits=answer.logits)
    for ask in (
        list,
        len,
        lambda o: isinstance(o, dict),
        dataclasses.is_dataclass,
        lambda o: [*o.keys()],
        lambda o: "loss" in o and "embeddings" not in o and "hidden_states" not in o,
        lambda o: o["logits"] is o.logits is o[1] is o.to_tuple()[1] is o.get("logits"),
        lambda o: o[:1] == (answer.loss,) and o[-1] is answer.logits,
        lambda o: o.get("nothing", 3),
        lambda o: [*type(o)({**o})] == [*o],
        lambda o: [*type(o)([*o.items()])] == [*o],
        lambda o: isinstance(pickle.loads(pickle.dumps(o)), type(o)),
        lambda o: pytree.tree_map(lambda t: t * 2, o)["loss"].item(),
        lambda o: [str(path[0]) for path, _ in pytree.tree_flatten_with_path(o)[0]],
    ):
        assert ask(ours) == ask(theirs)


def test_it_has_every_method_of_a_model_output(answer: CIAOOutput) -> None:
    from transformers.utils.generic import ModelOutput

    methods = {name for name in dir(ModelOutput) if callable(getattr(ModelOutput, name)) and not name.startswith("_r")}
    assert methods - set(dir(answer)) == set() and {"to_tuple", "keys"} <= methods


def test_loss_comes_first(answer: CIAOOutput) -> None:
    assert [*answer] == ["loss", "logits", "embeddings", "task_loss", "contrastive_loss"]
    assert [*made()(torch.rand(1, 3, 12, 12))] == ["logits", "embeddings"]
    assert answer[0] is answer.loss


def test_attributes_and_entries_are_the_same(answer: CIAOOutput) -> None:
    answer["loss"] = torch.tensor(2.0)
    assert answer.loss == 2
    answer.loss = None
    assert "loss" not in answer and answer.loss is None and answer.get("loss") is None
    answer.update(loss=torch.tensor(3.0))
    assert answer["loss"] == answer.loss == 3
    changed = dataclasses.replace(answer, logits=torch.zeros(1, 3))
    assert changed["logits"].shape == (1, 3) and answer.logits.shape == (4, 3)


def test_copies_are_equal_and_independent(answer: CIAOOutput) -> None:
    for twin in (copy.copy(answer), answer.copy(), copy.deepcopy(answer), pickle.loads(pickle.dumps(answer))):
        assert type(twin) is CIAOOutput and same(twin, answer)
        twin.loss = None
        assert answer.loss is not None


@pytest.mark.parametrize("change", ["del o['loss']", "o.pop('loss')", "o.clear()", "o['other'] = 1", "o.other = 1"])
def test_entries_are_neither_deleted_nor_made_up(answer: CIAOOutput, change: str) -> None:
    with pytest.raises(TypeError, match="CIAOOutput"):
        exec(change, {"o": answer})
    assert len(answer) == 5


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_models_return_it(backend: str, no_shape_checks: None) -> None:
    model, faces = made(), torch.rand(4, 3, 12, 12)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    plain, labelled = compiled(faces), compiled(faces, labels=torch.tensor([0, 0, 1, 2]))
    assert type(plain) is CIAOOutput and [*plain] == ["logits", "embeddings"]
    assert torch.equal(plain["logits"], model(faces).logits)
    assert labelled[0] is labelled.loss and labelled.loss.requires_grad


@pytest.mark.parametrize("strict", [False, True])
def test_exports_have_a_dynamic_batch(strict: bool, no_shape_checks: None) -> None:
    model = made().requires_grad_(False)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    faces = torch.rand(4, 3, 12, 12)
    exported = torch.export.export(model, (faces,), dynamic_shapes={"pixel_values": batch}, strict=strict).module()
    for rows in (1, 3, 9):
        faces = torch.rand(rows, 3, 12, 12)
        answer = exported(faces)
        assert type(answer) is CIAOOutput
        torch.testing.assert_close(answer.logits, model(faces).logits)


def test_exports_of_every_kind_of_mask_have_a_dynamic_batch(no_shape_checks: None) -> None:
    for settings in (
        {"inhibition_rank": 2, "excitation_rank": 2},
        {"tuning": "last_conv"},
        {"tuning": "full"},
        {"spatial_maps": 4, "hidden_sizes": ()},
    ):
        model = made(**settings).requires_grad_(False)
        batch = {0: torch.export.Dim("batch", min=1, max=64)}
        exported = torch.export.export(model, (torch.rand(4, 3, 12, 12),), dynamic_shapes={"pixel_values": batch})
        faces = torch.rand(7, 3, 12, 12)
        torch.testing.assert_close(exported.module()(faces).logits, model(faces).logits)


def test_features_are_exported_with_a_dynamic_batch(no_shape_checks: None) -> None:
    model = made().requires_grad_(False)
    features = model.extract_features(torch.rand(4, 3, 12, 12))

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, features: Tensor) -> Tensor:
            return self.model(features=features).logits

    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    exported = torch.export.export(Head(), features, dynamic_shapes={"features": batch}).module()
    more = model.extract_features(torch.rand(9, 3, 12, 12))
    torch.testing.assert_close(exported(*more), model(features=more).logits)


def test_config_device_and_dtype_are_the_active_adapters() -> None:
    model = made(id2label={0: "sad", 1: "calm", 2: "glad"})
    model.add_adapter("affect", CIAOConfig(problem_type="regression", num_labels=2))
    assert model.config.id2label == {0: "sad", 1: "calm", 2: "glad"}
    assert model.config.label2id["glad"] == 2 and model.config.num_labels == 3
    with model.reading_with("affect"):
        assert model.config.problem_type == "regression" and model.config.num_labels == 2
    assert model.half().dtype == torch.float16 and model.device.type == "cpu"
    model.delete_adapter("default")
    assert model.config.problem_type is None and model.config.id2label == {}
    assert set(model.config.keys_to_ignore_at_inference) == {"embeddings", "task_loss", "contrastive_loss"}
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())


def test_config_and_sizes_are_those_of_transformers_own_models() -> None:
    from transformers import PretrainedConfig
    from transformers.modeling_utils import PreTrainedModel

    model = made(id2label={0: "sad", 1: "calm", 2: "glad"})
    names = {"id2label": {0: "sad", 1: "calm", 2: "glad"}, "label2id": {"sad": 0, "calm": 1, "glad": 2}}
    theirs = PretrainedConfig(**names, problem_type="single_label_classification")
    for name in ("id2label", "label2id", "num_labels", "problem_type"):
        assert getattr(model.config, name) == getattr(theirs, name)
    for frozen in (False, True):
        model.backbone.requires_grad_(not frozen)
        count = PreTrainedModel.num_parameters(model, only_trainable=frozen)  # their function on our model
        assert model.num_parameters(only_trainable=frozen) == count > 0


@pytest.mark.parametrize("settings", [{}, {"inhibition_rank": 2}, {"tuning": "last_conv"}])
def test_onnx_has_a_dynamic_batch(settings: dict[str, object], no_shape_checks: None, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = made(**settings).requires_grad_(False)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.onnx.export(
        model, (torch.rand(4, 3, 12, 12),), dynamic_shapes={"pixel_values": batch}, dynamo=True, verbose=False
    )
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for rows in (1, 3, 9):
        faces = torch.rand(rows, 3, 12, 12)
        logits, *_ = session.run(None, {"pixel_values": faces.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(faces).logits)
