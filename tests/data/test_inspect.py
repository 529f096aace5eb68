import numpy as np
import pytest
from PIL import Image

from ciao_peft.cli import main
from ciao_peft.data import contact_sheet, inspect_faces, list_faces, load_faces, paint_face
from ciao_peft.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Six training faces of two classes: one blank, one twice with two labels; one of them is in the test set too."""
    faces = {"train/calm": [1, 2, "blank"], "train/glad": [1, 4, 5], "test/calm": [5, 6]}
    for place, seeds in faces.items():
        for number, seed in enumerate(seeds):
            path = tmp_path / "faces" / place / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            (Image.new("RGB", (24, 24)) if seed == "blank" else paint_face(seed=seed, size=24)).save(path)
    return tmp_path / "faces"


def look(folder, tmp_path):
    return inspect_faces("imagefolder", folder, min_images_per_class=0, cache_dir=str(tmp_path / "cache"))


def test_counts_blanks_copies_and_conflicts_are_found(folder, tmp_path):
    train = look(folder, tmp_path).splits["train"]
    assert (train.rows, train.labels) == (6, {"calm": 3, "glad": 3})
    assert (train.blank, train.copies, train.conflicts, train.num_unreadable) == (1, 1, 1, 0)
    assert train.sizes == {"24x24 RGB": 6}


def test_faces_of_two_splits_and_files_left_out_are_told(folder, tmp_path):
    (folder / "train" / "calm" / "bad.png").write_bytes(b"")
    page = str(look(folder, tmp_path))
    assert "1 identical pictures are in both train and test (1 of 2 rows of test)" in page
    assert "Left out, and in no count above: 1 x empty file" in page


def test_pictures_that_cannot_be_decoded_are_listed(folder, tmp_path):
    path = folder / "test" / "calm" / "1.png"
    content = bytearray(path.read_bytes())
    content[60:90] = b"\0" * 30  # the end is whole, so only decoding finds it
    path.write_bytes(bytes(content))
    test = look(folder, tmp_path).splits["test"]
    assert test.num_unreadable == 1
    assert test.unreadable[0].startswith("row 1 cannot be read")


def test_released_counts_stand_in_brackets_where_they_differ(tmp_path):
    (tmp_path / "jaffe").mkdir()
    for code, number in (("AN", 1), ("AN", 2), ("SU", 3)):
        paint_face(seed=number, size=24).convert("L").save(tmp_path / "jaffe" / f"KA.{code}1.{number}.tiff")
    page = str(inspect_faces("jaffe", tmp_path / "jaffe", cache_dir=str(tmp_path / "cache")))
    lines = {line.split()[0]: line.split()[1:] for line in page.splitlines() if line.strip()}
    assert lines["faces"] == ["3", "(213)"]
    assert lines["anger"] == ["2", "(30)"]
    assert lines["fear"] == ["0", "(32)"]
    assert "JAFFE is given to researchers on request" in page


@pytest.mark.parametrize("world", ["eight", "affect", "signals"])
def test_every_kind_of_label_is_counted(world, tmp_path):
    few = {"num_train": 12, "num_validation": 0, "num_test": 6, "size": 24, "cache_dir": str(tmp_path)}
    labels = np.array(load_faces("painted_faces", world=world, **few)["train"]["label"])
    counts = list(inspect_faces("painted_faces", world=world, **few).splits["train"].labels.values())
    expected = {"eight": lambda: np.bincount(labels, minlength=8), "affect": lambda: labels.mean(axis=0)}
    assert counts == pytest.approx(expected.get(world, lambda: labels.sum(axis=0))(), abs=1e-3)


def test_a_contact_sheet_shows_the_faces_by_class(folder, tmp_path):
    train = load_faces("imagefolder", folder, min_images_per_class=0, cache_dir=tmp_path / "cache")["train"]
    sheet = np.asarray(contact_sheet(train, columns=3, size=24))
    assert sheet.shape == (48, 72, 3)
    tiles = {sheet[y : y + 24, x : x + 24].tobytes() for y in (0, 24) for x in (0, 24, 48)}
    assert {paint_face(seed=seed, size=24).tobytes() for seed in (1, 2, 4, 5)} <= tiles
    with pytest.raises(DataError, match="There is no face to show"):
        contact_sheet(train.remove_columns("image"))


def test_the_command_prints_the_page_and_saves_the_faces(folder, tmp_path, capsys):
    cache = f"cache_dir={tmp_path / 'cache'}"
    arguments = [
        "data",
        "inspect",
        "imagefolder",
        str(folder),
        "--setting",
        "min_images_per_class=0",
        "--setting",
        cache,
    ]
    assert main([*arguments, "--contact_sheet", str(tmp_path / "faces.png")]) == 0
    assert "single_label_classification of 2 labels" in capsys.readouterr().out
    with Image.open(tmp_path / "faces.png") as sheet:
        assert sheet.size[0] == 12 * 96


def test_the_command_says_once_what_was_left_out(folder, tmp_path, capfd):
    (folder / "train" / "calm" / "bad.png").write_bytes(b"rubbish")
    settings = ["--setting", "min_images_per_class=0", "--setting", f"cache_dir={tmp_path / 'cache'}"]
    sheet = ["--contact_sheet", str(tmp_path / "faces.png")]
    assert main(["data", "inspect", "imagefolder", str(folder), *settings, *sheet]) == 0
    heard = "".join(capfd.readouterr())
    assert heard.count("left out") + heard.count("Left out") == heard.count("bad.png") == 1


def test_the_command_says_how_to_get_data_that_is_not_there(tmp_path, capsys):
    assert main(["data", "inspect", "jaffe", str(tmp_path)]) == 1
    assert "looked for files like KA.AN1.39.tiff" in capsys.readouterr().err
    assert main(["data", "inspect", "jaffe", str(tmp_path), "--setting", "x"]) == 1
    assert "A setting is written NAME=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "P", "RGBA"])
def test_pictures_of_every_mode_are_looked_at(tmp_path, mode):
    grey = np.arange(0, 65536, 256, dtype="uint16").reshape(16, 16)
    for name, pixels in {"shaded": grey, "black": grey * 0}.items():
        image = Image.fromarray(pixels if mode == "I;16" else (pixels >> 8).astype("uint8"))
        (tmp_path / "faces" / "calm").mkdir(parents=True, exist_ok=True)
        (image if mode == "I;16" else image.convert(mode)).save(tmp_path / "faces" / "calm" / f"{name}.png")
    train = look(tmp_path / "faces", tmp_path).splits["train"]
    assert train.sizes == {f"16x16 {mode}": 2}
    # Opaque but black is of one colour too; that the opacity is the same all over makes no other picture so.
    assert (train.blank, train.num_unreadable) == (1, 0)
    faces = load_faces("imagefolder", tmp_path / "faces", min_images_per_class=0, cache_dir=tmp_path / "cache")["train"]
    sheet = np.asarray(contact_sheet(faces, columns=2, size=16)).astype(int)
    means = sorted(sheet[:, x : x + 16].mean() for x in (0, 16))
    assert means == pytest.approx([0, 127.5], abs=8), "nothing clipped: the shades go from black to white"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--contact_sheet", "faces"], "The contact sheet is a picture, such as faces.png; got 'faces'"),
        (["--contact_sheet", "no/where.png"], "lies in 'no', which is no folder to write to"),
        (["--contact_sheet", "folder.png"], "'folder.png' is a folder"),
        (["--setting", "label_column=1"], "`label_column` must be a column's name"),
        (["--setting", "data_dir=other"], "'data_dir' is no setting but an argument"),
    ],
)
def test_words_that_cannot_work_are_one_line_before_anything_is_looked_at(
    folder, tmp_path, capsys, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    cache = ["--setting", f"cache_dir={tmp_path / 'cache'}", "--setting", "min_images_per_class=0"]
    assert main(["data", "inspect", "imagefolder", str(folder), *cache, *words]) == 1
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.startswith("ciao: ")
    assert told.out == ""


def test_every_dataset_says_how_it_is_obtained():
    from ciao_peft.data import dataset_builder

    for name in set(list_faces()) - {"painted_faces", "imagefolder", "videofolder"}:
        assert "`data_dir`" in dataset_builder(name).HOW_TO_OBTAIN
