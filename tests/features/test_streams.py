"""Features of streams: those of the table with the same pictures, whoever reads which part of it."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import torch

from ciao_peft import CIAOTrainer, CIAOTrainingArguments, cache_features, get_ciao_model, load_faces
from ciao_peft.errors import DataError, FeatureCacheError
from ciao_peft.features import Augmentation, FeatureDataset
from ciao_peft.features.processes import Processes
from ciao_peft.features.streams import StreamSamples
from helpers import two_processes_streaming
from helpers.fakes import SIZE, small_config, tiny_backbone, wrap
from helpers.features import SQUARE, counting, pictures
from helpers.processes import run


def model_of():
    return get_ciao_model(tiny_backbone(), small_config(), preprocessing=SQUARE)


def of_rank(rank, count):
    """One of several processes that share the work, as far as reading goes."""
    processes = Processes()
    processes.rank, processes.count = rank, count
    return processes


def streams(table):
    """The same pictures in the same order, streamed in several ways."""
    return {
        "one shard": table.to_iterable_dataset(),
        "four shards": table.to_iterable_dataset(num_shards=4),
        "taken": table.to_iterable_dataset(num_shards=3).take(len(table)),
        "chosen columns": table.to_iterable_dataset(num_shards=2).select_columns(["label", "image"]),
    }


@pytest.mark.parametrize("kind", ["one shard", "four shards", "taken", "chosen columns"])
@pytest.mark.parametrize("views", [1, 2])
def test_a_stream_stands_for_the_table_with_the_same_pictures(kind, views, tmp_path, monkeypatch):
    model, table = model_of(), pictures(10)
    augment = Augmentation(seed=3) if views == 2 else None
    expected = cache_features(model, table, views=views, augment=augment, batch_size=4)
    stored = cache_features(
        model, streams(table)[kind], tmp_path / "stored", views=views, augment=augment, batch_size=4
    )
    assert stored.key == expected.key and stored.label_names == ["a", "b"]
    assert stored.labels.tolist() == expected.labels.tolist() == [n % 2 for n in range(10)]
    for one, other in zip(stored.tensors, expected.tensors, strict=True):
        assert torch.equal(one, other)
    rows = counting(monkeypatch)
    again = cache_features(model, table, tmp_path / "stored", views=views, augment=augment)
    assert rows == [] and torch.equal(again.tensors[0], stored.tensors[0])


def test_a_stream_needs_no_folder_and_trains_an_adapter():
    model = model_of()
    stored = cache_features(model, pictures(12).to_iterable_dataset(num_shards=2))
    assert isinstance(stored, FeatureDataset) and stored.folder is None
    result = CIAOTrainer(model, CIAOTrainingArguments(num_train_epochs=1, report_to="none")).train(stored)
    assert np.isfinite(result.training_loss)


def test_streamed_splits_are_stored_split_by_split(tmp_path):
    settings = {"num_train": 5, "num_validation": 3, "num_test": 0, "size": 32}
    tables = load_faces("painted_faces", **settings)
    stored = cache_features(model_of(), load_faces("painted_faces", streaming=True, **settings), tmp_path / "stored")
    assert {split: len(part) for split, part in stored.items()} == {"train": 5, "validation": 3}
    for split, part in stored.items():
        assert part.key == cache_features(model_of(), tables[split]).key
        assert part.labels.tolist() == tables[split]["label"]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("shards", [1, 2, 4, 6])
def test_each_process_reads_the_shards_that_its_node_is_given(shards, count):
    from datasets.distributed import split_dataset_by_node

    table = pictures(12)
    stream = table.add_column("row", range(12)).to_iterable_dataset(num_shards=shards)
    seen, numbers = {}, []
    for rank in range(count):  # the first pass of each, to be put together
        processes = of_rank(rank, count)
        processes.collect = lambda values, rank=rank: seen.setdefault(rank, values)
        with contextlib.suppress(TypeError, ValueError):  # alone it does not have everything
            StreamSamples(stream, SQUARE, processes)
    everything = [entry for values in seen.values() for entry in values]
    for rank in range(count):
        processes = of_rank(rank, count)
        processes.collect = lambda values: everything
        samples = StreamSamples(stream, SQUARE, processes)
        own = samples.rows_of_this_process(range(12))
        numbers += own
        assert samples.labels().tolist() == table["label"]
        assert torch.equal(samples.pixels(own), SQUARE([table[row]["image"] for row in own]))
        if shards % count == 0 or shards < count:
            assert own == [row["row"] for row in split_dataset_by_node(stream, rank, count)]
    assert sorted(numbers) == list(range(12))


def test_a_stream_that_is_split_by_node_already_stands_for_the_whole():
    from datasets.distributed import split_dataset_by_node

    stream = pictures(6).to_iterable_dataset(num_shards=2)
    assert len(StreamSamples(split_dataset_by_node(stream, 1, 2), SQUARE)) == 6


@pytest.mark.parametrize("shards", [1, 4])
def test_two_processes_store_of_a_stream_what_one_stores_of_the_table(shards, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = run(
        "two_processes_streaming",
        tmp_path,
        str(shards),
        launcher=launcher,
        ACCELERATE_USE_CPU="true",
        OMP_NUM_THREADS="1",
    )
    assert (tmp_path / "result.json").exists(), done.stderr[-4000:]  # its exit status says nothing
    result = json.loads((tmp_path / "result.json").read_text())
    expected = cache_features(two_processes_streaming.model_of(), two_processes_streaming.table())
    assert result["num_processes"] == 2
    assert sorted(result["own"][0] + result["own"][1]) == list(range(len(expected)))
    assert min(map(len, result["own"])) > 0
    stored = cache_features(two_processes_streaming.model_of(), two_processes_streaming.table(), tmp_path / "stored")
    assert stored.key == expected.key
    assert result["labels"] == stored.labels.tolist()
    for one, other in zip(stored.tensors, expected.tensors, strict=True):
        torch.testing.assert_close(one, other)


def test_an_interrupted_pass_over_a_stream_is_taken_up_where_it_stopped(tmp_path, monkeypatch):
    model, stream = model_of(), pictures(10).to_iterable_dataset(num_shards=2)
    whole = cache_features(model, stream, batch_size=2)
    extract, calls = type(model).extract_features, []

    def interrupted(self, pixel_values, *options):
        calls.append(len(pixel_values))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return extract(self, pixel_values, *options)

    monkeypatch.setattr(type(model), "extract_features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache_features(model, stream, tmp_path / "stored", batch_size=2)
    monkeypatch.setattr(type(model), "extract_features", extract)
    rows = counting(monkeypatch)
    stored = cache_features(model, stream, tmp_path / "stored", batch_size=2)
    assert rows == [2, 2]
    assert torch.equal(stored.tensors[0], whole.tensors[0])


def test_a_stream_that_augments_on_the_fly_is_refused(tmp_path):
    from datasets import Dataset

    generator = np.random.default_rng(0)
    table = [{"pixel_values": np.zeros(SIZE, dtype=np.float32).tolist(), "labels": n % 2} for n in range(4)]
    noisy = Dataset.from_list(table).to_iterable_dataset()
    noisy = noisy.map(lambda row: {"pixel_values": (np.zeros(SIZE) + generator.random()).tolist()})
    with pytest.raises(FeatureCacheError, match=r"Sample 0 of the dataset is not what it was .* give `shuffle` a seed"):
        cache_features(wrap(), noisy, tmp_path / "stored")


def test_a_seeded_shuffle_is_an_order_like_any_other():
    model, stream = model_of(), pictures(10).to_iterable_dataset(num_shards=2)
    shuffled = stream.shuffle(seed=1, buffer_size=5)
    stored, table = cache_features(model, shuffled), list(shuffled)
    assert stored.key["data"] != cache_features(model, stream).key["data"]
    assert stored.labels.tolist() == [row["label"] for row in table]
    assert torch.equal(stored.tensors[0], model.extract_features(SQUARE([row["image"] for row in table]))[0])


def test_what_is_no_stream_of_samples_is_refused():
    empty = pictures(4).to_iterable_dataset().take(0)
    with pytest.raises(DataError, match="the dataset is empty"):
        cache_features(model_of(), empty)
    with pytest.raises(DataError, match="must be a dict with 'image' or 'pixel_values'; it has keys 'label'"):
        cache_features(model_of(), pictures(4).to_iterable_dataset().remove_columns("image"))
    with pytest.raises(DataError, match="holds pictures, and the backbone does not say how"):
        cache_features(wrap(), pictures(4).to_iterable_dataset())


def test_a_trainer_says_how_a_stream_is_trained_from():
    trainer = CIAOTrainer(model_of(), CIAOTrainingArguments(report_to="none"))
    message = r"train_dataset is a IterableDataset, .* `cache_features\(model, dataset, folder\)`"
    with pytest.raises(DataError, match=message):
        trainer.train(pictures(4).to_iterable_dataset())
