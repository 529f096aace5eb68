"""Damaged and foreign folders: a named error with the file and what to do, and the model as it was (promise 18)."""

from __future__ import annotations

import json
import pickle
import re

import pytest
import torch
from safetensors.torch import load_file

from ciao_peft.errors import AdapterConfigError, AdapterFileError, BackboneMismatchError, CIAOError
from ciao_peft.model import CIAOModel
from ciao_peft.saving.adapter_folder import CONFIG_FILE, FORMAT_VERSION, WEIGHTS_FILE
from ciao_peft.saving.files import MAX_JSON_BYTES
from ciao_peft.saving.safetensors_file import MAX_HEADER_BYTES
from helpers.fakes import bits, forge, same_bits, tiny_backbone, wrap

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 19000\n"
PAGE = b"<!DOCTYPE html><html><body>404</body></html>"
AGAIN = "Save the adapter again, or download it anew"


@pytest.fixture
def saved(tmp_path):
    return wrap().save_pretrained(tmp_path / "saved")


def state_of(model):
    """Everything a failed load must leave as it was."""
    return {
        "tensors": bits(model),
        "random": torch.get_rng_state(),
        "rest": (
            model.active_adapter,
            model.peft_config,
            model.training,
            [m.training for m in model.modules()],
            {name: p.requires_grad for name, p in model.named_parameters()},
            set(model._frozen._opened),
            model.preprocessing,
            sorted(vars(model)),
        ),
    }


def assert_refused(folder, error, message):
    """Loading raises what it should, twice, and leaves a model and a bare backbone exactly as they were."""
    model = wrap().train()
    before = state_of(model)
    for _ in range(2):
        with pytest.raises(error, match=message) as caught:
            model.load_adapter(folder, "new")
        assert isinstance(caught.value, CIAOError)
        assert str(folder) in str(caught.value)
    after = state_of(model)
    assert same_bits(after["tensors"], before["tensors"])
    assert torch.equal(after["random"], before["random"])
    assert after["rest"] == before["rest"]
    backbone = tiny_backbone().train()
    with pytest.raises(error, match=message):
        CIAOModel.from_pretrained(backbone, folder)
    assert all(m.training for m in backbone.modules())
    assert all(p.requires_grad for p in backbone.parameters())
    assert same_bits(bits(backbone), bits(tiny_backbone()))


# -- weights -----------------------------------------------------------------------------------------------------------


def flipped(content):
    place = len(content) - 100
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[:-1], rf"has \d+ bytes where its config promises \d+. {AGAIN}"),
        (lambda c: c[:4], rf"has 4 bytes where its config promises \d+. {AGAIN}"),
        (lambda c: b"", rf"has 0 bytes where its config promises \d+. {AGAIN}"),
        (lambda c: c + b"\0", rf"has \d+ bytes where its config promises \d+. {AGAIN}"),
        (flipped, rf"does not have the checksum its config promises: it was damaged or replaced. {AGAIN}"),
        (lambda c: LFS, r"has \d+ bytes .* \(it is a Git LFS pointer: run `git lfs pull`\)"),
        (lambda c: LFS.ljust(len(c)), r".*checksum .* \(it is a Git LFS pointer: run `git lfs pull`\)"),
        (lambda c: PAGE, r"has \d+ bytes .* \(it is a web page\)"),
        (lambda c: b"\n <html>".ljust(len(c)), r".*checksum .* \(it is a web page\)"),
        (lambda c: pickle.dumps({"a": 1}), r".*\(it is a pickle or an archive, not safetensors\)"),
        (lambda c: b"PK\x03\x04", r".*\(it is a pickle or an archive, not safetensors\)"),
    ],
    ids=[
        "truncated",
        "stub",
        "empty",
        "longer",
        "flipped",
        "lfs",
        "lfs-padded",
        "page",
        "page-padded",
        "pickle",
        "archive",
    ],
)
def test_weights_that_are_not_those_of_the_config(change, message, saved):
    path = saved / WEIGHTS_FILE
    path.write_bytes(change(path.read_bytes()))
    assert_refused(saved, AdapterFileError, f"{WEIGHTS_FILE}' {message}")


