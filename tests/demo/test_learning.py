"""A visitor's corrections: their copy of a world learns, nobody else's, and nothing is kept."""

from __future__ import annotations

import io
import threading
import zipfile

import pytest
import torch

from ciao_peft import AutoCIAOModel, CIAOConfig
from ciao_peft.demo import WorldPool, learning, worlds
from ciao_peft.demo import visit as visits
from ciao_peft.demo.controls import choices_of, tools
from ciao_peft.demo.learning import LearningWorld, Rehearsal, label_of
from ciao_peft.demo.looking import Looker
from ciao_peft.demo.page import _use
from ciao_peft.demo.visit import Visit
from ciao_peft.errors import AdapterNameError, CIAOError, InputError, UndoError
from ciao_peft.online import OnlineArguments
from helpers.browsing import CROSS, GLAD, scene
from helpers.fakes import bits, same_bits

EIGHT, AFFECT = "ciao/painted-eight", "ciao/painted-affect"


@pytest.fixture(scope="module")
def pool():
    return WorldPool([EIGHT, AFFECT])


@pytest.fixture(scope="module")
def parts(pool):
    return pool, Looker(), Rehearsal()


@pytest.fixture
def visit(parts):
    visit = Visit(*parts)
    visit.show_picture(scene(GLAD))
    yield visit
    visit.close()


def answer(visit, world=EIGHT, face=0):
    return visit.to_dict()["faces"][face]["answers"][world]


def top(visit, **which):
    return max(said := answer(visit, **which), key=said.get)


def kept_whatever(monkeypatch, **changes):
    settings = {**learning._ARGUMENTS.to_dict(), "max_forgetting": 100.0, **changes}
    monkeypatch.setattr(learning, "_ARGUMENTS", OnlineArguments(**settings))


def test_a_correction_is_learned_at_once_by_this_visitors_copy_alone(parts, visit, pool, monkeypatch):
    kept_whatever(monkeypatch)
    other = Visit(*parts)
    other.show_picture(scene(GLAD))
    before, said = bits(pool.worlds[0].model.adapters[pool.worlds[0].adapter_name]), answer(other)
    assert top(visit) == "happiness"
    update = visit.correct(EIGHT, "anger")
    assert update.kept and update.right_after == 1 and top(visit) == "anger"
    assert "is right about this face now. Of 48 other faces it answered 48 as at first before this, and" in visit.note
    assert visit.corrections(EIGHT) == 1 and "learned one face" in visit.cards()
    other.show_picture(scene(GLAD))
    assert answer(other) == said
    assert same_bits(before, bits(pool.worlds[0].model.adapters[pool.worlds[0].adapter_name]))
    assert answer(visit, AFFECT) == answer(other, AFFECT)
    other.close()


def test_undo_takes_back_correction_by_correction_and_forgets_the_copy(visit, pool, monkeypatch):
    kept_whatever(monkeypatch)
    first = answer(visit)
    visit.correct(EIGHT, "anger")
    second = answer(visit)
    visit.correct(EIGHT, "fear")
    visit.undo(EIGHT)
    assert answer(visit) == second and "it has learned one face" in visit.note
    visit.undo(EIGHT)
    assert answer(visit) == first and "it has learned nothing" in visit.note
    assert pool._copies == 0 and "Undo" not in visit.cards()
    with pytest.raises(UndoError, match="has learned nothing here"):
        visit.undo(EIGHT)


def test_a_correction_that_costs_too_much_is_undone_and_said(visit, pool, monkeypatch):
    first = answer(visit)
    kept_whatever(
        monkeypatch, max_forgetting=0.0, learning_rate=0.05, min_steps=20, distillation_weight=0.0, rehearsal=0
    )
    update = visit.correct(EIGHT, "contempt")
    assert not update.kept and update.forgotten > 0
    assert visit.note.startswith("painted-eight did not learn it: ") and "It is as it was." in visit.note
    assert answer(visit) == first and pool._copies == 0
    assert "not learned: it would have forgotten too much" in visit.cards()


