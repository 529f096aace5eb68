import hashlib
import sys

import numpy as np
import pytest

from ciao_peft.data import Expression, View, load_faces, paint_face
from ciao_peft.data import painted_faces as module
from ciao_peft.data.painted_faces import (
    AFFECT,
    EIGHT,
    SEVEN,
    SIGNALS,
    WORLDS,
    PaintedFaces,
    label_of,
    sample_expression,
)
from ciao_peft.data.people import Person
from ciao_peft.errors import DataError

SMALL = {"num_train": 30, "num_validation": 10, "num_test": 10, "images_per_identity": 5, "size": 32}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("painted")


def small(cache, world="eight", **changes):
    return load_faces("painted_faces", world=world, cache_dir=cache, **(SMALL | changes))


def pixels(split):
    return np.stack([np.asarray(image) for image in split["image"]])


def test_all_worlds_label_the_very_same_pictures(cache):
    faces = {world: small(cache, world)["train"] for world in WORLDS}
    for world in WORLDS:
        assert np.array_equal(pixels(faces[world]), pixels(faces["eight"]))
        assert faces[world]["movements"] == faces["eight"]["movements"]


def test_each_world_has_its_own_kind_of_label(cache):
    features = {world: small(cache, world)["train"].features["label"] for world in WORLDS}
    assert features["eight"].names == list(EIGHT)
    assert features["seven"].names == list(SEVEN)
    assert features["affect"].length == len(AFFECT) == 2
    assert features["signals"].length == len(SIGNALS) == 8


def test_nobody_is_in_two_splits(cache):
    faces = small(cache)
    train, validation, test = (set(faces[split]["identity"]) for split in ("train", "validation", "test"))
    assert len(train) == 6 and len(validation) == 2 and len(test) == 2
    assert not (train & validation or train & test or validation & test)


def test_split_sizes_are_those_asked_for(cache):
    assert small(cache).num_rows == {"train": 30, "validation": 10, "test": 10}
    assert small(cache, num_train=7, num_validation=0).num_rows == {"train": 7, "test": 10}


def test_a_seed_gives_the_same_pixels_in_another_cache_and_another_seed_gives_others(cache, tmp_path):
    first = pixels(small(cache)["train"])
    assert np.array_equal(first, pixels(small(tmp_path)["train"]))
    assert not np.array_equal(first, pixels(small(cache, seed=1)["train"]))


def test_more_training_images_leave_the_first_ones_and_the_test_set_as_they_were(cache):
    few, many = small(cache), small(cache, num_train=40)
    assert np.array_equal(pixels(few["train"]), pixels(many["train"])[:30])
    assert np.array_equal(pixels(few["test"]), pixels(many["test"]))


def test_two_processes_and_streaming_draw_what_one_process_draws(cache, tmp_path):
    alone = small(cache, "seven")["train"]
    together = small(tmp_path, "seven", num_proc=2)["train"]
    streamed = list(small(tmp_path, "seven", streaming=True)["train"])
    assert np.array_equal(pixels(alone), pixels(together))
    assert alone["label"] == together["label"] == [row["label"] for row in streamed]


def test_a_changed_source_file_is_never_served_from_the_old_cache(tmp_path, monkeypatch):
    old = PaintedFaces(cache_dir=str(tmp_path), **SMALL)
    changed = tmp_path / "painting.py"
    changed.write_text("# another way of painting")
    monkeypatch.setattr(module.paint_face, "__module__", "repainted")
    monkeypatch.setitem(sys.modules, "repainted", type("module", (), {"__file__": str(changed)}))
    new = PaintedFaces(cache_dir=str(tmp_path), **SMALL)
    assert old.cache_dir != new.cache_dir


def test_another_setting_has_another_cache_but_another_world_has_not(tmp_path):
    folder = {world: PaintedFaces(cache_dir=str(tmp_path), world=world, **SMALL).cache_dir for world in WORLDS}
    assert len(set(folder.values())) == 1
    assert PaintedFaces(cache_dir=str(tmp_path), **(SMALL | {"size": 33})).cache_dir not in folder.values()


def test_prototypes_at_full_strength_carry_their_own_name():
    for world in ("eight", "seven"):
        for name, movements in module._CLASSES[world].items():
            assert WORLDS[world][label_of(Expression.from_vector(movements), world)] == name


