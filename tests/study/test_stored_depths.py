"""Depths of the trunk in a study: stored once for all methods of a plan, and apart from what was stored without."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ciao_peft.backbone import Depth
from ciao_peft.errors import FeatureCacheError
from ciao_peft.study import Encoder, Method, Plan
from ciao_peft.study.data import Material, load_study_encoder, load_task
from ciao_peft.study.plan import Run
from ciao_peft.study.stored_depths import depths_together
from ciao_peft.study.training import Training
from ciao_peft.study.worklist import Worklist
from helpers.studies import painted, plan_of

HEAD = {"inhibition": False, "contrastive_weight": 0.0}
PLAIN, FIRST, BOTH = (
    Method(name=name, config={**HEAD, **own}, rates=(1e-2,))
    for name, own in (("plain", {}), ("first", {"depths": ["trunk.0"]}), ("both", {"depths": 2}))
)
CELLS = Method(name="cells", config={**HEAD, "depths": 1, "depth_grid": 2}, rates=(1e-2,))


def deep_encoder(folder: Path) -> Encoder:
    """Three convolutions, so that there are two before the mask."""
    from ciao_peft import load_encoder
    from ciao_peft.encoders import save_encoder

    if not folder.exists():
        encoder = load_encoder("small-face", pretrained=False, channels=(4, "pool", 8, "pool", 12), embedding_size=4)
        save_encoder(encoder, folder)
    return Encoder(name="deep", source=str(folder))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    encoder = deep_encoder(tmp_path / "encoder")
    named = [
        name for name, part in load_study_encoder(encoder).module.named_modules() if isinstance(part, torch.nn.Conv2d)
    ]
    first = replace(FIRST, config={**FIRST.config, "depths": named[:1]})
    return plan_of(
        tmp_path,
        tasks=(painted("affect"),),
        encoders=(encoder,),
        methods=(PLAIN, first, BOTH, CELLS),
        seeds=(0,),
        search_rates=0,
    )


def material_of(plan: Plan, folder: Path) -> Material:
    return Material(load_task(plan.tasks[0]), load_study_encoder(plan.encoders[0]), folder / "features")


def stored_in(material: Material) -> list[str]:
    (place,) = material.folder.glob("*/features")
    return sorted(name for name in os.listdir(place) if not name.startswith("."))


def training(plan: Plan, method: str, material: Material) -> Training:
    (asked,) = (own for own in plan.methods if own.name == method)
    return Training(Run(task=plan.tasks[0], encoder=plan.encoders[0], method=asked, seed=0), plan, material)


def test_a_plan_with_depths_is_worked_off(plan, tmp_path):
    lines: list[str] = []
    worklist = Worklist(plan, tmp_path / "study", lines.append)
    progress = worklist.work()
    assert (progress.done, progress.total, progress.failed, lines) == (4, 4, {}, [])


def test_one_store_has_the_depths_of_all_methods_with_one_grid(plan, tmp_path):
    material = material_of(plan, tmp_path)
    for method in ("both", "first", "plain"):
        training(plan, method, material).train()
    names = stored_in(material)
    assert len(names) == 2 and all("-depths-" in name for name in names)  # one of each split
    fold = material.loaded.folds[0]
    depths = training(plan, "first", material)._depths()
    stored = material.splits(fold, "features", depths=depths)["train"]
    assert len(depths.paths) == 2 and list(stored.depths) == [Depth(path) for path in depths.paths]
    training(plan, "cells", material).train()
    assert len(stored_in(material)) == 4


def test_a_method_without_depths_reads_what_was_stored_before(plan, tmp_path):
    before = replace(plan, methods=(PLAIN,))
    material = material_of(before, tmp_path)
    first = training(before, "plain", material).train()
    assert stored_in(material) == ["test", "train"]
    times = {name: os.stat(next(material.folder.glob(f"*/features/{name}"))).st_mtime_ns for name in ("test", "train")}
    again = material_of(plan, tmp_path)
    second = training(plan, "plain", again).train()
    assert stored_in(again) == ["test", "train"]
    assert (first.key, first.scores) == (second.key, second.scores)
    training(plan, "both", again).train()
    assert len(stored_in(again)) == 4
    assert times == {name: os.stat(next(material.folder.glob(f"*/features/{name}"))).st_mtime_ns for name in times}


def test_a_store_with_depths_gives_a_method_without_the_same_scores(plan, tmp_path):
    alone = training(replace(plan, methods=(PLAIN,)), "plain", material_of(plan, tmp_path / "alone")).train()
    among = training(plan, "plain", material_of(plan, tmp_path / "among")).train()
    assert (alone.key, alone.scores) == (among.key, among.scores)


def test_depths_change_the_scores_and_the_keys(plan, tmp_path):
    material = material_of(plan, tmp_path)
    records = [training(plan, method, material).train() for method in ("plain", "first", "both", "cells")]
    assert len({record.key for record in records}) == 4
    assert len({record.parameters["trained"] for record in records}) == 4


def test_depths_that_are_not_there_fail_one_method_alone(plan, tmp_path):
    wrong = Method(name="wrong", config={**HEAD, "depths": ["nowhere"]}, rates=(1e-2,))
    worklist = Worklist(replace(plan, methods=(wrong, BOTH)), tmp_path / "study", lambda line: None)
    progress = worklist.work()
    assert progress.done == 1 and [*progress.failed] == ["affect, deep, wrong, seed 0"]
    assert "nowhere" in progress.failed["affect, deep, wrong, seed 0"]


def test_two_names_of_one_map_are_stored_apart():
    convs = (torch.nn.Conv2d(3, 3, 3), torch.nn.ReLU(), torch.nn.Conv2d(3, 3, 3))
    net = torch.nn.Sequential(torch.nn.Sequential(*convs[:2]), convs[2]).eval()
    net.input_size = (3, 8, 8)
    methods = {"depths": ["0.0"]}, {"depths": ["0"]}
    assert [depths_together(net, own, methods).paths for own in methods] == [("0.0",), ("0",)]


def test_without_the_union_the_store_would_be_refused(plan, tmp_path):
    """What this mends: features without depths, and a method that reads some."""
    material = material_of(plan, tmp_path)
    plain = material.splits(material.loaded.folds[0], "features")["train"]
    both = training(plan, "both", material)
    both.material.depths = lambda config, others: depths_together(torch.nn.Identity(), {})
    with pytest.raises(FeatureCacheError, match="without the depths"):
        both.train()
    assert not plain.depths