HEADER = {"head.0.bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def safetensors(header, data=bytes(8), size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        safetensors(HEADER, size=2**40),
        safetensors(HEADER, size=2**63 + 5),
        safetensors(b" " * (MAX_HEADER_BYTES + 1)),
        b"\1\0\0",
        b"",
        safetensors(b"{"),
        safetensors(b"[1, 2]"),
        safetensors(b"\xff\xfe"),
        safetensors(b"[" * 100_000),
        safetensors({"x": {**HEADER["head.0.bias"], "dtype": "F3"}}),
        safetensors({"x": {**HEADER["head.0.bias"], "shape": [3]}}),
        safetensors({"x": {**HEADER["head.0.bias"], "data_offsets": [0, 800]}}),
        safetensors({"x": {**HEADER["head.0.bias"], "data_offsets": [8, 0]}}),
        safetensors({"x": HEADER["head.0.bias"], "y": HEADER["head.0.bias"]}),
        safetensors({"x": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}}),
        safetensors({"x": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}),
    ],
    ids=[
        "beyond-the-file",
        "enormous",
        "too-large-header",
        "three-bytes",
        "empty",
        "broken",
        "list",
        "no-text",
        "deep",
        "dtype",
        "shape",
        "outside",
        "backwards",
        "overlapping",
        "overflowing",
        "float8",
    ],
)
def test_files_that_are_no_safetensors_of_ours(content, saved):
    forge(saved, tensors=content)
    assert_refused(saved, AdapterFileError, "is no (valid )?safetensors file|lacks 'head")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"head.1.weight": torch.zeros(5, 16)}, r"has 'head.1.weight' of shape \(5, 16\) for \(3, 16\)"),
        (lambda t: t | {"head.1.bias": torch.zeros(1, 3)}, r"has 'head.1.bias' of shape \(1, 3\) for \(3,\)"),
        (
            lambda t: t | {"head.1.bias": torch.zeros(3, dtype=torch.int64)},
            "has 'head.1.bias' in torch.int64 for torch.fl",
        ),
        (
            lambda t: t | {"inhibition.0.norm.num_batches_tracked": torch.tensor(7.0)},
            "has 'inhibition.0.norm.num_batches_tracked' in torch.float32 for torch.int64",
        ),
        (lambda t: {k: v for k, v in t.items() if k != "head.1.bias"}, "lacks 'head.1.bias'"),
        (
            lambda t: {k: v for k, v in t.items() if k.startswith("head")},
            "lacks 'inhibition.0.conv.weight', .*'inhibition.0.raw_decay'",
        ),
        (lambda t: {}, r"lacks numbers for a head of widths \(48, 16, 3\)"),
        (lambda t: t | {"head.2.bias": torch.zeros(3)}, "holds 'head.2.bias', which no adapter with this config has"),
        (
            lambda t: t | {"head.1.bias": torch.tensor([0.0, torch.nan, 0])},
            "holds NaN or infinite values in 'head.1.bias'",
        ),
        (
            lambda t: t | {"head.1.bias": torch.tensor([0.0, 0, -torch.inf])},
            "holds NaN or infinite values in 'head.1.b",
        ),
        (
            lambda t: t | {"head.1.bias": torch.tensor([0, 0, 1e300], dtype=torch.float64)},
            "has 'head.1.bias' with values that torch.float32 cannot hold",
        ),
    ],
    ids=[
        "wide",
        "one-more-dimension",
        "int",
        "float",
        "missing",
        "no-mask",
        "none",
        "more",
        "nan",
        "infinite",
        "beyond-float32",
    ],
)
def test_tensors_that_are_not_those_of_the_config(change, message, saved):
    forge(saved, tensors=change(load_file(saved / WEIGHTS_FILE)))
    assert_refused(saved, AdapterFileError, message)


