"""What two processes store of one stream; `features/test_streams.py` starts it and reads the files it leaves.

Usage: torchrun --nproc_per_node 2 -m helpers.two_processes_streaming <folder> <shards>
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from ciao_peft import Preprocessing, cache_features, get_ciao_model
from ciao_peft.features import Processes
from ciao_peft.features.streams import StreamSamples

from .fakes import SIZE, small_config, tiny_backbone


def table():
    """Eleven pictures of noise."""
    from datasets import ClassLabel, Dataset, Features, Image

    rng = np.random.default_rng(4)
    columns = {"image": [rng.integers(0, 256, (*SIZE[1:], 3), dtype=np.uint8) for _ in range(11)]}
    columns["label"] = [n % 3 for n in range(11)]
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": ClassLabel(names=list("abc"))}))


def model_of():
    """The same in every process and in the test that started them."""
    preprocessing = Preprocessing(size=SIZE[1:], mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return get_ciao_model(tiny_backbone(), small_config(), preprocessing=preprocessing)


def main(folder: Path, num_shards: int) -> None:
    stream, model, processes = table().to_iterable_dataset(num_shards=num_shards), model_of(), Processes()
    stored = cache_features(model, stream, folder / "stored", batch_size=4)
    samples = StreamSamples(stream, model.preprocessing, processes)
    own = processes.collect([samples.rows_of_this_process(range(len(stored)))])
    if processes.is_main:
        result = {"num_processes": processes.count, "labels": stored.labels.tolist(), "own": own}
        (folder / "result.json").write_text(json.dumps(result))
    processes.wait_for_everyone()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
