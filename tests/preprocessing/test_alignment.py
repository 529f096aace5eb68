"""Alignment is a part of the preprocessing: the same in training and reading, stored, and refused where it differs."""

from __future__ import annotations

import io
import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from ciao_peft import (
    AutoCIAOModel,
    CIAOConfig,
    CIAOModel,
    CIAOTrainer,
    CIAOTrainingArguments,
    Preprocessing,
    cache_features,
    get_ciao_model,
    load_encoder,
)
from ciao_peft.errors import BackboneMismatchError, ConfigError, DataError, FeatureCacheError
from ciao_peft.preprocessing import Alignment, face_chip, five_points
from ciao_peft.preprocessing.alignment import mark_of
from helpers.drawn import drawn_face

CONFIG = CIAOConfig(problem_type="single_label_classification", num_labels=2, pooling="avg", hidden_sizes=())


def nobody(pixels):
    return None


def somebody(pixels):
    return five_points(pixels, (0, 0, pixels.shape[1], pixels.shape[0]))


def narrow_model(align, **settings):
    torch.manual_seed(0)
    encoder = load_encoder("dlib-face", pretrained=False, levels=2, widths=[4, 8], blocks=[1, 1], **settings).eval()
    return get_ciao_model(encoder, CONFIG, preprocessing=encoder.preprocessing.replace(align=align))


@pytest.fixture
def faces():
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as Images

    rows = {"image": [Image.fromarray(drawn_face(96, seed)) for seed in range(8)], "label": [0, 1] * 4}
    return Dataset.from_dict(rows, features=Features({"image": Images(), "label": ClassLabel(names=["no", "yes"])}))


def test_aligned_pixels_are_those_of_the_chip():
    picture = drawn_face(96, 1)
    preprocessing = Preprocessing(size=(64, 64), align="five-points")
    chip = face_chip(Image.fromarray(picture), five_points(picture, (0, 0, 96, 96)))
    assert torch.equal(preprocessing(picture), Preprocessing(size=(64, 64))(chip))
    assert not torch.equal(preprocessing(picture), Preprocessing(size=(64, 64))(picture))


def test_turned_faces_come_to_lie_in_the_same_way():
    picture = Image.fromarray(drawn_face(240, 3)).convert("RGB")
    turned = picture.rotate(12, Image.Resampling.BICUBIC, fillcolor=(70, 80, 100))
    aligned, plain = Preprocessing(size=(64, 64), align="five-points"), Preprocessing(size=(64, 64))
    middle = np.s_[:, :, 12:52, 12:52]
    moved = (plain(picture) - plain(turned))[middle].abs().mean()
    assert (aligned(picture) - aligned(turned))[middle].abs().mean() < 0.7 * moved


@pytest.mark.parametrize("mode", ["RGB", "BGR", "L"])
@pytest.mark.parametrize("kind", ["L", "RGBA", "P", "CMYK"])
def test_pictures_of_every_kind_are_aligned(mode, kind):
    channels = 1 if mode == "L" else 3
    preprocessing = Preprocessing(mode=mode, mean=(0.5,) * channels, std=(0.5,) * channels, align=Alignment(size=48))
    pixels = preprocessing(Image.fromarray(drawn_face(96, 2)).convert(kind))
    assert pixels.shape == (1, channels, 64, 64) and pixels.std() > 0.05


