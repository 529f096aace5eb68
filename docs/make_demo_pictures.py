"""Takes the pictures of the page for docs/howto/demo.md: docs/demo.png, docs/demo_phone.png and docs/demo_video.png.

python docs/make_demo_pictures.py

Needs the extra `demo`, selenium, and Debian's chromium and chromium-driver. All faces are painted. Takes half a minute.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from ciao_peft.demo import launch_demo

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from helpers.browsing import CROSS, GLAD, Browser, browser, film, scene, what_is_missing  # noqa: E402


def main() -> None:
    if missing := what_is_missing():
        print(f"The pictures of the page stay as they are: {missing}.")
        return
    page = launch_demo(wait=False, quiet=True)
    with TemporaryDirectory() as folder:
        two = Path(folder, "two.png")
        scene(GLAD, CROSS).save(two)

        def show_picture(seen: Browser) -> None:
            seen.upload("picture", two)
            seen.wait(lambda: len(seen.all(".ciao-box")) == 2 and len(seen.all(".ciao-heat")) == 4)

        def show_video(seen: Browser) -> None:
            seen.tab("Video")
            seen.upload("video", film(Path(folder, "film.mp4")))
            seen.wait(lambda: seen.all(".ciao-course") and seen.all("#time input[type=range]"))
            slide = "arguments[0].value = 2.4; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
            seen.driver.execute_script(slide, seen.all("#time input[type=range]")[0])
            seen.wait(lambda: seen.texts(".ciao-said")[1].startswith("happiness"))

        take(page.local_url, "demo.png", 1280, show_picture)
        take(page.local_url, "demo_phone.png", 390, show_picture)
        take(page.local_url, "demo_video.png", 1280, show_video)
    page.close(verbose=False)


def take(address: str, name: str, width: int, show: Callable[[Browser], None]) -> None:
    with browser(width=width, height=844) as seen:
        seen.open(address)
        show(seen)
        seen.driver.execute_script("document.activeElement.blur()")
        picture = Image.open(io.BytesIO(seen.picture())).convert("RGB")
        picture = picture.resize((width, picture.height * width // picture.width), Image.Resampling.LANCZOS)
        picture.save(HERE / name, optimize=True)
        print(f"{name}: {picture.width} x {picture.height} pixels, {(HERE / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
