"""Files of VGG16 weights, written in foreign layouts from one network, all become that network again."""

from __future__ import annotations

import itertools
import json
import pickle
import re
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ciao_peft import load_encoder
from ciao_peft.cli import main
from ciao_peft.encoders import conversion, convert_encoder
from ciao_peft.errors import AdapterFileError, ConfigError
from helpers.places import DOCS

UNITS = ["1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3"]
IMAGENET_RGB = np.float32([123.68, 116.779, 103.939])  # what Keras subtracts for VGG16, in BGR there


@pytest.fixture(scope="module")
def network():
    """torchvision's own VGG16 convolutions, fed RGB; biases that matter."""
    from torchvision.models import vgg16

    torch.manual_seed(1)
    features = vgg16(weights=None).features.eval()
    for layer in features.children():
        if isinstance(layer, nn.Conv2d):
            nn.init.uniform_(layer.bias, -0.1, 0.1)
    return features


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(3).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def convolutions(network):
    return [layer for layer in network if isinstance(layer, nn.Conv2d)]


def expected(network, picture, mean, std=1.0):
    """Its answer to a picture: RGB pixels without their mean."""
    values = (picture.astype(np.float32) - np.float32(mean)) / np.float32(std)
    with torch.no_grad():
        return network(torch.from_numpy(values).permute(2, 0, 1)[None]).flatten(1)


def answer(folder, picture):
    encoder = load_encoder("vggface2", weights=folder)
    with torch.no_grad():
        return encoder(encoder.preprocessing(picture))


def write_keras(network, path, name_of):
    """As Keras saves it: kernels height x width x in x out, and a first convolution that wants BGR."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for number, layer in enumerate(convolutions(network)):
            kernel, bias = layer.weight.detach(), layer.bias.detach()
            if number == 0:
                kernel = kernel[:, [2, 1, 0]]
            kernel_name, bias_name = name_of(UNITS[number])
            file[kernel_name], file[bias_name] = kernel.numpy().transpose(2, 3, 1, 0), bias.numpy()
        file["predictions/predictions/kernel:0"] = np.zeros((8, 2), np.float32)


def tf2(unit):
    layer = f"block{unit[0]}_conv{unit[2]}"
    return f"{layer}/{layer}/kernel:0", f"{layer}/{layer}/bias:0"


def inside_a_whole_model(unit):
    return tuple(f"model_weights/vgg16/{name.split('/', 1)[1]}" for name in tf2(unit))


def keras1(unit):
    layer = f"block{unit[0]}_conv{unit[2]}"
    return f"{layer}/{layer}_W_1:0", f"{layer}/{layer}_b_1:0"


def keras3(unit):
    """Of `save_weights` in Keras 3: no names of layers, but convolutions counted from the first to the last."""
    number = UNITS.index(unit)
    layer = f"layers/conv2d_{number}" if number else "layers/conv2d"
    return f"{layer}/vars/0", f"{layer}/vars/1"


def keras3_legacy(unit):
    layer = f"block{unit[0]}_conv{unit[2]}"
    return f"model_weights/{layer}/{layer}/kernel", f"model_weights/{layer}/{layer}/bias"


def vggface_names(unit):
    return f"conv{unit}/conv{unit}/kernel:0", f"conv{unit}/conv{unit}/bias:0"


@pytest.mark.parametrize("prefix", ["", "module."])
def test_torchvisions_state_dict(prefix, network, picture, tmp_path):
    state = {f"{prefix}features.{key}": value for key, value in network.state_dict().items()}
    state[f"{prefix}classifier.0.weight"] = torch.zeros(4, 4)
    torch.save({"state_dict": state} if prefix else state, tmp_path / "vgg16.pth")
    folder = convert_encoder(tmp_path / "vgg16.pth", tmp_path / "mine")
    mean, std = np.float32([0.485, 0.456, 0.406]) * 255, np.float32([0.229, 0.224, 0.225]) * 255
    torch.testing.assert_close(answer(folder, picture), expected(network, picture, mean, std), atol=1e-4, rtol=1e-3)
    record = json.loads((folder / "config.json").read_text())["training"]["converted_from"]
    assert record["left_out"] == [f"{prefix}classifier.0.weight"]
    assert (record["file"], record["layout"], record["channel_order"]) == ("vgg16.pth", "torchvision", "rgb")


@pytest.mark.parametrize("name_of", [tf2, inside_a_whole_model, keras1, keras3, keras3_legacy])
def test_keras_vgg16(name_of, network, picture, tmp_path):
    write_keras(network, tmp_path / "vgg16.h5", name_of)
    folder = convert_encoder(tmp_path / "vgg16.h5", tmp_path / "mine")
    torch.testing.assert_close(answer(folder, picture), expected(network, picture, IMAGENET_RGB), atol=1e-2, rtol=1e-3)
    # Byte for byte the same numbers, whatever way they came.
    for layer, other in zip(convolutions(network), convolutions(load_encoder(folder).chain), strict=True):
        assert torch.equal(layer.weight, other.weight)
        assert torch.equal(layer.bias, other.bias)


def small_keras(path, change=lambda file, name: None):
    """Every convolution by name, each of four numbers: enough to be read, too little to be VGG16."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for unit in UNITS:
            for name in tf2(unit):
                file[name] = np.zeros(4, np.float32)
        file["predictions/predictions/kernel:0"] = np.zeros(4, np.float32)
        name = tf2("3_2")[1]
        del file[name]
        change(file, name)


