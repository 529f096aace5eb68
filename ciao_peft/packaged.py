"""Files that come with this package: weights and cards, whole or refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from .errors import AdapterFileError

__all__ = ["packaged_bytes", "packaged_json"]


def packaged_bytes(path: Path, sha256: str, stated: str = "in its card") -> bytes:
    """The content of a file of this package.

    Args:
        path: The file.
        sha256: Its digest, in hexadecimal digits.
        stated: Where that stands, for the message.

    Raises:
        AdapterFileError: it is missing, or another one.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "weights")
        >>> _ = path.write_bytes(b"whole")
        >>> packaged_bytes(path, hashlib.sha256(b"whole").hexdigest())
        b'whole'
    """
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise AdapterFileError(f"'{path}' does not have the checksum {stated}. Install ciao_peft again.")
    return content


def packaged_json(path: Path) -> dict[str, Any]:
    """What a JSON file of this package holds.

    Args:
        path: The file.

    Raises:
        AdapterFileError: it is missing or damaged.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "card.json")
        >>> _ = path.write_text('{"name": "small-face"}')
        >>> packaged_json(path)
        {'name': 'small-face'}
    """
    try:
        return json.loads(_read(path))
    except ValueError as error:
        raise AdapterFileError(f"'{path}' cannot be read: {error}. Install ciao_peft again.") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AdapterFileError(f"'{path}' cannot be read: {error}. Install ciao_peft again.") from error