def test_the_settings_survive_as_plain_data():
    preprocessing = Preprocessing(align=Alignment(size=96, padding=0.4, missing="error"))
    data = json.loads(json.dumps(preprocessing.to_dict()))
    assert data["align"] == {"landmarks": "five-points", "size": 96, "padding": 0.4, "missing": "error"}
    assert Preprocessing.from_dict(data) == preprocessing == pickle.loads(pickle.dumps(preprocessing))
    assert hash(Preprocessing.from_dict(data)) == hash(preprocessing)
    assert Preprocessing(align="five-points") == Preprocessing(align=Alignment()) != Preprocessing()
    assert "align" not in Preprocessing().to_dict()  # as it was written before there was alignment


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"align": "eyes"}, "`align` must be None, 'five-points', a function"),
        ({"align": True}, "`align` must be None"),
        ({"align": {"size": 150}}, "`align` must be None"),
        ({"align": lambda pixels: None}, "needs a name"),
    ],
)
def test_an_alignment_that_is_none_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Preprocessing(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 15}, "`size` of a chip must be a whole number from 16 to 1024"),
        ({"size": 1e9}, "`size` of a chip must be"),
        ({"padding": -0.1}, "`padding` must be a number from 0 to 1"),
        ({"padding": float("nan")}, "`padding` must be"),
        ({"missing": "skip"}, "missing"),
        ({"landmarks": "68-points"}, "`landmarks` must be 'five-points' or a function; got '68-points'"),
        ({"landmarks": 5}, "`landmarks` must be"),
        ({"landmarks": "own:"}, "`landmarks` must be"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Alignment(**settings)
    data = {**Alignment().to_dict(), **settings}
    with pytest.raises(ConfigError, match=message):
        Preprocessing.from_dict({**Preprocessing().to_dict(), "align": data})


@pytest.mark.parametrize("data", [None, "five-points", {}, {**Alignment().to_dict(), "turn": True}])
def test_a_file_with_another_alignment_than_it_can_have_is_refused(data):
    with pytest.raises(ConfigError):
        Preprocessing.from_dict({**Preprocessing().to_dict(), "align": data})


# -- faces that are not found ------------------------------------------------------------------------------------------


def test_a_picture_without_landmarks_is_used_whole_and_counted():
    preprocessing = Preprocessing(align=Alignment(landmarks=nobody))
    pictures = [drawn_face(96, seed) for seed in range(5)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pixels = preprocessing(pictures)
    assert torch.equal(pixels, Preprocessing()(pictures))
    said = [str(warning.message) for warning in caught]
    assert [text.split(" were")[0] + text.split("found")[1][:12] for text in said] == [
        "No landmarks in 1 of 1 p",
        "No landmarks in 2 of 2 p",
        "No landmarks in 4 of 4 p",
    ]
    assert (preprocessing.align.count.missed, preprocessing.align.count.seen) == (5, 5)


def test_a_picture_without_landmarks_is_an_error_where_one_asks_for_it():
    preprocessing = Preprocessing(align=Alignment(landmarks=nobody, missing="error"))
    with pytest.raises(DataError, match="Picture 0 of 2: No landmarks of a face were found"):
        preprocessing([drawn_face(96), drawn_face(96)])


@pytest.mark.parametrize(
    "points", [np.full((5, 2), np.nan), np.full((5, 2), 3.0), np.full((5, 2), 1e12)], ids=["nan", "one place", "far"]
)
def test_landmarks_that_make_no_face_are_none(points):
    def find(pixels):
        return points

    with pytest.raises(DataError, match="No landmarks"):
        Alignment(landmarks=find, missing="error")(Image.fromarray(drawn_face(96)))


def test_a_picture_of_one_row_has_no_landmarks():
    with pytest.raises(DataError, match="No landmarks"):
        Alignment(missing="error")(Image.new("RGB", (40, 1)))


def test_a_function_must_give_five_points():
    def find(pixels):
        return np.zeros((68, 2))

    with pytest.raises(DataError, match=r"'own:find' must give landmarks of shape \(5, 2\) or None; gave \(68, 2\)"):
        Alignment(landmarks=find)(Image.fromarray(drawn_face(96)))


@pytest.mark.parametrize("given", ["abc", [[1, 2], [3]], {}, [[10**400, 1]] * 5, torch.zeros(5, 2, requires_grad=True)])
def test_what_are_no_numbers_are_no_landmarks(given):
    def find(pixels):
        return given

    with pytest.raises(DataError, match=r"'own:find' must give landmarks of shape \(5, 2\) or None; gave"):
        Alignment(landmarks=find)(Image.fromarray(drawn_face(96)))


def test_a_function_of_ones_own_is_stored_by_name_and_must_be_given_again():
    mine = Preprocessing(align=somebody)
    again = Preprocessing.from_dict(mine.to_dict())
    assert again == mine and again.align.landmarks == "own:somebody"
    with pytest.raises(ConfigError, match="'own:somebody', which is not stored"):
        again(drawn_face(96))
    assert torch.equal(mine(drawn_face(96)), Preprocessing(align="five-points")(drawn_face(96)))
    assert torch.equal(pickle.loads(pickle.dumps(mine))(drawn_face(96)), mine(drawn_face(96)))
    assert torch.equal(
        mine.replace(size=(32, 32))(drawn_face(96)), Preprocessing(size=(32, 32), align=somebody)(drawn_face(96))
    )


# -- with adapters -----------------------------------------------------------------------------------------------------


def test_adapters_remember_how_faces_were_aligned_and_refuse_others(tmp_path):
    model = narrow_model("five-points")
    folder = model.save_pretrained(tmp_path / "aligned")
    picture = Image.fromarray(drawn_face(96, 3))
    same = CIAOModel.from_pretrained(model.backbone, folder, preprocessing=model.preprocessing)
    assert same.predict(picture) == model.eval().predict(picture)
    for other in (None, Alignment(padding=0.3), somebody):
        preprocessing = model.preprocessing.replace(align=other)
        with pytest.raises(BackboneMismatchError, match=r"pixels prepared in another way .*align"):
            CIAOModel.from_pretrained(model.backbone, folder, preprocessing=preprocessing)
    plain = narrow_model(None)
    with pytest.raises(BackboneMismatchError, match="align"):
        plain.load_adapter(folder, "aligned")
    with pytest.raises(BackboneMismatchError, match="align"):
        model.load_adapter(plain.save_pretrained(tmp_path / "plain"), "plain")


def test_a_model_of_one_adapter_aligns_as_it_was_trained_and_prepares_pixels_as_its_encoder_says(tmp_path):
    model = narrow_model("five-points")
    folder = model.save_pretrained(tmp_path / "aligned")
    found = CIAOModel.from_pretrained(model.backbone, folder)
    assert found.preprocessing == model.preprocessing
    plain = narrow_model(None).save_pretrained(tmp_path / "plain")
    assert CIAOModel.from_pretrained(model.backbone, plain).preprocessing.align is None
    model.backbone.preprocessing = model.backbone.preprocessing.replace(mean=(0.1, 0.2, 0.3))
    with pytest.raises(BackboneMismatchError, match="image_mean"):
        CIAOModel.from_pretrained(model.backbone, folder)


@pytest.mark.parametrize("levels", [2, 3])
def test_an_adapter_found_by_name_aligns_as_it_was_trained(tmp_path, levels):
    encoder = load_encoder("dlib-face", levels=levels)
    model = get_ciao_model(encoder, CONFIG, preprocessing=encoder.preprocessing.replace(align="five-points")).eval()
    folder = model.save_pretrained(tmp_path / "mood")
    found = AutoCIAOModel.from_pretrained(folder)
    assert found.preprocessing.align == Alignment()
    picture = drawn_face(96, 5)
    with torch.no_grad():
        assert torch.equal(found(found.preprocessing(picture)).logits, model(model.preprocessing(picture)).logits)


def test_stored_features_are_those_of_aligned_faces_and_belong_to_them_only(tmp_path, faces):
    model = narrow_model("five-points").eval()
    stored = cache_features(model, faces, tmp_path / "features")
    features = tuple(part[None] for part in stored[3]["features"])
    live = model(model.preprocessing(faces[3]["image"])).logits
    assert torch.allclose(model(features=features).logits, live, atol=1e-6)
    with pytest.raises(FeatureCacheError, match="preprocessing differ"):
        CIAOTrainer(narrow_model(None), CIAOTrainingArguments(output_dir=str(tmp_path))).evaluate(stored)


def test_training_evaluation_and_streams_see_aligned_faces(tmp_path, faces):
    seen = []

    def find(pixels):
        seen.append(pixels.shape)
        return somebody(pixels)

    model = narrow_model(find)
    arguments = CIAOTrainingArguments(output_dir=str(tmp_path), num_train_epochs=1, per_device_train_batch_size=4)
    trainer = CIAOTrainer(model, arguments)
    trainer.train(faces, faces)
    assert len(seen) >= 16
    aligned = trainer.evaluate(faces)
    streamed = trainer.evaluate(cache_features(model, faces.to_iterable_dataset(), tmp_path / "stream"))
    chips = faces.map(lambda row: {"image": Image.fromarray(np.asarray(model.preprocessing.align.chip(row["image"])))})
    plain = get_ciao_model(model.backbone, CONFIG)
    plain.adapters["default"].load_state_dict(model.adapters["default"].state_dict())
    by_hand = CIAOTrainer(plain, arguments).evaluate(chips)
    for name, value in aligned.items():
        if "loss" in name:
            assert value == pytest.approx(streamed[name]) == pytest.approx(by_hand[name])


# -- aligned copies ----------------------------------------------------------------------------------------------------


def copy_of(picture, alignment, kind):
    file = io.BytesIO()
    alignment(picture).save(file, kind, exif=alignment.exif())
    return Image.open(file)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_an_aligned_copy_is_not_aligned_again(kind):
    picture, alignment = Image.fromarray(drawn_face(96, 4)), Alignment()
    copy = copy_of(picture, alignment, kind)
    preprocessing = Preprocessing(size=(150, 150), align=alignment)
    assert mark_of(copy) == alignment.mark
    again, expected = preprocessing(copy), Preprocessing(size=(150, 150))(np.asarray(copy.convert("RGB")))
    assert torch.equal(again, expected)
    if kind == "PNG":
        assert torch.equal(again, preprocessing(picture))


def test_a_copy_that_was_aligned_in_another_way_or_is_not_to_be_aligned_is_refused():
    copy = copy_of(Image.fromarray(drawn_face(96, 4)), Alignment(padding=0.5), "PNG")
    with pytest.raises(DataError, match=r"aligned in another way: .*0\.5.* there, .*0\.25.* here"):
        Preprocessing(align="five-points")(copy)
    with pytest.raises(DataError, match=r"is an aligned copy .*aligns nothing"):
        Preprocessing()(copy)


def test_other_exif_data_marks_nothing():
    exif = Image.Exif()
    exif[0x010E] = "a holiday"
    file = io.BytesIO()
    Image.fromarray(drawn_face(96)).save(file, "JPEG", exif=exif)
    assert mark_of(Image.open(file)) is None
