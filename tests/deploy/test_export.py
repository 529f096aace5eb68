"""An exported folder answers as the model does, whatever network and adapter are in it."""

from __future__ import annotations

import json
import os

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from ciao_peft import CIAOConfig, Preprocessing, get_ciao_model, load_encoder
from ciao_peft.errors import (
    AdapterFileError,
    AdapterNameError,
    AdapterNotFoundError,
    ConfigError,
    DataError,
    ExportError,
    InputError,
    MissingExtraError,
)
from helpers.exported import VARIANTS, add_variants, difference, open_runner
from helpers.fakes import (
    Undecided,
    branched_backbone,
    pixels,
    residual_backbone,
    small_config,
    tiny_backbone,
    train,
    wrap,
)

pytestmark = pytest.mark.usefixtures("no_shape_checks")


def trained(make, **changes):
    return train(wrap(make(), "fer", **changes)).eval()


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text("utf-8"))


# -- equality ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny_backbone, residual_backbone, branched_backbone])
def test_every_batch_size_gets_the_answers_of_the_model(make, tmp_path):
    model = trained(make)
    folder = model.export_onnx(tmp_path / "onnx")
    for rows in (1, 3, 17):
        assert difference(folder, model, pixels(rows, seed=rows)) < 1e-5
    changed = wrap(make(), "fer").eval()  # an adapter that was not trained answers differently: the check is not blind
    assert difference(folder, changed, pixels(3)) > 1e-3


def test_every_kind_of_adapter_gets_the_answers_of_the_model(tmp_path):
    model = trained(tiny_backbone)
    add_variants(model, VARIANTS)
    for name in VARIANTS:
        model.set_adapter(name)
        train(model, name, steps=2)
    model.eval()
    folder = model.export_onnx(tmp_path / "onnx")
    for rows in (1, 3, 17):
        assert difference(folder, model, pixels(rows)) < 1e-5
    adapters = manifest_of(folder)["adapters"]
    assert {adapters[name]["trunk"] for name in VARIANTS} == {"trunk.onnx", "trunk-2.onnx", None}
    assert adapters["own.encoder"]["inputs"] == ["pixel_values"]
    answers = open_runner(folder).read(pixels(3).numpy())
    for name in adapters:
        model.set_adapter(name)
        with torch.no_grad():
            output = model(pixels(3))
        assert np.allclose(answers[name]["embeddings"], output.embeddings, atol=1e-5)
        if model.peft_config[name].problem_type == "single_label_classification":
            logits = output.logits / model.peft_config[name].probability_temperature
            assert np.allclose(answers[name]["probabilities"], logits.softmax(1), atol=1e-5)
    assert np.allclose(answers["sets"]["probabilities"], model.read(pixels(3))["sets"].sigmoid().detach(), atol=1e-5)
    assert "probabilities" not in answers["values"]


