import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from ciao_peft.data import labels_of, list_faces, load_faces, paint_face
from ciao_peft.data.builder import fingerprint, image_problem
from ciao_peft.errors import ConfigError, DataError, DataNotFoundError


def draw(path, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    paint_face(seed=seed, size=24).save(path, **options)
    return path


def class_folders(root, counts):
    """{"train/glad": 3} -> root/train/glad/0.png, 1.png, 2.png"""
    for number, (folder, count) in enumerate(counts.items()):
        for index in range(count):
            draw(root / folder / f"{index}.png", seed=100 * number + index)
    return root


def table(folder, rows, name="metadata.csv"):
    """Rows as dicts; draws the image of each row that has none yet."""
    for number, row in enumerate(rows):
        draw(folder / row["file_name"], seed=number)
    columns = list(rows[0])
    lines = [",".join(columns)] + [",".join(str(row[column]) for column in columns) for row in rows]
    if name.endswith(".jsonl"):
        lines = [json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def load(tmp_path):
    def read(folder, **settings):
        settings = {"min_images_per_class": 0, "cache_dir": tmp_path / "cache"} | settings
        return load_faces("imagefolder", folder, **settings)

    return read


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "faces"


def test_class_folders_become_classes_in_alphabetical_order(load, folder):
    faces = load(class_folders(folder, {"train/glad": 2, "train/calm": 1, "test/glad": 1}))
    assert isinstance(faces, DatasetDict)
    assert faces.num_rows == {"train": 3, "test": 1}
    assert faces["train"].features["label"].names == faces["test"].features["label"].names == ["calm", "glad"]
    names = faces["train"].features["label"].int2str(faces["train"]["label"])
    assert sorted(names) == ["calm", "glad", "glad"]
    assert faces["test"]["label"] == [1]


def test_every_image_keeps_its_own_label(load, folder):
    faces = load(class_folders(folder, {"train/glad": 2, "train/calm": 2}))["train"]
    for number, name in enumerate(("glad", "calm")):
        for index in range(2):
            expected = np.asarray(paint_face(seed=100 * number + index, size=24))
            same = [np.array_equal(np.asarray(image), expected) for image in faces["image"]]
            assert sum(same) == 1
            assert faces.features["label"].int2str(faces["label"][same.index(True)]) == name


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Validation"])
def test_a_validation_folder_may_have_any_of_its_usual_names(load, folder, name):
    faces = load(class_folders(folder, {"train/calm": 1, f"{name}/calm": 1}))
    assert faces.num_rows == {"train": 1, "validation": 1}


def test_two_folders_for_one_split_are_refused(load, folder):
    class_folders(folder, {"val/calm": 1, "valid/calm": 1})
    with pytest.raises(DataError, match="'val' and 'valid', which both mean the validation split"):
        load(folder)


def test_without_split_folders_everything_is_training_data(load, folder):
    assert load(class_folders(folder, {"glad": 2, "calm": 1})).num_rows == {"train": 3}


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_table_gives_label_and_identity(load, folder, name):
    rows = [
        {"file_name": f"{i}.png", "mood": mood, "identity": f"p{i}"} for i, mood in enumerate(["sad", "glad", "sad"])
    ]
    train = load(table(folder / "train", rows, name).parent, label_column="mood")["train"]
    assert train.features["label"].names == ["glad", "sad"]
    assert train["label"] == [1, 0, 1]
    assert train["identity"] == ["p0", "p1", "p2"]


def test_a_table_saved_by_excel_with_a_byte_order_mark_is_read(load, folder):
    table(folder, [{"file_name": "0.png", "label": "glad"}])
    text = (folder / "metadata.csv").read_text()
    (folder / "metadata.csv").write_text("\ufeff" + text)
    assert load(folder)["train"].num_rows == 1


def test_columns_with_decimals_are_a_regression(load, folder):
    table(
        folder,
        [{"file_name": "0.png", "valence": -0.5, "arousal": 1}, {"file_name": "1.png", "valence": 0, "arousal": 0.25}],
    )
    both = load(folder, label_column="arousal,valence")["train"]
    assert both["label"] == [[1.0, -0.5], [0.25, 0.0]]
    assert labels_of(both).as_config() == {
        "problem_type": "regression",
        "num_labels": 2,
        "id2label": {0: "arousal", 1: "valence"},
    }
    assert load(folder, label_column="valence")["train"]["label"] == [[-0.5], [0.0]]


def test_several_columns_of_zeros_and_ones_are_several_labels(load, folder):
    table(folder, [{"file_name": "0.png", "glad": 1, "shy": 0}, {"file_name": "1.png", "glad": 0, "shy": 0}])
    faces = load(folder, label_column=["glad", "shy"])["train"]
    assert labels_of(faces).problem_type == "multi_label_classification"
    assert labels_of(faces).names == ("glad", "shy")
    assert faces["label"] == [[1.0, 0.0], [0.0, 0.0]]
    assert labels_of(load(folder, label_column="glad,shy", label_type="number")["train"]).problem_type == "regression"


def test_whole_numbers_in_one_column_are_classes_unless_said_otherwise(load, folder):
    table(folder, [{"file_name": "0.png", "label": 7}, {"file_name": "1.png", "label": 2}])
    assert load(folder)["train"].features["label"].names == ["2", "7"]
    assert load(folder, label_type="number")["train"]["label"] == [[7.0], [2.0]]


def test_text_among_numbers_is_refused_with_its_file(load, folder):
    table(folder, [{"file_name": "0.png", "label": 0.5}, {"file_name": "1.png", "label": "high"}])
    with pytest.raises(DataError, match=r"Column 'label' says 'high' for .*1\.png"):
        load(folder, label_type="number")


def test_not_a_number_is_refused(load, folder):
    table(folder, [{"file_name": "0.png", "label": 0.5}, {"file_name": "1.png", "label": "nan"}])
    with pytest.raises(DataError, match=r"'nan' .* no finite number"):
        load(folder, label_type="number")


def test_small_classes_are_dropped_from_every_split_and_reported(load, folder, caplog):
    class_folders(folder, {"train/calm": 4, "train/shy": 2, "test/calm": 1, "test/shy": 3, "test/glad": 1})
    faces = load(folder, min_images_per_class=3)
    assert faces.num_rows == {"train": 4, "test": 1}
    assert faces["train"].features["label"].names == ["calm"]
    assert (
        "5 x image of class 'shy' (2 training images, `min_images_per_class` is 3): 2 in train, 3 in test"
        in caplog.text
    )
    assert "1 x image of class 'glad' (0 training images, `min_images_per_class` is 3): 1 in test" in caplog.text


def test_dropping_every_class_is_an_error_that_counts_them(load, folder):
    class_folders(folder, {"calm": 4, "shy": 2})
    with pytest.raises(
        DataError, match=r"fewer than 20 training images \(calm: 4, shy: 2\). Lower `min_images_per_class`"
    ):
        load(folder, min_images_per_class=20)


def test_what_is_left_out_is_counted_by_reason_also_when_read_from_the_cache(load, folder, caplog):
    rows = [{"file_name": f"{i}.png", "label": "calm"} for i in range(6)]
    table(folder, rows)
    (folder / "0.png").unlink()
    (folder / "1.png").write_bytes(b"")
    (folder / "2.png").write_text("<html>404</html>")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:100])
    draw(folder / "unnamed.png")
    with (folder / "metadata.csv").open("a") as file:
        file.write("5.png,calm\n6.png\n4.png,\n")
    draw(folder / "7.png")
    with (folder / "metadata.csv").open("a") as file:
        file.write("7.png,\n")
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert load(folder)["train"].num_rows == 2
        for reason in (
            "1 x row of metadata.csv without its file: 0.png",
            "1 x empty file",
            "1 x not an image",
            "1 x damaged image",
            "2 x repeated row of metadata.csv: 5.png, 4.png",
            "1 x malformed row of metadata.csv: line 9",
            "1 x row of metadata.csv without a label: 7.png",
            "1 x image that metadata.csv does not name",
        ):
            assert reason in caplog.text


