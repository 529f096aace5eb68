"""Every family of networks that the library promises to work on: one small model each lives one adapter's life."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from ciao_peft.markdown import markdown_table
from helpers import zoo
from helpers.places import DOCS
from helpers.walk import walk

UNCUT: dict[str, str] = {}
"""Families whose features cannot be cached, with the reason. One more, or one less, is news for docs/backbones.md."""


def same_version(library: str) -> bool:
    """Another release may have other families, or build the same one differently."""
    return version(library).partition("+")[0] == zoo.MADE_WITH[library]


@pytest.mark.parametrize("family", zoo.families(), ids=str)
def test_an_adapter_lives_its_life(family):
    found = walk(family)
    assert found.reason == UNCUT.get(str(family))
    if same_version(family.library):
        row = markdown_table(found.cells(), []).splitlines()[0]
        assert row in (DOCS / "backbones.md").read_text("utf-8").splitlines(), "run `python docs/make_backbones.py`"
    if family.library == "timm":
        assert found.convolutions >= zoo.MIN_CONVOLUTIONS


def test_at_least_95_percent_of_the_convolutional_families_of_timm_can_be_cached():
    uncut = [name for name in UNCUT if name.startswith("timm-")]
    assert 1 - len(uncut) / len(zoo.TIMM) >= 0.95


@pytest.mark.skipif(not same_version("timm"), reason="the lists are about another release of timm")
def test_every_module_of_timm_is_walked_or_has_few_convolutions():
    import timm

    assert sorted([*zoo.TIMM, *zoo.TIMM_WITHOUT]) == sorted(timm.list_modules())
    assert max(zoo.TIMM_WITHOUT.values()) < zoo.MIN_CONVOLUTIONS


@pytest.mark.skipif(not same_version("torchvision"), reason="the list is about another release of torchvision")
def test_every_classification_family_of_torchvision_is_walked():
    import torchvision

    models = torchvision.models.list_models(module=torchvision.models)
    modules = {torchvision.models.get_model_builder(name).__module__.rpartition(".")[2] for name in models}
    without = {"swin_transformer", "vision_transformer"}  # patches, then attention
    assert modules == {*zoo.TORCHVISION, *without}
