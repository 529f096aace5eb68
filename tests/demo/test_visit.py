"""What one visitor sees: whatever they show, a clear word, and nothing of another visitor's."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image

from ciao_peft import CIAOConfig, FaceReader
from ciao_peft.demo import WorldPool
from ciao_peft.demo.cards import card, heat_over, said_in_short, stage
from ciao_peft.demo.looking import Looker, picture_shot, video_shots
from ciao_peft.demo.visit import Visit
from ciao_peft.detection import Box
from ciao_peft.errors import CIAOError, DataError, InputError
from ciao_peft.scenes import Face
from helpers.browsing import CROSS, GLAD, film, scene

WORLDS = ("ciao/painted-eight", "ciao/painted-affect")


@pytest.fixture(scope="module")
def pool():
    return WorldPool(WORLDS)


@pytest.fixture(scope="module")
def looker():
    return Looker()


@pytest.fixture
def visit(pool, looker):
    visit = Visit(pool, looker)
    yield visit
    visit.close()


def top(face, world="ciao/painted-eight"):
    return max(face["answers"][world], key=face["answers"][world].get)


def test_a_visit_starts_with_the_owners_worlds_and_empty_cards(visit):
    assert visit.keys == list(WORLDS)
    assert "painted-eight" in visit.cards() and " %<" not in visit.cards()
    assert "Show a face" in visit.stage()


def test_the_answers_are_those_of_the_reader(visit, pool):
    picture = scene(GLAD)
    visit.show_picture(picture)
    model = pool.worlds[0].model
    frame = next(FaceReader(model, [world.adapter_name for world in pool.worlds]).read(picture))
    (face,) = visit.to_dict()["faces"]
    assert face["box"] == list(frame.faces[0].box)
    assert list(face["answers"].values()) == [dict(answer) for answer in frame.faces[0].answers.values()]
    assert list(face["answers"]) == list(WORLDS)


def test_each_world_shows_where_it_looks(visit):
    visit.show_picture(scene(GLAD))
    html = visit.cards()
    assert html.count("data:image/jpeg;base64,") == html.count('alt="Where painted-') == len(WORLDS)
    assert "happiness" in html
    assert "data:" not in visit.cards(maps=False)


def test_the_cards_are_about_the_face_that_is_chosen(visit):
    visit.show_picture(scene(GLAD, CROSS))
    faces = visit.to_dict()["faces"]
    assert visit.note == "2 faces. Choose one in the picture."
    assert {top(face) for face in faces} == {"happiness", "anger"}
    for index, face in enumerate(faces):
        visit.choose(index)
        assert f'<p class="ciao-said">{top(face)}' in visit.cards(maps=False)
        assert visit.stage().count('aria-pressed="true"') == 1
    before = visit.cards(maps=False)
    for wrong in (7, -1, "0", None, 0.5):
        visit.choose(wrong)
    assert visit.cards(maps=False) == before


def test_fifty_faces_are_fifty_boxes(visit):
    picture = Image.new("RGB", (1500, 750), (150, 160, 170))
    for place in range(50):
        picture.paste(scene(GLAD, size=(140, 140)), (place % 10 * 150, place // 10 * 150))
    visit.show_picture(picture)
    found = len(visit.to_dict()["faces"])
    assert found > 40
    assert visit.stage().count("data-face=") == found
    visit.choose(found - 1)
    assert "data:image" in visit.cards()


def test_a_face_cut_by_the_border_stays_in_the_picture(visit, pool):
    picture = scene(GLAD).crop((250, 0, 460, 600))  # half of it
    looker = Looker(lambda pixels: [(-40, 100, 150, 200, 0.9), (150, 500, 200, 200)])
    visit = Visit(pool, looker)
    visit.show_picture(picture)
    assert len(visit.to_dict()["faces"]) == 2
    assert "left:0.00%" in visit.stage() and "data:image" in visit.cards()


@pytest.mark.parametrize("colour", ["black", "white"])
def test_a_picture_without_a_face_is_told(visit, colour):
    visit.show_picture(Image.new("RGB", (320, 240), colour))
    assert visit.note == "No face was found in this picture."
    assert visit.to_dict()["faces"] == []
    assert "<img" in visit.stage() and " %<" not in visit.cards()


def test_bad_files_are_told_in_words_and_without_their_place(visit, tmp_path):
    text, empty, cut = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"
    text.write_text("This is no picture.")
    empty.write_bytes(b"")
    scene(GLAD).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    visit.show_picture(scene(GLAD))
    for file in (text, empty, cut, tmp_path / "missing.png"):
        with pytest.raises(DataError) as told:
            visit.show_picture(str(file))
        assert str(tmp_path) not in str(told.value)
        assert visit.to_dict()["faces"] == []  # nothing is left of the picture before
    with pytest.raises(DataError, match="no video that can be read"):
        visit.show_video(str(text))
    visit.show_picture(scene(GLAD))
    assert visit.note == "One face."


def test_a_picture_of_200_megapixels_is_told_and_not_decoded(visit, tmp_path):
    Image.new("1", (20_000, 10_000)).save(tmp_path / "huge.png")
    Image.new("1", (9_000, 9_000)).save(tmp_path / "large.png")
    for name in ("huge.png", "large.png"):
        with pytest.raises(DataError, match=r"at most 64,000,000 (pixels )?are read. Make it smaller"):
            visit.show_picture(str(tmp_path / name))


def test_a_large_picture_is_held_small(tmp_path):
    assert picture_shot(Image.new("RGB", (4000, 3000))).picture().size == (1600, 1200)


def test_a_video_is_read_at_moments_and_its_people_are_followed(visit, tmp_path):
    done = []
    visit.show_video(str(film(tmp_path / "film.mp4")), done.append)
    assert len(visit.times) == 15 and visit.times == sorted(visit.times)  # every fifth of three seconds
    assert done[-1] == 1.0
    visit.go_to(0.0)
    first = visit.to_dict()["faces"][0]
    visit.go_to(3.0)
    last = visit.to_dict()["faces"][0]
    assert first["track"] == last["track"] == 1
    assert (top(first), top(last)) == ("anger", "happiness")
    assert visit.now == visit.times[-1]
    html = visit.cards()
    assert html.count("<svg") == len(WORLDS) and html.count('class="ciao-first"') == len(WORLDS)


def test_a_long_video_is_read_to_its_limit(tmp_path, monkeypatch):
    path = str(film(tmp_path / "film.mp4"))
    monkeypatch.setattr("ciao_peft.demo.looking.MOST_FRAMES", 4)
    assert [round(shot.time, 1) for shot in video_shots(path)] == [0.0, 0.8, 1.6, 2.4]
    monkeypatch.setattr("ciao_peft.demo.looking.MOST_SECONDS", 1.0)
    assert max(shot.time for shot in video_shots(path)) < 1.0


def test_a_world_that_is_added_reads_what_is_shown(visit):
    visit.show_picture(scene(GLAD))
    visit.add("ciao/painted-seven")
    assert visit.note == "painted-seven was added."
    (face,) = visit.to_dict()["faces"]
    assert top(face, "ciao/painted-seven") == "happiness"
    visit.add("ciao/painted-seven")
    assert visit.note == "painted-seven is here already."
    visit.remove("ciao/painted-seven")
    assert "painted-seven" not in visit.cards(maps=False)
    assert "painted-seven" not in {world.title for world in visit.pool.worlds}


def test_a_world_that_is_refused_changes_nothing(visit):
    visit.show_picture(scene(GLAD))
    before = visit.to_dict()
    with pytest.raises(InputError):
        visit.add("../../etc")
    assert visit.to_dict() == before and visit.keys == list(WORLDS)


def test_without_worlds_the_page_says_so_and_goes_on(visit):
    visit.show_picture(scene(GLAD))
    for key in WORLDS:
        visit.remove(key)
    assert "No world is left" in visit.cards()
    visit.show_picture(scene(GLAD))
    assert "No world is left" in visit.cards() and "ciao-stage" in visit.stage()
    visit.add(WORLDS[0])
    assert visit.keys == [WORLDS[0]]


def test_two_visitors_at_once_with_different_worlds_do_not_disturb_each_other(pool, looker):
    glad, cross = Visit(pool, looker), Visit(pool, looker)
    problems = []

    def go(visit, picture, source, expected):
        try:
            for _ in range(2):
                visit.add(source)
                visit.show_picture(picture)
                (face,) = visit.to_dict()["faces"]
                assert list(face["answers"]) == [*WORLDS, source]
                assert top(face) == expected
                visit.cards()
                visit.remove(source)
        except BaseException as problem:  # told by the main thread
            problems.append(problem)

    threads = [
        threading.Thread(target=go, args=(glad, scene(GLAD), "ciao/painted-seven", "happiness")),
        threading.Thread(target=go, args=(cross, scene(CROSS), "ciao/painted-signals", "anger")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert [world.key for world in pool.worlds] == list(WORLDS)


def test_a_visit_that_ends_lets_go_of_its_worlds(pool, looker):
    visit = Visit(pool, looker)
    visit.add("ciao/painted-seven")
    visit.show_picture(scene(GLAD))
    visit.close()
    assert [world.key for world in pool.worlds] == list(WORLDS)
    assert visit.to_dict()["faces"] == []


def test_every_error_of_a_visit_is_ours(visit, tmp_path):
    for do in (
        lambda: visit.show_picture(b"abc"),
        lambda: visit.show_picture(ValueError("x")),
        lambda: visit.add(None),
    ):
        with pytest.raises(CIAOError):
            do()


# -- HTML --------------------------------------------------------------------------------------------------------------


def test_names_and_labels_of_others_are_escaped():
    labels = {0: "<img src=x onerror=alert(1)>", 1: '"&'}
    config = CIAOConfig(problem_type="single_label_classification", num_labels=2, id2label=labels)
    html = card('user/<script>"', config, {labels[0]: 0.75, labels[1]: 0.25})
    assert "<script" not in html and "<img" not in html and 'user/&lt;script&gt;&quot;"' in html
    face = Face(box=Box(1, 1, 5, 5), answers={})
    assert "<b>" not in stage(Image.new("RGB", (9, 9)), [face], 0, ["<b>"])


def test_headlines_say_what_the_kind_of_world_can_say():
    many = CIAOConfig(problem_type="multi_label_classification", num_labels=2)
    assert said_in_short({"a": 0.2, "b": 0.9}, many) == "b"
    assert said_in_short({"a": 0.2, "b": 0.4}, many) == "nothing above 50 %"
    one = CIAOConfig(problem_type="single_label_classification", num_labels=2)
    assert said_in_short({"a": 0.2, "b": 0.8}, one) == "b 80 %"


def test_heat_lies_where_the_map_is_strong():
    face = np.full((40, 40, 3), 128, np.uint8)
    heat = np.zeros((40, 40))
    heat[:10, :10] = 1
    drawn = np.asarray(heat_over(face, heat)).astype(int)
    assert (drawn[30, 30] == 128).all()
    assert drawn[2, 2].tolist() == [221, 223, 155]  # a quarter of 128, three quarters of the brightest colour
