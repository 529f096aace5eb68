"""Texts without what is secret in the URLs that stand in them: name and password, and the values of a query."""

from __future__ import annotations

import re

__all__ = ["url_without_secrets", "without_secrets"]

_MOST_READ = 100_000
_SCHEME = r"[\w+.:-]{2,}:(?:/[/\\]{0,7}|\\[/\\]{1,7}|\\(?=[^\s\\/:@]+:\S*@))"
"""A `Path` leaves one slash, and some turn them around."""

_URL = re.compile(rf"((?<![\w+.:-]){_SCHEME})([^\s'\"<>]*)")
_QUOTED = (  # as Python writes a text: what has a quote in it stands in the other ones, or has a backslash before it
    re.compile(rf"(?<=')({_SCHEME})((?:[^'\\]|\\.)*)(?=')", re.DOTALL),
    re.compile(rf'(?<=")({_SCHEME})((?:[^"\\]|\\.)*)(?=")', re.DOTALL),
)
_PORT = r"\d{1,5}(?:[/\\?#\s.,;)]|\Z)"
_SPACED = re.compile(  # in a sentence, without quotes: a password may have spaces
    rf"((?<![\w+.:-]){_SCHEME})([^\s/\\@:?#'\"<>]*:(?!{_PORT})[^\n@'\"<>]{{0,300}}@)"
)
_WHOLE_URL = re.compile(r"(?s)\A([\w+.:-]{2,}:[/\\]{1,8})(.*)")  # a password may have spaces and quotes
_PERCENT = "%(?:25)*"  # what is written in percent may be so more than once
_MARK = rf"[?#&;]|{_PERCENT}(?:3[FfBb]|2[36])"
_EQUALS = rf"=|{_PERCENT}3[Dd]"
_QUERY = re.compile(rf"(?s)({_MARK})((?:(?!{_MARK}|{_EQUALS}).)*)({_EQUALS}|)((?:(?!{_MARK}).)*)")
_AT = re.compile(rf"(?s)(.*)(@|{_PERCENT}40)(.*)")
_SECTION = re.compile(r"#(?:[a-z]{1,20}|[0-9]{1,4})(?:[._-](?:[a-z]{1,20}|[0-9]{1,4}))*")  # of a page: plain words


def without_secrets(text: str) -> str:
    """A text in which no URL shows its name and password, or the values of its query; the middle of a long one is left
    out.

    Example:
        >>> without_secrets("Nothing at https://ann:key@example.org/fer?token=1f.")
        'Nothing at https://***@example.org/fer?token=***.'
    """
    text = _readable(text)
    for pattern in (*_QUOTED, _SPACED, _URL):
        text = pattern.sub(_without_secrets, text)
    return text


def url_without_secrets(text: str) -> str:
    """The same of a text that is a URL as a whole, whose password may have spaces and quotes; other texts stay.

    Example:
        >>> url_without_secrets("s3://ann:my key@bucket/fer"), url_without_secrets("faces")
        ('s3://***@bucket/fer', 'faces')
    """
    return _WHOLE_URL.sub(_without_secrets, _readable(text))


def _readable(text: str) -> str:
    return text if len(text) <= _MOST_READ else text[: _MOST_READ // 2] + text[-_MOST_READ // 2 :]


def _without_secrets(url: re.Match[str]) -> str:
    """A URL without name and password, and without the values of its query, one of which may be a key."""
    start, rest = url.groups()
    plain = rest.rstrip(".,:;)")  # of the sentence
    there, parts = plain, _AT.fullmatch(plain)
    if parts is not None:
        before, at, after = parts.groups()
        container = start.rstrip("/\\").lower().endswith(("az:", "abfs:", "abfss:")) and ":" not in before
        if not container and (":" in before or "/" not in before):
            there = f"***{at}{after}"
    return start + _QUERY.sub(_without_value, there) + rest[len(plain) :]


def _without_value(part: re.Match[str]) -> str:
    mark, name, equals, _ = part.groups()
    in_percent = mark[0] == "%" and mark[-2:].lower() != "3f"  # also of a name such as R%26B
    if _SECTION.fullmatch(part[0]) or (in_percent and not equals):
        return part[0]
    return f"{mark}{name}{equals}***" if equals else f"{mark}***"