def test_a_missing_label_column_lists_the_columns(load, folder):
    table(folder, [{"file_name": "0.png", "mood": "glad"}])
    with pytest.raises(DataError, match=r"no column 'label'. Its columns: 'file_name', 'mood'. .*label_column"):
        load(folder)


def test_a_table_without_file_names_is_refused(load, folder):
    table(folder, [{"file_name": "0.png", "label": "glad"}])
    (folder / "metadata.csv").write_text("image,label\n0.png,glad\n")
    with pytest.raises(DataError, match=r"has no column 'file_name'. Its columns: 'image', 'label'"):
        load(folder)


def test_missing_empty_and_unlabelled_folders_are_named(load, folder, tmp_path):
    with pytest.raises(DataNotFoundError, match="nowhere' is not a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataNotFoundError, match="needs `data_dir`"):
        load(None)
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing here")
    with pytest.raises(DataNotFoundError, match=r"No image in .* \(1 other files\). Looked for `train/`"):
        load(folder)
    draw(folder / "0.png")
    with pytest.raises(DataError, match="neither class folders nor metadata"):
        load(folder)


def test_only_unreadable_images_is_an_error_not_an_empty_dataset(load, folder):
    (folder / "calm").mkdir(parents=True)
    (folder / "calm" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"No face is left in the train split.*1 x empty file"):
        load(folder)


def test_hidden_files_and_archives_leftovers_are_not_images(load, folder):
    class_folders(folder, {"train/calm": 1})
    for name in (".DS_Store", "._0.png", "__MACOSX/train/calm/0.png"):
        path = folder / "train" / "calm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"junk")
    assert load(folder)["train"].num_rows == 1


def test_added_removed_and_replaced_images_are_seen_at_the_next_load(load, folder):
    class_folders(folder, {"train/calm": 2})
    assert load(folder)["train"].num_rows == 2
    draw(folder / "train" / "calm" / "9.png", seed=9)
    assert load(folder)["train"].num_rows == 3
    (folder / "train" / "calm" / "0.png").unlink()
    assert load(folder)["train"].num_rows == 2
    (folder / "train" / "calm" / "1.png").write_bytes(b"")
    assert load(folder)["train"].num_rows == 1


def test_links_to_nowhere_and_links_back_up_do_no_harm(load, folder, caplog):
    class_folders(folder, {"train/calm": 2})
    (folder / "train" / "calm" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "train" / "calm" / "up").symlink_to(folder)
    assert load(folder)["train"].num_rows == 2
    assert "1 x missing file" in caplog.text


def test_a_changed_label_is_seen_even_if_size_and_time_of_the_table_stay(load, folder):
    table(folder, [{"file_name": "0.png", "label": "glad"}, {"file_name": "1.png", "label": "calm"}])
    path = folder / "metadata.csv"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    assert load(folder)["train"]["label"] == [1, 0]
    path.write_text(path.read_text().replace("0.png,glad", "0.png,calm"))
    os.utime(path, ns=times)
    assert load(folder)["train"]["label"] == [0, 0]


def test_the_fingerprint_depends_on_content_and_names_only(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        (folder / "labels.csv").write_text("x,1\n")
    assert fingerprint(first) == fingerprint(second)
    (second / "labels.csv").rename(second / "label.csv")
    assert fingerprint(first) != fingerprint(second)


def test_a_picture_replaced_by_another_of_the_same_length_and_time_changes_the_fingerprint(tmp_path):
    path = draw(tmp_path / "faces" / "0.png")
    content, status = path.read_bytes(), path.stat()
    before = fingerprint(tmp_path / "faces")
    assert fingerprint(tmp_path / "faces") == before
    path.write_bytes(content[:-20] + bytes(reversed(content[-20:])))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert fingerprint(tmp_path / "faces") != before


def test_streaming_and_two_processes_give_the_same_rows(load, folder, tmp_path):
    class_folders(folder, {"train/calm": 3, "train/glad": 2})
    alone = load(folder)["train"]
    together = load(folder, num_proc=2, cache_dir=tmp_path / "other")["train"]
    streamed = list(load(folder, streaming=True)["train"])
    assert alone["label"] == together["label"] == [row["label"] for row in streamed]


def test_streaming_counts_what_it_leaves_out_and_not_into_what_was_prepared(load, folder, caplog):
    class_folders(folder, {"train/calm": 2, "test/calm": 1})
    (folder / "train" / "calm" / "bad.png").write_bytes(b"")
    load(folder)
    caplog.clear()
    assert len(list(load(folder, streaming=True)["train"])) == 2
    assert "1 x empty file" in caplog.text
    caplog.clear()
    load(folder)
    assert "1 x empty file" in caplog.text


def test_a_test_set_alone_has_no_copies_to_drop_and_no_folds(load, folder):
    class_folders(folder, {"test/calm": 2})
    assert load(folder, drop_duplicates=True).num_rows == {"test": 2}
    with pytest.raises(DataError, match="'k-fold' of imagefolder needs the split 'train'; there is 'test' alone"):
        load(folder, protocol="k-fold")


@pytest.mark.parametrize("outside", ["../../pics/b.png", "../.hidden/b.png", "/{}/pics/b.png"])
def test_a_row_may_not_name_a_file_whose_change_nobody_would_see(load, folder, caplog, outside):
    table(folder / "train", [{"file_name": "a.png", "label": "calm"}, {"file_name": "../more/b.png", "label": "calm"}])
    for place in (folder.parent / "pics", folder / ".hidden"):
        draw(place / "b.png", seed=9)
    outside = outside.format(str(folder.parent).lstrip("/"))
    with (folder / "train" / "metadata.csv").open("a") as file:
        file.write(f"{outside},calm\n")
    assert load(folder)["train"].num_rows == 2
    assert f"1 x row of metadata.csv that names a file hidden or outside the folder: {outside}" in caplog.text


def test_file_names_that_are_no_text_are_counted(load, folder, caplog):
    table(folder, [{"file_name": "0.png", "label": "calm"}], "metadata.jsonl")
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": 5, "label": "calm"}\n{"file_name": ["0.png"], "label": "calm"}\n')
    assert load(folder)["train"].num_rows == 1
    assert "2 x row of metadata.jsonl without its file: 5, ['0.png']" in caplog.text


def test_images_of_every_mode_are_kept_as_they_are(load, folder):
    for number, mode in enumerate(["L", "RGB", "RGBA", "P", "LA"]):
        path = folder / "calm" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        paint_face(size=24).convert(mode).save(path)
    assert [image.mode for image in load(folder)["train"]["image"]] == ["L", "RGB", "RGBA", "P", "LA"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_colum": "x"}, "ImageFolder has no setting 'label_colum'"),
        ({"label_type": "text"}, "`label_type` must be 'class', 'number', 'binary' or left out; got 'text'"),
        ({"min_images_per_class": -1}, "`min_images_per_class` must be a whole number of 0 or more; got -1"),
        ({"label_column": ""}, "`label_column` must name at least one column"),
        ({"label_column": 1}, "`label_column` must be a column's name, or a list of names, as text; got 1"),
        ({"label_column": ["valence", 2]}, r"or a list of names, as text; got \['valence', 2\]"),
        ({"identity_column": 3}, "`identity_column` must be a column's name, as text; got 3"),
    ],
)
def test_settings_that_cannot_work_are_named(load, folder, settings, message):
    class_folders(folder, {"train/calm": 1})
    with pytest.raises(DataError, match=message):
        load(folder, **settings)


def test_a_truncated_jpeg_is_found_without_decoding_the_good_ones(tmp_path):
    path = draw(tmp_path / "face.jpg")
    assert image_problem(path) is None
    path.write_bytes(path.read_bytes()[:-30])
    assert image_problem(path) == "damaged image"
    assert image_problem(tmp_path / "none.jpg") == "missing file"


def test_lists_from_elsewhere_are_regressions_or_several_labels_by_their_type():
    rows = Dataset.from_dict({"label": [[0.5, 1.0]], "signs": [[0, 1, 1]]})
    assert labels_of(rows).problem_type == "regression"
    assert labels_of(rows, "signs").problem_type == "multi_label_classification"
    assert labels_of(rows, "signs").names == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_importing_the_registry_imports_no_datasets():
    code = "import ciao_peft.data, sys; ciao_peft.data.list_faces(); assert not {'datasets', 'PIL'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert {"painted_faces", "imagefolder"} <= set(list_faces())


def test_real_faces_are_read_with_their_rare_classes_dropped(real_faces, tmp_path, caplog):
    faces = load_faces("imagefolder", real_faces, label_column="expression", cache_dir=tmp_path)
    assert faces.num_rows == {"train": 8343, "test": 2077}
    assert faces["train"].features["label"].names == ["anger", "disgust", "happiness", "neutral", "sadness", "surprise"]
    counts = np.bincount(faces["train"]["label"])
    assert counts.tolist() == [184, 173, 3292, 4291, 167, 236]
    assert "class 'fear' (14 training images, `min_images_per_class` is 20): 14 in train, 1 in test" in caplog.text
    assert faces["test"][0]["image"].size == (96, 96)


@pytest.mark.parametrize("form", [str, Path])
def test_what_is_read_from_the_disk_alone_says_so_of_a_url(form):
    from ciao_peft.study import method_from_file
    from ciao_peft.suggestions.reading import pictures_below

    url = form("s3://bucket/faces")
    for read in (
        lambda: load_faces("imagefolder", url),
        lambda: load_faces("table", csv=url),
        lambda: load_faces("table", csv={"train": url}),
        lambda: load_faces("table", "s3://bucket/pictures", csv="labels.csv"),
        lambda: pictures_below(url),
        lambda: method_from_file(url),
    ):
        with pytest.raises((DataNotFoundError, ConfigError), match="It is a URL, and this is read from the disk"):
            read()
