"""Model cards: what was recorded, in the words of the Hub's metadata and of a page for people."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import HubFileError
from ..saving.adapter_folder import CARD_FILE, PICTURE_FILE
from .page import merged_page, page_of, split_page

LIBRARY = "ciao_peft"

_COMMIT = re.compile("[0-9a-f]{40}")  # the revision of what came from a repository
_DIGEST = re.compile("[0-9a-f]{16}")  # and of weights that lay in a folder, or came with this library
_SCORE = re.compile("eval_|test_")
_COURSE = re.compile(r"train_|epoch$|\w*(runtime|_per_second)$")  # of the training itself, no score
_PROBLEMS = {
    "single_label_classification": "one of {} classes",
    "multi_label_classification": "any of {} labels",
    "regression": "{} values",
}
_LIMITS = """\
## Intended use and limits

This adapter answers as the people who labelled {data} would have labelled a face, no more. Facial expressions are not
universal: how people move their faces, and what others see in them, differs with person, culture and situation, and a
face is no proof of what somebody feels. {world}Use it to study, and to build what can be wrong without harm, with the
consent of those who are seen. It is not for decisions about people: hiring, schooling, policing, health, credit. Try it
on faces like those it will meet before you trust its numbers."""


def adapter_card(
    record: Mapping[str, Any],
    name: str,
    *,
    existing: str | None = None,
    picture: bool = False,
    prepares: bool = True,
) -> str:
    """The card of one adapter.

    Args:
        record: The content of its `adapter_config.json`. Under `"training"` it understands `dataset` (a name, or a dict
            with `name`, `id`, `license`, `url`), `license`, `world` (a sentence on how these people label), `seed` or
            `seeds`, `arguments`, and `metrics`: a number by name, or a dict with `value` or `mean`, and any of `sd`,
            `interval`, `values`, `split`; `eval_NAME` and `test_NAME` are metrics wherever they stand. All else is
            listed.
        name: What to load it by: a repository or folder.
        existing: The card that is there, as `card_without_record` returns it; its prose and metadata stay.
        picture: Whether `saliency.png` lies beside it.
        prepares: Whether `preprocessor_config.json` does, so that files of pictures can be read.

    Returns:
        Markdown with a head of YAML.

    Example:
        >>> from ciao_peft import CIAOConfig
        >>> config = CIAOConfig(problem_type="regression", num_labels=2).to_dict()
        >>> record = {"config": config, "base_model_name_or_path": "user/encoder", "revision": "0123456789" * 4}
        >>> print(adapter_card(record, "user/ciao-fer").split("tags:")[0], end="")
        ---
        library_name: ciao_peft
        base_model: user/encoder
        base_model_relation: adapter
    """
    training = record.get("training") or {}
    data = _dataset(training)
    facts = [
        _adapter_facts(record, _loading(record, name, prepares), picture),
        *_training_sections(training, data, record.get("versions")),
    ]
    parts = {"facts": "\n\n".join([f"# {_plain(_title(name))}", *facts]), "use": _limits(data, training)}
    return merged_page(_adapter_metadata(record, name), parts, existing)


def encoder_card(
    record: Mapping[str, Any], name: str, *, existing: str | None = None, num_parameters: int | None = None
) -> str:
    """The card of an encoder: like `adapter_card`, for a frozen network that adapters sit on.

    Args:
        record: The content of its `config.json`; under `"training"` as for an adapter.
        name: What to load it by.
        existing: The card that is there.
        num_parameters: Numbers in its weights.
    """
    training = record.get("training") or {}
    data = _dataset(training)
    size = "" if num_parameters is None else f" It has {num_parameters:,} parameters."
    facts = f"""A frozen face encoder for the adapters of `{LIBRARY}`.{size}

