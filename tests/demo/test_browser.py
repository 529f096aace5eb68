"""The page in a real browser without a window: chromium, driven by chromedriver."""

from __future__ import annotations

import base64
import io
import zipfile

import pytest
from PIL import Image

from helpers.browsing import CROSS, GLAD, browser, film, scene, what_is_missing

pytestmark = [
    pytest.mark.skipif(what_is_missing() is not None, reason=str(what_is_missing())),
    pytest.mark.filterwarnings("ignore"),  # of what gradio and selenium say of their own dependencies
]
WORLDS = ["everyday-six", "painted-eight", "painted-affect", "painted-signals"]


@pytest.fixture(scope="module")
def seen(page):
    """A browser at desktop width."""
    with browser() as seen:
        yield seen


@pytest.fixture(autouse=True)
def clean_console(request):
    yield
    if "seen" in request.fixturenames:
        assert request.getfixturevalue("seen").errors() == []


def saved(picture, path):
    picture.save(path)
    return path


def test_a_painted_face_gets_the_four_worlds_answers_and_they_change_with_it(page, seen, tmp_path):
    seen.open(page.local_url)
    assert seen.texts("#cards h3") == WORLDS
    seen.upload("picture", saved(scene(GLAD), tmp_path / "glad.png"))
    seen.wait(lambda: seen.note() == "One face.")
    glad = seen.texts(".ciao-said")
    assert len(glad) == 4 and glad[0].startswith("happiness") and glad[1].startswith("happiness")
    assert len(seen.all(".ciao-heat")) == 4
    seen.open(page.local_url)
    seen.upload("picture", saved(scene(CROSS), tmp_path / "cross.png"))
    seen.wait(lambda: seen.note() == "One face.")
    cross = seen.texts(".ciao-said")
    assert all(one != other for one, other in zip(glad, cross, strict=True))


def test_a_click_on_a_box_chooses_the_face(page, seen, tmp_path):
    seen.open(page.local_url)
    seen.upload("picture", saved(scene(GLAD, CROSS), tmp_path / "two.png"))
    seen.wait(lambda: len(seen.all(".ciao-box")) == 2)
    before = seen.text("#cards")
    seen.press('.ciao-box[aria-pressed="false"]')
    seen.wait(lambda: seen.text("#cards") != before)
    assert len(seen.all('.ciao-box[aria-pressed="true"]')) == 1


def test_the_slider_goes_through_a_video(page, seen, tmp_path):
    seen.open(page.local_url)
    seen.tab("Video")
    seen.upload("video", film(tmp_path / "film.mp4"))
    seen.wait(lambda: "15 moments of" in seen.note() and seen.all(".ciao-course"))
    before = seen.text("#cards")
    slider = seen.wait(lambda: seen.all("#time input[type=range]"))[0]
    change = "arguments[0].value = 2.8; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
    seen.driver.execute_script(change, slider)
    seen.wait(lambda: seen.text("#cards") != before and "happiness" in seen.text("#cards .ciao-said"))


def test_the_webcam_is_read_as_it_goes(page, tmp_path):
    frame = io.BytesIO()
    scene(GLAD, size=(640, 480)).save(frame, "JPEG")
    (tmp_path / "camera.mjpeg").write_bytes(frame.getvalue() * 2)
    # A browser of its own: gradio logs an error where its stream is stopped.
    with browser(camera=tmp_path / "camera.mjpeg") as seen:
        seen.open(page.local_url)
        seen.tab("Webcam")
        seen.press("#webcam button", "Access")
        seen.press("#webcam button", "Record")
        seen.wait(lambda: seen.note() == "One face." and seen.all(".ciao-box"))
        assert seen.texts(".ciao-said")[0].startswith("happiness")
        assert seen.errors() == []


def test_worlds_are_added_and_removed_while_it_runs(page, seen, tmp_path):
    seen.open(page.local_url)
    seen.upload("picture", saved(scene(GLAD), tmp_path / "glad.png"))
    seen.wait(lambda: seen.note() == "One face.")
    seen.press("#worlds button")
    typed = seen.wait(lambda: [field for field in seen.all("#source input") if field.is_displayed()])[0]
    typed.send_keys("ciao/painted-seven\n")
    seen.press("#add")
    seen.wait(lambda: len(seen.all("#cards h3")) == 5 and "was added" in seen.note())
    typed = seen.all("#gone input")[0]
    typed.send_keys("ciao/everyday-six\n")
    seen.press("#remove")
    seen.wait(lambda: seen.texts("#cards h3") == [*WORLDS[1:], "painted-seven"])
    typed = seen.all("#source input")[0]
    typed.send_keys("../../etc\n")
    seen.press("#add")
    seen.wait(lambda: "is no adapter that this page can add" in seen.note())
    assert len(seen.all("#cards h3")) == 4


