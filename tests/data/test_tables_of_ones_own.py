"""Tables of one's own: any name, any columns, any kind of file, and never a picture outside the folder."""

from __future__ import annotations

import json
import logging

import pytest

from ciao_peft.data import hold_out, load_faces, paint_face
from ciao_peft.errors import DataError, DataNotFoundError

MOODS = ("calm", "glad", "sad")


@pytest.fixture
def pictures(tmp_path):
    """Twelve painted faces in `pictures/deep/`, picture i of person i // 2 and mood i % 3."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for index in range(12):
        paint_face(seed=index, size=20).save(folder / "deep" / f"{index}.png")
    return folder


@pytest.fixture
def load(tmp_path):
    def read(table=None, **settings):
        given = {"csv": table, "label_column": "mood", "min_images_per_class": 0, "cache_dir": tmp_path / "cache"}
        return load_faces(**given | settings)

    return read


def rows(part=lambda index: ("train", "test")[index % 2]):
    return [
        {"photo": f"deep/{index}.png", "mood": MOODS[index % 3], "who": f"p{index // 2}", "part": part(index)}
        for index in range(12)
    ]


def written(path, records, separator=","):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        lines = [separator.join(records[0])] + [separator.join(map(str, record.values())) for record in records]
        path.write_text("\n".join(lines) + "\n")
    return path


def labels(split):
    return [split.features["label"].names[label] for label in split["label"]]


@pytest.mark.parametrize(
    ("name", "separator"),
    [("moods.csv", ","), ("a.csv", ";"), ("moods.tsv", "\t"), ("m.txt", "|"), ("m.jsonl", ""), ("m.parquet", "")],
)
def test_a_table_of_any_name_and_kind_is_read_with_its_own_columns(pictures, load, name, separator):
    table = written(pictures / name, rows(), separator)
    faces = load(table, image_column="photo", split_column="part", group_by="who")
    assert list(faces) == ["train", "test"]
    assert labels(faces["train"]) == [MOODS[index % 3] for index in (0, 2, 4, 6, 8, 10)]
    assert faces["test"]["identity"][:] == ["p0", "p1", "p2", "p3", "p4", "p5"]
    first = paint_face(seed=0, size=20)
    assert faces["train"][0]["image"].convert("RGB").tobytes() == first.convert("RGB").tobytes()


def test_the_pictures_may_lie_in_another_folder_than_the_table(pictures, load, tmp_path):
    table = written(tmp_path / "labels.csv", rows())
    assert len(load(table, data_dir=pictures, image_column="photo")["train"]) == 12


def test_a_table_is_looked_for_in_the_folder_too(pictures, load):
    written(pictures / "labels.csv", rows())
    assert len(load("labels.csv", data_dir=pictures, image_column="photo")["train"]) == 12


def test_a_usual_name_of_the_picture_column_need_not_be_said(pictures, load):
    records = [{"filename" if key == "photo" else key: value for key, value in row.items()} for row in rows()]
    assert len(load(written(pictures / "t.csv", records))["train"]) == 12


@pytest.mark.parametrize("spelling", ["Image Path", "FILENAME", "File-Name"])
def test_a_usual_name_may_be_spelt_as_spreadsheets_do(pictures, load, spelling):
    records = [{spelling if key == "photo" else key: value for key, value in row.items()} for row in rows()]
    assert len(load(written(pictures / "t.csv", records, ";"))["train"]) == 12


def test_the_plain_spelling_goes_before_others(pictures, load):
    records = [{"image": row["photo"], "Image Name": "no file", **row} for row in rows()]
    assert len(load(written(pictures / "t.csv", records))["train"]) == 12


def test_the_columns_of_a_table_are_told_apart_before_one_is_asked_for(pictures, load):
    with pytest.raises(DataError, match=r"Its columns: 'mood', 'part', 'photo', 'who'"):
        load(written(pictures / "t.csv", rows(), ";"))


def test_an_unusual_one_is_asked_for_with_the_columns_there_are(pictures, load):
    with pytest.raises(DataError, match=r"no column with a usual name.*'mood', 'part', 'photo', 'who'.*`image_column`"):
        load(written(pictures / "t.csv", rows()))


def test_names_without_suffix_and_with_backslashes_find_their_file(pictures, load):
    records = rows()
    records[0]["photo"], records[1]["photo"] = "deep/0", "deep\\1.png"
    assert len(load(written(pictures / "t.csv", records), image_column="photo")["train"]) == 12


def test_one_table_for_each_split(pictures, load):
    train, test = written(pictures / "a.csv", rows()[:8]), written(pictures / "b.csv", rows()[8:])
    faces = load({"test": test, "Training": train}, image_column="photo")
    assert {name: len(split) for name, split in faces.items()} == {"train": 8, "test": 4}


def test_folds_of_a_table_are_tested_on_in_turn(pictures, load):
    table = written(pictures / "t.csv", rows(lambda index: index // 4 + 1))
    columns = {"image_column": "photo", "split_column": "part"}
    assert [labels(load(table, fold=fold, **columns)["test"])[0] for fold in (1, 2, "3")] == ["calm", "glad", "sad"]
    faces = load(table, **columns)  # the first of them
    assert (len(faces["train"]), set(faces["test"]["fold"])) == (8, {"1"})
    with pytest.raises(DataError, match=r"no fold 7.*0 \(1\), 1 \(2\), 2 \(3\)"):
        load(table, fold=7, **columns)
    with pytest.raises(DataError, match="without `streaming`"):
        load(table, streaming=True, **columns)


def test_a_fraction_is_held_out_and_nobody_is_in_both_parts(pictures, load):
    table = written(pictures / "t.csv", rows())
    faces = load(table, image_column="photo", test_fraction=0.3, group_by="who")
    assert len(faces["train"]) + len(faces["test"]) == 12
    assert 4 <= len(faces["test"]) <= 5
    assert not set(faces["train"]["identity"]) & set(faces["test"]["identity"])
    rest, held = hold_out(faces, 0.3)  # on what load_faces returns
    assert not {*rest["identity"], *held["identity"]} & set(faces["test"]["identity"])


def test_holding_out_row_by_row_is_said(pictures, load, caplog):
    with caplog.at_level(logging.WARNING, "ciao_peft.data"):
        faces = load(written(pictures / "t.csv", rows()), image_column="photo", test_fraction=0.25)
    assert len(faces["test"]) == 3
    assert "Name the column of the people with `group_by`" in caplog.text


def test_every_person_can_be_left_out_in_turn(pictures, load):
    table = written(pictures / "t.csv", rows())
    faces = load(table, image_column="photo", group_by="who", protocol="leave-one-subject-out", fold="p3")
    assert set(faces["test"]["identity"]) == {"p3"}
    with pytest.raises(DataError, match=r"no column 'identity' that says whom.*`group_by`"):
        load(table, image_column="photo", protocol="leave-one-subject-out")


@pytest.mark.parametrize("name", ["../outside.png", "/etc/passwd", "deep/../../outside.png", ".hidden.png"])
def test_no_picture_outside_the_folder_is_read(pictures, load, caplog, name):
    paint_face(size=20).save(pictures.parent / "outside.png")
    paint_face(size=20).save(pictures / ".hidden.png")
    records = [*rows(), {"photo": name, "mood": "glad", "who": "x", "part": "train"}]
    with caplog.at_level(logging.WARNING, "ciao_peft.data"):
        faces = load(written(pictures / "t.csv", records), image_column="photo")
    assert len(faces["train"]) == 12
    assert "hidden or outside the folder" in caplog.text


def test_where_the_files_are_is_said_if_every_path_is_wrong(pictures, load):
    records = [{**row, "photo": row["photo"].removeprefix("deep/")} for row in rows()]
    with pytest.raises(DataError, match=r"A file '0.png' is in '.*deep': perhaps `data_dir` has to be '.*deep'"):
        load(written(pictures / "t.csv", records), image_column="photo")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_column": "moods"}, r"no column 'moods'.*Did you mean 'mood'\?.*`label_column`"),
        ({"image_column": "foto"}, r"no column 'foto'.*Did you mean 'photo'\?.*`image_column`"),
        ({"split_column": "fold"}, r"no column 'fold'.*`split_column`"),
        ({"split_column": "mood"}, r"says 'calm', 'glad', 'sad'. A split is called one of 'dev'"),
        ({"group_by": "subject"}, r"no column 'subject'.*`group_by`"),
        ({"group_by": "who", "identity_column": "part"}, "`group_by` and `identity_column` are one"),
        ({"test_fraction": 1.5}, "`fraction` must lie between 0 and 1"),
        ({"split_column": "part", "test_fraction": 0.5}, "there is no test split; there is 'test', 'train'"),
        ({"test_fraction": 0.5, "streaming": True}, "without `streaming`"),
        ({"image_column": 3}, "`image_column` must be a column's name"),
    ],
)
def test_settings_that_do_not_fit_the_table_are_named(pictures, load, settings, message):
    table = written(pictures / "t.csv", rows())
    with pytest.raises(DataError, match=message):
        load(table, **{"image_column": "photo"} | settings)


def test_tables_that_are_not_there_or_are_none(pictures, load, tmp_path):
    with pytest.raises(DataNotFoundError, match=r"There is no table '.*nowhere.csv'"):
        load(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match=r"is no table: one of '.csv'"):
        load(pictures / "deep" / "0.png")
    with pytest.raises(DataError, match="Which faces"):
        load_faces()
    with pytest.raises(DataNotFoundError, match="needs a table"):
        load_faces("table", pictures)
    with pytest.raises(DataError, match="names a table for 'part'"):
        load({"part": pictures / "t.csv"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFoundError, match="No image in"):
        load(written(tmp_path / "t.csv", rows()), data_dir=tmp_path / "empty", image_column="photo")


def test_a_changed_table_outside_the_folder_is_seen_at_the_next_load(pictures, load, tmp_path):
    table = written(tmp_path / "labels.csv", rows())
    settings = {"data_dir": pictures, "image_column": "photo"}
    assert labels(load(table, **settings)["train"])[0] == "calm"
    written(table, [{**row, "mood": "sad"} for row in rows()])
    assert labels(load(table, **settings)["train"])[0] == "sad"


def test_parquet_that_is_damaged_or_holds_the_pictures_themselves_is_refused(pictures, load):
    (pictures / "a.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load(pictures / "a.parquet", image_column="photo")
    inside = [{"image": {"bytes": b"x", "path": "a"}, "mood": "calm"}]
    with pytest.raises(DataError, match=r"'image' of .* holds data of its own"):
        load(written(pictures / "b.parquet", inside), image_column="image")
    with pytest.raises(DataError, match=r"'image' holds data of its own, which is not read"):
        load(pictures / "b.parquet")


def test_parquet_that_unpacks_to_more_than_any_table_is_refused(pictures, load):
    import pyarrow as pa
    import pyarrow.parquet as pq

    long = pa.array(["x" * 2**20] * 600)
    pq.write_table(pa.table({"photo": long, "mood": long}), pictures / "bomb.parquet")
    assert (pictures / "bomb.parquet").stat().st_size < 2**22
    with pytest.raises(DataError, match="unpacks to more than a table of labels ever has"):
        load(pictures / "bomb.parquet", image_column="photo")


def test_a_table_of_hundreds_of_gigabytes_is_refused_at_once(pictures, load):
    with (pictures / "t.csv").open("wb") as file:
        file.truncate(200 * 2**30)
    with pytest.raises(DataError, match=r"has 214,748,364,800 bytes; at most"):
        load(pictures / "t.csv", image_column="photo")


def test_a_column_that_stands_twice_is_refused_where_it_is_read(pictures, load):
    table = pictures / "table.csv"
    table.write_text("photo,mood,mood\ndeep/0.png,calm,glad\ndeep/1.png,glad,calm\n")
    with pytest.raises(DataError, match="several columns 'mood'; which one counts"):
        load(table, image_column="photo")
    table.write_text("photo,mood,note,note\ndeep/0.png,calm,a,b\ndeep/1.png,glad,a,b\n")
    assert len(load(table, image_column="photo")["train"]) == 2


def test_what_is_no_path_of_a_table_is_refused(load):
    for table in (5, {"train": None}):
        with pytest.raises(DataError, match="`csv` must be the path of a table"):
            load(table)
