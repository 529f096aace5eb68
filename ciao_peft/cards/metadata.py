"""The front matter of model cards, made with `huggingface_hub`'s `ModelCardData` and `EvalResult`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..door import parse_json
from .scores import dataset_of, rounded, scores_of, seeds_of

__all__ = [
    "COMMIT",
    "DIGEST",
    "LIBRARY",
    "adapter_metadata",
    "collection_metadata",
    "encoder_metadata",
    "recorded_metadata",
    "title_of",
]

LIBRARY = "ciao_peft"
"""The name under which the Hub lists what this library made."""

COMMIT = re.compile("[0-9a-f]{40}")
"""The form of the revision of what came from a repository."""

DIGEST = re.compile("[0-9a-f]{16}")
"""The form of the revision of weights that lay in a folder, or came with this library."""

_OURS, _REPOSITORY = re.compile("[a-z0-9-]+"), re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

_ADAPTER_TAGS = ["ciao", "adapter", "facial-expression-recognition"]


def adapter_metadata(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The front matter of an adapter's card.

    Args:
        record: As for `adapter_card`.
        name: As for `adapter_card`.

    Example:
        >>> config = {"problem_type": "single_label_classification"}
        >>> record = {"config": config, "base_model_name_or_path": "timm/resnet18", "revision": "a1_in1k"}
        >>> metadata = adapter_metadata(record, "user/ciao-fer")
        >>> metadata["base_model"], metadata["pipeline_tag"], metadata["tags"][0]
        ('timm/resnet18', 'image-classification', 'ciao')
    """
    problem = record["config"]["problem_type"]
    pipeline = None if problem == "regression" else "image-classification"
    training, known = record.get("training") or {}, _base_model(record)
    return _metadata(training, name, pipeline or problem, pipeline_tag=pipeline, tags=_ADAPTER_TAGS, **known)


def encoder_metadata(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The front matter of an encoder's card.

    Args:
        record: As for `encoder_card`.
        name: As for `encoder_card`.

    Example:
        >>> metadata = encoder_metadata({"license": "mit"}, "user/encoder")
        >>> metadata["license"], metadata["tags"]
        ('mit', ['ciao', 'face-encoder'])
    """
    training, task = record.get("training") or {}, "image-feature-extraction"
    if "license" in record:
        training = {"license": record["license"], **training}
    return _metadata(training, name, task, pipeline_tag=task, tags=["ciao", "face-encoder"])


def collection_metadata(record: Mapping[str, Any]) -> dict[str, Any]:
    """The front matter of a repository with several adapters, by the record of one of them.

    Example:
        >>> collection_metadata({"base_model_name_or_path": "user/encoder"})["library_name"]
        'ciao_peft'
    """
    return _metadata({}, "", "", tags=_ADAPTER_TAGS, **_base_model(record))


def recorded_metadata(text: str | None) -> dict[str, Any]:
    """The front matter that a save wrote.

    Args:
        text: The text of the file with its record; None if there is no such file.

    Returns:
        The metadata; empty if the text is no record.

    Example:
        >>> recorded_metadata(None), recorded_metadata('{"ciao_encoder": 1}')["library_name"]
        ({}, 'ciao_peft')
    """
    try:
        record = parse_json(text or "", "the record")
        if "ciao_encoder" in record:
            return encoder_metadata(record, "")
        # Versions up to 0.1.0 named any backbone whose name looks like a repository's.
        base = {"base_model": record["base_model_name_or_path"], "base_model_relation": "adapter"}
        return base | adapter_metadata(record, "")
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def title_of(name: str) -> str:
    """The title of a card: the last part of what its adapter or encoder is loaded by.

    Example:
        >>> title_of("user/ciao-fer"), title_of('user/worlds", subfolder="fer')
        ('ciao-fer', 'worlds')
    """
    return name.partition('"')[0].rpartition("/")[2]


def _metadata(training: Mapping[str, Any], name: str, task: str, **known: Any) -> dict[str, Any]:
    from huggingface_hub import EvalResult, ModelCardData

    data, seeds = dataset_of(training), seeds_of(training)
    # The Hub wants a dataset with each score, and compares scores, not losses.
    scores = [score for score in scores_of(training) if score.name != "loss"] if data.get("name") else []
    results = [
        EvalResult(
            task_type=task,
            dataset_type=str(data.get("id") or data["name"]),
            dataset_name=str(data["name"]),
            dataset_split=score.split,
            metric_type=score.name,
            metric_value=rounded(score.value),
            metric_args={**rounded(score.details), **({} if seeds is None else {"seeds": seeds})} or None,
        )
        for score in scores
    ]
    return ModelCardData(
        library_name=LIBRARY,
        license=str(training["license"]) if training.get("license") else None,
        datasets=[data["id"]] if isinstance(data.get("id"), str) else None,
        metrics=sorted({score.name for score in scores}) or None,
        model_name=title_of(name) if results else None,
        eval_results=results or None,
        **known,
    ).to_dict()


def _base_model(record: Mapping[str, Any]) -> dict[str, str]:
    """The backbone, where its name says which weights: ours, those of a commit on the Hub, or weights of timm."""
    base, revision = record["base_model_name_or_path"], record.get("revision") or ""
    ours = _OURS.fullmatch(base) and DIGEST.fullmatch(revision)
    pretrained = base.startswith("timm/") and revision not in ("", "random")
    theirs = _REPOSITORY.fullmatch(base) and (pretrained or COMMIT.fullmatch(revision))
    return {"base_model": base, "base_model_relation": "adapter"} if ours or theirs else {}
