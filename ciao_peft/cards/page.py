"""Pages of Markdown under a head of YAML that a program and people write together.

A page has marked parts that each save writes anew, and whatever else people wrote, which stays. Who removes the marks
around a part owns it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def prose(card: str) -> str:
    """What people wrote: the card without its head and the marked parts."""
    text = split_page(card)[1]
    for part in ("facts", "use"):
        text = _pattern(part).sub("", text)
    return text.strip()


def merge_cards(mine: str, theirs: str) -> str:
    """What a push writes upon: the repository's card, with what people wrote in the folder's before their own.

    Args:
        mine: The folder's, as `card_without_record` gives it.
        theirs: The repository's likewise.
    """
    if not mine.strip() or not theirs.strip():
        return mine if mine.strip() else theirs
    (own, text), (metadata, other) = split_page(mine), split_page(theirs)
    tags = [tag for card in (metadata, own) if isinstance(card.get("tags"), list) for tag in card["tags"]]
    metadata = {**metadata, **own, **({"tags": list(dict.fromkeys(map(str, tags)))} if tags else {})}
    return page_of(metadata, text if prose(mine) else other)


def split_page(card: str) -> tuple[dict[str, Any], str]:
    """Metadata and text; metadata that is no YAML counts as none."""
    import yaml

    found = re.match(r"\s*---\r?\n(.*?)(?:^|\n)---[ \t]*(?:\r?\n|\Z)", card, re.DOTALL)
    if found is None:
        return {}, card
    try:
        metadata = yaml.safe_load(found[1])
    except yaml.YAMLError:
        metadata = None
    return (metadata if isinstance(metadata, dict) else {}), card[found.end() :]


def merged_page(metadata: dict[str, Any], parts: Mapping[str, str], existing: str | None) -> str:
    """A page with metadata and marked parts of ours, over what is there.

    Args:
        metadata: Ours, `tags` among it. A licence that is there stays, and so do keys that are not ours.
        parts: Text of each marked part, by its name.
        existing: The page so far; what lies outside the marked parts stays. A new page when left out or empty.
    """
    if existing is None or not existing.strip():
        text = "\n\n".join(_marked(part, content) for part, content in parts.items()) + "\n"
    else:
        old, text = split_page(existing)
        for part, content in parts.items():
            marked = _marked(part, content)
            text = _pattern(part).sub(lambda _, new=marked: new, text)
        tags = [*(old.get("tags") if isinstance(old.get("tags"), list) else []), *metadata["tags"]]
        stale = {"model-index", "metrics"} if "model-index" not in metadata else set()
        kept = {key: value for key, value in old.items() if key not in {*stale, *metadata}}
        metadata = {**metadata, **kept, "tags": list(dict.fromkeys(tags))}
        if "license" in old:  # the choice of whoever wrote it on the card
            metadata["license"] = old["license"]
    return page_of(metadata, text)


def page_of(metadata: Mapping[str, Any], text: str) -> str:
    """Text under its head.

    Example:
        >>> print(page_of({"license": "mit"}, "# A card"))
        ---
        license: mit
        ---
        <BLANKLINE>
        # A card
        >>> split_page(page_of({"license": "mit"}, "# A card"))[0]
        {'license': 'mit'}
    """
    import yaml

    if not metadata:
        return text
    head = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{head}---\n\n{text.lstrip()}"


def _pattern(part: str) -> re.Pattern[str]:
    return re.compile(rf"<!-- ciao: {part}[^>]*-->.*?<!-- ciao: end of {part} -->", re.DOTALL)


def _marked(part: str, text: str) -> str:
    note = "each save writes this part anew; remove both marks to keep it as it is"
    return f"<!-- ciao: {part}; {note} -->\n\n{text}\n\n<!-- ciao: end of {part} -->"
