"""A memory of stored features: its bound, its policies, and whose features it takes."""

from __future__ import annotations

import json

import pytest
import torch

from ciao_peft import FeatureMemory, get_ciao_model
from ciao_peft.errors import AdapterFileError, BackboneMismatchError, ConfigError, MemoryMismatchError
from ciao_peft.online import Faces, herd
from ciao_peft.online.kept import quotas
from ciao_peft.online.rows import classes_of, means_of_channels, same_faces, sketches_of
from helpers.corrections import assert_same_state, faces, filled, learner, mislabelled, state_of, trained
from helpers.fakes import SIZE, small_config, tiny_backbone
from helpers.features import SQUARE
from helpers.training import make_model

POLICIES = ("reservoir", "class_balanced", "herding")
every_policy = pytest.mark.parametrize("policy", POLICIES)
CONFIG = small_config()
KEY = {"backbone": {}, "backbone_dtype": "float32", "targets": ["3"], "preprocessing": None, "input_size": [3, 16, 16]}


def drawn(count, seed=0, channels=4, kinds=3):
    """Faces of noise; the labels go round."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.eye(kinds)[torch.arange(count) % kinds]
    return Faces((torch.randn(count, channels, 3, 3, generator=generator),), labels)


def bytes_held(memory):
    """Every byte of every tensor that a memory holds, by hand."""
    state = memory.state()
    rows = sum(sum(t.nbytes for t in row.tensors) + row.label.nbytes + row.sketch.nbytes + 9 for row in state.rows)
    return rows + 8 * len(state.seen) + sum(total.nbytes for total in state.sums.values())


@every_policy
@pytest.mark.parametrize("max_bytes", [700, 1_000, 1_234, 4_000, 100_000])
def test_the_bound_in_bytes_holds_at_every_moment(policy, max_bytes):
    memory = FeatureMemory(max_bytes, policy=policy)
    for seed in range(12):
        memory.add(drawn(7, seed), CONFIG, KEY)
        assert memory.nbytes == bytes_held(memory) <= max_bytes
    one = memory.state().rows[0].nbytes
    assert memory.nbytes > max_bytes - one or len(memory) == 84  # and no room for another one is left


@every_policy
def test_the_bound_holds_while_classes_come(policy):
    memory = FeatureMemory(3_000, policy=policy)
    memory.add(drawn(30), CONFIG, KEY)
    memory.grow(40)
    assert memory.labels.shape[1] == 40
    assert memory.nbytes == bytes_held(memory) <= 3_000


def test_no_room_for_one_face_is_refused():
    memory = FeatureMemory(100)
    with pytest.raises(ConfigError, match="no room for one face, which takes 165 B"):  # 72 + 12 + 73 + 8
        memory.add(drawn(1), CONFIG, KEY)
    assert (len(memory), memory.key) == (0, None)


def test_a_reservoir_keeps_each_face_with_the_same_probability():
    """Each of 40 faces is among the 10 kept in a quarter of 400 runs, within four standard deviations."""
    one = drawn(40)
    size = 10 * 157 + 3 * 8
    times = torch.zeros(40)
    for seed in range(400):
        memory = FeatureMemory(size, policy="reservoir", seed=seed)
        memory.add(one, CONFIG, KEY)
        times[same_faces(torch.stack([row.sketch for row in memory.state().rows]), ONE)] += 1
    assert times.sum() == 4000
    assert ((times - 100).abs() < 4 * (400 * 0.25 * 0.75) ** 0.5).all()


ONE = sketches_of(drawn(40).tensors)


def test_classes_are_balanced_however_rare():
    labels = torch.eye(3)[torch.tensor([0] * 90 + [1] * 7 + [2] * 30)]
    shuffled = torch.randperm(127, generator=torch.Generator().manual_seed(0))
    features = torch.randn(127, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    memory = FeatureMemory(30 * 157 + 24, policy="class_balanced")
    memory.add(Faces((features[shuffled],), labels[shuffled]), CONFIG, KEY)
    counts = memory.counts
    assert counts[1] == 7
    assert sum(counts.values()) == 30
    assert abs(counts[0] - counts[2]) <= 1


def by_definition(points, count, mean):
    """Algorithm 4 of iCaRL in float64, with a loop over all that are left."""
    chosen = []
    for k in range(1, count + 1):
        left = [i for i in range(len(points)) if i not in chosen]
        total = sum((points[i] for i in chosen), torch.zeros_like(mean))
        chosen.append(min(left, key=lambda i: ((mean - (points[i] + total) / k) ** 2).sum().sqrt().item()))
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_herding_is_its_definition(seed):
    points = torch.randn(30, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points = points / points.norm(dim=1, keepdim=True)
    mean = points.mean(dim=0)
    assert herd(points, 12) == by_definition(points, 12, mean)
    shifted = mean + 0.3
    assert herd(points, 12, shifted) == by_definition(points, 12, shifted)


def test_a_herded_memory_holds_what_the_definition_chooses():
    some = drawn(60)
    memory = FeatureMemory(12 * 157 + 3 * (8 + 8 * 4), policy="herding")
    memory.add(some, CONFIG, KEY)
    kept = same_faces(torch.stack([row.sketch for row in memory.state().rows]), sketches_of(some.tensors))
    expected = []
    for kind in range(3):
        own = list(range(kind, 60, 3))
        points = means_of_channels([some.tensors[0][own].half()]).double()
        expected += [own[place] for place in by_definition(points, 4, points.mean(dim=0))]
    assert kept == expected


def test_herding_follows_the_mean_of_all_that_came_not_of_what_is_left():
    memory = FeatureMemory(2 * 157 + 8 + 8 * 4, policy="herding", held_share=0)
    far, near = torch.zeros(1, 4, 1, 1), torch.zeros(1, 4, 1, 1)
    far[0, 0], near[0, 1] = 1, 1

    def face(value):
        noise = torch.randn(
            1, 4, 3, 3, generator=torch.Generator().manual_seed(int(1e6 * value.sum() + value.argmax()))
        )
        return value.expand(1, 4, 3, 3) + noise - noise.mean(dim=(2, 3), keepdim=True)

    label = torch.eye(3)[:1]
    for step in range(20):
        memory.add(Faces((face(near * (1 + step / 10)),), label), CONFIG, KEY)
    memory.add(Faces((face(far),), label), CONFIG, KEY)
    points = means_of_channels(memory.faces().tensors)
    assert (points[:, 1] > 0.99).all()  # one of 21 does not pull the mean away


def test_quotas_are_equal_where_there_are_enough():
    assert quotas({0: 100, 1: 100, 2: 100}, 9) == {0: 3, 1: 3, 2: 3}
    assert quotas({0: 2, 1: 100, 2: 100}, 10) == {0: 2, 1: 4, 2: 4}
    assert quotas({0: 2, 1: 1}, 10) == {0: 2, 1: 1}


@every_policy
def test_the_same_faces_and_seed_give_the_same_memory(policy):
    one, other = (FeatureMemory(2_000, policy=policy, seed=3) for _ in range(2))
    for memory in (one, other):
        for seed in range(5):
            memory.add(drawn(9, seed), CONFIG, KEY)
    mine, theirs = one.faces(), other.faces()
    assert torch.equal(mine.tensors[0], theirs.tensors[0])
    assert torch.equal(mine.labels, theirs.labels)


def test_features_are_kept_in_half_precision():
    memory = FeatureMemory()
    some = drawn(3)
    memory.add(some, CONFIG, KEY)
    assert memory.faces().tensors[0].dtype == torch.float16
    assert torch.equal(memory.faces().tensors[0], some.tensors[0].half())


@every_policy
def test_a_face_is_stored_once(policy):
    memory = FeatureMemory(policy=policy)
    for _ in range(3):
        memory.add(drawn(5), CONFIG, KEY)
    assert len(memory) == 5
    assert sum(memory.state().seen.values()) == 5


@every_policy
def test_another_label_takes_the_place_of_the_old_one(policy):
    memory = FeatureMemory(policy=policy)
    some = drawn(6)
    memory.add(some, CONFIG, KEY)
    memory.add(Faces((some.tensors[0][:1],), torch.eye(3)[2:]), CONFIG, KEY)
    assert memory.counts == {0: 1, 1: 2, 2: 3}
    assert memory.state().seen == {0: 1, 1: 2, 2: 3}
    if policy == "herding":
        points = means_of_channels([some.tensors[0].half()]).double()
        torch.testing.assert_close(memory.state().sums[2], points[[0, 2, 5]].sum(dim=0))


def test_the_same_face_is_known_in_other_precisions_and_batches():
    model = trained()
    pixels = torch.stack([face["pixel_values"] for face in faces(64)])
    together = model.extract_features(pixels)
    alone = [torch.cat(parts) for parts in zip(*(model.extract_features(p[None]) for p in pixels), strict=True)]
    assert same_faces(sketches_of(alone), sketches_of([t.half() for t in together])) == list(range(64))


def test_classes_of_values_and_sets_stay_when_labels_come():
    values = small_config(problem_type="regression", num_labels=2, num_bins=2)
    assert classes_of(torch.tensor([[0.5, -0.5], [0.9, -0.1], [-0.5, -0.5]]), values) == [2, 2, 0]
    sets = small_config(problem_type="multi_label_classification", num_labels=2)
    before = classes_of(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), sets)
    assert before == classes_of(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), sets)
    assert before[0] != before[1]


# -- on disk, and whose -----------------------------------------------------------------------------------------------


@every_policy
def test_saved_is_loaded_and_goes_on_alike(policy, tmp_path):
    memory = FeatureMemory(2_000, policy=policy, seed=3)
    memory.add(drawn(20), CONFIG, KEY)
    loaded = FeatureMemory.load(memory.save(tmp_path / "memory.safetensors"))
    for one in (memory, loaded):
        one.add(drawn(20, seed=1), CONFIG, KEY)
    assert memory.nbytes == loaded.nbytes
    assert torch.equal(memory.faces().tensors[0], loaded.faces().tensors[0])
    assert torch.equal(memory.labels, loaded.labels)
    assert [row.held for row in memory.state().rows] == [row.held for row in loaded.state().rows]


def test_an_empty_memory_is_saved_too(tmp_path):
    assert len(FeatureMemory.load(FeatureMemory(500).save(tmp_path / "memory.safetensors"))) == 0


OTHERS = {
    "another encoder": lambda: make_model(tiny_backbone(seed=9)),
    "another preprocessing": lambda: get_ciao_model(tiny_backbone(), small_config(), preprocessing=SQUARE),
    "another cut": lambda: make_model(target_modules=("0",)),
    "depths": lambda: make_model(depths=1),
    "clips": lambda: make_model(frames=2, recurrent_size=4),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_memory_of_another_model_is_refused(what, tmp_path):
    path = filled(trained()).save(tmp_path / "memory.safetensors")
    other = OTHERS[what]().eval()
    with pytest.raises(MemoryMismatchError, match="other than the model's") as raised:
        FeatureMemory.load(path, other)
    assert isinstance(raised.value, BackboneMismatchError)
    with pytest.raises(MemoryMismatchError):
        learner(other, memory=FeatureMemory.load(path))
    memory = FeatureMemory.load(path)
    before = memory.state()
    with pytest.raises(MemoryMismatchError):
        memory.fill(other, faces(6))
    assert memory.state().rows == before.rows


def test_another_precision_of_the_encoder_is_another_encoder(tmp_path):
    path = filled(trained()).save(tmp_path / "memory.safetensors")
    with pytest.raises(MemoryMismatchError, match="dtype"):
        FeatureMemory.load(path, trained().half())


def tampered(path, change):
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize("place", [20, 400, -5])
def test_a_flipped_bit_is_noticed(place, tmp_path):
    path = filled(trained()).save(tmp_path / "memory.safetensors")

    def flip(content):
        content[place] ^= 1

    with pytest.raises(AdapterFileError):
        FeatureMemory.load(tampered(path, flip))


def test_a_file_of_another_kind_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"labels": torch.zeros(1, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(AdapterFileError, match="no memory of stored features"):
        FeatureMemory.load(tmp_path / "other.safetensors")
    with pytest.raises(AdapterFileError, match="missing"):
        FeatureMemory.load(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(filled(trained()).save(tmp_path / "m.safetensors").read_bytes()[:-7])
    with pytest.raises(AdapterFileError, match="safetensors"):
        FeatureMemory.load(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, r: r["settings"].update(policy="newest"), "policy"),
        (lambda t, r: r["settings"].update(more=1), "unknown settings 'more'"),
        (lambda t, r: r.update(more=1), "unknown entries 'more'"),
        (lambda t, r: r.update(seen={"x": 1}), "classes that are none"),
        (lambda t, r: r.update(key=None), "were expected"),
        (lambda t, r: t.pop("held"), "were expected"),
        (lambda t, r: t.update(labels=t["labels"][:-1]), "fit together"),
        (lambda t, r: t.update(classes=t["classes"] + 50), "fit together"),
        (lambda t, r: t.update({"features.0": t["features.0"].float()}), "fit together"),
        (lambda t, r: t.update({"sums.7": torch.zeros(3)}), "sums of classes"),
    ],
)
def test_a_file_with_a_digest_that_fits_is_still_not_believed(change, message, tmp_path):
    from ciao_peft.online.memory_file import write_memory

    tensors, record = filled(trained()).to_tensors()
    record = json.loads(json.dumps(record))
    change(tensors, record)
    path = write_memory(tmp_path / "memory.safetensors", tensors, record)
    with pytest.raises(AdapterFileError, match=message):
        FeatureMemory.load(path)


def test_a_dataset_that_breaks_off_leaves_the_memory_as_it_was():
    model = trained()
    online = learner(model)
    before = state_of(online)
    some = faces(70)
    some[65] = some[65] | {"pixel_values": torch.full(SIZE, float("nan"))}
    with pytest.raises(ValueError, match="NaN"):
        online.memory.fill(model, some)
    assert_same_state(state_of(online), before)
    online.update(*mislabelled())


def test_classes_are_rehearsed_as_frequently_as_they_came_by():
    labels = torch.eye(3)[torch.tensor([0] * 160 + [1] * 30 + [2] * 10)]
    features = torch.randn(200, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    memory = FeatureMemory(30 * 157 + 24, held_share=0)
    memory.add(Faces((features,), labels), CONFIG, KEY)
    assert memory.counts == {0: 10, 1: 10, 2: 10}
    assert memory.shares == {0: 0.8, 1: 0.15, 2: 0.05}
    seeds = [torch.Generator().manual_seed(seed) for seed in range(600)]
    drawn = torch.cat([memory.draw(1, seed, (), 0.0).labels for seed in seeds]).mean(dim=0)
    torch.testing.assert_close(drawn, torch.tensor([0.8, 0.15, 0.05]), rtol=0, atol=0.06)  # three standard deviations
    drawn = torch.cat([memory.draw(1, seed, (), 1.0).labels for seed in seeds]).mean(dim=0)
    torch.testing.assert_close(drawn, torch.full((3,), 1 / 3), rtol=0, atol=0.06)


def test_a_guard_of_the_memory_counts_classes_as_they_came_by():
    from ciao_peft.online.guard import score

    labels = torch.eye(3)[torch.tensor([0, 0, 1, 1])]
    logits = torch.eye(3)[torch.tensor([0, 0, 0, 1])]  # all of class 0 are right, half of class 1
    guard = Faces((logits,), labels)
    assert score(guard, CONFIG, lambda tensors: tensors[0]).points == 75
    weighted = score(guard, CONFIG, lambda tensors: tensors[0], {0: 0.6, 1: 0.2, 2: 0.2})
    assert weighted.points == pytest.approx(100 * (0.6 + 0.2 * 0.5) / 0.8)
