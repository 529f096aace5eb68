import csv

import numpy as np
import pytest
from PIL import Image

from ciao_peft.data import labels_of, load_faces
from ciao_peft.data.votes import VOTES, sample_labels, vote_weights
from ciao_peft.errors import DataError, DataNotFoundError
from helpers.layouts import FER_USAGES, FERPLUS_ANSWERS, grey_face, votes, write_ferplus
from helpers.places import SHARED

FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
NAMES = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]


@pytest.fixture(scope="session")
def released_votes():
    """The released fer2013new.csv, where it lies beside the checkout."""
    path = SHARED / "fer2013new.csv"
    if not path.is_file():
        pytest.skip("no shared/fer2013new.csv beside the checkout")
    with path.open() as file:
        return list(csv.DictReader(file))


def write_prepared(folder, answers, names=None):
    names = names or [f"fer{i:07d}.png" for i in range(len(answers))]
    for i, answer in enumerate(answers):
        part = folder / "data" / FOLDERS[FER_USAGES[i % 3]]
        part.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey_face(i)).save(part / names[i])
        with (part / "label.csv").open("a") as file:
            file.write(f'{names[i]},"(0, 0, 48, 48)",' + ",".join(map(str, answer)) + "\n")
    return folder


@pytest.fixture
def load(tmp_path):
    return lambda folder, **settings: load_faces("ferplus", folder, cache_dir=tmp_path / "cache", **settings)


def assert_pictures_are_the_written_ones(faces):
    for part in faces.values():
        for row in part:
            number = int(row["name"][3:10])
            assert row["image"].mode == "L"
            assert np.array_equal(np.asarray(row["image"]), grey_face(number))
            assert row["votes"] == FERPLUS_ANSWERS[number]


@pytest.mark.parametrize("pixels", ["fer2013.csv", "icml_face_data.csv"])
def test_votes_are_joined_to_the_pixels_of_the_same_row(load, tmp_path, pixels):
    faces = load(write_ferplus(tmp_path / "fer", FERPLUS_ANSWERS, pixels=pixels))
    assert_pictures_are_the_written_ones(faces)
    assert faces["train"].features["label"].names == NAMES
    # Rows 0, 3 and 6 are training: happiness, sadness (5 of 9 once the single vote is gone), and no majority.
    assert list(faces["train"]["label"]) == [NAMES.index("happiness"), NAMES.index("sadness")]
    assert list(faces["validation"]["label"]) == [NAMES.index(name) for name in ("anger", "contempt", "disgust")]
    assert list(faces["test"]["label"]) == [NAMES.index(name) for name in ("fear", "neutral", "sadness")]


def test_the_number_in_the_name_is_not_the_row(load, tmp_path):
    names = [f"fer{max(0, i - 1):07d}.png" for i in range(9)]  # drifts by one, as the released file does
    faces = load(write_ferplus(tmp_path / "fer", FERPLUS_ANSWERS, names=names))
    for part in faces.values():
        for row in part:
            assert np.array_equal(np.asarray(row["image"]), grey_face(row["row"]))
            assert row["votes"] == FERPLUS_ANSWERS[row["row"]]
            assert row["name"] == names[row["row"]]


def test_prepared_folders_are_read_with_their_own_votes(load, tmp_path):
    folder = write_prepared(tmp_path / "FERPlus", FERPLUS_ANSWERS)
    faces = load(folder)
    assert_pictures_are_the_written_ones(faces)
    assert faces.num_rows == {"train": 2, "validation": 3, "test": 3}
    write_ferplus(folder, [votes(neutral=10)] * 9)  # the table beside them does not override what their code reads
    assert list(load(folder)["test"]["label"]) == list(faces["test"]["label"])


def test_distributions_keep_the_leading_votes_and_evaluation_is_by_majority(load, tmp_path):
    faces = load(write_ferplus(tmp_path / "fer", FERPLUS_ANSWERS), mode="probability")
    labels = dict(zip(faces["train"]["row"], faces["train"]["label"], strict=True))
    assert labels[0] == pytest.approx(np.eye(8)[NAMES.index("happiness")])
    expected = np.zeros(8)
    expected[[NAMES.index("sadness"), NAMES.index("neutral")]] = 5 / 9, 4 / 9
    assert labels[3] == pytest.approx(expected)
    assert labels[6][NAMES.index("surprise")] == pytest.approx(0.4)
    assert labels_of(faces["train"]).problem_type == "single_label_classification"
    assert labels_of(faces["train"]).names == tuple(NAMES)
    assert np.array(faces["test"]["label"]).max(axis=1).tolist() == [1.0, 1.0, 1.0]
    same = load(write_ferplus(tmp_path / "fer", FERPLUS_ANSWERS), mode="crossentropy")
    assert same["train"]["label"] == faces["train"]["label"]