def test_worlds_share_names_but_not_their_borders():
    expressions = [sample_expression(np.random.default_rng(i)) for i in range(400)]
    here = [EIGHT[label_of(e, "eight")] for e in expressions]
    there = [SEVEN[label_of(e, "seven")] for e in expressions]
    agreement = np.mean([a == b for a, b in zip(here, there, strict=True)])
    assert 0.4 < agreement < 0.75
    shared = [(a, b) for a, b in zip(here, there, strict=True) if a in SEVEN]
    assert np.mean([a != b for a, b in shared]) > 0.2  # not only because contempt is missing there


def test_every_label_of_every_world_occurs_often_enough_to_be_learned():
    expressions = [sample_expression(np.random.default_rng(i)) for i in range(1000)]
    for world in ("eight", "seven"):
        counts = np.bincount([label_of(e, world) for e in expressions], minlength=len(WORLDS[world]))
        assert counts.min() > 50
    signals = np.array([label_of(e, "signals", roll=0.1 * (i % 3 - 1)) for i, e in enumerate(expressions)])
    assert signals.sum(axis=0).min() > 50
    affect = np.array([label_of(e, "affect") for e in expressions])
    assert np.abs(affect).max() <= 1 and affect.std(axis=0).min() > 0.3


def test_either_crooked_corner_is_contempt():
    assert {EIGHT[label_of(Expression(mouth_skew=skew), "eight")] for skew in (-1.0, 1.0)} == {"contempt"}


def test_valence_follows_the_corners_of_the_mouth_and_arousal_the_eyes():
    low, high = (label_of(Expression(mouth_curve=curve), "affect")[1] for curve in (-0.8, 0.8))
    assert low < 0 < high
    calm, excited = (label_of(Expression(eye_open=opening), "affect")[0] for opening in (-0.8, 0.8))
    assert calm < excited


def test_tilting_the_head_changes_signals_and_nothing_else():
    face = Expression(brow_raise=0.6, eye_open=0.2)
    assert label_of(face, "signals", roll=0.0) != label_of(face, "signals", roll=0.2)
    assert label_of(face, "eight", roll=0.0) == label_of(face, "eight", roll=0.2)


def mouth_row_brightness(expression):
    """Mean brightness per row of the lower middle of an evenly lit face."""
    person = Person.sample(np.random.default_rng(2))
    return np.asarray(paint_face(person, expression, View(), size=64).convert("L"), dtype=float)[38:60, 24:40]


def test_movements_change_the_picture_where_they_belong():
    rest, opened = mouth_row_brightness(Expression()), mouth_row_brightness(Expression(mouth_open=0.9))
    raised = mouth_row_brightness(Expression(brow_raise=1.0))
    assert np.abs(rest - opened).mean() > 10
    assert np.abs(rest - raised).mean() == 0


def test_painting_is_a_function_of_its_arguments():
    digests = {hashlib.sha256(paint_face(seed=5, size=40).tobytes()).hexdigest() for _ in range(3)}
    assert len(digests) == 1
    assert paint_face(seed=5, size=40).tobytes() != paint_face(seed=6, size=40).tobytes()


def test_painting_leaves_the_global_random_state_alone(cache):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    paint_face(seed=1)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_values_out_of_range_are_cut():
    assert Expression.from_vector([9, -9, 0, 0, -1, 0, 0, 2]) == Expression(
        brow_raise=1.0, brow_frown=-1.0, mouth_open=0.0, nose_wrinkle=1.0
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"world": "nine"}, "no painted world 'nine'. Worlds: 'eight', 'seven', 'affect', 'signals'"),
        ({"num_train": 0}, "`num_train` of the painted faces must be a whole number of 1 or more; got 0"),
        ({"size": 15}, "`size` .* 16 or more"),
        ({"label_noise": 2.0}, "`label_noise` must be between 0 and 1"),
        ({"wolrd": "eight"}, "PaintedFaces has no setting 'wolrd'. It has: .*world"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load_faces("painted_faces", cache_dir=tmp_path, **settings)


def test_an_unknown_dataset_lists_the_known_ones():
    with pytest.raises(DataError, match=r"No dataset is named 'jafe'\. Datasets: .*'painted_faces'"):
        load_faces("jafe")
