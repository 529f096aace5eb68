"""A search of four short trials on painted faces."""

from __future__ import annotations

from pathlib import Path

from ciao_peft.study import Task
from ciao_peft.study.search import SearchResult, SearchSpace, search_settings

from .studies import tiny_encoder

OPTIONS = {"world": "affect", "num_train": 24, "num_validation": 2, "num_test": 2, "size": 32}
TASK = Task(name="painted", dataset="painted_faces", options=OPTIONS, group_by="identity")
SMALL = SearchSpace(hidden_size=(4, 16), batch_size=(8, 16))


def search(folder: str | Path, task: Task = TASK, **changes: object) -> SearchResult:
    """Four short trials."""
    settings = {"trials": 4, "epochs": 1.0, "space": SMALL, "fraction": 0.4, "disable_tqdm": True}
    return search_settings(task, tiny_encoder(Path(folder).parent / "encoder"), folder, **(settings | changes))
