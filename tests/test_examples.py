"""Every example runs, on painted faces and with tiny settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

# Script in examples/ -> one or more command lines; {tmp} is an empty folder of the test's own.
EXAMPLES: dict[str, list[str]] = {}


def test_every_example_has_a_command_line_here():
    assert {path.name for path in (REPOSITORY / "examples").glob("*.py")} == set(EXAMPLES)


def run_example(script: str, arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs it as a user would, from another folder, with the warnings that Python shows a user made visible."""
    command = [sys.executable, str(REPOSITORY / "examples" / script), *arguments.format(tmp=folder).split()]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, timeout=600, check=False
    )


@pytest.mark.parametrize(("script", "arguments"), [(script, line) for script in EXAMPLES for line in EXAMPLES[script]])
def test_runs_and_prints_its_result(script, arguments, tmp_path):
    result = run_example(script, arguments, tmp_path)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.strip()