def in_another_file(file, name):
    path = file.filename.replace("mine.h5", "secret.bin")
    np.arange(4, dtype=np.float32).tofile(path)
    file.create_dataset(name, (4,), "f4", external=[(path, 0, 16)])


def in_another_hdf5_file(file, name):
    import h5py

    path = file.filename.replace("mine.h5", "secret.h5")
    with h5py.File(path, "w") as other:
        other["numbers"] = np.arange(4, dtype=np.float32)
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(path, "numbers", (4,))
    file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("where", [in_another_file, in_another_hdf5_file])
def test_an_hdf5_file_pulls_in_no_other_file(where, tmp_path):
    small_keras(tmp_path / "mine.h5", where)
    with pytest.raises(AdapterFileError, match=r"keeps the numbers of 'block3_conv2/.*bias:0' in other files, which"):
        convert_encoder(tmp_path / "mine.h5", tmp_path / "mine")


@pytest.mark.parametrize("shape", [(10**13,), (2**32, 2**32), (512 * 512 * 9 + 1,)], ids=["40 TB", "2^64", "+1"])
def test_an_hdf5_file_that_says_more_numbers_than_vgg16s_is_refused_unread(shape, tmp_path):
    small_keras(tmp_path / "mine.h5", lambda file, name: file.create_dataset(name, shape, "f4", chunks=True))
    assert (tmp_path / "mine.h5").stat().st_size < 200_000
    with pytest.raises(AdapterFileError, match=r"block3_conv2/.*bias:0' has shape .* largest kernel has 2,359,296"):
        convert_encoder(tmp_path / "mine.h5", tmp_path / "mine")


def test_an_hdf5_chunk_larger_than_what_is_taken_from_it_is_refused_unread(tmp_path):
    def huge_chunk(file, name):
        file.create_dataset(name, (4,), "f4", maxshape=(None,), chunks=(10**9,), fillvalue=1)

    small_keras(tmp_path / "mine.h5", huge_chunk)
    with pytest.raises(AdapterFileError, match="largest kernel has 2,359,296 numbers"):
        convert_encoder(tmp_path / "mine.h5", tmp_path / "mine")


def test_of_the_dense_layers_in_an_hdf5_file_only_the_names_are_kept(network, tmp_path):
    h5py = pytest.importorskip("h5py")
    write_keras(network, tmp_path / "vgg16.h5", tf2)
    with h5py.File(tmp_path / "vgg16.h5", "a") as file:
        file.create_dataset("fc1/fc1/kernel:0", (10**13,), "f4", chunks=(1000,))
    folder = convert_encoder(tmp_path / "vgg16.h5", tmp_path / "mine")
    record = json.loads((folder / "config.json").read_text())["training"]["converted_from"]
    assert record["left_out"] == ["fc1/fc1/kernel:0", "predictions/predictions/kernel:0"]