@pytest.mark.parametrize("name", ["small-face", "dlib-face"])
def test_encoders_of_the_package_get_the_answers_of_the_model(name, tmp_path):
    config = CIAOConfig(problem_type="single_label_classification", num_labels=7, hidden_sizes=(), spatial_maps=4)
    model = get_ciao_model(load_encoder(name), config, "fer").eval()
    folder = model.export_onnx(tmp_path / "onnx", ["fer"])
    for rows in (1, 3, 17):
        faces = model.preprocessing([np.full((150, 150, 3), 10 * row, np.uint8) for row in range(rows)])
        assert difference(folder, model, faces) < 2e-5  # grey faces; 1.02e-5 was seen without AVX-512
    assert manifest_of(folder)["backbone"]["name"] == name


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "test_convnext", "resnet10t"])
def test_networks_of_timm_get_the_answers_of_the_model(name, tmp_path):
    import timm

    net = timm.create_model(name, pretrained=False, num_classes=0).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # some are zero, and nothing of the mask would be seen
    config = CIAOConfig(problem_type="regression", num_labels=2, pooling="avg", hidden_sizes=())
    model = get_ciao_model(net, config, "fer", input_size=(3, 64, 64)).eval()
    folder = model.export_onnx(tmp_path / "onnx")
    noise = torch.rand(17, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for rows in (1, 3, 17):
        assert difference(folder, model, noise[:rows]) < 1e-5


def test_clips_are_read(tmp_path):
    model = wrap(tiny_backbone(), "clips", frames=4, recurrent_size=6).eval()
    folder = model.export_onnx(tmp_path / "onnx")
    for rows in (1, 3):
        assert difference(folder, model, pixels(4 * rows).unflatten(0, (rows, 4))) < 1e-5


def test_a_backbone_in_half_precision_is_exported_in_float32_and_stays_as_it_is(tmp_path):
    model = trained(tiny_backbone).half()
    folder = model.export_onnx(tmp_path / "onnx")
    assert model.backbone[0].weight.dtype == torch.float16
    assert difference(folder, model, pixels(3)) < 1e-5  # which casts the model to float32


def test_a_backbone_that_cannot_be_cut_is_exported_whole(tmp_path):
    model = trained(Undecided)
    assert not model.traceable
    with pytest.raises(ExportError, match=r"'fer' cannot be exported: its backbone cannot be cut, so that"):
        model.export_onnx(tmp_path / "onnx")
    assert not [*tmp_path.iterdir()]

    class Printing(Undecided):
        def forward(self, x):  # torch.fx cannot follow, torch.export can
            assert len({*map(type, [x])}) == 1
            return self.chain(x) if int(x.shape[1]) % 2 else self.chain(-x)

    model = trained(Printing)
    folder = model.export_onnx(tmp_path / "onnx")
    assert difference(folder, model, pixels(3)) < 1e-5


def test_an_export_changes_nothing_of_the_model(tmp_path):
    model = trained(tiny_backbone, tuning="last_conv")
    model.train()
    before, grads = {k: v.clone() for k, v in model.state_dict().items()}, [p.requires_grad for p in model.parameters()]
    with torch.inference_mode():
        model.export_onnx(tmp_path / "onnx")
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == grads
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


# -- the files --------------------------------------------------------------------------------------------------------


def test_files_have_the_opset_that_was_asked_for_and_a_batch_of_any_size(tmp_path):
    import onnx

    folder = wrap(residual_backbone(), "fer").export_onnx(tmp_path / "onnx", opset=21)
    for path in folder.rglob("*.onnx"):
        graph = onnx.load(path)
        assert {o.domain: o.version for o in graph.opset_import}[""] == 21
        for value in [*graph.graph.input, *graph.graph.output]:
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert manifest_of(folder)["opset"] == 21


def test_the_frozen_unit_is_in_the_trunk_and_in_no_adapter(tmp_path):
    model = wrap(tiny_backbone(), "rank", inhibition_rank=1, hidden_sizes=(), pooling="avg")
    folder = model.export_onnx(tmp_path / "onnx")
    import onnx

    def numbers(path):
        return sum(int(np.prod(tensor.dims)) for tensor in onnx.load(path).graph.initializer)

    own = sum(p.numel() for p in model.adapters["rank"].parameters())
    assert numbers(folder / "adapters" / "rank.onnx") < own + 40  # and constants, such as shapes
    assert own + 40 < 12 * 8 * 9


def test_two_exports_of_one_model_are_the_same_to_the_byte_and_say_nothing(tmp_path, capfd, caplog):
    model = trained(tiny_backbone)
    settings = {"quantize": "int8", "calibration": pixels(8)}
    one, two = (model.export_onnx(tmp_path / name, **settings) for name in ("one", "two"))
    assert manifest_of(one) == manifest_of(two)
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


def test_an_export_replaces_an_earlier_one_as_a_whole(tmp_path):
    model = trained(tiny_backbone)
    model.add_adapter("late", small_config())
    folder = model.export_onnx(tmp_path / "onnx")
    model.export_onnx(folder, "late")
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*")) == [
        "adapters/late.onnx",
        "manifest.json",
        "runner.py",
        "trunk.onnx",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"opset": 17}, ConfigError, "`opset` must be a whole number from 18 to 23; got 17"),
        ({"quantize": "int4"}, ConfigError, "`quantize` must be one of"),
        ({"quantize": "int8"}, ConfigError, "needs `calibration`, a list of pictures"),
        ({"quantize": "int8", "calibration": []}, ConfigError, "give `calibration` as pixel values"),
        ({"quantize": "int8", "calibration": torch.rand(2, 3, 8, 8)}, InputError, r"must be \(B, 3, 16, 16\)"),
        ({"calibration": [1]}, ConfigError, "`calibration` is for `quantize='int8'`"),
        ({"adapter_names": ["../x"]}, AdapterNotFoundError, r"No adapter named '../x'. Loaded adapters: 'fer'"),
        ({"adapter_names": []}, ConfigError, "There is no adapter to export"),
    ],
)
def test_settings_that_cannot_work_are_refused_and_nothing_is_written(settings, error, text, tmp_path):
    with pytest.raises(error, match=text):
        wrap(tiny_backbone(), "fer").export_onnx(tmp_path / "onnx", **settings)
    assert not [*tmp_path.iterdir()]


