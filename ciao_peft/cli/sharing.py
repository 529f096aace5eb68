"""`ciao publish`, `ciao pull` and `ciao inspect`."""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import Any

from .flags import add_flag


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `publish`, `pull` and `inspect`."""
    publish = commands.add_parser(
        "publish",
        help="put a saved adapter or encoder on the Hub",
        description="Publishes a saved adapter or encoder in one commit, with its card. Log in with `hf auth login`.",
    )
    publish.add_argument("folder", help="the folder that `save_pretrained` or `save_encoder` wrote")
    publish.add_argument("repo_id", help="the repository as user/name; it is created if it does not exist")
    publish.add_argument(
        "--private", action="store_true", default=None, help="make a new repository visible to its owner alone"
    )
    add_flag(publish, "create_pr", action="store_true", help="open a pull request instead of committing")
    publish.add_argument("--message", default="Upload with ciao_peft", help="the commit message (default: %(default)s)")
    publish.set_defaults(run=_publish)
    pull = commands.add_parser(
        "pull",
        help="download an adapter into the cache",
        description="Downloads and checks an adapter; prints its folder.",
    )
    pull.add_argument("repo_id", help="the repository as user/name")
    add_flag(pull, "force_download", action="store_true", help="download the files again, even if they are cached")
    pull.set_defaults(run=_pull)
    inspect = commands.add_parser(
        "inspect",
        help="show what an adapter is",
        description="Checks an adapter and prints its config, sizes, checksum, backbone and metrics.",
    )
    inspect.add_argument("source", help="a folder, or a repository on the Hub as user/name")
    inspect.set_defaults(run=_inspect)
    for command in (publish, pull, inspect):
        command.add_argument("--revision", help="the branch, tag or commit (default: the main branch)")
        command.add_argument("--subfolder", help="the folder inside the repository (default: its root)")
        command.add_argument("--json", action="store_true", help="print the result as JSON")


def _publish(options: argparse.Namespace) -> None:
    from ..encoders import publish_encoder
    from ..hub.adapters import publish_adapter
    from ..saving.adapter_folder import CONFIG_FILE
    from ..saving.files import local_path

    is_encoder = not options.subfolder and not (local_path(options.folder) / CONFIG_FILE).exists()
    is_encoder = is_encoder and (local_path(options.folder) / "config.json").exists()
    publish = publish_encoder if is_encoder else partial(publish_adapter, subfolder=options.subfolder)
    commit = publish(
        options.folder,
        options.repo_id,
        private=options.private,
        revision=options.revision,
        create_pr=options.create_pr,
        commit_message=options.message,
    )
    url = commit.pr_url or commit.commit_url
    _print(options, {"repo_id": options.repo_id, "revision": commit.oid, "url": url}, url)


def _pull(options: argparse.Namespace) -> None:
    from ..errors import HubNotFoundError
    from ..hub import is_hub_id
    from ..hub.adapters import read_adapter

    if not is_hub_id(options.repo_id):
        raise HubNotFoundError(f"{options.repo_id!r} is no name of a repository; give `user/name`.")
    _, snapshot = read_adapter(
        options.repo_id,
        subfolder=options.subfolder,
        revision=options.revision,
        force_download=options.force_download,
    )
    facts = {"repo_id": snapshot.repo_id, "revision": snapshot.revision, "folder": str(snapshot.folder)}
    _print(options, facts, facts["folder"])


def _inspect(options: argparse.Namespace) -> None:
    from ..hub.adapters import read_adapter
    from ..saving.adapter_folder import CONFIG_FILE
    from ..saving.files import read_json

    saved, snapshot = read_adapter(options.source, subfolder=options.subfolder, revision=options.revision)
    record = read_json(snapshot.folder / CONFIG_FILE)
    facts = {
        "source": str(options.source),
        "revision": snapshot.revision,
        "folder": str(snapshot.folder),
        "backbone": {"name": saved.backbone_name, "revision": saved.backbone_revision, **saved.backbone_signature},
        "input_size": list(saved.input_size),
        "config": saved.config.to_dict(),
        "convolutions": saved.convolutions,
        "trained_parameters": saved.trained_parameters,
        "tensors": {key: [*tensor.shape] for key, tensor in saved.tensors.items()},
        "weights_bytes": record["weights_bytes"],
        "weights_dtype": record.get("weights_dtype"),
        "weights_sha256": record["weights_sha256"],
        "preprocessing": saved.preprocessing,
        "training": saved.training,
        "versions": saved.versions,
    }
    _print(options, facts, _for_people(facts))


def _for_people(facts: dict[str, Any]) -> str:
    from ..cards import mask_in_words

    config, backbone, training = facts["config"], facts["backbone"], facts["training"]
    at = f" at {facts['revision']}" if facts["revision"] else ""
    labels = ", ".join(config["id2label"].values())
    mask = mask_in_words(config)
    lines = {
        "adapter": f"{facts['source']}{at}",
        "backbone": f"{backbone['name']}" + (f" at {backbone['revision']}" if backbone["revision"] else ""),
        "pixels": " x ".join(map(str, facts["input_size"])),
        "problem": f"{config['problem_type']}: {labels}",
        "trains": f"{config['tuning']}" + ("" if config["inhibition"] else ", without inhibition"),
        **({} if mask is None else {"mask": mask}),
        "mask after": ", ".join(config["target_modules"]),
        **_changed(config),
        "parameters": f"{facts['trained_parameters'] or 0:,} trained, in {len(facts['tensors'])} tensors",
        "weights": f"{facts['weights_bytes']:,} bytes"
        + (f" in {facts['weights_dtype']}" if facts["weights_dtype"] else ""),
        "checksum": f"{facts['weights_sha256']} (checked)",
    }
    for name, value in training.get("metrics", {}).items() if isinstance(training.get("metrics"), dict) else ():
        lines[name] = json.dumps(value, ensure_ascii=False)
    for name, value in training.items():
        if name != "metrics":
            lines.setdefault(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    lines["made with"] = ", ".join(f"{name} {version}" for name, version in sorted(facts["versions"].items()))
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


_SHOWN = ("problem_type", "num_labels", "id2label", "tuning", "inhibition", "target_modules")  # by lines of their own


def _changed(config: dict[str, Any]) -> dict[str, str]:
    """The settings that are not the defaults, whatever settings there are."""
    from ..config import CIAOConfig

    decisive = ("problem_type", "num_labels", "tuning", "inhibition")  # on which a default may depend
    usual = CIAOConfig.from_dict({name: config[name] for name in decisive}).to_dict()
    changed = {name: value for name, value in config.items() if name not in _SHOWN and value != usual.get(name)}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in changed.items()}


def _print(options: argparse.Namespace, facts: dict[str, Any], text: str) -> None:
    print(json.dumps(facts, indent=2, ensure_ascii=False) if options.json else text)
