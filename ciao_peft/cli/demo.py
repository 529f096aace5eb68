"""`ciao demo`: a page in the browser."""

from __future__ import annotations

import argparse

from .flags import add_flag


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `demo`."""
    demo = commands.add_parser(
        "demo",
        help="show worlds side by side in the browser",
        description="Serves a page that reads pictures, the webcam and videos in many worlds side by side, on this "
        "machine and without the network. Needs `pip install 'ciao_peft[demo]'`.",
    )
    demo.add_argument(
        "adapters",
        nargs="*",
        metavar="ADAPTER",
        help="a folder, a name of `ciao adapters`, or user/name on the Hub (default: four of the package)",
    )
    demo.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: %(default)s)")
    demo.add_argument("--port", type=int, help="the port (default: the first free one from 7860 on)")
    demo.add_argument("--share", action="store_true", help="ask gradio's server for a public address")
    add_flag(demo, "allow_folders", metavar="FOLDER", help="let visitors add adapters from inside this folder")
    demo.add_argument(
        "--detector", default="yunet", help="what finds faces: yunet, haar or dlib (default: %(default)s)"
    )
    demo.add_argument(
        "--rehearse",
        metavar="FOLDER",
        help="pictures of faces on which worlds that visitors correct keep their answers (default: painted ones)",
    )
    demo.add_argument("--device", help="where to read, such as cuda (default: the CPU)")
    demo.add_argument("--space", metavar="FOLDER", help="write the page as a Space of the Hub, and serve nothing")
    demo.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> None:
    from ..demo import launch_demo, write_space
    from ..demo.page import DEFAULT_WORLDS

    adapters = options.adapters or DEFAULT_WORLDS
    if options.space is not None:
        folder = write_space(options.space, adapters)
        print(f"Wrote {folder}. Push it: hf upload user/name {folder} --repo-type space")
        return
    launch_demo(
        adapters,
        host=options.host,
        port=options.port,
        share=options.share,
        folders=options.allow_folders,
        detector=options.detector,
        device=options.device,
        rehearse=options.rehearse,
    )
