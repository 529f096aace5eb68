"""What a training says while it runs: bars with loss and score, lines in a log, a table in a notebook."""

from __future__ import annotations

import html
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..progress import Place, place_to_speak
from .accelerator import progress_bar
from .arguments import CIAOTrainingArguments
from .best import Best
from .loader import BatchDataset

if TYPE_CHECKING:
    from tqdm import tqdm

    from .running_loss import RunningLoss

__all__ = ["Speaker", "table_of"]


class Speaker:
    """Says how a training goes, where somebody sees it.

    Args:
        name: What is trained.
        total_steps: Updates of the whole training.
        disable_tqdm: As in `CIAOTrainingArguments`.
        is_main: Whether this process is the one that speaks.

    Attributes:
        place: Where it speaks.

    Example:
        >>> Speaker("faces", 30, disable_tqdm=True, is_main=True).place
        'nowhere'
    """

    place: Place

    def __init__(self, name: str, total_steps: int, disable_tqdm: bool | None, is_main: bool = True):
        self.place = place_to_speak(disable_tqdm) if is_main else "nowhere"
        self._name, self._total_steps = name, total_steps
        self._bar: tqdm[Any] | None = None
        self._loss: float | None = None
        self._rows: list[dict[str, Any]] = []
        self._table: Any = None

    def begins(self, source: BatchDataset, args: CIAOTrainingArguments, num_processes: int = 1) -> None:
        """Says how long the training is, and in which views it sees each sample.

        Args:
            source: The training data.
            args: Settings, completed.
            num_processes: That share each batch.

        Example:
            >>> import torch
            >>> from ciao_peft.features import samples_of
            >>> faces = samples_of([{"pixel_values": torch.zeros(3, 8, 8), "labels": 0}], None)
            >>> args = CIAOTrainingArguments(num_train_epochs=3, per_device_train_batch_size=4)
            >>> Speaker("faces", 9, disable_tqdm=True).begins(BatchDataset(faces, faces.labels()), args)
        """
        if self.place == "nowhere":
            return
        count, unit = (args.max_steps, "update") if args.max_steps > 0 else (args.num_train_epochs, "epoch")
        length = f"{count:,.10g} {unit}{'' if count == 1 else 's'}"
        line = f"{self._name}: {len(source):,} samples, {length} of batches of {args.per_device_train_batch_size}"
        if num_processes > 1:
            line += f" on each of {num_processes} processes"
        if args.gradient_accumulation_steps > 1:
            line += f", {args.gradient_accumulation_steps} of them for an update"
        if source.is_mirrored:
            line += ", each sample as it is and mirrored (`views=1`: only as it is)"
        elif source.views > 1:
            line += f", each sample in {source.views} views"
        _print(line)

    def bar(self, step: int) -> tqdm[Any]:
        """A bar of updates, which shows the last loss and the last score.

        Args:
            step: Updates that were made before.

        Example:
            >>> with Speaker("faces", 30, disable_tqdm=True).bar(10) as bar:
            ...     bar.n
            10
        """
        self._bar = progress_bar(self._name, step, self._total_steps, self.place in ("log", "nowhere"))
        return self._bar

    def logged(self, entry: Mapping[str, Any], best: Best) -> None:
        """Takes note of an entry of the log, and shows it on the bar.

        Args:
            entry: The entry.
            best: Knows which score counts.
        """
        self._loss = entry.get("loss", self._loss)
        if self._bar is None or self._bar.disable:
            return
        numbers = {"loss": self._loss, best.metric: entry.get(f"eval_{best.metric}", best.value)}
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in numbers.items() if value is not None})

    def evaluated(self, entry: Mapping[str, Any], best: Best, losses: RunningLoss) -> None:
        """Says what an evaluation gave: a line in a log, a row of the table in a notebook.

        Args:
            entry: Its entry of the log, with `step`, `epoch`, `eval_loss` and the scores.
            best: The best evaluation so far, this one included.
            losses: Those of the updates; the mean since the last line is said.

        Example:
            >>> import torch
            >>> from ciao_peft import CIAOTrainingArguments
            >>> from ciao_peft.trainer.running_loss import RunningLoss
            >>> best = Best(CIAOTrainingArguments(), "single_label_classification")
            >>> entry = {"step": 10, "epoch": 1.0, "eval_loss": 0.5, "eval_accuracy": 0.75}
            >>> _ = best.judge(entry, 10)
            >>> Speaker("faces", 30, disable_tqdm=True).evaluated(entry, best, RunningLoss(torch.device("cpu")))
        """
        score = f"eval_{best.metric}"
        if self.place == "log":
            numbers = {"loss": losses.mean_since(), "eval_loss": entry.get("eval_loss"), score: entry.get(score)}
            self._say(entry, numbers, " (the best so far)" if best.step == entry["step"] else "")
        elif self.place == "notebook":
            row = {"update": entry["step"], "epoch": entry["epoch"], "training loss": losses.mean_since()}
            scores = {name: value for name, value in entry.items() if name in ("eval_loss", score)}
            self._rows.append(row | scores | {"": "best" if best.step == entry["step"] else ""})
            self._show_table()

    def epoch_ended(self, step: int, epoch: float, losses: RunningLoss) -> None:
        """Says the loss of an epoch, where nothing is evaluated that a log could hold.

        Args:
            step: Updates made.
            epoch: Passes over the data.
            losses: Those of the updates; the mean since the last line is said.
        """
        if self.place == "log":
            self._say({"step": step, "epoch": epoch}, {"loss": losses.mean_since()}, "")

    def advise(self, best: Best, step: int) -> None:
        """Says at the end that an earlier adapter was better, where that one was not restored.

        Args:
            best: The best evaluation.
            step: Updates made.
        """
        if self.place == "nowhere" or best.step is None or best.value is None or best.step == step:
            return
        if best.to_return_to is None and not best.is_returned_to:
            _print(
                f"{self._name}: the best {best.metric} was {best.value:.4g}, after update {best.step}; the adapter is "
                f"that after update {step}. `load_best_model_at_end=True` ends with the best."
            )

    def _say(self, entry: Mapping[str, Any], numbers: Mapping[str, Any], more: str) -> None:
        said = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items() if value is not None)
        place = f"{self._name}: epoch {entry['epoch']:g}, update {entry['step']} of {self._total_steps}"
        _print(f"{place}: {said}{more}" if said else place)

    def _show_table(self) -> None:
        ipython: Any = sys.modules.get("IPython.display")  # there in every notebook, and no dependency of ours
        if ipython is None:
            return
        shown = ipython.HTML(table_of(self._rows))
        if self._table is None:
            self._table = ipython.display(shown, display_id=True)
        else:
            self._table.update(shown)


def _print(line: str) -> None:
    if sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a table in HTML.

    Args:
        rows: Values by column; the columns of the first row count.

    Example:
        >>> table_of([{"update": 10, "eval_loss": 0.25}])
        '<table><tr><th>update</th><th>eval_loss</th></tr><tr><td>10</td><td>0.25</td></tr></table>'
    """

    def cell(kind: str, value: Any) -> str:
        text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        return f"<{kind}>{html.escape(text)}</{kind}>"

    columns = list(rows[0]) if rows else []
    lines = [[cell("th", name) for name in columns], *([cell("td", row.get(name)) for name in columns] for row in rows)]
    inside = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    return f"<table>{inside}</table>"
