"""A folder that becomes the page on a Space of the Hub."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from .._version import __version__
from ..errors import ConfigError, quoted
from ..hub import is_hub_id
from ..saving import local_path, write_folder
from .page import DEFAULT_WORLDS

__all__ = ["write_space"]

_APP = '''"""Many worlds, one face: the page of ciao_peft."""

from ciao_peft.demo import launch_demo

WORLDS = [
{worlds}
]

if __name__ == "__main__":
    launch_demo(WORLDS, host="0.0.0.0", port=7860)
'''

_CARD = """---
title: Many worlds, one face
colorFrom: green
colorTo: gray
sdk: gradio
{version}app_file: app.py
pinned: false
license: apache-2.0
short_description: Many affective worlds on one frozen face encoder
tags:
- ciao
- facial-expression-recognition
{models}---

# Many worlds, one face

A picture, the webcam or a video, read in many worlds side by side: one frozen face encoder, and a small adapter for
each world. Made with `ciao demo --space`.

The worlds stand in `app.py`; each is a name of the package or a repository on the Hub. Visitors can add others, which
last as long as they stay.

The bars say what the raters of a data set would call an expression. They do not say what anyone feels.
"""


def write_space(folder: str | os.PathLike[str], adapters: Iterable[str] = DEFAULT_WORLDS) -> Path:
    """Writes `app.py`, `requirements.txt` and `README.md` of a Space that shows the page.

    Push the folder to a Space: `hf upload USER/NAME FOLDER --repo-type space`.

    Args:
        folder: The folder; other files in it stay.
        adapters: Names of `ciao_peft.list_adapters()` or `user/name` on the Hub.

    Returns:
        The folder.

    Raises:
        ConfigError: there is no adapter, or a name is neither; a Space sees no folder of this machine.
        AdapterFileError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = write_space(tempfile.mkdtemp() + "/space", ["ciao/everyday-six"])
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'app.py', 'requirements.txt']
    """
    names = list(dict.fromkeys(adapters))
    if not names:
        raise ConfigError("A Space needs a world: give the name of an adapter.")
    for name in names:
        if not is_hub_id(name) or local_path(name).is_dir():
            raise ConfigError(
                f"A Space sees no folder of this machine: {quoted(name)}. Publish the adapter (`ciao publish FOLDER "
                "user/name`), and give its name on the Hub."
            )
    published = [name for name in names if not name.startswith("ciao/")]
    models = "models:\n" + "".join(f"- {name}\n" for name in published) if published else ""
    files = {
        "app.py": _APP.format(worlds="\n".join(f'    "{name}",' for name in names)),
        "requirements.txt": f"ciao_peft[demo]=={__version__}\n",
        "README.md": _CARD.format(version=_sdk_version(), models=models),
    }
    return write_folder(folder, {name: text.encode() for name, text in files.items()})


def _sdk_version() -> str:
    """The line of the version of gradio that is installed here; the Hub chooses one where none is."""
    try:
        return f"sdk_version: {import_module('importlib.metadata').version('gradio')}\n"
    except ModuleNotFoundError:
        return ""
