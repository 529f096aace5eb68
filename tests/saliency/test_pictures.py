"""Pictures of maps: where the heat lies, what they say, and what cannot be drawn."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ciao_peft import (
    CIAOConfig,
    Preprocessing,
    cache_features,
    draw_saliency,
    get_ciao_model,
    gradcam_plus_plus,
    load_encoder,
    mask_strength,
    saliency_picture,
)
from ciao_peft.data import Expression, Person, View, paint_face
from ciao_peft.errors import (
    AdapterNotFoundError,
    ConfigError,
    InputError,
    MissingExtraError,
)
from helpers.fakes import (
    SIZE,
    bits,
    same_bits,
    small_config,
    tiny_backbone,
    train,
    wrap,
)

PROBLEMS = ("single_label_classification", "regression", "multi_label_classification")


def painted(count: int = 2, size: int = 24) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [paint_face(Person.sample(rng), Expression(mouth_open=0.5), View(), size=size) for _ in range(count)]


def opened(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def with_preprocessing(**changes):
    fed = Preprocessing(size=SIZE[1:], mean=(0.5,) * 3, std=(0.25,) * 3)
    config = CIAOConfig(**{"problem_type": "regression", "num_labels": 2, "hidden_sizes": ()} | changes)
    return get_ciao_model(tiny_backbone(), config, "affect", preprocessing=fed)


def test_a_picture_grows_with_faces_and_worlds():
    pytest.importorskip("matplotlib")
    faces, heat = painted(3), torch.rand(3, 8, 8)
    one = opened(draw_saliency(faces[:1], {"one": heat[:1]}))
    wide = opened(draw_saliency(faces[:1], {"one": heat[:1], "two": heat[:1]}))
    tall = opened(draw_saliency(faces, {"one": heat}))
    assert wide.shape[1] * 2 == one.shape[1] * 3
    assert tall.shape[0] > 2 * one.shape[0]


def test_heat_lies_where_the_map_says():
    pytest.importorskip("matplotlib")
    gray = np.full((16, 16), 128, dtype=np.uint8)
    heat = torch.zeros(1, 4, 4)
    heat[0, :, 2:] = 1
    picture = opened(draw_saliency([gray], {"right": heat})).astype(int)
    middle = picture[picture.shape[0] // 2]
    width = len(middle)
    left, right = middle[int(0.6 * width)], middle[int(0.9 * width)]
    assert np.abs(middle[width // 4] - 128).max() <= 1  # the face itself
    assert np.abs(left - 128).max() <= 1
    assert np.abs(right - 128).max() > 40


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 1), (16, 16, 3)])
def test_faces_may_be_gray_or_in_colour(shape):
    pytest.importorskip("matplotlib")
    opened(draw_saliency([np.zeros(shape, dtype=np.uint8)], {"constant": torch.ones(1, 4, 4)}))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "La", "P", "PA", "1", "CMYK", "YCbCr", "I;16"])
def test_a_white_pil_image_is_drawn_white_whatever_its_mode(mode):
    pytest.importorskip("matplotlib")
    white = Image.new("RGB", (16, 16), "white")
    if mode == "P":
        face = Image.new("P", (16, 16), 1)
        face.putpalette([0, 0, 0, 255, 255, 255])
    elif mode == "I;16":
        face = Image.new("I;16", (16, 16), 65535)
    else:
        face = white.convert("LA").convert(mode) if mode in ("La", "PA") else white.convert(mode)
    maps = {"constant": torch.ones(1, 4, 4)}
    assert face.mode == mode
    assert draw_saliency([face], maps) == draw_saliency([np.full((16, 16, 3), 255, dtype=np.uint8)], maps)


def test_a_pil_image_is_drawn_upright():
    pytest.importorskip("matplotlib")
    face = painted(1)[0]
    sideways, exif = face.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    file = io.BytesIO()
    sideways.save(file, "PNG", exif=exif)
    maps = {"ramp": torch.linspace(0, 1, 16).reshape(1, 4, 4)}
    with Image.open(file) as opened_again:
        assert draw_saliency([opened_again], maps) == draw_saliency([face], maps)


@pytest.mark.parametrize(
    ("faces", "maps", "captions", "message"),
    [
        (0, {"one": torch.rand(0, 4, 4)}, None, "nothing to draw: 0 faces, 1 maps"),
        (2, {}, None, "nothing to draw: 2 faces, 0 maps"),
        (2, {"one": torch.rand(3, 4, 4)}, None, r"'one' must be \(2, H, W\).*got \(3, 4, 4\)"),
        (2, {"one": torch.full((2, 4, 4), float("nan"))}, None, "finite"),
        (2, {"one": torch.rand(2, 4, 4)}, {"one": ["glad"]}, "got 1 under 'one'"),
        (2, {"one": torch.rand(2, 4, 4)}, {"two": ["glad", "sad"]}, "under a title of 'one'; got 2 under 'two'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(faces, maps, captions, message):
    with pytest.raises(InputError, match=message):
        draw_saliency(painted(faces), maps, captions=captions)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_picture_of_a_model_goes_onto_its_card(problem, tmp_path):
    pytest.importorskip("matplotlib")
    model = with_preprocessing(problem_type=problem)
    png = saliency_picture(model, painted(), views=("saliency", "mask"))
    folder = model.save_pretrained(tmp_path / "affect", picture=png)
    assert (folder / "saliency.png").read_bytes() == png
    assert "](saliency.png)" in (folder / "README.md").read_text("utf-8")


def test_the_picture_shows_every_world_and_only_masks_there_are(monkeypatch):
    model = with_preprocessing()
    model.add_adapter("plain", CIAOConfig(problem_type="regression", num_labels=1, inhibition=False))
    drawn = {}
    monkeypatch.setattr("ciao_peft.saliency.pictures.draw_saliency", lambda faces, maps, **_: drawn.update(maps))
    saliency_picture(model, painted())
    assert list(drawn) == ["affect", "plain"]
    for name, shown in drawn.items():
        assert torch.equal(shown, gradcam_plus_plus(model, model.preprocessing(painted()), adapter_name=name))
    drawn.clear()
    saliency_picture(model, painted(), views=("saliency", "mask"))
    assert list(drawn) == ["affect: saliency", "affect: mask", "plain: saliency"]


def test_captions_say_what_the_model_says(monkeypatch):
    model, faces, said = with_preprocessing(), painted(), {}
    monkeypatch.setattr(
        "ciao_peft.saliency.pictures.draw_saliency", lambda faces, maps, captions, **_: said.update(captions)
    )
    saliency_picture(model, faces)
    answers = model.eval().predict(faces)
    for caption, answer in zip(said["affect"], answers, strict=True):
        assert sorted(caption.split("\n")) == sorted(f"{name} {value:+.2f}" for name, value in answer.items())


SIX = {
    f"{tuning}{' + CIAO' * inhibition}": {"tuning": tuning, "inhibition": inhibition}
    for tuning in ("decision_layer", "last_conv", "full")
    for inhibition in (False, True)
}


def six_networks():
    """The columns of the paper's Table I as adapters of one model, by title, each after a few updates."""
    model = with_preprocessing()
    names = {title: f"network{number}" for number, title in enumerate(SIX)}
    for title, name in names.items():
        model.add_adapter(name, small_config(**SIX[title]))
        train(model, name)
    model.set_adapter("network0")
    return model.eval(), names


