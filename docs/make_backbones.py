"""Writes docs/backbones.md: what an adapter meets on one small model of every convolutional family.

python docs/make_backbones.py

Takes about two minutes on one core. Weights are random; nothing is downloaded.
"""

from __future__ import annotations

import sys
import textwrap
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]
from ciao_peft.markdown import markdown_table  # noqa: E402
from helpers import zoo  # noqa: E402
from helpers.walk import Found, walk  # noqa: E402

HEADER = [
    "family",
    "model tried",
    "pixels",
    "convolutions",
    "masked",
    "unit",
    "map the head sees",
    "cached",
    "mask parameters",
]

NOTES = {
    "coat": "reads class tokens only, which its last relative-position convolutions cannot reach, so the masks sit on "
    "the position encodings before them; the map is the class token of each of three scales.",
    "gcvit": "has its last convolution off the main path, in the branch for the global queries of the last stage.",
    "squeezenet": "ends with a convolution that is its classifier, so the mask sits on scores of the old classes. For "
    "an adapter on the last features, wrap `backbone.features`.",
    "vision_transformer_hybrid": "is a ResNet under a transformer; the mask sits between them, and the head sees the "
    "transformer's tokens as a map.",
}


def table(found: list[Found]) -> str:
    return markdown_table(HEADER, [one.cells() for one in found])


def page(found: list[Found]) -> str:
    by_library = {library: [f for f in found if f.family.library == library] for library in zoo.MADE_WITH}

    def share(library: str) -> str:
        cached = sum(f.reason is None for f in by_library[library])
        return f"{cached} of {len(by_library[library])} ({100 * cached / len(by_library[library]):.1f} %)"

    without = ", ".join(f"{name} ({count})" for name, count in zoo.TIMM_WITHOUT.items())
    without = textwrap.fill(without, 116, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    uncut = [f"- {f.family.library} {f.family.name}: {f.reason}" for f in found if f.reason is not None]
    notes = "\n".join(
        textwrap.fill(f"- **{name}** {note}", 118, subsequent_indent="  ", break_on_hyphens=False)
        for name, note in NOTES.items()
    )
    versions = ", ".join(f"{library} {version(library)}" for library in zoo.MADE_WITH)
    return f"""# Backbones

Which networks carry an adapter, where its masks sit, and whether features can be cached. This page is written by
`python docs/make_backbones.py`, with {versions}.
`tests/backbone/test_families.py` walks the same families and fails where a line of the tables no longer holds.

| library | families walked, and cut so that features can be cached |
| --- | --- |
| timm | {share("timm")} |
| torchvision | {share("torchvision")} |
| transformers | {share("transformers")} |

Families that work from pixels only, through hooks, with the reason:

{chr(10).join(uncut) or "None."}

## What is walked

One model of each family, with random weights and small pictures. On each: an adapter is put on; a training batch goes
forward and backward, and every parameter of the adapter gets a gradient that is not zero, the backbone none; changing
any one mask changes the output; cached features give the same bits as pixels; with the adapter disabled the output is
that of the untouched backbone, bit for bit; the backbone's `state_dict` keeps its keys and bits; the adapter is saved,
loaded onto a copy of the backbone, and gives the same bits.

- **timm**: a family is a module of `timm.models`. It is convolutional if one of its models has
  {zoo.MIN_CONVOLUTIONS} or more `Conv2d`, of those that run with an output larger than 1x1; the model tried is the
  smallest of those, or the smallest that takes small pictures. The other modules have stems of patches and then
  attention or MLPs (in brackets the most `Conv2d` that a model of theirs has):
{without}.
- **torchvision**: the smallest model of each module with classifiers, `swin_transformer` and `vision_transformer`
  excepted, which have one `Conv2d` each.
- **transformers**: the image classifiers with convolutions beyond a stem of patches, and LeViT, from small configs.

In the tables, *convolutions* counts the `Conv2d` that run with an output larger than 1x1; *masked* names the terminal
ones, from which no other is reached; *unit* says what the inhibitory copy is made of (a normalisation may hold an
activation); tokens count as a map where they lie on a grid; *mask parameters* are those of the inhibitory units.

## timm

{table(by_library["timm"])}

## torchvision

{table(by_library["torchvision"])}

## transformers

{table(by_library["transformers"])}

## Notes

{notes}

`CIAOConfig(target_modules=...)` overrides the choice: it takes exact paths of convolutions.
"""


if __name__ == "__main__":
    found = []
    for family in zoo.families():
        print(family, flush=True)
        found.append(walk(family))
    (HERE / "backbones.md").write_text(page(found), encoding="utf-8")