def test_kernels_of_four_numbers_are_no_vgg16(tmp_path):
    small_keras(tmp_path / "mine.h5", lambda file, name: file.create_dataset(name, (4,), "f4"))
    with pytest.raises(AdapterFileError, match=r"is no VGG16: chain\.0\.weight would have 1 axes, must have 4"):
        convert_encoder(tmp_path / "mine.h5", tmp_path / "mine")


def test_a_keras_archive(network, tmp_path):
    write_keras(network, tmp_path / "vgg16.weights.h5", keras3)
    with zipfile.ZipFile(tmp_path / "vgg16.keras", "w") as archive:
        archive.writestr("config.json", '{"module": "os", "class_name": "system"}')
        archive.write(tmp_path / "vgg16.weights.h5", "model.weights.h5")
    one, two = (
        convert_encoder(tmp_path / f"vgg16.{kind}", tmp_path / kind).joinpath("model.safetensors").read_bytes()
        for kind in ("keras", "weights.h5")
    )
    assert one == two


@pytest.mark.parametrize("damage", ["no archive", "no weights", "weights damaged"])
def test_a_damaged_keras_archive_is_refused(damage, tmp_path):
    path = tmp_path / "vgg16.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        if damage == "weights damaged":
            archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n and no more")
    if damage == "no archive":
        path.write_bytes(b"nothing of the kind")
    with pytest.raises(AdapterFileError, match=r"vgg16\.keras' cannot be read as (a model of Keras|HDF5)"):
        convert_encoder(path, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_a_deeper_sibling_in_keras_3_is_no_vgg16(tmp_path):
    h5py = pytest.importorskip("h5py")
    widths = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8]  # VGG19
    with h5py.File(tmp_path / "vgg19.weights.h5", "w") as file:
        for number, (before, after) in enumerate(itertools.pairwise(widths)):
            layer = f"layers/conv2d_{number}" if number else "layers/conv2d"
            file[f"{layer}/vars/0"] = np.zeros((3, 3, before, after), np.float32)
            file[f"{layer}/vars/1"] = np.zeros(after, np.float32)
    with pytest.raises(AdapterFileError, match=r"is no VGG16: chain\.17\.weight would be \(256, 256, 3, 3\)"):
        convert_encoder(tmp_path / "vgg19.weights.h5", tmp_path / "mine")


