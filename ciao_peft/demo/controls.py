"""What a card offers under its answer: corrections, undo, and a file of what was learned. Every text is escaped."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape
from typing import Any

from ..config import CIAOConfig
from ..prediction import label_names

__all__ = ["CORRECTING", "TOOLS_STYLE", "choices_of", "file_link", "tools"]

_LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)

CORRECTING = """const send = (what) => trigger('select', { index: 0, value: JSON.stringify(what) });
const wait = (tools) => tools.querySelectorAll('select, button, input').forEach((each) => { each.disabled = true; });
const show = (tools, what) => {
  const form = tools.querySelector(`form[data-do="${what}"]`);
  form.hidden = !form.hidden;
  if (!form.hidden) form.querySelector('input').focus();
};
element.addEventListener('change', (event) => {
  const choice = event.target.closest('select[data-correct]');
  if (!choice || !choice.value) return;
  const tools = choice.closest('.ciao-tools');
  if (choice.value === 'word') { choice.value = ''; show(tools, 'word'); return; }
  send({ do: 'correct', world: tools.dataset.world, label: JSON.parse(choice.value) });
  choice.value = '';  // the next answer has other choices
  wait(tools);
});
element.addEventListener('submit', (event) => {
  const form = event.target.closest('.ciao-tools form');
  if (!form) return;
  event.preventDefault();
  const tools = form.closest('.ciao-tools');
  send({ do: form.dataset.do, world: tools.dataset.world, text: form.querySelector('input').value });
  if (form.dataset.do === 'word') wait(tools);
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('.ciao-tools > button');
  if (!button) return;
  const tools = button.closest('.ciao-tools');
  if (button.dataset.press === 'save') { show(tools, 'save'); return; }
  send({ do: 'undo', world: tools.dataset.world });
  wait(tools);
});"""
"""What happens in the browser when somebody uses the tools of a card."""


def choices_of(config: CIAOConfig, answer: Mapping[str, float]) -> list[tuple[str, Any]]:
    """What a visitor can say in place of an answer: what is shown, and the correction as `label_of` takes it.

    Args:
        config: The world's.
        answer: What it says.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, id2label={0: "arousal"})
        >>> choices_of(config, {"arousal": 0.2})[0]
        ('arousal −1', {'arousal': -1.0})
    """
    names = label_names(config)
    if config.problem_type == "single_label_classification":
        said = max(answer, key=lambda name: answer[name])
        return [(name, name) for name in names if name != said]
    if config.problem_type == "multi_label_classification":
        on = {name: answer[name] >= 0.5 for name in names}
        return [(f"no {name}" if on[name] else name, {name: not on[name]}) for name in names]
    return [(f"{name} {_signed(level)}", {name: level}) for name in names for level in _LEVELS]


def _signed(level: float) -> str:
    return f"{level:+g}".replace("-", "−") if level else "0"


def tools(key: str, config: CIAOConfig, answer: Mapping[str, float], corrections: int, undone: bool = False) -> str:
    """The tools of a card.

    Args:
        key: The world's.
        config: Its settings.
        answer: What it says of the face.
        corrections: How many it has learned from this visitor.
        undone: Whether its last correction was not kept.

    Returns:
        HTML that `CORRECTING` listens to.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2, id2label={0: "a", 1: "<b>"})
        >>> html = tools("x/y", config, {"a": 0.75, "<b>": 0.25}, 0)
        >>> "&lt;b&gt;</option>" in html, "<b>" in html, "Undo" in html
        (True, False, False)
    """
    title = escape(key.rpartition("/")[2])
    options = "".join(
        f'<option value="{escape(json.dumps(value))}">{escape(shown)}</option>'
        for shown, value in choices_of(config, answer)
    )
    words = config.problem_type != "regression"
    more = '<option value="word">a new word …</option>' if words else ""
    html = (
        f'<div class="ciao-tools" data-world="{escape(key)}"><label>Wrong? It is <select data-correct '
        f'aria-label="What {title} should say"><option value="">choose …</option>{options}{more}</select></label>'
    )
    if words:
        html += _form("word", f"A new word for {title}", "a new word", "", 40, "Teach")
    if undone:
        html += '<span class="ciao-undone">not learned: it would have forgotten too much</span>'
    if corrections:
        learned = "learned one face" if corrections == 1 else f"learned {corrections} faces"
        html += (
            f'<span class="ciao-learned">{learned}</span>'
            f'<button type="button" data-press="undo" aria-label="Undo the last correction of {title}">Undo</button>'
            f'<button type="button" data-press="save" aria-label="Save {title}">Save …</button>'
            + _form(
                "save", f"The new name of {title}", "its new name", f"{key.rpartition('/')[2]}-mine", 96, "Make a file"
            )
        )
    return html + "</div>"


def _form(what: str, label: str, hint: str, value: str, longest: int, press: str) -> str:
    return (
        f'<form data-do="{what}" hidden><input type="text" maxlength="{longest}" value="{escape(value)}" required '
        f'aria-label="{label}" placeholder="{hint}"><button type="submit">{press}</button></form>'
    )


def file_link(name: str, content: bytes) -> str:
    """A link to a zip that is inside the page, so that no file of it lies where the page runs.

    Args:
        name: Its name, without the suffix.
        content: Of the zip.

    Example:
        >>> file_link("mine", b"zip")
        '<a class="ciao-file" download="mine.zip" href="data:application/zip;base64,emlw">mine.zip</a> (1 kB)'
    """
    address = f"data:application/zip;base64,{base64.b64encode(content).decode()}"
    size = f"{max(1, round(len(content) / 1000)):,} kB"
    return f'<a class="ciao-file" download="{escape(name)}.zip" href="{address}">{escape(name)}.zip</a> ({size})'


TOOLS_STYLE = """
.ciao-tools { display: flex; flex-wrap: wrap; gap: 0.4rem 0.5rem; align-items: center; margin-top: 0.6rem;
  padding-top: 0.55rem; border-top: 1px solid var(--border-color-primary); font-size: 0.8rem; }
