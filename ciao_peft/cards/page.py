"""Pages of Markdown under a front matter of YAML, which a program and people write together.

A page has marked parts, which each save writes again, and prose by people, which stays. A part whose marks somebody
removes is theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..door import parse_yaml
from ..errors import FileReadError

__all__ = ["merge_cards", "merged_page", "page_of", "prose", "split_page"]


def prose(card: str) -> str:
    """What people wrote: the card without its front matter and its marked parts.

    Example:
        >>> card = merged_page({"tags": []}, {"facts": "# A world"}, None)
        >>> prose(card + "Labelled by children.")
        'Labelled by children.'
    """
    text = split_page(card)[1]
    for part in ("facts", "use"):
        text = _pattern(part).sub("", text)
    return text.strip()


def merge_cards(folder_card: str, repository_card: str) -> str:
    """Merges the two cards that a push starts from. Where both have prose or a metadata key, the folder's wins.

    Args:
        folder_card: The folder's card, as `card_without_record` returns it.
        repository_card: The repository's card, likewise.

    Returns:
        The merged card; tags are those of both.

    Example:
        >>> theirs = page_of({"license": "mit", "tags": ["faces"]}, "By somebody.")
        >>> metadata, text = split_page(merge_cards(page_of({"license": "apache-2.0"}, "By us."), theirs))
        >>> metadata, text.strip()
        ({'license': 'apache-2.0', 'tags': ['faces']}, 'By us.')
    """
    if not folder_card.strip() or not repository_card.strip():
        return folder_card if folder_card.strip() else repository_card
    (own, text), (theirs, other) = split_page(folder_card), split_page(repository_card)
    tags = [tag for card in (theirs, own) if isinstance(card.get("tags"), list) for tag in card["tags"]]
    metadata = {**theirs, **own, **({"tags": list(dict.fromkeys(map(str, tags)))} if tags else {})}
    return page_of(metadata, text if prose(folder_card) else other)


def split_page(card: str) -> tuple[dict[str, Any], str]:
    """Splits a card into its metadata and its text; a front matter that is no YAML counts as empty.

    Example:
        >>> split_page("---\\nlicense: mit\\n---\\n# A world")
        ({'license': 'mit'}, '# A world')
    """
    front = re.match(r"\s*---\r?\n(.*?)(?:^|\n)---[ \t]*(?:\r?\n|\Z)", card, re.DOTALL)
    if front is None:
        return {}, card
    try:
        metadata = parse_yaml(front[1], "the card")
    except FileReadError:
        metadata = None
    return (metadata if isinstance(metadata, dict) else {}), card[front.end() :]


def merged_page(metadata: dict[str, Any], parts: Mapping[str, str], existing: str | None) -> str:
    """Merges our metadata and marked parts into the present page.

    Args:
        metadata: Our metadata, with `tags`. The present page keeps its licence and the keys that are not ours.
        parts: The text of each marked part, by the part's name.
        existing: The present page; everything outside the marked parts stays. A new page is made if there is none.

    Returns:
        The page, with all marked parts written anew.

    Example:
        >>> old = merged_page({"tags": ["ciao"]}, {"facts": "accuracy 0.5"}, None) + "Labelled by children."
        >>> new = merged_page({"tags": ["ciao"]}, {"facts": "accuracy 0.7"}, old)
        >>> "0.5" in new, "0.7" in new, prose(new)
        (False, True, 'Labelled by children.')
    """
    if existing is None or not existing.strip():
        text = "\n\n".join(_marked(part, content) for part, content in parts.items()) + "\n"
    else:
        old, text = split_page(existing)
        for part, content in parts.items():
            marked = _marked(part, content)
            text = _pattern(part).sub(lambda _, new=marked: new, text)
        kept_tags = old.get("tags")
        tags = [*(kept_tags if isinstance(kept_tags, list) else []), *metadata["tags"]]
        stale = {"model-index", "metrics"} if "model-index" not in metadata else set()
        kept = {key: value for key, value in old.items() if key not in {*stale, *metadata}}
        metadata = {**metadata, **kept, "tags": list(dict.fromkeys(tags))}
        if "license" in old:  # the choice of whoever wrote it on the card
            metadata["license"] = old["license"]
    return page_of(metadata, text)


def page_of(metadata: Mapping[str, Any], text: str) -> str:
    """Puts text under its front matter.

    Args:
        metadata: The front matter; without any, the text stays as it is.
        text: The page.

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
