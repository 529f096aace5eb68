"""A browser without a window, and the page it looks at."""

from __future__ import annotations

import base64
import contextlib
import importlib
import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ciao_peft.data import Expression, paint_face

PATIENCE = 60.0  # seconds until something must have happened
DRAWING = 30.0  # seconds until a page must have drawn itself, before it is loaded again
GLAD = Expression(mouth_curve=1.0, mouth_open=0.4)
CROSS = Expression(mouth_curve=-1.0, brow_frown=1.0)


def what_is_missing() -> str | None:
    """Why there can be no browser here; None where there can."""
    for package in ("gradio", "selenium"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None


@contextlib.contextmanager
def browser(*, width: int = 1280, height: int = 900, camera: Path | None = None) -> Iterator[Browser]:
    """Starts chromium without a window; phones are narrower than 500 pixels.

    Args:
        width, height: Of the window, in pixels.
        camera: A file of JPEGs, one behind the other, which it takes for a webcam.
    """
    webdriver: Any = importlib.import_module("selenium.webdriver")
    service: Any = importlib.import_module("selenium.webdriver.chrome.service")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    flags = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--lang=en"]
    flags += ["--force-device-scale-factor=1", f"--window-size={width},{height}"]
    if camera is not None:
        flags += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        flags += [f"--use-file-for-fake-video-capture={camera}"]
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=service.Service(shutil.which("chromedriver")))
    try:
        if width < 500:
            phone = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        yield Browser(driver, width)
    finally:
        driver.quit()


class Browser:
    """What a visitor sees and does."""

    def __init__(self, driver: Any, width: int):
        self.driver, self.width = driver, width
        self.found: list[str] = []

    def open(self, address: str) -> None:
        self.found += self._logged()
        self.driver.get("about:blank")
        self._logged()  # that answers under way were given up, because the page was left
        try:
            self._draw(address, DRAWING)
        except AssertionError:  # chromium starves where other tests compute; a visitor would load the page again
            self._logged()
            self._draw(address, PATIENCE)

    def _draw(self, address: str, patience: float) -> None:
        self.driver.get(address)
        self.wait(lambda: self.all("#picture input[type=file]"), patience)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        return self.driver.execute_script(
            "return (document.querySelector(arguments[0]) || {innerText: ''}).innerText", selector
        )

    def texts(self, selector: str) -> list[str]:
        """Of all elements at one moment, whatever is drawn anew meanwhile."""
        found = "return [...document.querySelectorAll(arguments[0])].map((element) => element.innerText.trim())"
        return self.driver.execute_script(found, selector)

    def press(self, selector: str, text: str = "") -> None:
        """Clicks on the first element that says this, once there is one."""
        find = "const all = [...document.querySelectorAll(arguments[0])];"
        find += " const found = all.find((e) => e.innerText.includes(arguments[1]));"
        click = find + " found?.click(); return Boolean(found)"
        self.wait(lambda: self.driver.execute_script(click, selector, text))

    def note(self) -> str:
        return self.text("#note")

    def upload(self, part: str, file: Path) -> None:
        """Gives a file to the part with this id."""
        self.all(f"#{part} input[type=file]")[0].send_keys(str(file))

    def tab(self, name: str) -> None:
        self.press("button[role=tab]", name)

    def wait(self, happened: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """Waits until something is true, and gives it."""
        end = time.monotonic() + patience
        while not (found := happened()):
            assert time.monotonic() < end, (
                f"It did not happen in {patience:.0f} seconds; the page says: {self.note()!r}, the console: "
                f"{self._console()}, and its text begins with {self.text('body')[:200]!r}"
            )
            time.sleep(0.1)
        return found

    def picture(self) -> bytes:
        """The whole page as a PNG."""
        height = self.driver.execute_script("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": self.width, "height": min(height, 4000), "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        return base64.b64decode(shot["data"])

    def errors(self) -> list[str]:
        """What the console was told that is an error, since this was last asked."""
        found, self.found = [*self.found, *self._logged()], []
        return found

    def _console(self) -> list[dict[str, Any]]:
        """Everything that the console was told since this was last asked."""
        return self.driver.get_log("browser")

    def _logged(self) -> list[str]:
        return [line["message"] for line in self._console() if line["level"] == "SEVERE"]


def scene(*expressions: Expression, size: tuple[int, int] = (900, 600)) -> Image.Image:
    """A picture with a painted face for each expression, side by side."""
    picture = Image.new("RGB", size, (150, 160, 170))
    side = min(size[0] // max(1, len(expressions)), size[1]) * 2 // 3
    for index, expression in enumerate(expressions):
        middle = (2 * index + 1) * size[0] // (2 * len(expressions))
        face = paint_face(expression=expression, seed=4 + 5 * index, size=side)
        picture.paste(face, (middle - side // 2, (size[1] - side) // 2))
    return picture


def film(path: Path, *, seconds: float = 3.0, fps: int = 10, codec: str = "libx264") -> Path:
    """A video of a painted face that turns from cross to glad."""
    import av

    count = round(seconds * fps)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 480, 360, "yuv420p"
        for index in range(count):
            share = index / (count - 1)
            expression = Expression(mouth_curve=2 * share - 1, mouth_open=0.4 * share, brow_frown=1 - share)
            frame = av.VideoFrame.from_image(scene(expression, size=(480, 360)))
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path
