"""One pass through the trunk: what is read ahead, kept later and shared out to workers changes nothing."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from ciao_peft import CIAOConfig, CIAOTrainer, CIAOTrainingArguments, cache_features, get_ciao_model
from ciao_peft.errors import DataError, DataNotFoundError, FeatureCacheError, LaunchError
from ciao_peft.features import Processes, Samples, fingerprint, passing, store
from ciao_peft.features.digests import digest_of, digests_of
from ciao_peft.features.passing import pass_through_trunk, read_ahead
from ciao_peft.preprocessing import ahead
from helpers.fakes import SIZE, pixels, tiny_backbone, wrap
from helpers.features import SQUARE, counting, faces, pictures


def model():
    config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
    return get_ciao_model(tiny_backbone(), config, input_size=SIZE, preprocessing=SQUARE)


class Listed(list):
    """A dataset of one's own; a class, so that workers find it."""


def opened(count=6):
    return Listed([{"image": row["image"], "label": row["label"]} for row in pictures(count)])


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("make", [pictures, opened, faces], ids=["table", "own pictures", "own pixels"])
def test_threads_and_workers_store_the_same_bytes(make, tmp_path, monkeypatch):
    stored = []
    for cores, workers in ((1, 0), (4, 0), (1, 2)):
        monkeypatch.setattr(ahead, "usable_cores", lambda cores=cores: cores)
        folder = tmp_path / f"{cores}, {workers}"
        cache_features(model(), make(), folder, batch_size=2, dataloader_num_workers=workers)
        stored.append(files_of(folder))
    assert stored[0] == stored[1] == stored[2]
    dataset = make()
    live = SQUARE([row["image"] for row in dataset]) if "image" in dataset[0] else pixels(10)
    kept = cache_features(model(), dataset, tmp_path / "1, 0").features(range(len(live)))[0]
    batches = live.split(2)
    assert torch.equal(kept, torch.cat([model().extract_features(batch)[0] for batch in batches]))


def test_workers_read_and_this_process_does_not():
    class Watched(Listed):
        def __getitem__(self, index):  # pyright: ignore[reportIncompatibleMethodOverride]
            return {"pixel_values": torch.full(SIZE, float(os.getpid() % 1000)), "label": index}

    samples = Samples(Watched(faces(8)), None)
    read = torch.cat(list(read_ahead(samples, [[0, 1, 2], [3, 4], [5]], num_workers=2)))[:, 0, 0, 0]
    assert len(read) == 6
    assert os.getpid() % 1000 not in read.tolist()


def broken_table():
    from datasets import Dataset, Features, Value
    from datasets import Image as Picture

    rows = []
    for row in pictures(7):
        file = io.BytesIO()
        row["image"].save(file, "PNG")
        rows.append({"bytes": file.getvalue(), "path": None})
    rows[4] = {"bytes": b"no picture", "path": None}
    rows[5] = {"bytes": rows[5]["bytes"][:90], "path": None}
    features = Features({"image": Picture(), "label": Value("int64")})
    return Dataset.from_dict({"image": rows, "label": [0] * 7}, features=features)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_first_broken_picture_is_named_whoever_reads_it(batch_size, workers, tmp_path):
    settings = {"batch_size": batch_size, "dataloader_num_workers": workers}
    with pytest.raises(DataError, match=r"^The picture in row 4 of the dataset: cannot identify image file"):
        cache_features(model(), broken_table(), tmp_path / "table", **settings)
    own = opened(7)
    own[3] = {"image": str(tmp_path / "missing.png"), "label": 0}
    kind = (DataNotFoundError, r"^The picture in row 3 of the dataset: There is no picture at")
    with pytest.raises(kind[0], match=kind[1]):
        for _ in read_ahead(Samples(own, SQUARE), [[0, 1], [2, 3]], workers):
            pass
    bad = Listed(faces(6))
    bad[5] = {"pixel_values": pixels(1)[0] * torch.inf, "labels": 0}
    with pytest.raises(DataError, match=r"^'pixel_values' of sample 5 of the dataset hold NaN or infinite values"):
        cache_features(model(), bad, tmp_path / "pixels", **settings)


class Failing(list):
    """Faces, of which one does something else in the process of a worker."""

    def __init__(self, what):
        super().__init__(faces(12))
        self.what, self.main = what, os.getpid()

    def __getitem__(self, index):
        if index == 7 and os.getpid() != self.main:
            self.what()
        return super().__getitem__(index)


class Unsendable(Exception):
    def __init__(self, one, two):
        super().__init__(one)
        self.lock = threading.Lock()


def no_disk():
    raise OSError(5, "Input/output error", "/faces/7.png")


def refused():
    raise ConnectionResetError("of the dataset")


