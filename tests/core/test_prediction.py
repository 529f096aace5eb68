"""From pictures to named answers: files, folders, arrays and PIL images, in batches."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ciao_peft.errors import AdapterNotFoundError, DataError, DataNotFoundError, InputError, NoActiveAdapterError
from ciao_peft.model import get_ciao_model
from ciao_peft.preprocessing import Preprocessing, ahead
from helpers.fakes import small_config, tiny_backbone, wrap

LABELS = {0: "sad", 1: "glad", 2: "calm"}


def prepared(**changes):
    config = small_config(id2label=LABELS, **changes)
    preprocessing = Preprocessing(size=(16, 16))
    return get_ciao_model(tiny_backbone(), config, "one", preprocessing=preprocessing).eval()


def pictures(count):
    values = np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)
    return [Image.fromarray(value) for value in values]


@pytest.fixture
def folder(tmp_path):
    for name, picture in zip(("b.PNG", "a.bmp", "c.tiff"), pictures(3), strict=True):
        picture.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("no picture either")
    (tmp_path / "more").mkdir()
    return tmp_path


def test_probabilities_are_those_of_the_logits_likeliest_first():
    model, (picture,) = prepared(), pictures(1)
    assert model.preprocessing is not None
    answer = model.predict(picture)
    expected = model(model.preprocessing(picture)).logits[0].softmax(0)
    assert list(answer) == [LABELS[i] for i in expected.argsort(descending=True).tolist()]
    assert answer == pytest.approx({LABELS[i]: p for i, p in enumerate(expected.tolist())}, abs=1e-6)


def test_a_picture_is_the_same_as_image_array_and_file(tmp_path):
    model, (picture,) = prepared(), pictures(1)
    path = tmp_path / "face.png"
    picture.save(path)
    answer = model.predict(picture)
    for same in (np.asarray(picture), path, str(path)):
        assert model.predict(same) == answer
        assert model.predict([same, same]) == [answer, answer]


def test_a_folder_gives_its_pictures_in_the_order_of_their_names(folder):
    model = prepared()
    names = [str(folder / name) for name in ("a.bmp", "b.PNG", "c.tiff")]
    answers = model.predict(folder)
    assert list(answers) == names
    assert list(answers.values()) == model.predict(names)
    assert model.predict(str(folder), batch_size=2) == answers


def test_a_folder_without_pictures_says_what_is_in_it(folder):
    for path in folder.iterdir():
        if path.suffix in (".PNG", ".bmp", ".tiff"):
            path.unlink()
    with pytest.raises(DataNotFoundError, match=r"There is no picture in .*: 1 other files, 1 folders. Give the"):
        prepared().predict(folder)


@pytest.mark.parametrize("name", ["consent.pdf", "features.h5", "clip.mpg"])
def test_what_lies_beside_the_pictures_of_a_folder_is_left_out(name, folder):  # Pillow has a plugin for each of these
    answers = prepared().predict(folder)
    (folder / name).write_bytes(b"no picture")
    assert prepared().predict(folder) == answers


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 100])
def test_no_batch_size_changes_the_answers(batch_size):
    model, faces = prepared(), pictures(5)
    sizes = []
    handle = model.backbone[0].register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    answers = model.predict(faces, batch_size=batch_size)
    handle.remove()
    for answer, face in zip(answers, faces, strict=True):
        assert answer == pytest.approx(model.predict(face), abs=2e-6)
    assert sum(sizes) == 5
    assert max(sizes) == min(batch_size, 5)


def test_no_pictures_give_no_answers():
    assert prepared().predict([]) == []


def test_several_worlds_answer_from_one_trunk_pass():
    model, faces = prepared(), pictures(3)
    model.add_adapter("two", small_config(problem_type="regression", num_labels=2))
    alone = {}
    for name in ("one", "two"):
        model.set_adapter(name)
        alone[name] = model.predict(faces)
    passes = []
    handle = model.backbone[0].register_forward_hook(lambda *_: passes.append(1))
    answers = model.predict(faces, adapter_names=["two", "one"])
    handle.remove()
    assert len(passes) == 1
    assert answers == [{"two": two, "one": one} for one, two in zip(alone["one"], alone["two"], strict=True)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "asked", "shown"),
    [(Terminal, None, True), (io.StringIO, None, False), (Terminal, True, False), (io.StringIO, False, True)],
    ids=["terminal", "no-terminal", "asked-to-be-quiet", "asked-to-show"],
)
def test_progress_is_shown_on_a_terminal_unless_asked_otherwise(monkeypatch, stream, asked, shown):
    model, faces = prepared(), pictures(4)
    screen = stream()
    monkeypatch.setattr(sys, "stderr", screen)
    model.predict(faces, batch_size=2, disable_tqdm=asked)
    assert ("4/4" in screen.getvalue()) == shown


def test_a_broken_picture_is_named_by_its_place_in_the_whole_list(tmp_path):
    faces = [*pictures(4), tmp_path / "missing.png"]
    with pytest.raises(DataNotFoundError, match=r"Picture 4 of 5: There is no picture at .*missing.png"):
        prepared().predict(faces, batch_size=2)
    with pytest.raises(DataNotFoundError, match=r"^There is no picture at"):
        prepared().predict(tmp_path / "missing.png")


@pytest.mark.parametrize("cores", [1, 6])
def test_the_number_of_threads_changes_neither_answers_nor_errors(cores, folder, monkeypatch):
    alone = [prepared().predict(path) for path in sorted(folder.glob("?.*")) if path.suffix != ".txt"]
    monkeypatch.setattr(ahead, "usable_cores", lambda: cores)
    for answer, expected in zip(prepared().predict(folder, batch_size=2).values(), alone, strict=True):
        assert answer == pytest.approx(expected, abs=2e-6)
    broken, missing = folder / "b.PNG", folder / "missing.png"
    broken.write_bytes(b"no picture")
    for faces in ([folder / "a.bmp", broken, missing], [*pictures(3), broken, folder / "c.tiff", missing]):
        with pytest.raises(DataError, match=rf"^Picture {faces.index(broken)} of {len(faces)}: '.*b.PNG' cannot be"):
            prepared().predict(faces, batch_size=2)


def test_what_cannot_be_read_is_refused():
    model, (face,) = prepared(), pictures(1)
    for size in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="`batch_size` must be a whole number of 1 or more; got"):
            model.predict(face, batch_size=size)
    with pytest.raises(AdapterNotFoundError, match="'other'"):
        model.predict(face, adapter_names=["one", "other"])
    with pytest.raises(InputError, match=r"Call `model.eval\(\)` first"):
        model.train().predict(face)
    model.eval().delete_adapter("one")
    with pytest.raises(NoActiveAdapterError):
        model.predict(face)
    with pytest.raises(InputError, match="does not say how pictures must be prepared"):
        wrap().eval().predict(face)


def test_nothing_that_predict_gives_needs_a_gradient_or_changes_the_model():
    model, faces = prepared(), pictures(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.predict(faces)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