def test_everything_that_is_wrong_is_named_at_once(saved):
    tensors = load_file(saved / WEIGHTS_FILE)
    del tensors["head.0.bias"]
    forge(saved, tensors={**tensors, "x": torch.zeros(1), "head.1.bias": torch.zeros(4)})
    assert_refused(
        saved, AdapterFileError, "lacks 'head.0.bias'; holds 'x', .*; has 'head.1.bias' of shape .*Nothing was"
    )


def test_a_few_bytes_cannot_ask_for_all_memory(saved):
    record = json.loads((saved / CONFIG_FILE).read_text("utf-8"))
    forge(saved, config={**record["config"], "hidden_sizes": [1_000_000, 1_000_000]})
    assert_refused(saved, AdapterFileError, r"lacks numbers for a head of widths \(48, 1000000, 1000000, 3\)")


# -- config ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", f"is no JSON: .* {AGAIN}"),
        (b"", "is no JSON"),
        (b"\xff\xfe\xff", "is no JSON"),
        (b"[" * 200_000, "is no JSON"),
        (b"[]", "holds a list where an object was expected"),
        (b'"text"', "holds a str where an object was expected"),
        (b"null", "holds a NoneType where an object was expected"),
        (b" " * (MAX_JSON_BYTES + 1), f"is larger than {MAX_JSON_BYTES} bytes; no config of ours is"),
        (b'{"peft_type": "CIAO", "format_version": ' + b"9" * 5000 + b"}", "is no JSON"),
        (LFS, r"is no JSON \(it is a Git LFS pointer: run `git lfs pull`\)"),
        (PAGE, r"is no JSON \(it is a web page\)"),
        (b"{}", "is of peft_type None; this library reads 'CIAO'"),
        (b'{"peft_type": "LORA"}', "is of peft_type 'LORA'; this library reads 'CIAO'"),
    ],
    ids=[
        "broken",
        "empty",
        "no-text",
        "deep",
        "list",
        "text",
        "null",
        "large",
        "digits",
        "lfs",
        "page",
        "bare",
        "lora",
    ],
)
def test_configs_that_are_none(content, message, saved):
    (saved / CONFIG_FILE).write_bytes(content)
    assert_refused(saved, AdapterConfigError, f"{CONFIG_FILE}' {message}")