def test_keras_vggface_with_the_means_of_faces(network, picture, tmp_path):
    write_keras(network, tmp_path / "vggface.h5", vggface_names)
    folder = convert_encoder(tmp_path / "vggface.h5", tmp_path / "mine", layout="keras")
    mean = [129.1863, 104.7624, 93.5940]
    torch.testing.assert_close(answer(folder, picture), expected(network, picture, mean), atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("name", ["conv{}.{}", "conv_{}.{}"])
def test_vggface_in_pytorch(order, name, network, picture, tmp_path):
    from safetensors.torch import save_file

    state = {}
    for unit, layer in zip(UNITS, convolutions(network), strict=True):
        for part in ("weight", "bias"):
            state[name.format(unit, part)] = getattr(layer, part).detach().clone()
    if order == "bgr":
        first = name.format("1_1", "weight")
        state[first] = state[first].flip(1).contiguous()
    save_file(state, tmp_path / "vggface.safetensors")
    with pytest.raises(ConfigError, match="does not say whether its network was fed RGB or BGR"):
        convert_encoder(tmp_path / "vggface.safetensors", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    mean = [131.0912, 103.8827, 91.4953]
    folder = convert_encoder(tmp_path / "vggface.safetensors", tmp_path / "mine", channel_order=order, mean=mean)
    torch.testing.assert_close(answer(folder, picture), expected(network, picture, mean), atol=1e-2, rtol=1e-3)


def test_torchvisions_other_file_of_the_same_names_is_fed_by_the_mean_and_deviation_given(network, picture, tmp_path):
    from torchvision.models import VGG16_Weights

    path = tmp_path / Path(VGG16_Weights.IMAGENET1K_FEATURES.url).name
    torch.save({f"features.{key}": value for key, value in network.state_dict().items()}, path)
    page = (DOCS / "encoders.md").read_text(encoding="utf-8")
    _, _, options = page.partition(f"ciao convert-encoder {path.name} runs/vggface2 ")
    assert main(["convert-encoder", str(path), str(tmp_path / "mine"), *options.splitlines()[0].split()]) == 0
    theirs = VGG16_Weights.IMAGENET1K_FEATURES.transforms()
    preprocessing = load_encoder(tmp_path / "mine").preprocessing
    assert preprocessing.mean == pytest.approx(theirs.mean, rel=1e-6)
    assert preprocessing.std == pytest.approx(theirs.std, rel=1e-6)
    mean, std = (np.float32(values) * 255 for values in (theirs.mean, theirs.std))
    answers = answer(tmp_path / "mine", picture), expected(network, picture, mean, std)
    torch.testing.assert_close(*answers, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "values", "least"),
    [
        ("mean", [0.485, 0.456], 0),
        ("mean", [-1, 0, 0], 0),
        ("mean", [float("nan")] * 3, 0),
        ("std", [1, 1, 256], 1),
        ("std", [0.229, 0.224, 0.225], 1),  # of pixels between 0 and 1
        ("std", [1 / 255] * 3, 1),
        ("std", [1, 1, float("nan")], 1),
    ],
)
def test_a_mean_or_deviation_that_no_pixels_from_0_to_255_have_is_refused(name, values, least, network, tmp_path):
    torch.save({f"features.{key}": value for key, value in network.state_dict().items()}, tmp_path / "vgg16.pth")
    with pytest.raises(ConfigError, match=rf"`{name}` must be red, green and blue from {least} to 255.*got \["):
        convert_encoder(tmp_path / "vgg16.pth", tmp_path / "mine", **{name: values})
    assert not (tmp_path / "mine").exists()


def test_on_the_command_line(network, tmp_path, capsys):
    torch.save({f"features.{key}": value for key, value in network.state_dict().items()}, tmp_path / "vgg16.pth")
    assert main(["convert-encoder", str(tmp_path / "vgg16.pth"), str(tmp_path / "mine")]) == 0
    told = capsys.readouterr().out
    assert "torchvision" in told
    assert "minus 123.675 116.28 103.53, divided by 58.395 57.12 57.375" in told
    assert load_encoder(tmp_path / "mine").encoder_type == "vggface2"
    assert main(["convert-encoder", str(tmp_path / "nothing.pth"), str(tmp_path / "other")]) == 1
    assert "nothing.pth' is missing" in capsys.readouterr().err


class Command:
    def __reduce__(self):
        return (open, ("ran.txt", "w"))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": Command()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Command(), protocol=2))
    for name in ("evil.pth", "plain.pkl"):
        with pytest.raises(AdapterFileError, match="no state dict that can be read without running code"):
            convert_encoder(tmp_path / name, tmp_path / "mine")
    assert not (tmp_path / "ran.txt").exists()
    assert not (tmp_path / "mine").exists()


DAMAGED = {
    "empty": b"",
    "text": b"hello",
    "a page": b"<!DOCTYPE html>",
    "an archive cut off": b"PK\x03\x04",
    "a pickle cut off": b"\x80\x02}q\x00",
    "a pickle of nothing": b"\x80\x02.",
    "None": b"\x80\x02N.",
    "attributes of None": b"\x80\x02N}b.",
    "an entry in None": b"\x80\x02NNNs.",
    "a text of 2 GB that is not there": b"\x80\x02X\xff\xff\xff\x7f",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=list(DAMAGED))
def test_whatever_bytes_are_no_state_dict_the_error_says_so(content, tmp_path, capsys):
    (tmp_path / "vgg.pth").write_bytes(content)
    assert main(["convert-encoder", str(tmp_path / "vgg.pth"), str(tmp_path / "mine")]) == 1
    told = capsys.readouterr().err
    assert re.search(r"vgg\.pth' (is (empty, cut off, damaged|no state dict)|holds \w+, not a state dict)", told)
    named = r"[A-Z]\w+Error\b|BadZipFile|holds NoneType"  # a KeyError's own text is a number, an EOFError's nothing
    assert re.search(named, told)
    assert not (tmp_path / "mine").exists()


def test_a_state_dict_cut_off_anywhere_is_refused(tmp_path):
    torch.save({"features.0.bias": torch.zeros(64)}, tmp_path / "whole.pth")
    torch.save({"features.0.bias": torch.zeros(64)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("whole.pth", "old.pth"):
        content = (tmp_path / name).read_bytes()
        for end in range(0, len(content), len(content) // 60):
            (tmp_path / "cut.pth").write_bytes(content[:end])
            with pytest.raises(AdapterFileError, match=r"cut\.pth' (is empty, cut off|is no state dict|holds)"):
                convert_encoder(tmp_path / "cut.pth", tmp_path / "mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.28.weight": torch.zeros(512, 512, 5, 5)}, r"is no VGG16: chain\.28\.weight would be .*5, 5"),
        ({"features.5.bias": torch.full((128,), torch.nan)}, r"NaN or infinite values in what becomes chain\.5\.bias"),
        ({"features.28.bias": None}, r"is in layout 'torchvision', but lacks 'conv5_3\.bias'"),
        ({"other.features.0.weight": torch.zeros(64, 3, 3, 3)}, "holds two networks"),
    ],
)
def test_what_is_no_vgg16_is_refused(change, message, network, tmp_path):
    state = {f"features.{key}": value for key, value in network.state_dict().items()} | change
    torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "vgg.pth")
    with pytest.raises(AdapterFileError, match=message):
        convert_encoder(tmp_path / "vgg.pth", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_a_file_of_something_else_is_answered_with_what_it_holds_and_what_is_known(tmp_path):
    torch.save({"layer1.weight": torch.zeros(2)}, tmp_path / "resnet.pth")
    with pytest.raises(AdapterFileError, match=r"in no layout known here\. It holds 'layer1\.weight'\. Known are"):
        convert_encoder(tmp_path / "resnet.pth", tmp_path / "mine")
    with pytest.raises(ConfigError, match=r"`layout` must be one of 'auto', 'keras'.*got 'caffe'"):
        convert_encoder(tmp_path / "resnet.pth", tmp_path / "mine", layout="caffe")


def test_without_h5py_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "vgg.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ConfigError, match=r"needs h5py: pip install 'ciao_peft\[convert\]'"):
        convert_encoder(tmp_path / "vgg.h5", tmp_path / "mine")


def test_a_conversion_that_changes_the_answers_writes_nothing(network, tmp_path, monkeypatch):
    torch.save({f"features.{key}": value for key, value in network.state_dict().items()}, tmp_path / "vgg.pth")
    forward = conversion._source_forward
    monkeypatch.setattr(conversion, "_source_forward", lambda source, picture: forward(source, picture[:, :, ::-1]))
    with pytest.raises(AdapterFileError, match="answers differ from the source's by"):
        convert_encoder(tmp_path / "vgg.pth", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_an_archive_that_unpacks_to_many_times_its_size_is_refused_early(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n" + bytes(20_000_000))
    tracemalloc.start()
    with pytest.raises(AdapterFileError, match=r"bomb\.keras' cannot be read as a model of Keras: .*too many to read"):
        convert_encoder(tmp_path / "bomb.keras", tmp_path / "mine")
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["pt", "safetensors", "h5", "keras"])
def test_a_hole_is_refused_unread(kind, tmp_path, monkeypatch):
    with (tmp_path / f"hole.{kind}").open("wb") as file:
        file.truncate(2**30)
    monkeypatch.setattr("ciao_peft.encoders.conversion.read_file", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(AdapterFileError, match="it begins with zeros"):
        convert_encoder(tmp_path / f"hole.{kind}", tmp_path / "mine")


def test_a_conversion_moves_no_random_state(network, tmp_path):
    torch.save({f"features.{key}": value for key, value in network.state_dict().items()}, tmp_path / "vgg16.pt")
    before = torch.get_rng_state()
    convert_encoder(tmp_path / "vgg16.pt", tmp_path / "mine")
    assert torch.equal(torch.get_rng_state(), before)
