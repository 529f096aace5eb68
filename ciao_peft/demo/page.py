"""The page itself, made of gradio's parts."""

from __future__ import annotations

import base64
import io
import os
import random
from collections.abc import Callable, Iterable
from html import escape
from importlib import import_module
from typing import Any

from ..door import parse_json
from ..errors import CIAOError, DataError, InputError, MissingExtraError, quoted, shortened
from ..hub import list_adapters
from ..prediction import pictures_in
from .controls import CORRECTING
from .learning import Rehearsal
from .looking import Looker
from .visit import Visit
from .worlds import WorldPool

__all__ = ["DEFAULT_WORLDS", "build_demo", "import_gradio"]

DEFAULT_WORLDS = ("ciao/everyday-six", "ciao/painted-eight", "ciao/painted-affect", "ciao/painted-signals")
"""The page's own worlds where none is named: all in the package, on one encoder."""

_FORGET = 3600  # seconds after which what a visitor who left did is forgotten
_FILES = (60, 600)  # how often uploads are looked through, and how old they grow: seconds

_LONGEST_TOLD = 4000  # letters of what a card tells

_HEAD = """<div class="ciao-head"><h1>Many worlds, one face</h1>
<p>One frozen face encoder, and a small adapter for each world: what other people, asked other questions, would say.</p>
</div>"""
_FOOT = """<div class="ciao-foot"><p>The bars say what the raters of a data set would call this expression. They do not
say what anyone feels. Pictures are read where this page runs; files of them are deleted after ten minutes.</p></div>"""
_CLICKS = """element.addEventListener('click', (event) => {
  const box = event.target.closest('[data-face]');
  if (box) trigger('select', { index: Number(box.dataset.face), value: box.dataset.face });
});"""


