"""The README and the notebooks from a wheel, as somebody meets them who has no checkout.

    python .ci/wheel.py build/wheel

Builds the wheel and installs it into a new environment. There it runs, in another folder and without a network, the
Python and the `ciao` lines of README.md, on painted faces and with few epochs, and every notebook of docs/notebooks/.
What these need on top, they say (`pip install 'ciao_peft[...]'`); it is installed after the README was run. Needs uv.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PAINT = """
import csv
from pathlib import Path
import numpy as np
from PIL import Image
from ciao_peft.data import Expression, paint_face
looks = {"glad": Expression(mouth_curve=1.0, mouth_open=0.4), "cross": Expression(mouth_curve=-0.9, brow_frown=0.9)}
rows = []
for name, look in looks.items():
    for number in range(24):
        face = paint_face(expression=look, seed=number, size=64)
        path = Path("faces", "train" if number < 20 else "test", name, f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        face.save(path)
        rows.append({"image": str(path), "emotion": name, "subject": number})
        if number > 20:
            Path("new_faces").mkdir(exist_ok=True)
            face.save(f"new_faces/{name}{number}.png")
with open("labels.csv", "w", newline="") as file:
    table = csv.DictWriter(file, ["image", "emotion", "subject"])
    table.writeheader()
    table.writerows(rows)
paint_face(size=200).save("face.jpg")
scene = np.full((220, 440, 3), 128, np.uint8)
for place, look in enumerate(looks.values()):
    scene[20:200, 20 + 200 * place : 200 + 200 * place] = paint_face(expression=look, seed=place, size=180)
Image.fromarray(scene).save("faces.png")
"""
"""The faces that the README's lines name."""

QUICKER = {
    'world="eight")': 'world="eight", num_train=64, num_validation=8, num_test=8)',
    "num_train_epochs=10": "num_train_epochs=1",
    '"clip.mp4"': '"faces.png"',  # a video needs the extra `video`
}
"""What the README says, and what is run in its place."""

FLAGS = {"train": "--num_train_epochs 1", "tune": "--epochs 1 --folds 2"}
"""Of `ciao ...`, after what the README has."""


def command_lines(readme: str) -> list[list[str]]:
    """The `ciao` lines in the blocks of a page."""
    blocks = re.findall(r"```bash\n(.*?)```", readme, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.startswith("ciao ")]
    return [[*shlex.split(line, comments=True), *FLAGS.get(line.split()[1], "").split()] for line in lines]


def python_program(readme: str) -> str:
    """The Python blocks of a page, one after the other."""
    program = "\n".join(re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL))
    for there, instead in QUICKER.items():
        if there not in program:
            raise SystemExit(f"README.md has no {there!r} any more; mend QUICKER in {__file__}.")
        program = program.replace(there, instead)
    return program


def extras(notebooks: list[Path]) -> list[str]:
    """The extras that notebooks tell people to install."""
    texts = [path.read_text(encoding="utf-8") for path in notebooks]
    return sorted(
        {name for text in texts for names in re.findall(r"ciao_peft\[(.+?)\]", text) for name in names.split(",")}
    )


def run(title: str, command: list[str], **settings: object) -> None:
    """Runs a command, shows what it printed where it failed, and ends with it."""
    print(f"- {title}", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings)
    if done.returncode:
        print(done.stdout[-6000:])
        raise SystemExit(f"{title}: failed with {done.returncode}.")


def main(folder: Path) -> None:
    folder = folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    work = folder / "elsewhere"
    work.mkdir(parents=True)
    source = folder / "source"  # a copy: a `build/` of before would get into the wheel
    shutil.copytree(ROOT / "ciao_peft", source / "ciao_peft", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    run(
        "the wheel",
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)],
    )
    (wheel,) = folder.glob("*.whl")
    inside = folder / "environment" / "bin"
    run("an environment", [sys.executable, "-m", "venv", str(inside.parent)])
    install = [sys.executable, "-m", "uv", "pip", "install", "--python", str(inside / "python")]
    run(f"{wheel.name} in it", [*install, str(wheel)])

    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CIAO_", "HF_"))}
    clean |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "caches"), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    clean |= {"PATH": f"{inside}{os.pathsep}{os.environ.get('PATH', '')}", "PYTHONWARNINGS": "default"}
    here: dict[str, object] = {"cwd": work, "env": clean}
    python = [str(inside / "python"), "-c"]
    where = "import ciao_peft, sys; sys.exit('site-packages' not in ciao_peft.__file__)"
    run("it is the wheel that is imported", [*python, where], **here)
    run("painted faces", [*python, PAINT], **here)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    run("README.md: Python", [*python, python_program(readme)], **here)
    for words in command_lines(readme):
        run(f"README.md: {shlex.join(words)}", words, **here)

    notebooks = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
    more = ",".join(extras(notebooks))
    run(f"[{more}] in it, as the notebooks say", [*install, f"{wheel}[{more}]"])
    for notebook in notebooks:
        run(f"docs/notebooks/{notebook.name}", [*python[:1], str(shutil.copy(notebook, work))], **here)
    print(f"README and notebooks run from {wheel.name}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
