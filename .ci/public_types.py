#!/usr/bin/env python3
"""Are the types of all public names complete? Run by the interpreter of an environment with the package in it.

    .venv/bin/python .ci/public_types.py

Public names are those in `__all__` of `ciao_peft` and of the modules and folders right below it, and what belongs to
them: methods, properties and attributes. Each needs a complete type, declared or beyond doubt. Prints the names that
have none, and the share of complete types over all modules.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ciao_peft"


def exported(path: Path) -> list[str]:
    """The names in `__all__` of a file, which is not imported."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == ["__all__"]:
            return list(ast.literal_eval(statement.value))
    return []


def public_names() -> set[str]:
    """Full names, such as `ciao_peft.trainer.CIAOTrainer`."""
    names = {f"ciao_peft.{name}" for name in exported(PACKAGE / "__init__.py")}
    for path in (*PACKAGE.glob("*/__init__.py"), *PACKAGE.glob("[a-z]*.py")):
        room = path.parent.name if path.name == "__init__.py" else path.stem
        names |= {f"ciao_peft.{room}.{name}" for name in exported(path)}
    return names


def main() -> int:
    """Prints what is incomplete and returns how many public names are."""
    binaries = Path(sys.executable).parent
    # The checker asks the first `python` on the path where packages are, and finds no editable install by itself.
    environment = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "basedpyright", "--verifytypes", "ciao_peft", "--ignoreexternal", "--outputjson"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        sys.exit(f"basedpyright gave no report: {done.stderr or done.stdout}")
    if not report["typeCompleteness"]["symbols"]:
        sys.exit(f"basedpyright did not find the package: {report['generalDiagnostics']}")
    symbols = [symbol for symbol in report["typeCompleteness"]["symbols"] if symbol["isExported"]]
    names = public_names()
    owners = {s["name"] for s in symbols if names & {s["name"], *s.get("alternateNames", ())}}
    bad = 0
    for symbol in symbols:
        is_public = symbol["name"] in owners or any(symbol["name"].startswith(f"{owner}.") for owner in owners)
        if is_public and (symbol["isTypeAmbiguous"] or not symbol["isTypeKnown"]):
            bad += 1
            reasons = [entry["message"].replace("\n", " ") for entry in symbol["diagnostics"]]
            print(f"{symbol['name']}: {'; '.join(reasons) or 'depends on another incomplete type'}")
    score = report["typeCompleteness"]["completenessScore"]
    print(f"{bad} incomplete types among {len(names)} public names and what belongs to them; all modules: {score:.1%}.")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