def test_calibration_pictures_that_are_none_are_refused(tmp_path):
    model = wrap(tiny_backbone(), "fer")
    model.preprocessing = Preprocessing(size=(16, 16))
    with pytest.raises(ConfigError, match="`calibration` is empty"):
        model.export_onnx(tmp_path / "onnx", quantize="int8", calibration=[])
    with pytest.raises(DataError, match="There is no picture at"):
        model.export_onnx(tmp_path / "onnx", quantize="int8", calibration=["no/such.png"])


def test_names_that_differ_in_capitals_alone_are_refused(tmp_path):
    model = wrap(tiny_backbone(), "fer")
    model.add_adapter("FER", small_config())
    with pytest.raises(AdapterNameError, match="'FER', 'fer' differ in capitals alone"):
        model.export_onnx(tmp_path / "onnx")


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    model, notes = wrap(tiny_backbone(), "fer"), tmp_path / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(ExportError, match="is not empty and holds no earlier export"):
        model.export_onnx(tmp_path)
    with pytest.raises(AdapterFileError, match="is a file; give a folder to export into"):
        model.export_onnx(notes)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    assert model.export_onnx(tmp_path / "empty").is_dir()


def test_what_others_put_into_an_exports_folder_is_not_lost(tmp_path):
    model = wrap(tiny_backbone(), "fer")
    folder = model.export_onnx(tmp_path / "onnx")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "align.pyc").write_bytes(b"")  # the runner leaves it
    model.export_onnx(folder)
    (folder / "adapters" / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"holds more than the earlier export: 'adapters/notes\.txt'"):
        model.export_onnx(folder)
    assert (folder / "adapters" / "notes.txt").read_text() == "mine"


def test_what_fails_on_the_way_leaves_the_earlier_export(tmp_path, monkeypatch):
    model = wrap(tiny_backbone(), "fer")
    folder = model.export_onnx(tmp_path / "onnx")
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    monkeypatch.setattr("ciao_peft.deploy.onnx_files.TOLERANCE", -1.0)
    with pytest.raises(ExportError, match=r"trunk\.onnx would not compute what the model does: it is off by"):
        model.export_onnx(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(AdapterFileError, match="cannot be written"):
        wrap(tiny_backbone(), "fer").export_onnx(tmp_path / "onnx")


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"needs onnxscript: pip install 'ciao_peft\[onnx\]'"):
        wrap(tiny_backbone(), "fer").export_onnx(tmp_path / "onnx")


# -- int8 -------------------------------------------------------------------------------------------------------------


def test_a_trunk_of_8_bits_is_smaller_and_answers_nearly_the_same(tmp_path):
    model = trained(tiny_backbone)
    model.add_adapter("values", small_config(problem_type="regression", num_labels=2))
    faces = pixels(64)
    exact = model.export_onnx(tmp_path / "exact")
    folder = model.export_onnx(tmp_path / "int8", quantize="int8", calibration=faces)
    assert difference(folder, model, faces[:17]) > difference(exact, model, faces[:17])
    said = manifest_of(folder)["quantization"]
    assert (said["kind"], said["calibration_pictures"], said["files"]) == ("int8", 64, ["trunk.onnx"])
    assert manifest_of(exact)["quantization"] is None
    answers = open_runner(folder).read(faces.numpy())
    with torch.no_grad():
        expected = model.read(faces)
    moved = np.abs(answers["values"]["logits"] - expected["values"].numpy()).mean()
    assert said["on_them"]["values"]["mean_difference"] == pytest.approx(moved, rel=0.02)
    same = (answers["fer"]["logits"].argmax(1) == expected["fer"].argmax(1).numpy()).mean()
    assert said["on_them"]["fer"]["same_class"] == pytest.approx(same, abs=1e-4)
    assert same > 0.9
    session = onnxruntime.InferenceSession(folder / "trunk.onnx", providers=["CPUExecutionProvider"])
    assert {output.type for output in session.get_outputs()} == {"tensor(float)"}