def test_multi_target_switches_every_shared_label_on(load, tmp_path):
    faces = load(write_ferplus(tmp_path / "fer", FERPLUS_ANSWERS), mode="multi_target")
    labels = dict(zip(faces["train"]["row"], faces["train"]["label"], strict=True))
    assert {NAMES[i] for i in np.flatnonzero(labels[6])} == {"surprise", "fear", "happiness"}
    assert set(np.unique(np.array(faces["train"]["label"]))) <= {0.0, 1.0}
    assert labels_of(faces["train"]).problem_type == "multi_label_classification"


def test_without_contempt_seven_classes_are_left_and_what_goes_is_counted(load, tmp_path, caplog):
    faces = load(write_ferplus(tmp_path / "fer", FERPLUS_ANSWERS), contempt=False)
    assert faces["train"].features["label"].names == NAMES[:7]
    assert 4 not in faces["validation"]["row"]
    assert "2 x picture without a label in mode 'majority': fer0000006.png, fer0000004.png" in caplog.text.replace(
        "fer0000004.png, fer0000006.png", "fer0000006.png, fer0000004.png"
    )


def test_the_authors_code_gives_distributions_over_seven_classes_everywhere(load, tmp_path):
    faces = load(write_ferplus(tmp_path / "fer", FERPLUS_ANSWERS), protocol="authors-code")
    assert faces["test"].features["label"].length == 7
    assert 4 not in faces["validation"]["row"]  # contempt leads
    by_row = dict(zip(faces["validation"]["row"], faces["validation"]["label"], strict=True))
    assert by_row[1][NAMES.index("anger")] == pytest.approx(0.6)


def test_single_votes_are_slips():
    assert vote_weights(votes(happiness=2, neutral=1, fear=1), "majority").tolist() == np.eye(8)[1].tolist()
    assert vote_weights(votes(**dict.fromkeys(NAMES, 1)), "majority") is None
    assert vote_weights(votes(**dict.fromkeys(NAMES, 1)), "probability") is None


def test_faces_that_are_none_are_left_out_in_every_mode():
    for mode in ("majority", "probability", "multi_target"):
        assert vote_weights(votes(NF=10), mode) is None
        assert vote_weights(votes(unknown=6, happiness=4), mode) is None


def test_unknown_after_a_clear_answer_does_not_change_it():
    weights = vote_weights(votes(happiness=6, unknown=4), "probability")
    assert weights.tolist() == np.eye(8)[1].tolist()


def test_four_that_tie_are_too_many():
    assert vote_weights(votes(neutral=2, happiness=2, fear=2, anger=2), "probability") is None
    assert vote_weights(votes(neutral=3, happiness=3, fear=3), "probability").tolist() == pytest.approx(
        [1 / 3, 1 / 3, 0, 0, 0, 0, 1 / 3, 0]
    )


@pytest.mark.parametrize(
    ("mode", "counts", "train"),
    [
        ("majority", (25060, 3199, 3153), (8740, 7287, 3149, 3014, 2100, 119, 532, 119)),
        ("probability", (27956, 3505, 3505), (10122, 7503, 3524, 3430, 2407, 169, 641, 160)),
        ("multi_target", (27671, 3472, 3472), None),
    ],
)
def test_the_released_votes_give_the_known_counts(released_votes, mode, counts, train):
    classes = {usage: np.zeros(8, dtype=int) for usage in FER_USAGES}
    for row in released_votes:
        weights = vote_weights([int(row[name]) for name in VOTES], mode)
        if weights is not None:
            assert weights.sum() == pytest.approx(1.0)
            classes[row["Usage"]][weights.argmax()] += 1
    assert tuple(int(classes[usage].sum()) for usage in FER_USAGES) == counts
    assert train is None or tuple(classes["Training"].tolist()) == train


