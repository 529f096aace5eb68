# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Notebook: from the paper's tables to your own
#
# The paper compares networks without and with CIAO, on several tasks and two encoders. This notebook shows a row of its
# Table I, trains the same comparison on another task, and writes the table and the report of it. The task is small and
# painted, with one epoch and two seeds, so that it takes half a minute; its numbers say nothing of real faces.
#
# It needs what reports need: `pip install 'ciao_peft[study]'`.

# %%
import tempfile
from pathlib import Path

import yaml
from datasets import disable_progress_bars

from ciao_peft.cli import main as ciao
from ciao_peft.study.paper import paper_scores
from ciao_peft.study.report import load_study, table_one, write_report

study = Path(tempfile.mkdtemp()) / "study"
disable_progress_bars()

# %% [markdown]
# ## What the paper reports
#
# FER+, with VGGFace2 as the encoder; accuracy, without and with CIAO:

# %%
for scheme in ("full", "last convolution", "decision layer"):
    plain, with_ciao = (
        paper_scores("ferplus", "vggface2", method)["accuracy"] for method in (scheme, f"{scheme} + CIAO")
    )
    print(f"{scheme:<18}{plain:>8.1%}{with_ciao:>8.1%}")

# %% [markdown]
# ## The same question, on a task of yours
#
# A plan says which tasks, encoders, methods and seeds. For your own faces, give the task
# `{"dataset": "imagefolder", "data_dir": "/your/faces", "group_by": None}`, more epochs and five seeds or more.

# %%
plan = {
    "tasks": {
        "moods": {
            "dataset": "painted_faces",
            "options": {"world": "eight", "num_train": 96, "num_validation": 2, "num_test": 64, "size": 48},
            "group_by": "identity",
        }
    },
    "encoders": ["small-face"],
    "methods": ["decision layer", "decision layer + CIAO", "last convolution", "last convolution + CIAO"],
    "seeds": 2,
    "epochs": 1,
    "search_rates": 0,  # every learning rate stays at its default; 4 searches each of them
}
study.mkdir()
asked = study / "asked.yaml"
asked.write_text(yaml.safe_dump(plan), encoding="utf-8")
assert ciao(["reproduce", "--plan", str(asked), "--output_dir", str(study)]) == 0

# %% [markdown]
# ## Your table
#
# Two seeds of one epoch: the spread says how little that is.

# %%
table = table_one(load_study(study))
print(" | ".join(table.header))
for row in table.rows:
    print(" | ".join(cell.text for cell in row))

# %% [markdown]
# ## Your report
#
# One page, with the finding in words, all methods ranked, paired tests, and what is missing.

# %%
report = write_report(study, figures=False)
print(f"{report.page.name}: {report.page.stat().st_size // 1000} kB, next to the study")

# %% [markdown]
# A study goes on where it stopped, and grows when its plan does: [experiments](../experiments.md). What this comparison
# gives on real faces is in [the results](../results.md).
