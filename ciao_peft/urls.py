"""The URLs of folders in object stores and on web servers, and those that are never followed."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass

from .errors import MissingExtraError, RemoteURLError, listed, quoted

__all__ = ["SCHEMES", "FolderURL", "is_url", "not_on_this_disk", "parse_url", "require_package"]

_PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "memory": None,
}
"""The schemes that are read, and the package that each needs beside fsspec."""

_EXTRAS = {"s3fs": "stores", "aiohttp": "stores", "gcsfs": "gcs", "adlfs": "azure"}
"""The extra of this library that brings each package."""

SCHEMES = tuple(_PACKAGES)
"""The schemes of URLs that are followed."""

_LONGEST = 1024
_LOOKS_LIKE_ONE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(?:://|::|:\\)")
_WITHOUT_A_SLASH = re.compile(rf"(?:{'|'.join(_PACKAGES)}):/(?!/)", re.IGNORECASE)  # which a Path makes of a URL
_PART = re.compile(r"[\w .=+,@~()!&'$-]+")  # not %, ?, # or * and [], which mean something to a server or to fsspec
_NAME = r"\w[\w-]*(?:\.\w[\w-]*)*"  # no '..', no '.' at an end, no '-' before a name
_HOST = re.compile(rf"{_NAME}(?::\d{{1,5}})?", re.ASCII)
_HOST_OF_AZURE = re.compile(rf"{_NAME}(?:@{_NAME})?", re.ASCII)


@dataclass(frozen=True)
class FolderURL:
    """A folder in an object store or on a web server.

    Args:
        scheme: `"s3"` or another of those that are read.
        path: Bucket or host, and the folder; no slash at either end.

    Example:
        >>> url = FolderURL("s3", "bucket/fer")
        >>> str(url), url.name, url.file("config.json")
        ('s3://bucket/fer', 'fer', 's3://bucket/fer/config.json')
    """

    scheme: str
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def is_web(self) -> bool:
        """Whether it is on a web server, which is only read."""
        return is_web(self.scheme)

    def file(self, name: str) -> str:
        """The URL of a file in the folder.

        Args:
            name: A plain file name.
        """
        return f"{self}/{name}"


def is_url(source: object) -> bool:
    """Whether a source has the form of a URL, be it one that is read or not, or of what a `Path` makes of one.

    Example:
        >>> [is_url(source) for source in ("s3://bucket/fer", "zip://a::s3://b", "user/fer", "C:/runs")]
        [True, True, False, False]
    """
    text = os.fspath(source) if isinstance(source, os.PathLike) else source
    return isinstance(text, str) and bool(_LOOKS_LIKE_ONE.match(text) or _WITHOUT_A_SLASH.match(text))


def not_on_this_disk(source: object) -> str:
    """A sentence for messages about what is missing: that it is a URL; empty where it is none.

    Example:
        >>> not_on_this_disk("s3://bucket/faces")
        ' It is a URL, and this is read from the disk of this machine: copy it here first.'
        >>> not_on_this_disk("faces")
        ''
    """
    return " It is a URL, and this is read from the disk of this machine: copy it here first." if is_url(source) else ""


def parse_url(text: str) -> FolderURL:
    """The folder that a URL names, if it is of a kind that is read.

    Only whoever calls the library gives URLs: one that stands in a file from elsewhere is never followed.

    Args:
        text: `s3://bucket/folder`, or the same with `gs`, `gcs`, `az`, `abfs`, `http`, `https` or `memory`.

    Raises:
        RemoteURLError: a chain of several protocols, one that reads local files, archives or code, a password in the
            URL, a query, or a path that leaves its folder.

    Example:
        >>> parse_url("s3://bucket/fer/").path
        'bucket/fer'
        >>> parse_url("simplecache::s3://bucket/fer")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ciao_peft.errors.RemoteURLError: 'simplecache::s3://bucket/fer' is a chain of protocols, which is not \
followed. ...
    """
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise RemoteURLError(f"{quoted(text)} is no URL of a folder: those have at most {_LONGEST} characters.")
    if "::" in text:
        raise RemoteURLError(
            f"{quoted(text)} is a chain of protocols, which is not followed. Give the URL of the folder itself, such "
            "as 's3://bucket/folder'."
        )
    if _WITHOUT_A_SLASH.match(text):
        raise RemoteURLError(
            f"{quoted(text)} is a URL that lost a slash, as in a `Path`. Give it as text, with '://' after the scheme."
        )
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _PACKAGES:
        raise RemoteURLError(
            f"{quoted(text)} is a URL of a kind that is not read. Give a folder on disk as its path, or a URL with one "
            f"of {listed(_PACKAGES)}."
        )
    host, *parts = rest.rstrip("/").split("/")
    if scheme == "memory":  # which has no host
        parts, host = [host, *parts] if host else parts, "memory"
    if not (_HOST_OF_AZURE if scheme in ("az", "abfs") else _HOST).fullmatch(host):
        what = "host" if is_web(scheme) else "bucket"
        if "@" in host:  # a password, which no message repeats
            raise RemoteURLError(
                f"A URL of {scheme} must begin with a {what}, without name and password: give those as "
                "`storage_options` or in the environment."
            )
        raise RemoteURLError(f"{quoted(text)} must begin with a {what} after '{scheme}://'.")
    if not parts and not is_web(scheme):
        raise RemoteURLError(f"{quoted(text)} names no folder: give '{scheme}://{host}/FOLDER'.")
    if not all(_PART.fullmatch(part) and part.strip(". ") for part in parts):
        raise RemoteURLError(
            f"{quoted(text)} is no plain path of a folder: '..', an empty part, '%', '?', '#', '*' and the like are "
            "not read in it."
        )
    return FolderURL(scheme, "/".join(parts if scheme == "memory" else [host, *parts]))


def require_package(scheme: str) -> None:
    """Does nothing where the package is installed that reads URLs of a scheme, or none is needed.

    Args:
        scheme: One of `SCHEMES`, or `"file"`.

    Raises:
        MissingExtraError: it is not; names the package and the extra that brings it.

    Example:
        >>> require_package("memory")
    """
    package = _PACKAGES.get(scheme)
    if package is not None and importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, f"A URL of {scheme}", _EXTRAS[package])


def is_web(scheme: str) -> bool:
    """Whether a scheme is of a web server."""
    return scheme in ("http", "https")