def import_gradio() -> Any:
    """gradio, which sends nothing home.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        return import_module("gradio")
    except ImportError as error:
        raise MissingExtraError("gradio", "The page", "demo") from error


def build_demo(
    adapters: Iterable[str | os.PathLike[str]] = DEFAULT_WORLDS,
    *,
    folders: str | os.PathLike[str] | None = None,
    detector: Any = "yunet",
    device: str | None = None,
    rehearse: str | os.PathLike[str] | None = None,
) -> Any:
    """Builds the page, to be launched or put into another one.

    Args:
        adapters: The worlds it starts with: folders, names of `ciao_peft.list_adapters()` or `user/name` on the Hub.
        folders: Visitors may add adapters from inside this folder; from none when left out.
        detector: As for `FaceReader`.
        device: Where to read, such as `"cuda"`.
        rehearse: A folder with pictures of single faces, at most 200, on which worlds that visitors correct keep their
            answers; painted faces when left out.

    Returns:
        A `gradio.Blocks`.

    Raises:
        MissingExtraError: gradio is missing.
        CIAOError: an adapter cannot be loaded, or reads clips; or the detector is unknown.

    Example:
        >>> page = build_demo(["ciao/painted-affect"])  # doctest: +SKIP
        >>> page.launch()  # doctest: +SKIP
    """
    gr = import_gradio()
    rehearsal = Rehearsal(None if rehearse is None else pictures_in(rehearse))
    pool, looker = WorldPool(adapters, folders=folders, device=device), Looker(detector)
    return _Page(gr, pool, looker, rehearsal).blocks


class _Page:
    """The parts, and what happens to them."""

    def __init__(self, gr: Any, pool: WorldPool, looker: Looker, rehearsal: Rehearsal):
        self.gr, self.pool, self.looker, self.rehearsal = gr, pool, looker, rehearsal
        with gr.Blocks(title="ciao: many worlds, one face", analytics_enabled=False, delete_cache=_FILES) as blocks:
            gr.HTML(_HEAD)
            self.visit = gr.State(None, time_to_live=_FORGET, delete_callback=_close)
            self._lay_out()
            gr.HTML(_FOOT)
            self._connect(blocks)
        blocks.queue(default_concurrency_limit=2, max_size=64)
        self.blocks = blocks

    def _lay_out(self) -> None:
        gr, start = self.gr, self._visit()
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=300), gr.Tabs():
                with gr.Tab("Picture"):
                    self.picture = _input(
                        gr,
                        gr.Image,
                        label="A picture",
                        sources=["upload", "webcam", "clipboard"],
                        height=300,
                        elem_id="picture",
                    )
                    self.paint = gr.Button("Paint a face", size="sm", elem_id="paint")
                with gr.Tab("Webcam"):
                    self.webcam = _input(
                        gr,
                        gr.Image,
                        label="The webcam, read as it goes",
                        sources=["webcam"],
                        streaming=True,
                        height=300,
                        elem_id="webcam",
                    )
                with gr.Tab("Video"):
                    self.video = _input(
                        gr,
                        gr.Video,
                        label="A video; its first two minutes",
                        sources=["upload"],
                        height=300,
                        elem_id="video",
                    )
            with gr.Column(scale=6, min_width=300):
                self.stage = gr.HTML(start.stage(), js_on_load=_CLICKS, elem_id="stage")
                self.time = gr.Slider(
                    0, 1, value=0, step=0.1, label="Seconds", visible=False, elem_id="time", buttons=[]
                )
        self.note = gr.HTML(_note(""), elem_id="note")
        self.cards = gr.HTML(start.cards(), js_on_load=CORRECTING, elem_id="cards")
        with gr.Accordion("Add or remove a world", open=False, elem_id="worlds"), gr.Row():
            with gr.Column(min_width=260):
                self.source = gr.Dropdown(
                    _addable(start), value=None, label=self._what_to_add(), allow_custom_value=True, elem_id="source"
                )
                self.add = gr.Button("Add", size="sm", elem_id="add")
            with gr.Column(min_width=260):
                self.gone = gr.Dropdown(start.keys, value=None, label="One of this page's worlds", elem_id="gone")
                self.remove = gr.Button("Remove", size="sm", elem_id="remove")
        # For programs: what they send and get, without the page's HTML.
        self.sent = _input(gr, gr.Image, visible=False, label="picture")
        self.named = gr.Textbox(visible=False, label="world")
        self.data = gr.JSON(visible=False, label="read")
        self.face = gr.Number(value=0, precision=0, visible=False, label="face")
        self.said = gr.JSON(visible=False, label="label")
        self.word = gr.Textbox(visible=False, label="word")
        self.hidden = [gr.Button(visible=False) for _ in range(7)]

    def _visit(self) -> Visit:
        return Visit(self.pool, self.looker, self.rehearsal)

    def _what_to_add(self) -> str:
        return "One of the package, or user/name on the Hub" + (
            ", or a folder of this page's owner" if self.pool.folders else ""
        )

    def _connect(self, blocks: Any) -> None:
        shown = [self.visit, self.stage, self.note, self.cards, self.time]
        quiet: dict[str, Any] = {
            "api_visibility": "private",
            "show_progress": "minimal",
            "show_progress_on": [self.note],
        }
        still: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        picked = [self.source, self.gone]
        self.picture.change(self.on_picture, [self.picture, self.visit], shown, **quiet)
        self.paint.click(_painted, None, self.picture, **still)
        self.webcam.stream(
            self.on_webcam,
            [self.webcam, self.visit],
            shown,
            stream_every=0.5,
            concurrency_limit=2,
            **still,
        )
        # gradio tells by a default and by an annotation who wants to know more.
        gr, bar = self.gr, self.gr.Progress()

        def on_video(video: str | None, visit: Visit | None, progress: Any = bar) -> tuple[Any, ...]:
            return self.on_video(video, visit, progress)

        def on_face(visit: Visit | None, event: Any) -> tuple[Any, ...]:
            return self.on_face(visit, event.index)

        def on_card(visit: Visit | None, event: Any) -> tuple[Any, ...]:
            return self.on_card(visit, event.value)

        for listens in (on_face, on_card):
            listens.__annotations__["event"] = gr.SelectData
        self.video.change(on_video, [self.video, self.visit], shown, **quiet)
        self.time.input(
            self.on_time,
            [self.time, self.visit],
            shown[:4],
            trigger_mode="always_last",
            **still,
        )
        self.stage.select(on_face, [self.visit], shown[:4], **still)
        self.cards.select(on_card, [self.visit], shown[:4], **quiet)
        self.add.click(self.on_add, [self.source, self.visit], [*shown, *picked], **quiet)
        self.remove.click(self.on_remove, [self.gone, self.visit], [*shown, *picked], **quiet)
        worlds, read, add, remove, correct, undo, save = self.hidden
        worlds.click(self.say_worlds, [self.visit], [self.data, self.visit], api_name="worlds")
        read.click(self.say_read, [self.sent, self.visit], [self.data, self.visit], api_name="read")
        add.click(self.say_add, [self.named, self.visit], [self.data, self.visit], api_name="add_world")
        remove.click(self.say_remove, [self.named, self.visit], [self.data, self.visit], api_name="remove_world")
        answered = [self.data, self.visit]
        what = [self.face, self.named, self.said, self.word, self.visit]
        correct.click(self.say_correct, what, answered, api_name="correct")
        undo.click(self.say_undo, [self.named, self.visit], answered, api_name="undo")
        save.click(self.say_save, [self.named, self.word, self.visit], answered, api_name="save")

    # -- what visitors do ------------------------------------------------------------------------------------------

    def on_picture(self, picture: str | None, visit: Visit | None) -> tuple[Any, ...]:
        return self._after(visit, lambda visit: visit.clear() if picture is None else visit.show_picture(picture))

    def on_webcam(self, picture: Any, visit: Visit | None) -> tuple[Any, ...]:
        if picture is None:
            return (visit, *[self.gr.skip()] * 4)
        return self._after(visit, lambda visit: visit.show_picture(picture), maps=False)

    def on_video(self, video: str | None, visit: Visit | None, progress: Any = None) -> tuple[Any, ...]:
        return self._after(visit, lambda visit: visit.clear() if video is None else visit.show_video(video, progress))

    def on_time(self, seconds: float, visit: Visit | None) -> tuple[Any, ...]:
        return self._after(visit, lambda visit: visit.go_to(seconds))[:4]

    def on_face(self, visit: Visit | None, face: Any) -> tuple[Any, ...]:
        return self._after(visit, lambda visit: visit.choose(face))[:4]

    def on_card(self, visit: Visit | None, told: object) -> tuple[Any, ...]:
        return self._after(visit, lambda visit: _use(visit, told))[:4]

    def on_add(self, source: str | None, visit: Visit | None) -> tuple[Any, ...]:
        return self._with_choices(self._after(visit, lambda visit: visit.add(source or "")))

    def on_remove(self, key: str | None, visit: Visit | None) -> tuple[Any, ...]:
        return self._with_choices(self._after(visit, lambda visit: visit.remove(key or "")))

    def _with_choices(self, shown: tuple[Any, ...]) -> tuple[Any, ...]:
        visit: Visit = shown[0]
        return (
            *shown,
            self.gr.update(choices=_addable(visit), value=None),
            self.gr.update(choices=visit.keys, value=None),
        )

    def _after(self, visit: Visit | None, do: Callable[[Visit], object], *, maps: bool = True) -> tuple[Any, ...]:
        """What the page shows after something was done, or refused."""
        visit, problem = visit or self._visit(), ""
        visit.offer = ""
        try:
            do(visit)
        except CIAOError as error:
            problem = shortened(str(error), 400)
        times = visit.times
        slider = self.gr.update(visible=False)
        if len(times) > 1:
            step = round((times[-1] - times[0]) / (len(times) - 1), 2) or 0.1
            slider = self.gr.update(
                visible=True, minimum=0, maximum=round(times[-1], 2), step=step, value=round(visit.now or 0.0, 2)
            )
        note = _note(problem or visit.note, bad=bool(problem), more="" if problem else visit.offer)
        return visit, visit.stage(), note, visit.cards(maps), slider

    # -- what programs ask -----------------------------------------------------------------------------------------

    def say_worlds(self, visit: Visit | None) -> tuple[Any, Visit]:
        """The worlds of this session: name, kind and labels of each."""
        visit = visit or self._visit()
        return visit.described(), visit

    def say_read(self, picture: Any, visit: Visit | None) -> tuple[Any, Visit]:
        """Each face of a picture: box in pixels, score of the detector, and the answer of each world."""
        return self._told(visit, lambda visit: visit.show_picture(_given(picture)), Visit.to_dict)

    def say_add(self, world: str, visit: Visit | None) -> tuple[Any, Visit]:
        """Adds a world to this session, and gives the session's worlds."""
        return self._told(visit, lambda visit: visit.add(world), Visit.described)

    def say_remove(self, world: str, visit: Visit | None) -> tuple[Any, Visit]:
        """Removes a world from this session, and gives the session's worlds."""
        return self._told(visit, lambda visit: visit.remove(world), Visit.described)

    def say_correct(
        self, face: Any, world: str, label: Any, word: str | None, visit: Visit | None
    ) -> tuple[Any, Visit]:
        """Teaches this session's copy of a world what is right for a face of the last picture, and gives what it did.

        The label is a name, or by name true and false or values; a word that the world does not know takes its place.
        """
        found: list[Any] = []

        def do(visit: Visit) -> None:
            found.append(visit.correct(world, label, word=word or None, face=face))

        def say(visit: Visit) -> dict[str, Any]:
            (update,) = found
            names = ("kept", "right_before", "right_after", "guard_size", "guard_before", "guard_after", "forgotten")
            return {name: getattr(update, name) for name in names} | {"note": visit.note, **visit.to_dict()}

        return self._told(visit, do, say)

    def say_undo(self, world: str, visit: Visit | None) -> tuple[Any, Visit]:
        """Takes the last correction of a world back, and gives what this session's worlds say now."""
        return self._told(visit, lambda visit: visit.undo(world), lambda visit: {"note": visit.note, **visit.to_dict()})

    def say_save(self, world: str, name: str, visit: Visit | None) -> tuple[Any, Visit]:
        """What a world has learned in this session, as an adapter under a new name: a zip in base64."""
        found: list[bytes] = []

        def say(_: Visit) -> dict[str, str]:
            return {"name": f"{name.strip()}.zip", "zip": base64.b64encode(found[0]).decode()}

        return self._told(visit, lambda visit: found.append(visit.save(world, name)), say)

    def _told(
        self, visit: Visit | None, do: Callable[[Visit], object], say: Callable[[Visit], Any]
    ) -> tuple[Any, Visit]:
        visit = visit or self._visit()
        try:
            do(visit)
        except CIAOError as error:
            raise self.gr.Error(shortened(str(error), 400), print_exception=False) from None
        return say(visit), visit