def unsendable():
    raise Unsendable("seven", 2)


FAILURES = pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (no_disk, OSError, "Input/output error: '/faces/7.png'"),
        (refused, ConnectionResetError, "of the dataset"),
        (unsendable, DataError, "A sample cannot be read: Unsendable: seven"),
        (lambda: os._exit(3), LaunchError, "A process that reads samples has ended"),
    ],
    ids=["disk", "connection", "unsendable", "death"],
)


@FAILURES
def test_what_a_worker_raises_is_raised_as_it_is_and_no_worker_stays(what, error, message):
    with pytest.raises(error, match=message):
        cache_features(model(), Failing(what), None, batch_size=2, dataloader_num_workers=2)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("folder", [None, "stored"])
@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Killed.",
            LaunchError,
            "A process that reads samples has ended",
        ),
        ("mat1 and mat2", RuntimeError, "^mat1 and mat2$"),
    ],
)
def test_the_death_of_a_worker_is_told_whatever_is_done_just_then(said, error, message, folder, tmp_path, monkeypatch):
    def interrupted(*batch):  # PyTorch raises it from a signal's handler, where a picture is computed as well
        raise RuntimeError(said)

    own = model()
    monkeypatch.setattr(own, "extract_features", interrupted)
    with pytest.raises(error, match=message):
        cache_features(own, faces(4), folder and tmp_path / folder, batch_size=2)


@FAILURES
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of torch, about the death of a worker
def test_so_it_is_in_a_training(what, error, message):
    args = CIAOTrainingArguments(
        max_steps=9, per_device_train_batch_size=4, dataloader_num_workers=2, feature_cache="never", report_to="none"
    )
    with pytest.raises(error, match=message):
        CIAOTrainer(wrap(), args).train(Failing(what))
    assert not multiprocessing.active_children()


def test_pixels_that_are_none_are_named():
    rows = faces(6)
    rows[4] = {**rows[4], "pixel_values": [["none"]]}
    with pytest.raises(DataError, match="'pixel_values' of sample 4 of the dataset are no pixels"):
        cache_features(model(), rows, None, batch_size=2)


def test_what_was_computed_before_an_error_is_kept_and_taken_up(tmp_path, monkeypatch):
    values = faces(10)
    with monkeypatch.context() as patch:
        read = Samples.raw

        def failing(self, indices):
            if 6 in indices:
                raise KeyboardInterrupt
            return read(self, indices)

        patch.setattr(Samples, "raw", failing)
        with pytest.raises(KeyboardInterrupt):
            cache_features(model(), values, tmp_path / "stored", batch_size=2)
    rows = counting(monkeypatch)
    resumed = cache_features(model(), values, tmp_path / "stored", batch_size=2)
    assert sum(rows) == 10 - 6
    assert torch.equal(resumed.features(range(10))[0], cache_features(model(), values, batch_size=2).tensors[0])


def test_an_error_of_keeping_is_raised_and_no_thread_is_left(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.FeatureWriter, "put", full)
    before = threading.active_count()
    with pytest.raises(OSError, match="No space left"):
        cache_features(model(), faces(40), tmp_path / "stored", batch_size=2)
    assert threading.active_count() == before


def test_batches_are_kept_in_order_while_the_next_ones_are_computed():
    samples, seen, go_on = Samples(faces(12), None), [], threading.Event()

    def keep(rows, tensors):
        assert threading.current_thread() is not threading.main_thread()
        assert go_on.wait(20)
        seen.append((rows, tensors[0]))

    computed = wrap()
    extract, calls = computed.extract_features, []

    def watched(pixel_values, *options):
        calls.append(len(pixel_values))
        if len(calls) == 1 + passing._KEPT_LATER:  # computed although nothing is kept yet
            assert not seen
            go_on.set()
        return extract(pixel_values, *options)

    computed.extract_features = watched
    key = {"excitation": False, "dtype": "float32"}
    assert sum(pass_through_trunk(computed, samples, range(12), key, None, keep, batch_size=3)) == 12
    assert [rows for rows, _ in seen] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert torch.equal(torch.cat([tensor for _, tensor in seen]), cache_features(wrap(), faces(12)).tensors[0])


def test_features_that_are_not_finite_are_named_by_the_first_sample():
    values = faces(9)
    values[4]["pixel_values"] = values[7]["pixel_values"] = pixels(1, seed=3)[0].sign() * 3e38
    with pytest.raises(FeatureCacheError, match=r"^The features of sample 4 of the dataset are NaN or infinite: check"):
        cache_features(wrap(), values, batch_size=2)
    values[4]["pixel_values"] = values[7]["pixel_values"] = torch.full(SIZE, 3e6)
    with pytest.raises(FeatureCacheError, match=r"sample 4 of the dataset do not fit into float16; store them in"):
        cache_features(wrap(), values, batch_size=2, dtype="float16")


