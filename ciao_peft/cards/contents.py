"""Model cards: what was recorded, as the Hub's metadata and as a page to read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..door import MAX_TEXT_BYTES, read_file
from ..errors import HubFileError
from ..saving import CARD_FILE, PICTURE_FILE
from .masks import mask_in_words
from .metadata import (
    COMMIT,
    DIGEST,
    adapter_metadata,
    collection_metadata,
    encoder_metadata,
    recorded_metadata,
    title_of,
)
from .page import merged_page, page_of, split_page
from .rendering import render
from .scores import SCORE, dataset_of, rounded, scores_of, seeds_of

__all__ = ["adapter_card", "card_without_record", "collection_card", "encoder_card", "text_reader"]

_PROBLEMS = {
    "single_label_classification": "one of {} classes",
    "multi_label_classification": "any of {} labels",
    "regression": "{} values",
}
_MAX_LABELS = 30
# Of encoders that others trained, and that come with this library: every adapter's card says it.
_TERMS = {
    "dlib-face": "its author gave dlib's model file to the public domain (CC0-1.0); the rights in the training "
    "pictures, and of the people they show, are not part of that dedication",
}


def adapter_card(
    record: Mapping[str, Any],
    name: str,
    *,
    existing: str | None = None,
    picture: bool = False,
    prepares: bool = True,
    dtype: str | None = None,
) -> str:
    """Writes the card of one adapter.

    Args:
        record: The content of its `adapter_config.json`. Under `"training"` it understands `dataset` (a name, or a dict
            with `name`, `id`, `license`, `url`), `license`, `world` (a sentence on how these people label), `seed` or
            `seeds`, `arguments`, and `metrics`: a number by name, or a dict with `value` or `mean`, and any of `sd`,
            `interval`, `values`, `split`; `eval_NAME` and `test_NAME` are metrics wherever they stand. Everything else
            is listed.
        name: The repository or folder to load it from.
        existing: The present card, as `card_without_record` returns it; its prose and metadata stay.
        picture: Whether its folder has a `saliency.png`.
        prepares: Whether its folder has a `preprocessor_config.json`, so that it can read files of pictures.
        dtype: Smaller one in which its weights are saved, such as `"float16"`.

    Returns:
        Markdown under a front matter of YAML.

    Example:
        >>> from ciao_peft import CIAOConfig
        >>> config = CIAOConfig(problem_type="regression", num_labels=2).to_dict()
        >>> record = {"config": config, "base_model_name_or_path": "user/encoder", "revision": "0123456789" * 4}
        >>> print(adapter_card(record, "user/ciao-fer").split("tags:")[0], end="")
        ---
        base_model: user/encoder
        library_name: ciao_peft
    """
    config, training = record["config"], record.get("training") or {}
    frames, input_size = config.get("frames"), record.get("input_size", ())
    facts = render(
        "adapter.md.jinja",
        name=name,
        config=config,
        mask=mask_in_words(config),
        base=record["base_model_name_or_path"],
        backbone=_where_the_backbone_is(record),
        terms=_TERMS.get(record["base_model_name_or_path"]),
        revision=record.get("revision"),
        prepares=prepares,
        shape=", ".join(str(size) for size in (1, *([frames] if frames else []), *input_size)),
        reads=f"{_PROBLEMS[config['problem_type']].format(config['num_labels'])}: {_labels(config)}",
        input_size=input_size,
        trained_parameters=record.get("trained_parameters"),
        weights_bytes=record.get("weights_bytes"),
        weights_sha256=record.get("weights_sha256"),
        weights_dtype=record.get("weights_dtype") or dtype,
        picture=PICTURE_FILE if picture else None,
        **_about_training(record, name),
    )
    use = render("use.md.jinja", data=dataset_of(training).get("name") or "its data", world=training.get("world"))
    return merged_page(adapter_metadata(record, name), {"facts": facts, "use": use}, existing)


def encoder_card(
    record: Mapping[str, Any], name: str, *, existing: str | None = None, num_parameters: int | None = None
) -> str:
    """Writes the card of an encoder, the frozen network under adapters.

    Args:
        record: The content of its `config.json`; `"training"` is understood as in `adapter_card`.
        name: The repository or folder to load it from.
        existing: The present card, as `card_without_record` returns it.
        num_parameters: The number of its parameters.

    Returns:
        Markdown under a front matter of YAML.

    Example:
        >>> card = encoder_card({"license": "mit"}, "user/encoder", num_parameters=1000)
        >>> [line for line in card.splitlines() if line.startswith("#")][0]
        '# encoder'
    """
    facts = render("encoder.md.jinja", name=name, num_parameters=num_parameters, **_about_training(record, name))
    return merged_page(encoder_metadata(record, name), {"facts": facts}, existing)


def collection_card(record: Mapping[str, Any], name: str, subfolders: list[str], existing: str | None = None) -> str:
    """Writes the card at the root of a repository that holds several adapters, each in a folder with its own card.

    Args:
        record: The content of the `adapter_config.json` of one of them.
        name: The repository.
        subfolders: The folders of all adapters.
        existing: The present card; its prose stays.

    Returns:
        Markdown under a front matter of YAML.

    Example:
        >>> card = collection_card({"base_model_name_or_path": "small-face"}, "user/worlds", ["jaffe", "fer"])
        >>> [line for line in card.splitlines() if line.startswith("- [")]
        ["- [`fer`](fer/README.md): `subfolder='fer'`", "- [`jaffe`](jaffe/README.md): `subfolder='jaffe'`"]
    """
    folders = sorted(subfolders)
    facts = render("collection.md.jinja", title=title_of(name), subfolders=folders, card_file=CARD_FILE)
    return merged_page(collection_metadata(record), {"facts": facts}, existing)


def text_reader(folder: str | os.PathLike[str]) -> Callable[[str], str | None]:
    """A function that returns the text of a file in the folder, or None if there is no such file.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "README.md").write_text("# A world")
        9
        >>> text_reader(folder)("README.md"), text_reader(folder)("LICENSE")
        ('# A world', None)
    """

    def read(name: str) -> str | None:
        path = Path(folder) / name
        return read_file(path, MAX_TEXT_BYTES).decode("utf-8", "replace") if path.is_file() else None

    return read


def card_without_record(read: Callable[[str], str | None], record_file: str) -> str:
    """The card of a folder or repository without the metadata that came from its record: people wrote the rest.

    Args:
        read: Returns the text of a file, or None if there is no such file.
        record_file: The file with the record that the card was written from.

    Returns:
        The card with its marked parts unchanged; empty if there is no card.

    Example:
        >>> files = {"README.md": "---\\nlibrary_name: ciao_peft\\nlicense: mit\\n---\\n# A world",
        ...          "config.json": '{"ciao_encoder": 1}'}
        >>> print(card_without_record(files.get, "config.json"))
        ---
        license: mit
        ---
        <BLANKLINE>
        # A world
    """
    card = read(CARD_FILE) or ""
    metadata, text = split_page(card)
    if not metadata:
        return card
    try:
        recorded = recorded_metadata(read(record_file))
    except HubFileError:  # too large to be a record
        recorded = {}
    return page_of(
        {key: value for key, value in metadata.items() if key not in recorded or rounded(value) != recorded[key]}, text
    )


def _where_the_backbone_is(record: Mapping[str, Any]) -> str:
    base, revision = record["base_model_name_or_path"], record.get("revision") or ""
    if DIGEST.fullmatch(revision):
        return "in a folder" if "/" in base else "loaded with the adapter"
    is_timm = base.startswith("timm/") and revision != "random"
    return "loaded with the adapter" if is_timm or COMMIT.fullmatch(revision) else "unknown"


def _labels(config: Mapping[str, Any]) -> str:
    labels = [config["id2label"][key] for key in sorted(config["id2label"], key=int)]
    more = [f"and {len(labels) - _MAX_LABELS} more"] if len(labels) > _MAX_LABELS else []
    return ", ".join([*labels[:_MAX_LABELS], *more])


def _told(value: Any) -> Any:
    """A recorded value as a cell of a table."""
    value = rounded(value, 6)
    return ", ".join(f"{key}: {one}" for key, one in value.items()) if isinstance(value, Mapping) else value


def _about_training(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The values of `training.md.jinja`, and the page's title."""
    training = record.get("training") or {}
    scores, seeds = list(scores_of(training)), seeds_of(training)
    data = {key: value for key, value in dataset_of(training).items() if value}
    facts = [("dataset", data.pop("name"))] if "name" in data else []
    facts += [(f"dataset: {key}", value) for key, value in data.items()]
    known = {"dataset", "metrics", "seed", "seeds", "arguments", "license", "world"}
    facts += [(key, _told(value)) for key, value in training.items() if key not in known and not SCORE.match(key)]
    arguments = training.get("arguments")
    if isinstance(arguments, Mapping):
        facts += [(f"`{key}`", _told(value)) for key, value in arguments.items() if value is not None]
    if not scores and seeds is not None:
        facts.append(("seed", seeds))
    versions = ", ".join(f"{library} {version}" for library, version in sorted((record.get("versions") or {}).items()))
    return {"title": title_of(name), "scores": scores, "seeds": seeds, "facts": facts, "versions": versions}
