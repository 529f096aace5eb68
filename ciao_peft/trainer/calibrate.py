"""Before the first update: where `a` starts, by the spread of u in the training data, and how frequent classes are."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, cast

import numpy as np
from torch import Tensor

from .._shapes import Shaped
from ..adapters import Adapter
from ..calibration import ENOUGH_SAMPLES, ExcitationSpread, decay_start, excitation_moments, is_open
from ..labels import widest_dtype
from ..model import CIAOModel
from ..probabilities import class_prior
from .loader import BatchDataset, BatchLoader
from .seeds import seed_of

if TYPE_CHECKING:
    from accelerate import Accelerator


def note_class_prior(adapter: Adapter, labels: Shaped[Tensor, "samples ..."], balance: float) -> None:
    """Notes in an adapter's config how frequent the classes are in its training, where the config leaves it open.

    Args:
        adapter: Of one class of several; with any other problem nothing is noted.
        labels: Of the training data, as the adapter numbers them.
        balance: How far the batches are balanced, 0 to 1.

    Example:
        >>> import torch
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> model = get_ciao_model(load_encoder("small-face"), config)
        >>> note_class_prior(model.adapters["default"], torch.tensor([0, 0, 1]), balance=0.0)
        >>> model.peft_config["default"].class_prior
        (0.6, 0.4)
    """
    config = adapter.config
    if config.problem_type != "single_label_classification" or config.class_prior is not None:
        return
    prior = class_prior(labels, config.num_labels, balance)
    adapter.config = dataclasses.replace(config, class_prior=prior)


def calibrate_decay(
    model: CIAOModel, adapter_name: str, source: BatchDataset, batch_size: int, seed: int, accelerator: Accelerator
) -> None:
    """Sets `a` by samples from everywhere in the data, where the config leaves it open; the same on all processes.

    Reads about `ENOUGH_SAMPLES` pictures through the frozen part of the model, in eval mode and without gradients. Does
    nothing where the config gives `decay_init`, or where the adapter has no mask.

    Args:
        model: Holds the adapter, on the accelerator's device.
        adapter_name: Which adapter; its config then notes the value as `decay_init`.
        source: Training data.
        batch_size: Samples of a batch over all processes.
        seed: Of the training; decides what is random in the samples that are read.
        accelerator: Says which process this is, and how precisely it computes.
    """
    adapter = model.adapters[adapter_name]
    if not is_open(adapter):
        return
    enough = max(ENOUGH_SAMPLES // (adapter.config.frames or 1), 1)
    # Whole batches, so that every process gets a share of each.
    num_batches = max(min(enough, len(source)) // batch_size, 1)
    rows = np.linspace(0, len(source) - 1, min(num_batches * batch_size, len(source))).astype(int)
    rank, device = accelerator.process_index, accelerator.device
    seeds = [seed_of(seed, 0, index) for index in range(num_batches)]
    batches = BatchLoader(source, rank, accelerator.num_processes, 0, device)
    inputs = (batch.inputs for batch in batches.read(np.array_split(rows, num_batches), seeds))
    moments = excitation_moments(model, inputs, adapter_name, lambda: accelerator.autocast())
    moments = cast("Tensor", accelerator.reduce(moments.to(device, widest_dtype(device))))
    adapter.set_decay(decay_start(ExcitationSpread.spread(moments)))
