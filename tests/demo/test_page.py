"""The page as programs ask it: REST and gradio's client."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import io
import json
import sys
import urllib.error
import urllib.request
import zipfile

import pytest
from PIL import Image

from ciao_peft.cli import main
from ciao_peft.demo.page import DEFAULT_WORLDS, build_demo, import_gradio
from ciao_peft.errors import MissingExtraError
from helpers.browsing import CROSS, GLAD, scene

pytestmark = pytest.mark.filterwarnings("ignore")  # of what gradio's client and server say of their own dependencies
needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")


def sent(path):
    return importlib.import_module("gradio_client").handle_file(str(path))


@pytest.fixture
def glad(tmp_path):
    scene(GLAD).save(tmp_path / "glad.png")
    return tmp_path / "glad.png"


def test_a_client_gets_boxes_and_every_worlds_answer(visitor, glad):
    read = visitor().predict(sent(glad), api_name="/read")
    assert (read["width"], read["height"]) == (900, 600)
    (face,) = read["faces"]
    x, y, width, height = face["box"]
    assert 250 < x < x + width < 650 and 100 < y < y + height < 500
    assert list(face["answers"]) == list(DEFAULT_WORLDS)
    assert max(face["answers"]["ciao/everyday-six"], key=face["answers"]["ciao/everyday-six"].get) == "happiness"


def test_two_clients_at_once_have_worlds_of_their_own(visitor, glad):
    one, other = visitor(), visitor()
    assert len(one.predict("ciao/painted-seven", api_name="/add_world")) == 5
    assert len(other.predict("ciao/everyday-six", api_name="/remove_world")) == 3
    jobs = [client.submit(sent(glad), api_name="/read") for client in (one, other)]
    first, second = (list(job.result()["faces"][0]["answers"]) for job in jobs)
    assert first == [*DEFAULT_WORLDS, "ciao/painted-seven"]
    assert second == [*DEFAULT_WORLDS[1:]]
    assert [world["world"] for world in visitor().predict(api_name="/worlds")] == list(DEFAULT_WORLDS)


def test_bad_input_gets_a_word_and_the_page_lives_on(visitor, glad, tmp_path):
    client = visitor()
    (tmp_path / "text.png").write_text("This is no picture.")
    Image.new("1", (20_000, 10_000)).save(tmp_path / "huge.png")
    for name, word in (("text.png", "no picture that can be read"), ("huge.png", "at most 64,000,000 pixels")):
        with pytest.raises(Exception, match=word):
            client.predict(sent(tmp_path / name), api_name="/read")
    with pytest.raises(Exception, match="Give a picture"):
        client.predict(None, api_name="/read")
    for world in ("/etc/passwd", "../../etc", ""):
        with pytest.raises(Exception, match=r"no adapter that this page can add|Give the name"):
            client.predict(world, api_name="/add_world")
    assert len(client.predict(sent(glad), api_name="/read")["faces"]) == 1


def test_a_client_corrects_undoes_and_saves(visitor, glad):
    world, client, other = "ciao/painted-eight", visitor(), visitor()

    def said(read):
        answer = read["faces"][0]["answers"][world]
        return max(answer, key=answer.get)

    with pytest.raises(Exception, match="There are 0 faces"):
        client.predict(0, world, "surprise", None, api_name="/correct")
    assert said(client.predict(sent(glad), api_name="/read")) == "happiness"
    done = client.predict(0, world, "surprise", None, api_name="/correct")
    assert (done["kept"], done["right_before"], done["right_after"], done["guard_size"]) == (True, 0, 1, 48)
    assert said(done) == "surprise" and "is right about this face now" in done["note"]
    assert said(other.predict(sent(glad), api_name="/read")) == "happiness"
    file = client.predict(world, "mine", api_name="/save")
    content = zipfile.ZipFile(io.BytesIO(base64.b64decode(file["zip"])))
    assert file["name"] == "mine.zip" and "mine/adapter_config.json" in content.namelist()
    assert said(client.predict(world, api_name="/undo")) == "happiness"
    for asked, name, word in (
        ((0, world, "joy", None), "/correct", "knows no 'joy'"),
        ((7, world, "fear", None), "/correct", "There are 1 faces"),
        ((0, "ciao/none", "fear", None), "/correct", "ciao/none"),
        ((0, world, None, "x" * 99), "/correct", "1 to 40 letters"),
        ((world,), "/undo", "has learned nothing here"),
        ((world, "mine"), "/save", "has learned nothing here"),
    ):
        with pytest.raises(Exception, match=word):
            client.predict(*asked, api_name=name)


def ask(page, path, data, headers=None):
    """One request without any client; its body, or the status and body of a refusal."""
    headers = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(page.local_url + path, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def read_by_rest(page, file):
    _, told = ask(page, "gradio_api/call/read", json.dumps({"data": [file]}).encode())
    with urllib.request.urlopen(f"{page.local_url}gradio_api/call/read/{json.loads(told)['event_id']}") as answer:
        return answer.read().decode()


def test_rest_needs_no_client(page, glad):
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="glad.png"\r\n\r\n'
    form += glad.read_bytes() + b"\r\n--x--\r\n"
    status, paths = ask(page, "gradio_api/upload", form, {"Content-Type": "multipart/form-data; boundary=x"})
    assert status == 200
    said = read_by_rest(page, {"path": json.loads(paths)[0], "meta": {"_type": "gradio.FileData"}})
    assert said.startswith("event: complete") and '"happiness"' in said


@pytest.mark.parametrize("path", ["/etc/passwd", __file__])
def test_no_file_of_the_machine_is_read(page, path):
    said = read_by_rest(page, {"path": path, "meta": {"_type": "gradio.FileData"}})
    assert said.startswith("event: error") and "faces" not in said


def test_nothing_is_fetched_from_elsewhere(page):
    said = read_by_rest(page, {"path": "https://example.com/face.png", "meta": {"_type": "gradio.FileData"}})
    assert said.startswith("event: error") and "fetches nothing from elsewhere" in said


def test_a_request_that_is_too_large_is_refused(page):
    for path, length in (("call/read", 9 * 2**20), ("upload", 102 * 2**20)):
        status, said = ask(page, f"gradio_api/{path}", b"", {"Content-Length": str(length)})
        assert (status, said) == (413, "Too large: at most 100 MB are taken.")


@needs_gradio
def test_the_page_sends_nothing_home_and_fetches_no_font(page):
    with urllib.request.urlopen(page.local_url, timeout=60) as answer:
        html = answer.read().decode()
    assert '"analytics_enabled": false' in html or '"analytics_enabled":false' in html
    assert "fonts.googleapis" not in html and "fonts.gstatic" not in html


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingExtraError, match=r"The page needs gradio: pip install 'ciao_peft\[demo\]'"):
        import_gradio()
    with pytest.raises(MissingExtraError):
        build_demo()
    assert main(["demo"]) == 1
    assert "ciao_peft[demo]" in capsys.readouterr().err


@needs_gradio
def test_a_port_that_is_none_is_told(capsys):
    assert main(["demo", "--port", "0"]) == 1
    assert "`port`" in capsys.readouterr().err


@needs_gradio
def test_an_adapter_that_is_none_is_told(capsys, tmp_path):
    assert main(["demo", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("ciao: ")


def test_faces_that_glad_and_cross_people_make_differ(visitor, glad, tmp_path):
    scene(CROSS).save(tmp_path / "cross.png")
    client = visitor()
    one, other = (client.predict(sent(path), api_name="/read")["faces"][0] for path in (glad, tmp_path / "cross.png"))
    assert all(one["answers"][world] != other["answers"][world] for world in DEFAULT_WORLDS)
