"""Training of a baseline by the trainer's own parts: the samples, updates, schedule and precision of an adapter."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import TrainingError
from ...features import FeatureDataset, Samples, check_labels_of
from ...surroundings import outside_inference, random_state_kept
from ...trainer import (
    ALONE,
    BatchDataset,
    BatchLoader,
    CIAOTrainingArguments,
    Job,
    TrainingLoop,
    make_apart,
    precision_shared,
    shows_the_same_twice,
)
from .base import Trainee


class FitOutput(NamedTuple):
    """What `fit` returns.

    Args:
        global_step: Updates made, over all stages.
        log: Entries of the last stage's log, as a trainer's `log_history`.
        seconds: Of everything, what is computed once included.
    """

    global_step: int
    log: list[dict[str, Any]]
    seconds: float


class _LogitsAlone(nn.Module):
    """A baseline as a training loop reads it: nothing is contrasted, so its embeddings are empty."""

    def __init__(self, module: Trainee):
        super().__init__()
        self.module = module

    def forward(self, **inputs: Any) -> tuple[Tensor, Tensor]:
        logits = self.module(**inputs)
        return logits, logits[:, :0]


def fit(module: Trainee, dataset: Any, args: CIAOTrainingArguments) -> FitOutput:
    """Trains a baseline on the task loss; for the same seed it sees the same batches as `CIAOTrainer`'s adapter.

    The module ends in eval mode. The global random state stays where it was, and so does the precision of accelerators
    that are there. One process trains.

    Args:
        module: As a builder makes it.
        dataset: As `CIAOTrainer.train` takes it: stored features for a module that reads those, or pictures.
        args: Settings. Nothing is written or evaluated on the way: `output_dir`, `report_to` and what is about
            evaluation and checkpoints do not count.

    Raises:
        TrainingError: the arguments need evaluations on the way, there are several processes, or training diverges.
        InputError, DataError: labels or inputs do not fit.

    Example:
        >>> from ciao_peft import CIAOConfig
        >>> from ciao_peft.study.baselines import build_baseline
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> net.input_size = (3, 8, 8)
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2, hidden_sizes=())
        >>> baseline = build_baseline("residual_adapters", net, config)
        >>> faces = [{"pixel_values": torch.rand(3, 8, 8), "labels": n % 2} for n in range(8)]
        >>> fit(baseline, faces, CIAOTrainingArguments(max_steps=2, disable_tqdm=True)).global_step
        2
    """
    if args.load_best_model_at_end or args.early_stopping_patience is not None:
        raise TrainingError(
            "A baseline is not evaluated while it trains; leave out `load_best_model_at_end` and "
            "`early_stopping_patience`."
        )
    args = replace(args, **ALONE)
    accelerator, shared = make_apart(args)
    if accelerator.num_processes > 1:
        raise TrainingError("A baseline trains in one process; spread trainings over processes instead.")
    start = time.perf_counter()
    steps, log = 0, []
    precision = precision_shared(str(shared["_mixed_precision"]), shared)
    with precision, random_state_kept(), outside_inference(gradients=True):
        module.to(accelerator.device)
        source = _source(module, dataset, "train_dataset", args=args)
        for stage in module.stages():
            job = Job(
                name="baseline",
                module=stage,
                reader=_LogitsAlone(stage),
                parameter_groups=stage.parts(),
                args=args,
                accelerator=accelerator,
                before_update=stage.add_penalty,
            )
            loop = TrainingLoop(job, source)
            steps, log = steps + loop.run().global_step, loop.history.entries
            stage.eval()
    module.eval()
    return FitOutput(steps, log, time.perf_counter() - start)


@torch.no_grad()
def predict(module: Trainee, dataset: Any, args: CIAOTrainingArguments) -> Tensor:
    """Logits for a dataset, `(N, num_labels)` in float32, in its order and in the precision of the arguments.

    Args:
        module: In eval mode afterwards.
        dataset: As for `fit`; needs no labels.
        args: `bf16`, `fp16`, `per_device_eval_batch_size` and `dataloader_num_workers` count.

    Example:
        >>> from ciao_peft import CIAOConfig
        >>> from ciao_peft.study.baselines import build_baseline
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> net.input_size = (3, 8, 8)
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2, hidden_sizes=())
        >>> baseline = build_baseline("residual_adapters", net, config)
        >>> faces = [{"pixel_values": torch.rand(3, 8, 8), "labels": n % 2} for n in range(8)]
        >>> predict(baseline, faces, CIAOTrainingArguments()).shape
        torch.Size([8, 2])
    """
    accelerator, shared = make_apart(replace(args, report_to="none"))
    module.to(accelerator.device).eval()
    source = _source(module, dataset, "dataset", needs_labels=False)
    plan = np.split(
        np.arange(len(source)), range(args.per_device_eval_batch_size, len(source), args.per_device_eval_batch_size)
    )
    batches = BatchLoader(source, 0, 1, args.dataloader_num_workers, accelerator.device)
    with precision_shared(str(shared["_mixed_precision"]), shared), accelerator.autocast():
        logits = [module(**batch.inputs).float() for batch in batches.read(plan, [None] * len(plan))]
    return torch.cat(logits).cpu()


def _source(
    module: Trainee,
    dataset: Any,
    name: str,
    needs_labels: bool = True,
    args: CIAOTrainingArguments | None = None,
) -> BatchDataset:
    views, augment, seed = (1, None, 0) if args is None else (args.views, args.augmentation, args.seed)
    if views is None and isinstance(dataset, FeatureDataset):
        views = dataset.views
    elif views is None:
        views = 2 if shows_the_same_twice(Samples(dataset, module.preprocessing, name), seed) else 1
    data = module.stored(dataset, views, augment)
    if not isinstance(data, FeatureDataset):
        data = Samples(data, module.preprocessing, name)
    elif len(data) == 0:
        raise TrainingError(f"{name} is empty.")
    elif views not in (1, data.views):
        raise TrainingError(
            f"{name} has {data.views} stored of the {views} views of each picture that `views` asks for; leave "
            "`views` out, which takes what is stored."
        )
    labels = check_labels_of(data, module.config, name) if needs_labels else None
    return BatchDataset(data, labels, module.uses_excitation, views=views, augment=augment, depths=())
