"""Features on disk: whose they are, what they hold, and what becomes of them when something goes wrong."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import signal

import pytest
import torch

from ciao_peft import Preprocessing, cache_features
from ciao_peft.errors import ConfigError, DataError, FeatureCacheError, UntraceableBackboneError
from ciao_peft.features import Augmentation, FeatureDataset, Samples, extraction
from helpers import killed
from helpers.fakes import SIZE, Undecided, pixels, residual_backbone, tiny_backbone, wrap
from helpers.features import SQUARE, counting, faces, pictures
from helpers.processes import run


@pytest.mark.parametrize("backbone", [tiny_backbone, residual_backbone])
def test_stored_features_are_those_of_the_live_trunk_and_give_its_outputs_and_gradients(backbone, tmp_path):
    model = wrap(backbone())
    stored = cache_features(model, faces(), tmp_path / "stored", batch_size=10)
    live = model.extract_features(pixels(10))
    kept = stored.features(range(10))
    assert len(kept) == len(live) == (2 if backbone is residual_backbone else 1)
    for one, other in zip(kept, live, strict=True):
        assert torch.equal(one, other)
    gradients = []
    for source in ({"pixel_values": pixels(10)}, {"features": kept}):
        output = model(**source, labels=torch.arange(10) % 3)
        output.loss.backward()
        gradients.append([output.logits] + [p.grad.clone() for p in model.adapters["default"].parameters()])
        model.zero_grad()
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)
    assert stored[3]["labels"] == 0
    assert stored.labels.tolist() == [n % 3 for n in range(10)]


def test_what_is_there_is_used_whatever_path_and_batch_size(tmp_path, monkeypatch):
    first = cache_features(tiny_backbone(), faces(), tmp_path / "one", batch_size=4)
    rows = counting(monkeypatch)
    shutil.move(tmp_path / "one", tmp_path / "two")
    again = cache_features(tiny_backbone(), faces(), tmp_path / "two", batch_size=3)
    assert rows == []
    assert again.key == first.key
    assert not list((tmp_path / "two").glob("done.bin"))
    assert torch.equal(again.features([7])[0], cache_features(tiny_backbone(), faces()).features([7])[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: {"model_or_encoder": tiny_backbone(seed=1)}, "another backbone, or the same with other weights"),
        (lambda: {"model_or_encoder": tiny_backbone().bfloat16()}, "a backbone in another dtype"),
        (lambda: {"model_or_encoder": wrap(target_modules=("0",))}, "other target modules"),
        (lambda: {"dataset": faces(seed=2)}, "other pictures, or the same in another order"),
        (lambda: {"dataset": faces()[::-1]}, "other pictures, or the same in another order"),
        (lambda: {"dataset": faces(9)}, "another number of samples"),
        (lambda: {"dtype": "bfloat16"}, "another storage dtype"),
        (
            lambda: {"views": 2, "augment": Augmentation(brightness=0, contrast=0, saturation=0)},
            "another number of views",
        ),
    ],
)
def test_features_of_something_else_are_refused_by_what_differs(change, message, tmp_path):
    settings = {"model_or_encoder": tiny_backbone(), "dataset": faces(), "folder": tmp_path / "stored"}
    cache_features(**settings)
    before = {path.name: path.read_bytes() for path in (tmp_path / "stored").iterdir()}
    with pytest.raises(FeatureCacheError) as caught:
        cache_features(**(settings | change()))
    assert message in str(caught.value)
    assert "Delete that folder, or give another one" in str(caught.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "stored").iterdir()} == before


def test_other_preprocessing_is_another_key_and_other_labels_are_not(tmp_path):
    from ciao_peft import CIAOConfig, get_ciao_model

    def model(preprocessing):
        config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        return get_ciao_model(tiny_backbone(), config, input_size=SIZE, preprocessing=preprocessing)

    stored = cache_features(model(SQUARE), pictures(), tmp_path / "stored")
    expected = model(SQUARE).extract_features(SQUARE(list(pictures()["image"])))[0]
    torch.testing.assert_close(stored.features(range(6))[0], expected)
    relabelled = cache_features(model(SQUARE), pictures(labels=[1] * 6), tmp_path / "stored")
    assert relabelled.labels.tolist() == [1] * 6
    assert relabelled.label_names == ["a", "b"]
    with pytest.raises(FeatureCacheError, match="pixels prepared in another way"):
        cache_features(model(SQUARE.replace(mean=(0.5, 0.5, 0.5))), pictures(), tmp_path / "stored")
    with pytest.raises(FeatureCacheError, match="other pictures"):
        cache_features(model(SQUARE), pictures(seed=1), tmp_path / "stored")


def test_each_split_has_its_folder(tmp_path):
    stored = cache_features(tiny_backbone(), {"train": faces(6), "test": faces(4, seed=2)}, tmp_path)
    assert {name: len(part) for name, part in stored.items()} == {"train": 6, "test": 4}
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["test", "train"]


# -- accidents --------------------------------------------------------------------------------------------------------


def test_a_killed_pass_is_taken_up_where_it_stopped(tmp_path, monkeypatch):
    assert run("killed", "store", tmp_path / "killed").returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "killed" / "index.json").read_text())["complete"] is False
    rows = counting(monkeypatch)
    resumed = cache_features(tiny_backbone(), killed.faces(), tmp_path / "killed", batch_size=4)
    assert sum(rows) == 22 - 12
    cache_features(tiny_backbone(), killed.faces(), tmp_path / "whole", batch_size=4)
    for name in ("features.0.bin", "index.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(resumed) == 22


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:-4]),
            "'features.0.bin' has 20476 bytes where 20480 were written",
        ),
        (lambda path: path.unlink(), "'features.0.bin' has None bytes"),
        (lambda path: path.write_bytes(bytes(20480)), "what is in the files is not what was written"),
        (lambda path: (path.parent / "index.json").write_text("{"), "an index that cannot be read"),
        (lambda path: (path.parent / "index.json").write_text("{}"), "an index that cannot be read (KeyError"),
    ],
)
def test_damaged_features_are_refused(damage, message, tmp_path):
    cache_features(tiny_backbone(), faces(), tmp_path / "stored")
    damage(tmp_path / "stored" / "features.0.bin")
    with pytest.raises(FeatureCacheError) as caught:
        cache_features(tiny_backbone(), faces(), tmp_path / "stored")
    assert message in str(caught.value)


def test_a_newer_format_and_a_folder_of_other_things_are_refused(tmp_path):
    cache_features(tiny_backbone(), faces(), tmp_path / "stored")
    path = tmp_path / "stored" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(FeatureCacheError, match="format version 99; this version reads 2"):
        cache_features(tiny_backbone(), faces(), tmp_path / "stored")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(FeatureCacheError, match=r"are none: 'thesis.tex' lies there"):
        cache_features(tiny_backbone(), faces(), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_full_disk_and_a_full_memory_are_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**6, 10**6 - 9000, 9000))
    with pytest.raises(FeatureCacheError, match=r"10 rows of features take 20.5 kB, and .* has 9 kB free"):
        cache_features(tiny_backbone(), faces(), tmp_path / "stored")
    assert list((tmp_path / "stored").iterdir()) == []
    monkeypatch.setattr(extraction, "free_memory", lambda: 9000)
    with pytest.raises(FeatureCacheError, match=r"9 kB of memory are free. Give a `folder`"):
        cache_features(tiny_backbone(), faces())


def test_what_cannot_be_stored_is_refused():
    with pytest.raises(UntraceableBackboneError, match=r"Undecided could not be cut in two"):
        cache_features(Undecided(), faces())
    with pytest.raises(DataError, match="the dataset is empty"):
        cache_features(tiny_backbone(), [])
    for settings, message in (
        ({"dtype": "int8"}, "`dtype` must be one of 'bfloat16', 'float16', 'float32'; got 'int8'"),
        ({"views": 0}, "`views` must be a whole number of 1 or more"),
        ({"augment": Augmentation()}, "`augment` needs 2 views or more"),
        ({"views": 2, "augment": "flip"}, "`augment` must be an Augmentation"),
        ({"views": 2}, "Colours can only be changed where the preprocessing says what is black and white"),
    ):
        with pytest.raises(ConfigError) as caught:
            cache_features(tiny_backbone(), faces(), **settings)
        assert message in str(caught.value)


def test_a_bare_backbone_is_given_back_as_it_was():
    backbone = tiny_backbone().train()
    cache_features(backbone, faces())
    assert backbone.training and all(parameter.requires_grad for parameter in backbone.parameters())


# -- views ------------------------------------------------------------------------------------------------------------


def test_views_are_the_picture_and_seeded_changes_of_it(tmp_path):
    class Encoder(torch.nn.Sequential):
        preprocessing = SQUARE
        input_size = SIZE

    backbone = Encoder(*tiny_backbone())
    augment = Augmentation(seed=3)
    stored = cache_features(backbone, pictures(), tmp_path / "three", views=3, augment=augment, batch_size=6)
    assert (stored.views, len(stored), stored.layout.num_rows) == (3, 6, 18)
    model = wrap(backbone)
    plain = SQUARE(list(pictures()["image"]))
    assert torch.equal(stored.features(range(6))[0], model.extract_features(plain)[0])
    for view in (1, 2):
        changed = augment(plain, list(range(6)), view=view, preprocessing=SQUARE)
        torch.testing.assert_close(stored.features(range(6), view)[0], model.extract_features(changed)[0])
        assert not torch.allclose(changed, plain, atol=0.1)
    # Neither batch size nor neighbours decide what a view looks like.
    alone = augment(plain[4:5], [4], view=2, preprocessing=SQUARE)
    torch.testing.assert_close(alone, augment(plain, list(range(6)), view=2, preprocessing=SQUARE)[4:5])
    picked = stored.features([0, 0, 5], torch.tensor([0, 1, 2]))[0]
    assert torch.equal(picked[1], stored.features([0], 1)[0][0])
    assert torch.equal(picked[2], stored.features([5], 2)[0][0])
    with pytest.raises(FeatureCacheError, match="other augmentation settings"):
        cache_features(backbone, pictures(), tmp_path / "three", views=3, augment=Augmentation(seed=4))


def test_a_view_stays_a_picture():
    light = Augmentation(brightness=1.0, contrast=1.0, saturation=1.0)
    white, black = (torch.full((8, 3, 16, 16), value) for value in (1.0, 0.0))
    unit = Preprocessing(size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)
    for face in (white, black, torch.rand(8, 3, 16, 16)):
        view = light(face, list(range(8)), view=1, preprocessing=unit)
        assert view.min() >= 0 and view.max() <= 1
    ramp = torch.linspace(0, 1, 16).expand(8, 3, 16, 16)
    crops = Augmentation(flip=0, crop=0.5, brightness=0, contrast=0, saturation=0)
    for view in crops(ramp, list(range(8)), view=1, preprocessing=None):
        steps = view[0, 0, 2:-2].diff()
        assert (steps > 0).all() and steps.max() <= 1 / 15 + 1e-4  # a part of the ramp, no mirror, nothing beyond it
    with pytest.raises(ConfigError, match=r"`crop` of Augmentation must be a number from 0 to 0.9; got 1"):
        Augmentation(crop=1)


def test_a_dataset_that_augments_on_the_fly_is_refused():
    class Jittered(list):
        def __getitem__(self, index):
            face = super().__getitem__(index)
            return face | {"pixel_values": face["pixel_values"] + random.random()}

    with pytest.raises(FeatureCacheError, match=r"shows something else each time.*store augmented views"):
        cache_features(tiny_backbone(), Jittered(faces()))


@pytest.mark.parametrize("count", [12, 300])
def test_a_dataset_that_changes_one_sample_in_ten_is_seen_to_augment(count):
    class SeldomMirrored(list):
        def __getitem__(self, index):
            face = super().__getitem__(index)
            return face | {"pixel_values": face["pixel_values"].flip(2)} if random.random() < 0.1 else face

    for seed in range(20):
        random.seed(seed)
        assert not Samples(SeldomMirrored(faces(count)), None).shows_the_same_twice()
    assert Samples(faces(count), None).shows_the_same_twice()


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_half_precision_is_the_rounded_whole(dtype, tmp_path):
    whole = cache_features(tiny_backbone(), faces(), batch_size=10).features(range(10))[0]
    kind = getattr(torch, dtype)
    for folder in (tmp_path / "stored", None):
        stored = cache_features(tiny_backbone(), faces(), folder, dtype=dtype, batch_size=10)
        assert torch.equal(stored.features(range(10))[0], whole.to(kind))
    assert (tmp_path / "stored" / "features.0.bin").stat().st_size == whole.numel() * kind.itemsize


def test_parts_copies_and_loaders_read_the_same(tmp_path):
    stored = cache_features(tiny_backbone(), faces(), tmp_path / "stored")
    part = stored.select([7, 2, 9]).select([2, 0])
    assert part.labels.tolist() == [9 % 3, 7 % 3]
    assert torch.equal(part.features([0, 1])[0], stored.features([9, 7])[0])
    copied = pickle.loads(pickle.dumps(part))
    assert torch.equal(copied[1]["features"][0], stored[7]["features"][0])
    assert len(pickle.dumps(part)) < 10_000  # the features stay where they are
    assert torch.equal(stored[-1]["features"][0], stored[9]["features"][0])
    with pytest.raises(IndexError, match="There are 10 samples; got the index 10"):
        stored[10]
    batches = list(torch.utils.data.DataLoader(stored, batch_size=4))
    assert torch.equal(batches[2]["features"][0], stored.features([8, 9])[0])
    assert batches[2]["labels"].tolist() == [2, 0]


def test_samples_without_labels_can_be_stored_and_reading_never_writes(tmp_path):
    stored = cache_features(tiny_backbone(), [{"pixel_values": face} for face in pixels(5)], tmp_path / "stored")
    assert stored.labels is None
    assert stored[0].keys() == {"features"}
    before = (tmp_path / "stored" / "features.0.bin").read_bytes()
    stored.tensors[0].zero_()
    assert (tmp_path / "stored" / "features.0.bin").read_bytes() == before


def test_labels_are_read_without_the_pictures():
    class Watched(torch.utils.data.Dataset):
        labels = torch.tensor([2, 0, 1])
        read = 0

        def __len__(self):
            return 3

        def __getitem__(self, index):
            Watched.read += 1
            return {"pixel_values": torch.zeros(SIZE), "labels": int(self.labels[index])}

    samples = Samples(Watched(), None)
    before = Watched.read
    assert samples.labels().tolist() == [2, 0, 1]
    assert Watched.read == before


def test_a_dataset_of_features_says_how_many_samples_it_has():
    stored = cache_features(tiny_backbone(), faces(4))
    assert isinstance(stored, FeatureDataset)
    assert len(stored) == 4
    assert len(stored.select([])) == 0