class Arrival:
    """An event of a GPU: what is on its way may be looked at when it was waited for."""

    def __init__(self):
        self.recorded = self.waited = False

    def record(self, stream):
        assert stream == "the stream of cpu"
        self.recorded = True

    def synchronize(self):
        assert self.recorded
        self.waited = True


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_comes_from_a_gpu_is_looked_at_when_it_has_arrived(dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Arrival)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    features = (torch.rand(3, 4, 5).transpose(1, 2), torch.rand(3, 6))
    for on_gpu in (True, False):
        computed = passing._Computed(features, dtype, [7, 8, 9], "the faces", on_gpu)
        assert isinstance(computed._arrived, Arrival) == on_gpu
        for tensor, expected in zip(computed.tensors(), features, strict=True):
            assert tensor.is_contiguous() and torch.equal(tensor, expected.to(tensor.dtype))
            assert str(tensor.dtype) == f"torch.{dtype}"
        assert computed._arrived is None or computed._arrived.waited
        broken = (features[0], features[1].index_fill(0, torch.tensor([1, 2]), torch.nan))
        with pytest.raises(FeatureCacheError, match=r"^The features of sample 8 of the faces are NaN or infinite"):
            passing._Computed(broken, dtype, [7, 8, 9], "the faces", on_gpu).tensors()
        large = (features[0] + 1e6, features[1])
        computed = passing._Computed(large, dtype, [7, 8, 9], "the faces", on_gpu)
        if dtype == "float16":
            with pytest.raises(
                FeatureCacheError, match=r"^The features of sample 7 of the faces do not fit into float16"
            ):
                computed.tensors()
        else:
            assert computed.tensors()[0].isfinite().all()


@pytest.mark.cuda
@pytest.mark.parametrize("make", [pictures, faces], ids=["pictures", "pixels"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_stores_what_it_computes_live(make, workers, tmp_path):
    dataset = make()
    live = SQUARE([row["image"] for row in dataset]) if "image" in dataset[0] else pixels(10)
    on_gpu = model()
    on_gpu.to("cuda")
    fitted = torch.from_numpy(SQUARE.fit_all([row["image"] for row in pictures()]))
    assert torch.equal(SQUARE.normalise(fitted.cuda()).cpu(), SQUARE.normalise(fitted))
    expected = on_gpu.extract_features(live.cuda())[0].cpu()
    for folder in (None, tmp_path / "stored"):
        stored = cache_features(on_gpu, dataset, folder, batch_size=len(live), dataloader_num_workers=workers)
        assert torch.equal(stored.features(range(len(live)))[0], expected)


# -- digests -----------------------------------------------------------------------------------------------------------


def by_definition(value):
    """The digest as the first release wrote it; stored features of old are found by it."""
    if isinstance(value, torch.Tensor):
        kind, array = str(value.dtype), value.contiguous().view(torch.uint8).numpy()
    else:
        kind, array = getattr(value, "mode", ""), np.ascontiguousarray(value)
    header = f"{kind}\0{array.dtype.str}\0{array.shape}\0".encode()
    return hashlib.blake2b(header + array.tobytes(), digest_size=16).digest()


@pytest.mark.parametrize(
    "value",
    [
        torch.rand(3, 8, 8),
        torch.rand(3, 8, 8).bfloat16().transpose(1, 2),
        np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
        np.array([], dtype=np.float32),
        [[0.5, 1.5], [2.5, 3.5]],
        Image.new("RGB", (5, 4), (1, 2, 3)),
        Image.new("L", (5, 4), 7),
    ],
    ids=["tensor", "bfloat16", "array", "empty", "list", "RGB", "L"],
)
def test_digests_are_those_of_the_first_release(value):
    assert digest_of(value) == by_definition(value)


@pytest.mark.parametrize("cores", [1, 5])
def test_digests_of_many_are_those_of_each_in_order(cores, monkeypatch):
    monkeypatch.setattr(ahead, "usable_cores", lambda: cores)
    values = pixels(40)
    assert digests_of(range(40), lambda numbers: [values[n] for n in numbers]) == [digest_of(v) for v in values]
    expected = hashlib.blake2b(b"".join(by_definition(face["pixel_values"]) for face in faces(40)), digest_size=16)
    assert fingerprint(Samples(faces(40), None), Processes()) == expected.hexdigest()
    table = Samples(pictures(20), SQUARE)
    assert table.digests([7, 3]) == [table.digest(7), table.digest(3)]
    assert len(set(table.digests(range(20)))) == 20
