"""Starts the page."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from ..checking import check_number
from .cards import STYLE
from .controls import TOOLS_STYLE
from .page import DEFAULT_WORLDS, build_demo, import_gradio

__all__ = ["MAX_UPLOAD_BYTES", "launch_demo"]

MAX_UPLOAD_BYTES = 100 * 2**20
"""The largest picture or video that a visitor may send."""

MAX_REQUEST_BYTES = 8 * 2**20
"""The largest request that is no upload: pictures of a webcam come this way."""


def launch_demo(
    adapters: Iterable[str | os.PathLike[str]] = DEFAULT_WORLDS,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    folders: str | os.PathLike[str] | None = None,
    detector: Any = "yunet",
    device: str | None = None,
    rehearse: str | os.PathLike[str] | None = None,
    wait: bool = True,
    quiet: bool = False,
) -> Any:
    """Starts the page of `build_demo`.

    Args:
        adapters, folders, detector, device, rehearse: As for `build_demo`.
        host: `"0.0.0.0"` lets other machines in.
        port: The first free one from 7860 on when left out.
        share: Whether to ask gradio's server for a public address; nothing leaves this machine otherwise.
        wait: Whether to serve until the process is told to stop; otherwise the page is served in threads.
        quiet: Whether to print no address.

    Returns:
        The `gradio.Blocks`; its `local_url` says where it is, `close()` stops it.

    Raises:
        MissingExtraError: gradio is missing.
        ConfigError: `port` is none.
        CIAOError: as `build_demo` says.

    Example:
        >>> page = launch_demo(["ciao/painted-affect"], wait=False)  # doctest: +SKIP
        >>> page.close()  # doctest: +SKIP
    """
    if port is not None:
        check_number("port", port, int, 1, 65535)
    gr = import_gradio()
    page = build_demo(adapters, folders=folders, detector=detector, device=device, rehearse=rehearse)
    system = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]  # no font is fetched from anywhere
    theme = gr.themes.Base(
        primary_hue="teal", neutral_hue="slate", font=system, font_mono=["ui-monospace", "monospace"], radius_size="sm"
    ).set(body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300")
    page.launch(
        server_name=host,
        server_port=port,
        share=share,
        prevent_thread_lock=not wait,
        quiet=quiet,
        theme=theme,
        css=STYLE + TOOLS_STYLE,
        footer_links=["api"],
        max_file_size=MAX_UPLOAD_BYTES,
        state_session_capacity=200,
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        show_error=False,
        app_kwargs={"middleware": [(_Bounded, (), {})]},
    )
    return page


class _Bounded:
    """Refuses requests that are larger than anything a page sends."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        upload = scope["path"].rstrip("/").endswith("/upload")
        most = MAX_UPLOAD_BYTES + 2**20 if upload else MAX_REQUEST_BYTES
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if not told.isdigit() or int(told) > most:
            await _refuse(send)
            return
        seen = 0

        async def counted() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            # What does not say its length is cut off where it is too long.
            return {"type": "http.disconnect"} if seen > most else message

        await self.app(scope, counted, send)


async def _refuse(send: Any) -> None:
    text = f"Too large: at most {MAX_UPLOAD_BYTES // 2**20} MB are taken.".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": text})