def test_a_new_word_is_learned(visit, monkeypatch):
    kept_whatever(monkeypatch)
    visit.correct(EIGHT, None, word="  very   glad ")
    assert top(visit) == "very glad" and "It has a new word: very glad." in visit.note
    assert "very glad" in dict(visit.described()[0])["labels"]
    for word, why in (
        ("", "1 to 40 letters"),
        ("x" * 41, "1 to 40"),
        ("a\x07b", "1 to 40"),
        ("ANGER", "knows 'anger' already"),
    ):
        with pytest.raises(InputError, match=why):
            visit.correct(EIGHT, None, word=word)
    with pytest.raises(InputError, match="no word can be added"):
        visit.correct(AFFECT, None, word="mood")
    assert visit.corrections(AFFECT) == 0


def test_a_value_is_corrected_and_the_others_stay(visit, monkeypatch):
    kept_whatever(monkeypatch)
    before = answer(visit, AFFECT)
    visit.correct(AFFECT, {"valence": -0.5})
    after = answer(visit, AFFECT)
    assert after["valence"] < before["valence"] and "faces it agreed with its start by 100 of 100" in visit.note


def test_what_was_learned_is_saved_as_an_adapter_without_the_memory(visit, tmp_path, monkeypatch):
    kept_whatever(monkeypatch)
    with pytest.raises(UndoError):
        visit.save(EIGHT, "mine")
    visit.correct(EIGHT, "anger")
    with zipfile.ZipFile(io.BytesIO(visit.save(EIGHT, " mine "))) as archive:
        names = {name.removeprefix("mine/") for name in archive.namelist()}
        archive.extractall(tmp_path)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert not any("memory" in name or "online" in name for name in names)
    assert 'download="mine.zip"' in visit.offer
    model = AutoCIAOModel.from_pretrained(tmp_path / "mine")
    own = visit._learning[EIGHT].world
    assert same_bits(bits(model.adapters["mine"]), bits(own.model.adapters[own.adapter_name]))
    for name in ("", "../mine", "con", "x" * 200):
        with pytest.raises(AdapterNameError):
            visit.save(EIGHT, name)


def test_bounds(parts, visit, pool, monkeypatch):
    kept_whatever(monkeypatch)
    monkeypatch.setattr(learning, "MOST_CORRECTIONS", 1)
    visit.correct(EIGHT, "anger")
    with pytest.raises(InputError, match="1 corrections"):
        visit.correct(EIGHT, "fear")
    assert top(visit) == "anger"
    monkeypatch.setattr(visits, "MOST_LEARNING", 1)
    with pytest.raises(InputError, match="1 worlds have learned"):
        visit.correct(AFFECT, {"valence": 0.0})
    other = Visit(*parts)
    other.show_picture(scene(CROSS))
    monkeypatch.setattr(worlds, "MOST_COPIES", 1)
    with pytest.raises(InputError, match="lets 1 worlds learn at once"):
        other.correct(EIGHT, "fear")
    monkeypatch.setattr(worlds, "MOST_COPIES", 32)
    monkeypatch.setattr(worlds, "MAX_COPY_BYTES", 10)
    with pytest.raises(InputError, match="too large to learn here"):
        other.correct(EIGHT, "fear")
    other.close()
    adapters = len(pool.worlds[0].model.adapters)
    visit.close()
    assert pool._copies == 0 and len(pool.worlds[0].model.adapters) == adapters - 1
    for count in (7, 201):
        with pytest.raises(InputError, match="8 to 200 faces"):
            Rehearsal([None] * count)