def test_bad_files_get_a_word_and_the_page_lives_on(page, seen, tmp_path):
    (tmp_path / "text.png").write_text("This is no picture.")
    (tmp_path / "text.txt").write_text("This is no picture.")
    Image.new("1", (20_000, 10_000)).save(tmp_path / "huge.png")
    for name, word in (("text.png", "no picture that can be read"), ("huge.png", "at most 64,000,000 pixels")):
        seen.open(page.local_url)
        seen.upload("picture", tmp_path / name)
        seen.wait(lambda word=word: word in seen.note())
        seen.errors()  # the browser's own, of a picture that it cannot show either
    seen.open(page.local_url)
    seen.upload("picture", tmp_path / "text.txt")
    seen.wait(lambda: "Only image/* allowed" in seen.text("body"))
    seen.open(page.local_url)
    seen.upload("picture", saved(Image.new("RGB", (320, 240)), tmp_path / "black.png"))
    seen.wait(lambda: "No face was found" in seen.note())


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_reaches_beyond_the_window_and_every_control_has_a_name(page, tmp_path, width):
    with browser(width=width, height=844) as seen:
        seen.open(page.local_url)
        seen.upload("picture", saved(scene(GLAD, CROSS), tmp_path / "two.png"))
        seen.wait(lambda: len(seen.all(".ciao-box")) == 2)
        seen.wait(lambda: len(seen.all(".ciao-heat")) == 4)
        assert seen.driver.execute_script("return document.documentElement.scrollWidth") <= width
        cut = "return [...document.querySelectorAll('.ciao-card *')].filter(e => e.scrollWidth > e.clientWidth + 1 && "
        assert not seen.driver.execute_script(cut + "getComputedStyle(e).display != 'inline').map(e => e.outerHTML)")
        for picture in seen.all("#stage img, #cards img"):
            assert picture.get_attribute("alt")
        for button in seen.all('button:not([tabindex="-1"])'):
            assert not button.is_displayed() or button.accessible_name, button.get_attribute("outerHTML")[:200]
        assert Image.open(io.BytesIO(seen.picture())).width == width * (2 if width < 500 else 1)
        assert seen.errors() == []


LEARNING = 300.0  # seconds; the first correction reads the faces on which answers are to stay


def correct(seen, world, label):
    """Chooses what a world should have said."""
    pick = "const field = document.querySelector(`[data-world='${arguments[0]}'] select`); field.value = arguments[1]; "
    pick += "field.dispatchEvent(new Event('change', {bubbles: true}))"
    seen.wait(lambda: seen.all(f"[data-world='{world}'] select"))
    seen.driver.execute_script(pick, world, label)


@pytest.mark.parametrize("width", [1280, 390])
def test_a_wrong_answer_is_corrected_undone_and_saved(page, tmp_path, width):
    world = "ciao/painted-eight"
    card = f"[data-world='{world}']"
    with browser(width=width, height=844) as seen:
        seen.open(page.local_url)
        seen.upload("picture", saved(scene(GLAD), tmp_path / "glad.png"))
        seen.wait(lambda: seen.note() == "One face." and len(seen.all(".ciao-tools")) == 4)
        before = seen.texts(".ciao-said")
        correct(seen, world, '"surprise"')
        seen.wait(lambda: "other faces it answered 48 as at first before this" in seen.note(), LEARNING)
        assert seen.note().startswith("painted-eight has learned it and is right about this face now.")
        seen.wait(lambda: seen.texts(".ciao-said")[1].startswith("surprise"))
        after = seen.texts(".ciao-said")
        assert [*after[:1], *after[2:]] == [*before[:1], *before[2:]]
        assert seen.texts(f"{card} .ciao-learned") == ["learned one face"]
        assert seen.driver.execute_script("return document.documentElement.scrollWidth") <= width
        assert seen.driver.execute_script("return document.querySelector(arguments[0]).value", f"{card} select") == ""
        seen.press(f"{card} button[data-press=save]")
        seen.press(f"{card} form[data-do=save] button")
        link = seen.wait(lambda: seen.all(".ciao-file"))[0]
        assert link.get_attribute("download") == "painted-eight-mine.zip"
        content = base64.b64decode(link.get_attribute("href").partition("base64,")[2])
        assert "painted-eight-mine/adapter_model.safetensors" in zipfile.ZipFile(io.BytesIO(content)).namelist()
        seen.press(f"{card} button[data-press=undo]")
        seen.wait(lambda: "it has learned nothing" in seen.note() and seen.texts(".ciao-said") == before, LEARNING)
        assert not seen.all(".ciao-learned")
        correct(seen, world, "word")
        typed = seen.wait(lambda: [one for one in seen.all(f"{card} form[data-do=word] input") if one.is_displayed()])[
            0
        ]
        assert typed.accessible_name == "A new word for painted-eight"
        typed.send_keys("<b>beaming</b>\n")
        seen.wait(lambda: "It has a new word: <b>beaming</b>" in seen.note(), LEARNING)
        assert not seen.all("#cards section b:not(.ciao-bar b)")
        seen.wait(lambda: seen.texts(".ciao-said")[1].startswith("<b>beaming</b>"))
        assert seen.errors() == []
