"""The page of the package on an index: README.md, whose relative links are led to the repository."""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
REPOSITORY = re.search(r'^Repository = "(.+)"$', (HERE / "pyproject.toml").read_text("utf-8"), re.MULTILINE)[1]


def led_to_the_repository(page: str) -> str:
    """Makes `[text](path)` absolute, and leaves addresses and anchors of the page itself."""
    return re.sub(r"\]\((?![a-z]+:|#)([^)\s]+)\)", rf"]({REPOSITORY}/blob/HEAD/\1)", page)


setup(
    long_description=led_to_the_repository((HERE / "README.md").read_text("utf-8")),
    long_description_content_type="text/markdown",
)
