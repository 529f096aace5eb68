"""The tensors of a safetensors file: read in place, and refused where they are none."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ciao_peft.errors import AdapterFileError
from ciao_peft.saving.safetensors_file import parse_tensors, read_weights
from helpers.fakes import same_bits, small_config, tiny_backbone, train, wrap

KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
KINDS += [torch.int8, torch.uint8, torch.bool]


def mapped(path):
    content = path.read_bytes()
    return read_weights(path, len(content), hashlib.sha256(content).hexdigest())


def every_kind():
    """Of every dtype a vector, a matrix, one number and nothing at all; of odd sizes, so that some lie askew."""
    numbers = torch.arange(15).view(3, 5) % 2
    return {
        f"{kind}.{name}": tensor.to(kind).clone()
        for kind in KINDS
        for name, tensor in {"a": numbers[0, :3], "b": numbers, "c": numbers[0, 1], "d": numbers[:0]}.items()
    }


@pytest.mark.parametrize("way", ["mapped", "bytes"])
def test_what_safetensors_writes_is_read_as_safetensors_reads_it(way, tmp_path):
    path = tmp_path / "some.safetensors"
    save_file(every_kind(), path, metadata={"format": "pt"})
    found, expected = parse_tensors(mapped(path) if way == "mapped" else path.read_bytes(), path), load_file(path)
    assert {n: (t.dtype, t.shape) for n, t in found.items()} == {n: (t.dtype, t.shape) for n, t in expected.items()}
    assert same_bits(found, expected)


def test_writing_into_mapped_tensors_changes_neither_the_file_nor_other_tensors(tmp_path):
    path = tmp_path / "some.safetensors"
    save_file({"a": torch.zeros(3), "b": torch.zeros(3)}, path)
    before = path.read_bytes()
    one, other = parse_tensors(mapped(path), path), parse_tensors(mapped(path), path)
    one["a"] += 1
    assert one["a"].tolist() == [1, 1, 1]
    assert [t.tolist() for t in (one["b"], other["a"], other["b"])] == [[0, 0, 0]] * 3
    assert path.read_bytes() == before
    places = {t.untyped_storage().data_ptr() for tensors in (one, other) for t in tensors.values()}
    assert len(places) == 4


def test_a_loaded_adapter_outlives_its_folder(tmp_path):
    model = train(wrap(tiny_backbone(), "one")).eval()
    folder = model.save_pretrained(tmp_path / "one")
    model.load_adapter(folder, "two")
    answer = model.read(torch.ones(1, *model.input_size), adapter_names=["two"])["two"]
    model.add_adapter("three", small_config())
    model.save_pretrained(folder, "three")  # moved into the place of what is mapped
    assert torch.equal(model.read(torch.ones(1, *model.input_size), adapter_names=["two"])["two"], answer)
    for file in folder.iterdir():
        file.unlink()
    assert torch.equal(model.read(torch.ones(1, *model.input_size), adapter_names=["two"])["two"], answer)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts the open files of Linux")
def test_adapters_that_are_held_keep_no_file_open(tmp_path):
    model = wrap(tiny_backbone(), "one").eval()
    folder = model.save_pretrained(tmp_path / "one")
    model.load_adapter(folder, "first")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        model.load_adapter(folder, f"more-{number}")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="asks Linux for the pages of the process")
def test_loading_takes_no_memory_for_the_weights_until_they_are_written_to(tmp_path):
    path = tmp_path / "large.safetensors"
    save_file({"large": torch.ones(2**22)}, path)  # 16 MiB
    page = os.sysconf("SC_PAGE_SIZE")

    def own_pages():
        fields = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 // page for line in fields if line.startswith("Anonymous"))

    held = [parse_tensors(mapped(path), path)]
    before = own_pages()
    held += [parse_tensors(mapped(path), path) for _ in range(3)]
    assert (own_pages() - before) * page < 16 * 2**20
    held[0]["large"].zero_()
    assert (own_pages() - before) * page >= 16 * 2**20


def file_of(header, data=bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (file_of({"a": ONE}, bytes(12)), "take 8 bytes where 12 follow the header"),
        (file_of({"a": ONE | {"data_offsets": [4, 12]}}, bytes(12)), "'a' is not where"),
        (file_of({"a": ONE, "b": ONE}), "'b' is not where"),
        (file_of({"a": ONE, "b": ONE | {"data_offsets": [4, 12]}}, bytes(12)), "'b' is not where"),
        (file_of({"a": ONE | {"shape": [3]}}), "'a' is not where"),
        (file_of({"a": ONE | {"shape": [-1, -2]}}), "'a' has a shape or place that is no whole number"),
        (file_of({"a": ONE | {"shape": [2.0]}}), "'a' has a shape or place that is no whole number"),
        (file_of({"a": ONE | {"shape": [True, 2]}}), "'a' has a shape or place that is no whole number"),
        (file_of({"a": ONE | {"dtype": "F3"}}), "'a' is of dtype 'F3'; known are 'BF16'"),
        (file_of(b'{"a": %b, "a": %b}' % ((json.dumps(ONE).encode(),) * 2)), "a name comes twice"),
        (file_of({"a": [0, 8]}), "no valid safetensors file"),
        (file_of({"a": {"data_offsets": [0, 8]}}), "no valid safetensors file"),
        (file_of({"a": ONE | {"data_offsets": [0, 4, 8]}}), "no valid safetensors file"),
        (file_of({"a": ONE | {"shape": 2}}), "no valid safetensors file"),
        (file_of([]), "its header is a list where an object was expected"),
        (file_of({"a": ONE}, torch.tensor([1.0, float("nan")]).numpy().tobytes()), "holds NaN or infinite values"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_bytes_that_are_no_tensors_are_refused(content, message, tmp_path):
    path = tmp_path / "some.safetensors"
    path.write_bytes(content)
    for way in (content, mapped(path)):
        with pytest.raises(AdapterFileError, match=message) as error:
            parse_tensors(way, path)
        assert str(path) in str(error.value)