def _given(picture: Any) -> Any:
    if picture is None:
        raise DataError("Give a picture: a file, or its address in this page after an upload.")
    return picture


def _use(visit: Visit, told: object) -> None:
    """What somebody did with the tools of a card, as the browser tells it."""
    what = parse_json(told) if isinstance(told, str) and len(told) < _LONGEST_TOLD else None
    if not isinstance(what, dict) or not isinstance(what.get("world"), str):
        raise InputError(f"This is nothing that a card can do: {quoted(told)}.")
    does = {
        "correct": lambda: visit.correct(what["world"], what.get("label")),
        "word": lambda: visit.correct(what["world"], None, word=str(what.get("text"))),
        "undo": lambda: visit.undo(what["world"]),
        "save": lambda: visit.save(what["world"], str(what.get("text"))),
    }
    if what.get("do") not in does:
        raise InputError(f"This is nothing that a card can do: {quoted(what.get('do'))}.")
    does[what["do"]]()


def _close(visit: Visit | None) -> None:
    if visit is not None:
        visit.close()


def _note(text: str, bad: bool = False, more: str = "") -> str:
    kind = " ciao-bad" if bad else ""
    return f'<p class="ciao-note{kind}" role="status">{escape(text)}{more}</p>' if text else '<p role="status"></p>'