```python
from {LIBRARY} import CIAOConfig, get_ciao_model, load_encoder

encoder = load_encoder("{_plain(name)}")
model = get_ciao_model(encoder, CIAOConfig(problem_type="single_label_classification", num_labels=7))
```"""
    sections = _training_sections(training, data, record.get("versions"))
    parts = {"facts": "\n\n".join([f"# {_plain(_title(name))}", facts, *sections])}
    return merged_page(_encoder_metadata(record, name), parts, existing)


def collection_card(record: Mapping[str, Any], name: str, subfolders: list[str], existing: str | None = None) -> str:
    """The card at the root of a repository that holds several adapters, each in a folder with a card of its own."""
    metadata: dict[str, Any] = {"library_name": LIBRARY, "tags": ["ciao", "adapter", "facial-expression-recognition"]}
    metadata |= _base_model(record)
    rows = [f"- [`{folder}`]({folder}/{CARD_FILE}): `subfolder={folder!r}`" for folder in sorted(subfolders)]
    about = f"Adapters of `{LIBRARY}` in this repository:"
    parts = {"facts": "\n\n".join([f"# {_plain(_title(name))}", about, "\n".join(rows)])}
    return merged_page(metadata, parts, existing)


def text_reader(folder: str | os.PathLike) -> Callable[[str], str | None]:
    """What gives the text of a file in a folder, or None where there is none."""

    def read(name: str) -> str | None:
        path = Path(folder) / name
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

    return read


def card_without_record(read: Callable[[str], str | None], record_file: str) -> str:
    """The card of a folder or repository without the metadata that its record put there: what is left is of people.

    Args:
        read: Gives the text of a file, or None where there is none.
        record_file: The file with what the card was written from.

    Returns:
        A card, with the marked parts as they were; nothing where there is none.
    """
    card = read(CARD_FILE) or ""
    metadata, text = split_page(card)
    if not metadata:
        return card
    try:
        recorded = _recorded(read(record_file))
    except HubFileError:  # too large to be one
        recorded = {}
    return page_of(
        {key: value for key, value in metadata.items() if key not in recorded or value != recorded[key]}, text
    )


# -- parts -------------------------------------------------------------------------------------------------------------


def _loading(record: Mapping[str, Any], name: str, prepares: bool) -> str:
    """Code that reads a face, or a clip, with this adapter."""
    base, revision = record["base_model_name_or_path"], record.get("revision") or ""
    maker, source, ending = "CIAOModel", f'backbone, "{_plain(name)}"', ".eval()"
    if _DIGEST.fullmatch(revision) and "/" in base:
        start = [f"from {LIBRARY} import CIAOModel, load_encoder", f'backbone = load_encoder("{_plain(base)}")']
    elif (
        (base.startswith("timm/") and revision != "random")
        or _DIGEST.fullmatch(revision)
        or _COMMIT.fullmatch(revision)
    ):
        maker, source, ending = "AutoCIAOModel", f'"{_plain(name)}"', ""
        start = [f"from {LIBRARY} import AutoCIAOModel"]
    else:
        start = [f"from {LIBRARY} import CIAOModel", f"# backbone: the network it was trained on, {_plain(base)}"]
    start[0] += f"  # pip install {LIBRARY}"
    frames = record["config"].get("frames")
    if not prepares:
        shape = ", ".join(str(n) for n in (1, *([frames] if frames else []), *record.get("input_size", ())))
        start.insert(0, "import torch")
        answer = f"model(torch.zeros({shape})).logits)  # pixels, prepared as the backbone needs them"
    elif frames:
        answer = 'model.predict([["frame-1.jpg", "frame-2.jpg", "frame-3.jpg"]]))  # a clip is a list of its frames'
    else:
        answer = 'model.predict("face.jpg"))'
    lines = [*start, f"model = {maker}.from_pretrained({source}){ending}", f"print({answer}"]
    return "\n".join(["```python", *lines, "```"])


def _adapter_facts(record: Mapping[str, Any], load: str, picture: bool) -> str:
    config = record["config"]
    labels = [config["id2label"][key] for key in sorted(config["id2label"], key=int)]
    if len(labels) > 30:
        labels = [*labels[:30], f"and {len(labels) - 30} more"]
    base = record["base_model_name_or_path"]
    at = f" at `{record['revision']}`" if record.get("revision") else ""
    rows = {
        "reads": f"{_PROBLEMS[config['problem_type']].format(config['num_labels'])}: {', '.join(map(_plain, labels))}",
        "backbone": f"`{_plain(base)}`{at}, frozen",
        "pixels": " x ".join(str(n) for n in record.get("input_size", ())),
        "trains": f"`{config['tuning']}`" + ("" if config["inhibition"] else ", without inhibition"),
        "mask after": ", ".join(f"`{_plain(target)}`" for target in config["target_modules"] or ()),
    }
    if record.get("trained_parameters") is not None:
        rows["trained parameters"] = f"{record['trained_parameters']:,}"
    if "weights_bytes" in record:
        rows["weights"] = f"{record['weights_bytes']:,} bytes, SHA-256 `{record['weights_sha256']}`"
    blocks = [
        f"An adapter of `{LIBRARY}`: it changes what a frozen face encoder lets through, and decides from that.",
        load,
        _table(("", ""), rows.items()),
    ]
    if picture:
        blocks.append(f"![What the mask lets through]({PICTURE_FILE})")
    return "\n\n".join(blocks)


def _training_sections(
    training: Mapping[str, Any], data: Mapping[str, Any], versions: Mapping[str, str] | None
) -> Iterator[str]:
    if metrics := list(_metrics(training)):
        seeds = _seeds(training)
        about = "" if seeds is None else f"\n\nSeeds: {_plain(seeds)}."
        rows = [
            (_plain(m["name"]), _plain(m.get("split", "")), m["text"], m.get("interval", ""), m.get("runs", ""))
            for m in metrics
        ]
        yield "## Results\n\n" + _table(("metric", "split", "value", "interval", "runs"), rows) + about
    told = {key: value for key, value in data.items() if value}
    known = {"dataset", "metrics", "seed", "seeds", "arguments", "license", "world"}
    rows = [("dataset", f"{_plain(value)}") for value in [told.pop("name", None)] if value]
    rows += [(f"dataset: {_plain(key)}", _plain(value)) for key, value in told.items()]
    rows += [
        (_plain(key), _plain(value)) for key, value in training.items() if key not in known and not _SCORE.match(key)
    ]
    arguments = training.get("arguments")
    rows += [
        (f"`{_plain(key)}`", _plain(value))
        for key, value in (arguments.items() if isinstance(arguments, Mapping) else ())
        if value is not None
    ]
    if not metrics and _seeds(training) is not None:
        rows.append(("seed", _plain(_seeds(training))))
    if rows:
        yield "## Training\n\n" + _table(("", ""), rows)
    if versions:
        yield "Made with " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + "."


def _limits(data: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    name = _plain(data.get("name") or "its data")
    world = training.get("world")
    return _LIMITS.format(data=name, world=f"Its world: {_plain(world)}. " if world else "")


def _seeds(training: Mapping[str, Any]) -> Any:
    arguments = training.get("arguments")
    of_arguments = arguments.get("seed") if isinstance(arguments, Mapping) else None
    return training.get("seeds", training.get("seed", of_arguments))


def _dataset(training: Mapping[str, Any]) -> dict[str, Any]:
    data = training.get("dataset")
    if isinstance(data, Mapping):
        return dict(data)
    return {"name": str(data)} if data else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _metrics(training: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each score with `name`, `value`, `text`, and what else is known of it."""
    metrics = training.get("metrics")
    given = dict(metrics) if isinstance(metrics, Mapping) else {}
    given |= {key: value for key, value in training.items() if _SCORE.match(key)}
    for key, score in given.items():
        known = dict(score) if isinstance(score, Mapping) else {"value": score}
        value = known.pop("value", known.pop("mean", None))
        if not _is_number(value) or _COURSE.match(key):
            continue
        name = str(key)
        if found := _SCORE.match(name):  # what a trainer calls its scores
            name = name[found.end() :]
            known.setdefault("split", {"eval_": "evaluation", "test_": "test"}[found[0]])
        metric: dict[str, Any] = {"name": name, "value": value, "text": f"{value:.4g}", "args": known}
        if _is_number(known.get("sd")):
            metric["text"] += f" ± {known['sd']:.2g}"
        interval = known.get("interval")
        if isinstance(interval, (list, tuple)) and len(interval) == 2 and all(map(_is_number, interval)):
            metric["interval"] = "[{:.4g}, {:.4g}]".format(*interval)
        if isinstance(known.get("values"), (list, tuple)):
            metric["runs"] = str(len(known["values"]))
        if known.get("split"):
            metric["split"] = str(known["split"])
        yield metric