def test_what_cannot_be_corrected_leaves_all_as_it_was(visit, pool):
    first = answer(visit)
    for key, said, face in (
        (EIGHT, "joy", None),
        (EIGHT, {"anger": 1}, None),
        (EIGHT, {"anger": False}, None),
        (EIGHT, ["anger"], None),
        (EIGHT, None, None),
        (EIGHT, "anger", 1),
        (EIGHT, "anger", "0"),
        (AFFECT, {"valence": True}, None),
        (AFFECT, {"valence": "high"}, None),
        (AFFECT, {"valence": float("nan")}, None),
        ("ciao/none", "anger", None),
    ):
        with pytest.raises(CIAOError):
            visit.correct(key, said, face=face)
    assert answer(visit) == first and pool._copies == 0
    visit.clear()
    with pytest.raises(InputError, match="no face to correct"):
        visit.correct(EIGHT, "anger")
    for told in (None, "no json", "[]", '{"do": "delete", "world": "x"}', '{"do": "undo"}', "x" * 5000):
        with pytest.raises(CIAOError):
            _use(visit, told)


def test_a_world_that_is_removed_takes_its_copy_along(visit, pool, monkeypatch):
    kept_whatever(monkeypatch)
    visit.correct(EIGHT, "anger")
    assert pool._copies == 1
    visit.remove(EIGHT)
    assert pool._copies == 0 and visit.corrections(EIGHT) == 0


def test_two_visitors_correct_at_once(parts, monkeypatch):
    kept_whatever(monkeypatch)
    visitors, said = [Visit(*parts) for _ in range(2)], ("anger", "fear")
    for one in visitors:
        one.show_picture(scene(GLAD))
    threads = [
        threading.Thread(target=one.correct, args=(EIGHT, what)) for one, what in zip(visitors, said, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [top(one) for one in visitors] == [*said]
    for one in visitors:
        one.close()


def test_the_faces_to_keep_are_read_once_for_all_visitors(parts, pool):
    _, _, rehearsal = parts
    copies = [pool.copy(world) for world in pool.worlds]
    assert len({id(rehearsal.features(copy)) for copy in copies}) == 1
    for copy in copies:
        pool.drop(copy)


def test_a_copy_that_could_not_be_made_leaves_nothing(pool, monkeypatch):
    def broken(world):
        raise InputError("broken")

    rehearsal = Rehearsal()
    monkeypatch.setattr(rehearsal, "features", broken)
    before = set(pool.worlds[0].model.adapters)
    with pytest.raises(InputError, match="broken"):
        LearningWorld(pool, pool.worlds[0], rehearsal)
    assert set(pool.worlds[0].model.adapters) == before and pool._copies == 0


def test_choices_are_what_an_answer_is_not():
    kinds = {"num_labels": 2, "id2label": {0: "smile", 1: "<frown>"}}
    said = {"smile": 0.75, "<frown>": 0.25}
    one = CIAOConfig(problem_type="single_label_classification", **kinds)
    assert choices_of(one, said) == [("<frown>", "<frown>")]
    many = CIAOConfig(problem_type="multi_label_classification", **kinds)
    assert choices_of(many, said) == [("no smile", {"smile": False}), ("<frown>", {"<frown>": True})]
    assert label_of({"<frown>": True}, said, many) == ["smile", "<frown>"]
    assert label_of("<frown>", said, one) == "<frown>"
    html = tools('a/"b', one, said, 2)
    assert "<frown>" not in html and 'data-world="a/&quot;b"' in html and "learned 2 faces" in html


def test_rehearsed_answers_are_the_worlds_own(parts, pool):
    _, _, rehearsal = parts
    own = LearningWorld(pool, pool.worlds[0], rehearsal)
    stored = rehearsal.features(own.world)
    with torch.inference_mode(), own.world.model.reading_with(pool.worlds[0].adapter_name):
        features = tuple(tensor.float() for tensor in stored.features(range(0, len(stored), 2)))
        said = own.world.model(features=features).logits.argmax(dim=1)
    assert own._online.memory.labels.argmax(dim=1).bincount(minlength=8).tolist() == said.bincount(minlength=8).tolist()
    own.close()