@pytest.mark.parametrize("include_excitation", [False, True])
def test_the_papers_networks_are_drawn_from_stored_features(tmp_path, monkeypatch, include_excitation):
    model, names = six_networks()
    faces, drawn = painted(3), {}
    samples = [{"pixel_values": pixels, "labels": 0} for pixels in model.preprocessing(faces)]
    stored = cache_features(model, samples, tmp_path, include_excitation=include_excitation).features([2, 0])
    shown = [faces[2], faces[0]]
    monkeypatch.setattr("ciao_peft.saliency.pictures.draw_saliency", lambda faces, maps, **_: drawn.update(maps))
    saliency_picture(model, shown, names, views=("saliency", "mask"), features=stored)
    masked = [title for title in SIX if title.endswith("CIAO")]
    assert sorted(drawn) == sorted([f"{title}: saliency" for title in SIX] + [f"{title}: mask" for title in masked])
    x = model.preprocessing(shown)
    for title, name in names.items():
        expected = gradcam_plus_plus(model, x, adapter_name=name)
        torch.testing.assert_close(drawn[f"{title}: saliency"], expected, rtol=1e-4, atol=1e-4)
        if title in masked:
            torch.testing.assert_close(drawn[f"{title}: mask"], mask_strength(model, x, adapter_name=name))

    def never(*_):
        raise AssertionError("the trunk would run again")

    monkeypatch.setattr(Preprocessing, "__call__", never)
    frozen = {title: name for title, name in names.items() if not title.startswith("full")}
    saliency_picture(model, shown, frozen, features=stored)
    with pytest.raises(AssertionError, match="would run again"):  # an encoder of its own reads the pictures
        saliency_picture(model, shown, names, features=stored)