def _adapter_metadata(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    training, problem = record.get("training") or {}, record["config"]["problem_type"]
    metadata: dict[str, Any] = {"library_name": LIBRARY, **_base_model(record)}
    if problem != "regression":
        metadata["pipeline_tag"] = "image-classification"
    metadata["tags"] = ["ciao", "adapter", "facial-expression-recognition"]
    task = metadata.get("pipeline_tag", problem)
    return metadata | _shared_metadata(training, _dataset(training), title=_title(name), task=task)


def _encoder_metadata(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    training, task = record.get("training") or {}, "image-feature-extraction"
    if "license" in record and "license" not in training:
        training = {**training, "license": record["license"]}
    metadata = {"library_name": LIBRARY, "pipeline_tag": task, "tags": ["ciao", "face-encoder"]}
    return metadata | _shared_metadata(training, _dataset(training), title=_title(name), task=task)


def _base_model(record: Mapping[str, Any]) -> dict[str, str]:
    """The backbone, where it is known to be on the Hub: at a commit there, or with timm's pretrained weights."""
    base, revision = record["base_model_name_or_path"], record.get("revision") or ""
    pretrained = base.startswith("timm/") and revision not in ("", "random")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", base, re.ASCII) or not (pretrained or _COMMIT.fullmatch(revision)):
        return {}
    return {"base_model": base, "base_model_relation": "adapter"}


def _recorded(text: str | None) -> dict[str, Any]:
    """What a save put into the metadata of a card, by the text of its record; nothing for what is no record."""
    try:
        record = json.loads(text or "")
        if "ciao_encoder" in record:
            return _encoder_metadata(record, "")
        # Versions up to 0.1.0 named any backbone whose name looks like a repository's.
        base = {"base_model": record["base_model_name_or_path"], "base_model_relation": "adapter"}
        return base | _adapter_metadata(record, "")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _shared_metadata(training: Mapping[str, Any], data: Mapping[str, Any], title: str, task: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    if training.get("license"):
        metadata["license"] = str(training["license"])
    if isinstance(data.get("id"), str):
        metadata["datasets"] = [data["id"]]
    # The Hub wants a dataset beside each score, and compares scores, not losses.
    metrics = [metric for metric in _metrics(training) if metric["name"] != "loss"] if data.get("name") else []
    if metrics:
        metadata["metrics"] = sorted({m["name"] for m in metrics})
        where = {"name": str(data["name"]), "type": str(data.get("id") or data["name"])}
        seeds = {} if _seeds(training) is None else {"seeds": _seeds(training)}
        by_split: dict[str | None, list[dict[str, Any]]] = {}
        for metric in metrics:
            args = {key: value for key, value in metric["args"].items() if key != "split"} | seeds
            entry = {"type": metric["name"], "value": metric["value"], **({"args": args} if args else {})}
            by_split.setdefault(metric.get("split"), []).append(entry)
        results = [
            {"task": {"type": task}, "dataset": {**where, **({"split": split} if split else {})}, "metrics": entries}
            for split, entries in by_split.items()
        ]
        metadata["model-index"] = [{"name": title, "results": results}]
    return metadata


# -- text --------------------------------------------------------------------------------------------------------------


def _title(name: str) -> str:
    return name.partition('"')[0].rpartition("/")[2]  # `user/name", subfolder="fer` asks for a folder of a repository


def _plain(value: Any) -> str:
    """One line that is neither table, HTML nor a mark of ours."""
    return " ".join(str(value).split()).replace("<", "&lt;").replace("|", "\\|")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)
