"""The text of a flag as a value, where a setting takes more than one type."""

from __future__ import annotations

from typing import Any

__all__ = ["flag_or_text", "kinds_of", "text_or_texts"]


def flag_or_text(text: str) -> bool | str | None:
    """A flag whose values are true, false and texts.

    Args:
        text: As it stands on the command line.

    Example:
        >>> flag_or_text("True"), flag_or_text("auto"), flag_or_text("none")
        (True, 'auto', None)
    """
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def text_or_texts(text: str) -> str | tuple[str, ...]:
    """A flag with one text, or several with commas between them.

    Args:
        text: As it stands on the command line.

    Example:
        >>> text_or_texts("jsonl"), text_or_texts("jsonl,tensorboard")
        ('jsonl', ('jsonl', 'tensorboard'))
    """
    parts = tuple(part.strip() for part in text.split(","))
    return parts[0] if len(parts) == 1 else parts


_KINDS: dict[Any, Any] = {flag_or_text: bool | str | None, text_or_texts: str | tuple[str, ...]}


def kinds_of(hint: Any) -> Any:
    """The types behind an annotation that is one of these functions; any other annotation as it is.

    Args:
        hint: An annotation of a dataclass.

    Example:
        >>> kinds_of(flag_or_text), kinds_of(int)
        (bool | str | None, <class 'int'>)
    """
    return _KINDS.get(hint, hint) if callable(hint) else hint