def _addable(visit: Visit) -> list[str]:
    return [name for name in list_adapters() if name not in visit.keys]


def _painted() -> Any:
    from ..data import Expression, paint_face

    draw = random.Random()  # a visitor's luck, and not the process's
    mouth, open_, brow = draw.uniform(-1, 1), draw.uniform(0, 0.7), draw.uniform(-1, 1)
    return paint_face(
        expression=Expression(mouth_curve=mouth, mouth_open=open_, brow_raise=brow),
        size=480,
        seed=draw.randrange(10**6),
    )


def _as_it_came(payload: Any) -> Any:
    """What an input hands over: a path, or a picture that nobody decoded; our own door opens it, with its limits."""
    if payload is None or payload.path:
        return None if payload is None else payload.path
    if not (payload.url or "").startswith("data:"):
        return None
    from PIL import Image

    try:
        return Image.open(io.BytesIO(base64.b64decode(payload.url.partition(",")[2])))
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        return error


def _input(gr: Any, kind: Callable[..., Any], **settings: Any) -> Any:
    """A part of gradio's that takes a file. Not a class of ours, next to whose file gradio would write another one."""
    part = kind(**settings)
    part.preprocess = _as_it_came
    keep = part.async_move_resource_to_block_cache

    async def uploads_alone(path: Any) -> Any:
        if isinstance(path, str) and "://" in path[:16]:
            raise gr.Error("Upload the file: this page fetches nothing from elsewhere.", print_exception=False)
        return await keep(path)

    part.async_move_resource_to_block_cache = uploads_alone
    return part
