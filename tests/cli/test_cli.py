import subprocess
import sys

import pytest

import ciao_peft
from ciao_peft.cli import main
from ciao_peft.data import list_faces
from helpers.processes import environment


def test_datasets_prints_one_name_a_line(capsys):
    assert main(["datasets"]) == 0
    assert capsys.readouterr().out.splitlines() == list_faces()


def test_encoders_prints_one_name_a_line(capsys):
    assert main(["encoders"]) == 0
    assert capsys.readouterr().out.splitlines() == ciao_peft.list_encoders()


def test_adapters_lists_those_in_the_package(capsys):
    assert main(["adapters"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "encoder", "score", "kB", "answers"]
    assert [row.split()[0] for row in rows] == ciao_peft.list_adapters()
    six = next(row for row in rows if row.startswith("ciao/everyday-six"))
    assert "dlib-face" in six and "accuracy 0." in six and "happiness" in six


def test_without_a_command_it_says_which_there_are(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_the_version_is_the_packages_own_and_costs_no_torch():
    code = "from ciao_peft.cli import main; import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))"
    command = [sys.executable, "-c", f"{code}; main(['--version'])"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [ciao_peft.__version__, "False"]


@pytest.mark.parametrize("module", ["ciao_peft", "ciao_peft.cli"])
def test_the_package_run_as_a_program_is_the_command(module):
    ran = subprocess.run([sys.executable, "-m", module, "datasets"], capture_output=True, text=True, env=environment())
    assert ran.returncode == 0 and ran.stdout.splitlines() == list_faces()
