"""Public names that are imported when they are first used."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types

import pytest

from ciao_peft._lazy import lazy_names
from helpers.processes import environment


@pytest.fixture
def package(tmp_path, monkeypatch):
    """`lazy_package`, whose module `late` says that it was imported by being in `sys.modules`."""
    folder = tmp_path / "lazy_package"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from ciao_peft._lazy import lazy_names\n"
        "early = 1\n"
        "__getattr__, __dir__ = lazy_names(__name__, {'wanted': 'late', 'missing': 'late'})\n"
    )
    (folder / "late.py").write_text("wanted = object()\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("lazy_package")
    for name in ("lazy_package", "lazy_package.late"):
        sys.modules.pop(name, None)


def test_a_name_brings_its_module_in_when_it_is_first_used(package):
    assert "lazy_package.late" not in sys.modules
    assert dir(package).count("wanted") == 1  # asking what there is imports nothing
    assert "lazy_package.late" not in sys.modules
    wanted = package.wanted
    assert wanted is sys.modules["lazy_package.late"].wanted


def test_a_name_is_looked_up_once_and_then_the_packages_own(package):
    first = package.wanted
    sys.modules["lazy_package.late"].wanted = "another"
    assert package.wanted is first
    assert vars(package)["wanted"] is first


def test_the_names_listed_are_those_that_are_there_and_those_that_come(package):
    assert {"early", "wanted", "missing"} <= set(dir(package))
    assert dir(package) == sorted(dir(package))


def test_what_the_package_never_promised_is_an_attribute_error_as_of_any_module(package):
    with pytest.raises(AttributeError, match="module 'lazy_package' has no attribute 'other'"):
        _ = package.other
    assert not hasattr(package, "other")
    assert "lazy_package.late" not in sys.modules


def test_a_promise_that_the_module_does_not_keep_is_told_and_nothing_is_kept(package):
    with pytest.raises(AttributeError, match=r"'lazy_package\.late' has no attribute 'missing'"):
        _ = package.missing
    assert "missing" not in vars(package)


def test_a_name_may_come_from_a_package_below(monkeypatch):
    room = types.ModuleType("lazy_room")
    room.__path__ = []
    below = types.ModuleType("lazy_room.below.deep")
    below.name = 3
    for module in (room, types.ModuleType("lazy_room.below"), below):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    get, _ = lazy_names("lazy_room", {"name": "below.deep"})
    assert get("name") == 3


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("starting", "calibration", "start_decay"),
        ("checkpoints", "saving", "load_adapter"),
        ("experiments", "study", "METHODS"),
    ],
)
def test_an_old_module_gives_its_names_with_a_warning(old, new, name):
    with pytest.warns(DeprecationWarning, match=f"`ciao_peft.{old}` is `ciao_peft.{new}` now; import '{name}' from"):
        value = getattr(importlib.import_module(f"ciao_peft.{old}"), name)
    assert value is getattr(importlib.import_module(f"ciao_peft.{new}"), name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'; it is 'ciao_peft"):
        importlib.import_module(f"ciao_peft.{old}").nothing  # noqa: B018


def test_a_public_module_of_the_package_is_an_attribute_before_anybody_imported_it(package):
    assert package.late is sys.modules["lazy_package.late"]
    assert vars(package)["late"] is package.late


def test_help_finds_the_rooms_of_a_fresh_library():
    code = (
        "import sys, ciao_peft\n"
        "assert 'torch' not in sys.modules and 'ciao_peft.losses' not in sys.modules\n"
        "print(ciao_peft.losses.__name__, ciao_peft.saliency.__name__, hasattr(ciao_peft, 'lozzes'))"
    )
    said = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["ciao_peft.losses", "ciao_peft.saliency", "False"]
