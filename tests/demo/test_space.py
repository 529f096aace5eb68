"""A folder that becomes a Space."""

from __future__ import annotations

import ast

import pytest
import yaml

from ciao_peft import __version__
from ciao_peft.cli import main
from ciao_peft.demo import write_space
from ciao_peft.errors import ConfigError


def test_a_space_has_an_app_its_requirements_and_a_card(tmp_path):
    folder = write_space(tmp_path / "space", ["ciao/everyday-six", "user/ciao-fer", "ciao/everyday-six"])
    tree = ast.parse((folder / "app.py").read_text())
    (worlds,) = [ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)]
    assert worlds == ["ciao/everyday-six", "user/ciao-fer"]
    assert (folder / "requirements.txt").read_text() == f"ciao_peft[demo]=={__version__}\n"
    _, front, prose = (folder / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert (card["sdk"], card["app_file"], card["models"]) == ("gradio", "app.py", ["user/ciao-fer"])
    assert prose.strip().startswith("# Many worlds, one face")


def test_the_command_writes_a_space(tmp_path, capsys):
    assert main(["demo", "--space", str(tmp_path / "space")]) == 0
    assert f"hf upload user/name {tmp_path / 'space'} --repo-type space" in capsys.readouterr().out
    assert '"ciao/everyday-six"' in (tmp_path / "space" / "app.py").read_text()


@pytest.mark.parametrize("name", ["runs/a/b", 'x/y"]; import os #', "/etc", ""])
def test_what_a_space_cannot_see_is_refused_and_nothing_is_written(tmp_path, name):
    with pytest.raises(ConfigError, match="sees no folder of this machine"):
        write_space(tmp_path / "space", [name])
    assert not (tmp_path / "space").exists()


def test_a_folder_that_looks_like_a_name_is_refused(tmp_path, monkeypatch):
    (tmp_path / "runs" / "fer").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="Publish the adapter"):
        write_space(tmp_path / "space", ["runs/fer"])


def test_a_space_without_worlds_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="needs a world"):
        write_space(tmp_path / "space", [])