SIGNATURE = {"architecture": "x", "weights": [0.0] * 16, "tensors": [1] * 16}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"format_version": FORMAT_VERSION + 1},
            f"has format_version {FORMAT_VERSION + 1}; this version reads up to {FORMAT_VERSION}. Upgrade: pip install",
        ),
        ({"format_version": 0}, "has format_version 0, which is no version"),
        ({"format_version": "1"}, "has format_version '1', which is no version"),
        ({"format_version": True}, "has format_version True, which is no version"),
        ({"format_version": ...}, "has format_version None, which is no version"),
        ({"decay_scale": 2}, "has unknown entries 'decay_scale'; none is ignored, as it could change the mathematics"),
        *(
            ({name: ...}, f"lacks '{name}'")
            for name in ("config", "backbone_signature", "weights_sha256", "input_size")
        ),
        *(
            ({name: 5}, f"has 5 for '{name}', which is of the wrong type")
            for name in ("config", "base_model_name_or_path", "convolutions", "revision", "versions", "training")
        ),
        ({"weights_bytes": True}, "has True for 'weights_bytes', which is of the wrong type"),
        ({"weights_bytes": 1.0}, "has 1.0 for 'weights_bytes', which is of the wrong type"),
        ({"input_size": [3, 16]}, r"has the input_size \[3, 16\]; three whole numbers were expected"),
        ({"input_size": [3, 16, 1.5]}, "has the input_size"),
        ({"input_size": [3, 16, 10**9]}, "has the input_size"),
        *(
            ({"backbone_signature": signature}, "has a backbone_signature that is none")
            for signature in (
                {},
                {**SIGNATURE, "architecture": None},
                {**SIGNATURE, "weights": 5},
                {**SIGNATURE, "weights": {"a": 1}},
                {**SIGNATURE, "weights": [0.0] * 15, "tensors": [1] * 17},
                {**SIGNATURE, "weights": [float("nan")] * 16},
                {**SIGNATURE, "weights": ["0"] * 16},
                {**SIGNATURE, "tensors": [10**400] * 16},
                {**SIGNATURE, "tensors": [[1]] * 16},
            )
        ),
        ({"convolutions": []}, "does not name one convolution for each geometry in 'convolutions'"),
    ],
)
def test_config_entries_that_cannot_be_right(entries, message, saved):
    forge(saved, **entries)
    assert_refused(saved, AdapterConfigError, f"{CONFIG_FILE}' {message}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temprature": 1}, "Unknown setting 'temprature' of CIAOConfig; did you mean 'temperature'"),
        ({"temperature": 0}, "`temperature` must be a number"),
        ({"num_labels": ...}, "CIAOConfig needs 'num_labels'"),
        ({"num_labels": 4}, "`id2label` must name every index from 0 to 3"),
        ({"target_modules": None}, "does not name one convolution for each geometry"),
        ({"target_modules": ["../3"]}, None),
        ({"target_modules": ["0"]}, None),
        ({"target_modules": ["5"]}, None),
    ],
    ids=str,
)
def test_settings_that_cannot_be_right(settings, message, saved):
    record = json.loads((saved / CONFIG_FILE).read_text("utf-8"))
    config = {name: value for name, value in (record["config"] | settings).items() if value is not ...}
    forge(saved, config=config)
    error = AdapterConfigError if message else BackboneMismatchError
    assert_refused(saved, error, message or "has no place on this backbone|sits on convolutions of another geometry")


def test_convolutions_of_another_geometry(saved):
    record = json.loads((saved / CONFIG_FILE).read_text("utf-8"))
    forge(saved, convolutions=[{**record["convolutions"][0], "stride": [2, 2]}])
    assert_refused(saved, BackboneMismatchError, r"sits on convolutions of another geometry: .*'stride': \[2, 2\]")


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"{}", b'{"size": -1}', b'{"crop": 3}', LFS, b'{"size": {"height": 1e999}}'], ids=repr
)
def test_a_damaged_preprocessor_file(content, saved):
    (saved / "preprocessor_config.json").write_bytes(content)
    model = wrap()
    before = state_of(model)
    with pytest.raises(CIAOError):
        model.load_adapter(saved, "new")
    assert state_of(model)["rest"] == before["rest"]


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_missing_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("nowhere", "file"):
        with pytest.raises(CIAOError, match=re.escape(str(tmp_path / name))):
            wrap().load_adapter(tmp_path / name)


def test_a_missing_config(saved):
    (saved / CONFIG_FILE).unlink()
    assert_refused(saved, AdapterFileError, rf"{CONFIG_FILE}' is missing. Files in the folder: .*'{WEIGHTS_FILE}'")


def test_missing_weights(saved):
    (saved / WEIGHTS_FILE).unlink()
    assert_refused(saved, AdapterFileError, f"{WEIGHTS_FILE}' is missing. {AGAIN}")


@pytest.mark.parametrize("missing", [[WEIGHTS_FILE], [WEIGHTS_FILE, CONFIG_FILE]], ids=["weights", "both"])
def test_pickles_are_never_read(missing, saved):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was read",))

    for name in missing:
        (saved / name).unlink()
    (saved / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    assert_refused(saved, AdapterFileError, r"is missing.*Pickled weights \(.bin\) are never read: they can run code")


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_folder_in_place_of_a_file(name, saved):
    (saved / name).unlink()
    (saved / name).mkdir()
    assert_refused(saved, AdapterFileError, f"{name}'? (is missing|cannot be read)")