def test_a_tenth_of_the_released_table_is_joined_row_by_row(released_votes, tmp_path, load, caplog):
    """Pixels of one grey value each: what counts here is the released names, with their gaps, drift and repetitions."""
    rows = released_votes[::10]
    folder = tmp_path / "fer"
    folder.mkdir()
    with (folder / "fer2013new.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    flat = [" ".join([str(grey)] * 2304) for grey in range(10)]
    with (folder / "fer2013.csv").open("w") as file:
        file.write("emotion,pixels,Usage\n")
        file.writelines(f"0,{flat[i % 10]},{row['Usage']}\n" for i, row in enumerate(rows))
    faces = load(folder, protocol=None)
    kept = [row for row in rows if vote_weights([int(row[name]) for name in VOTES], "majority") is not None]
    assert {usage: sum(row["Usage"] == usage for row in kept) for usage in FER_USAGES} == dict(
        zip(FER_USAGES, faces.num_rows.values(), strict=True)
    )
    assert f"{len(rows) - len(kept)} x picture without a label in mode 'majority'" in caplog.text
    for row in faces["test"]:
        assert row["name"] == rows[row["row"]]["Image name"]
        assert row["image"].getpixel((5, 5)) == row["row"] % 10


def test_drawn_labels_follow_the_distribution(load, tmp_path):
    faces = load(write_ferplus(tmp_path / "fer", FERPLUS_ANSWERS), mode="probability")["train"]
    faces = faces.select([1] * 2000)  # 5/9 and 4/9
    drawn = sample_labels(faces, seed=0)
    counts = np.bincount(drawn["label"], minlength=8) / 2000
    assert counts[NAMES.index("sadness")] == pytest.approx(5 / 9, abs=0.05)
    assert counts[NAMES.index("sadness")] + counts[NAMES.index("neutral")] == pytest.approx(1)
    assert labels_of(drawn).problem_type == "single_label_classification"
    assert list(drawn["label"]) == list(sample_labels(faces, seed=0)["label"])
    assert list(drawn["label"]) != list(sample_labels(faces, seed=1)["label"])


def test_tables_that_do_not_pair_are_refused(load, tmp_path):
    folder = write_ferplus(tmp_path / "fer", FERPLUS_ANSWERS)
    path = folder / "fer2013.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(DataError, match=r"has 9 rows but .* has 8: they cannot be joined by position"):
        load(folder)
    path.write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:]]) + "\n")
    with pytest.raises(DataError, match=r"Row 0 does not pair: .* says 'Training', .* says 'PublicTest'"):
        load(folder)


def test_malformed_votes_are_counted(load, tmp_path, caplog):
    folder = write_prepared(tmp_path / "FERPlus", FERPLUS_ANSWERS)
    with (folder / "data" / "FER2013Train" / "label.csv").open("a") as file:
        file.write('fer9999999.png,"(0, 0, 48, 48)",1,2,3\n')
        file.write('fer9999999.png,"(0, 0, 48, 48)",10,0,0,0,0,0,0,0,0,0\n')
        file.write('fer0000000.png,"(0, 0, 48, 48)",-1,x,0,0,0,0,0,0,0,0\n')
    assert load(folder).num_rows["train"] == 2
    assert "2 x malformed row of FER2013Train/label.csv: line 4, line 6" in caplog.text
    assert "1 x row of FER2013Train/label.csv without its picture: fer9999999.png" in caplog.text


def test_a_clone_of_the_repository_has_votes_without_pictures_and_is_read_from_the_tables(load, tmp_path):
    folder = write_prepared(write_ferplus(tmp_path / "FERPlus", FERPLUS_ANSWERS), [votes(neutral=10)] * 9)
    for path in folder.rglob("*.png"):
        path.unlink()
    faces = load(folder)
    assert faces.num_rows == {"train": 2, "validation": 3, "test": 3}
    assert_pictures_are_the_written_ones(faces)
    (folder / "fer2013.csv").unlink()
    with pytest.raises(DataNotFoundError, match=r"fer2013new\.csv alone, and a label\.csv without any of its pictures"):
        load(folder)


@pytest.mark.parametrize("streaming", [False, True])
def test_tables_of_nothing_but_malformed_rows_are_an_error_and_no_empty_dataset(load, tmp_path, streaming):
    folder = write_prepared(tmp_path / "FERPlus", FERPLUS_ANSWERS)
    for path in folder.rglob("label.csv"):
        path.write_text('fer0000000.png,"(0, 0, 48, 48)",1,2,3\nfer0000001.png\nfer0000002.png\n')
    for _ in range(2):  # the second time from what the first one prepared
        with pytest.raises(DataError, match=r"FerPlus found no face in .*FERPlus"):
            load(folder, streaming=streaming)


def test_votes_alone_are_not_enough_and_the_message_says_so(load, tmp_path):
    folder = write_ferplus(tmp_path / "fer", FERPLUS_ANSWERS)
    (folder / "fer2013.csv").unlink()
    with pytest.raises(
        DataNotFoundError, match=r"looked for fer2013new\.csv with fer2013\.csv .*; found fer2013new\.csv alone"
    ):
        load(folder)


def test_a_table_without_the_votes_columns_is_refused(load, tmp_path):
    folder = write_ferplus(tmp_path / "fer", FERPLUS_ANSWERS)
    (folder / "fer2013new.csv").write_text("Usage,Image name,neutral\nTraining,a.png,10\n")
    with pytest.raises(DataError, match="has no column 'happiness'"):
        load(folder)


def test_an_unknown_mode_lists_the_known_ones(load, tmp_path):
    with pytest.raises(DataError, match=r"FER\+ has no mode 'soft'. Modes: 'majority', 'probability'"):
        load(write_ferplus(tmp_path / "fer", FERPLUS_ANSWERS), mode="soft")
