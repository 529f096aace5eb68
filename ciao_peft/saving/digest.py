"""One digest over all files of a folder, kept in the JSON file that describes them, and itself covered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..door import parse_json, read_file
from ..errors import AdapterConfigError, AdapterFileError, CIAOError
from .files import MAX_JSON_BYTES, to_json

__all__ = ["DIGEST", "check_digest", "digest_of_folder", "read_covered", "sha256_of", "with_digest"]

DIGEST = "digest"
"""The entry of a JSON file that holds the digest of the folder."""


def sha256_of(content: bytes) -> str:
    """The SHA-256 of bytes, 64 hexadecimal digits.

    Example:
        >>> sha256_of(b"")[:16]
        'e3b0c44298fc1c14'
    """
    return hashlib.sha256(content).hexdigest()


def digest_of_folder(record: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """The digest of a record and the files beside it.

    Every value counts, and every byte of the other files; spaces, line ends and the order of keys in the record do not.

    Args:
        record: Plain data, as it was read from JSON. Its entry `digest` is left out.
        files: SHA-256 of each other file, by name.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> one = digest_of_folder({"step": 2, "seed": 1}, {"weights": sha256_of(b"1")})
        >>> one == digest_of_folder({"seed": 1, "step": 2, "digest": one}, {"weights": sha256_of(b"1")})
        True
        >>> one == digest_of_folder({"seed": 1, "step": 3}, {"weights": sha256_of(b"1")})
        False
    """
    covered = [{name: value for name, value in record.items() if name != DIGEST}, dict(files)]
    return sha256_of(json.dumps(covered, sort_keys=True, separators=(",", ":")).encode())


def with_digest(record: Mapping[str, Any], files: Mapping[str, str]) -> bytes:
    """The JSON file of a record, with the digest as its last entry.

    Args:
        record: Plain data.
        files: SHA-256 of each other file, by name.

    Raises:
        TypeError, ValueError: the record is no plain data, or could not be read back.

    Example:
        >>> content = with_digest({"step": 2}, {})
        >>> check_digest(json.loads(content), {}, "state.json", version=1)
    """
    value = parse_json(to_json(dict(record)), "what is to be recorded")
    return to_json({**value, DIGEST: digest_of_folder(value, files)})


def check_digest(
    record: Mapping[str, Any],
    files: Mapping[str, str],
    path: str | Path,
    *,
    version: int,
    error: type[CIAOError] = AdapterFileError,
) -> None:
    """Refuses a folder of which anything was altered after it was saved.

    Args:
        record: What the JSON file holds.
        files: SHA-256 of each other file as it is now, by name.
        path: The JSON file, for the message.
        version: The last version of its format that had no digest.
        error: What is raised.

    Raises:
        AdapterFileError: the digest is missing or another one; another class where `error` says so.

    Example:
        >>> check_digest({"step": 3, "digest": "0" * 64}, {}, "state.json", version=1)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.AdapterFileError: 'state.json', or a file beside it, is not as it was saved: the digest of \
the folder is another one. Save it again, or download it anew. If you changed the file by hand and mean it: \
take the entry 'digest' out of it, set its 'format_version' to 1, load the folder, and save it again.
    """
    try:
        fits = record.get(DIGEST) == digest_of_folder(record, files)
    except (ValueError, RecursionError):  # nested too deep to be written, so never written
        fits = False
    if not fits:
        raise error(
            f"'{path}', or a file beside it, is not as it was saved: the digest of the folder is another one. Save it "
            "again, or download it anew. If you changed the file by hand and mean it: take the entry 'digest' out of "
            f"it, set its 'format_version' to {version}, load the folder, and save it again."
        )


def read_covered(path: Path) -> tuple[dict[str, Any], str]:
    """The object in a JSON file that a digest covers, and the file's SHA-256; the file is read once.

    Args:
        path: The file. A link that leads nowhere is an error, as a file that is missing.

    Raises:
        AdapterFileError: the file is missing, no regular file, or cannot be read.
        AdapterConfigError: it is no JSON, or no object.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "preprocessor_config.json")
        >>> _ = path.write_text('{"mode": "L"}')
        >>> read_covered(path)[0]
        {'mode': 'L'}
    """
    content = read_file(path, MAX_JSON_BYTES, error=AdapterFileError)
    value = parse_json(content, path, error=AdapterConfigError)
    if not isinstance(value, dict):
        raise AdapterConfigError(f"'{path}' holds a {type(value).__name__} where an object was expected.")
    return value, sha256_of(content)
