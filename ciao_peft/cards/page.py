"""Pages of Markdown under a front matter of YAML, which a program and people write together.

A page has marked parts, which each save writes again, and prose by people, which stays. A part whose marks somebody
removes is theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def prose(card: str) -> str:
    """What people wrote: the card without its front matter and its marked parts."""
    text = split_page(card)[1]
    for part in ("facts", "use"):
        text = _pattern(part).sub("", text)
    return text.strip()


def merge_cards(folder_card: str, repository_card: str) -> str:
    """The card that a push starts from. Where both cards have prose or a metadata key, the folder's wins.

    Args:
        folder_card: The folder's card, as `card_without_record` returns it.
        repository_card: The repository's card, likewise.
    """
    if not folder_card.strip() or not repository_card.strip():
        return folder_card if folder_card.strip() else repository_card
    (own, text), (theirs, other) = split_page(folder_card), split_page(repository_card)
    tags = [tag for card in (theirs, own) if isinstance(card.get("tags"), list) for tag in card["tags"]]
    metadata = {**theirs, **own, **({"tags": list(dict.fromkeys(map(str, tags)))} if tags else {})}
    return page_of(metadata, text if prose(folder_card) else other)


def split_page(card: str) -> tuple[dict[str, Any], str]:
    """The metadata and the text of a card; a front matter that is no YAML counts as empty."""
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
    """A page with our metadata and marked parts, merged into the present page.

    Args:
        metadata: Our metadata, with `tags`. The present page keeps its licence and the keys that are not ours.
        parts: The text of each marked part, by the part's name.
        existing: The present page; everything outside the marked parts stays. A new page is made if there is none.
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
    """Text under its front matter.

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