.ciao-tools label { display: flex; align-items: center; gap: 0.4rem; color: var(--body-text-color-subdued);
  min-width: 0; }
.ciao-tools select, .ciao-tools input, .ciao-tools button { font: inherit; color: var(--body-text-color);
  background: var(--background-fill-primary); border: 1px solid var(--border-color-primary); border-radius: 4px;
  padding: 0.2rem 0.45rem; min-height: 1.85rem; max-width: 100%; }
.ciao-tools select { min-width: 7.5rem; appearance: auto; }
.ciao-tools button { background: var(--background-fill-secondary); cursor: pointer; }
.ciao-tools button:hover { border-color: #1b7f79; }
.ciao-tools :disabled { opacity: 0.55; cursor: progress; }
.ciao-tools :focus-visible, .ciao-file:focus-visible { outline: 2px solid #1b7f79; outline-offset: 1px; }
.ciao-tools form { display: flex; gap: 0.4rem; flex: 1 1 100%; min-width: 0; margin: 0; }
.ciao-tools form[hidden] { display: none; }
.ciao-tools form input { flex: 1; min-width: 0; }
.ciao-learned { margin-left: auto; color: #1b7f79; white-space: nowrap; }
.ciao-undone { color: #c4501b; }
.dark .ciao-undone { color: #f0956b; }
.dark .ciao-learned { color: #5cc4bd; }
.ciao-file { color: #1b7f79; font-weight: 600; text-decoration: underline; }
.dark .ciao-file { color: #5cc4bd; }
@media (max-width: 500px) {
  .ciao-tools select, .ciao-tools input, .ciao-tools button { min-height: 2.4rem; font-size: 1rem; }
}
"""
"""The style sheet of the tools."""