def test_the_figure_of_six_networks_has_a_column_for_each(tmp_path):
    pytest.importorskip("matplotlib")
    model, names = six_networks()
    before = bits(model)
    picture = opened(saliency_picture(model, painted(), names, views=("saliency", "mask"), names=["glad", "sad"]))
    alone = opened(saliency_picture(model, painted(), {"one": "network0"}, names=["glad", "sad"]))
    assert picture.shape[1] * 2 == alone.shape[1] * (1 + 6 + 3)
    assert same_bits(bits(model), before)


def test_the_bar_below_goes_from_the_dark_to_the_bright_end_of_the_colours():
    pytest.importorskip("matplotlib")
    from matplotlib import colormaps

    picture = opened(draw_saliency([np.zeros((16, 16), dtype=np.uint8)], {"heat": torch.zeros(1, 4, 4)})).astype(int)
    colours = (255 * colormaps["inferno"](np.linspace(0, 1, 9))[:, :3]).round().astype(int)
    row = picture[-17]  # 0.16 inches above the lower edge
    places = [np.abs(row - colour).sum(axis=1).argmin() for colour in colours[1:]]
    assert places == sorted(places)
    assert all(np.abs(row[place] - colour).max() < 12 for place, colour in zip(places, colours[1:], strict=True))


def test_features_and_names_are_one_for_each_picture():
    model = with_preprocessing()
    features = model.extract_features(model.preprocessing(painted(3)))
    with pytest.raises(InputError, match="`features` must have a row for each of the 2 images; got 3"):
        saliency_picture(model, painted(2), features=features)
    with pytest.raises(InputError, match="`names` must be 2 texts, one for each face; got 1"):
        draw_saliency(painted(2), {"one": torch.rand(2, 4, 4)}, names=["glad"])


def test_a_picture_of_what_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match="`views` knows 'mask', 'saliency'; got 'heat'"):
        saliency_picture(with_preprocessing(), painted(), views=("heat",))
    with pytest.raises(InputError, match="give `preprocessing="):
        saliency_picture(wrap(), painted())
    with pytest.raises(AdapterNotFoundError, match="'gone'"):
        saliency_picture(with_preprocessing(), painted(), ["gone"])


def test_a_single_picture_is_one_row_however_it_is_given(tmp_path):
    pytest.importorskip("matplotlib")
    model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=1))
    face = paint_face(seed=1)
    face.save(tmp_path / "a.png")
    expected = saliency_picture(model, [face])
    for one in (face, str(tmp_path / "a.png"), tmp_path / "a.png", np.asarray(face)):
        assert saliency_picture(model, one) == expected


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"A picture needs matplotlib: pip install 'ciao_peft\[plots\]'"):
        draw_saliency([np.zeros((8, 8), dtype=np.uint8)], {"one": torch.ones(1, 4, 4)})
