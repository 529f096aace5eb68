"""`suggest`: one choice whatever form the faces come in, and nothing is passed over in silence."""

from __future__ import annotations

import csv
import shutil

import pytest
import torch
from datasets import Dataset, Features, Image
from torch.nn import functional as F

from ciao_peft import CIAOConfig, cache_features, get_ciao_model, load_encoder, load_faces, suggest
from ciao_peft.cli import main
from ciao_peft.data import paint_face
from ciao_peft.errors import CIAOError, ConfigError, DataError, DataNotFoundError, FeatureCacheError, InputError
from ciao_peft.suggestions import Suggestion, Suggestions, labelled_rows, save_suggestions, suggestion_sheet
from ciao_peft.suggestions.table import SHEET_FILE, TABLE_FILE
from helpers.fakes import bits, same_bits, wrap

MOODS = {"num_labels": 3, "id2label": {0: "calm", 1: "glad", 2: "sad"}}
CLASSES = {"problem_type": "single_label_classification", **MOODS, "hidden_sizes": ()}


@pytest.fixture(scope="module")
def model():
    model = get_ciao_model(load_encoder("small-face"), CIAOConfig(**CLASSES), "moods")
    model.add_adapter("arousal", CIAOConfig(problem_type="regression", num_labels=1, hidden_sizes=()))
    model.add_adapter("signals", CIAOConfig(problem_type="multi_label_classification", num_labels=2, hidden_sizes=(4,)))
    return model.eval()


@pytest.fixture
def folder(tmp_path):
    """Eight faces, one of them twice, one damaged and one empty file."""
    faces = tmp_path / "faces"
    (faces / "more").mkdir(parents=True)
    for number in range(8):
        paint_face(seed=number, size=64).save(faces / ("more" if number > 5 else "") / f"{number}.png")
    shutil.copy(faces / "3.png", faces / "more" / "copy.png")
    (faces / "damaged.png").write_bytes((faces / "1.png").read_bytes()[:200])
    (faces / "empty.jpg").touch()
    (faces / "notes.txt").write_text("no picture")
    return faces


def test_every_form_of_faces_gives_the_same_choice(model):
    faces = [paint_face(seed=number, size=64) for number in range(9)]
    table = Dataset.from_dict({"image": faces}, features=Features({"image": Image()}))
    pixels = [{"pixel_values": model.preprocessing([face])[0]} for face in faces]
    stored = [cache_features(model, table), cache_features(model, table, include_excitation=True)]
    for strategy in ("margin", "badge"):
        expected = suggest(model, faces, 4, strategy=strategy)
        for form in (table, pixels, tuple(faces), stored[1]):
            found = suggest(model, form, 4, strategy=strategy)
            assert found.indices == expected.indices
            for one, other in zip(found, expected, strict=True):
                assert one.answer == pytest.approx(other.answer, abs=1e-5)
    assert suggest(model, stored[0], 4).indices == suggest(model, faces, 4).indices


def test_the_scores_and_answers_are_those_of_the_model(model):
    faces = [paint_face(seed=number, size=64) for number in range(6)]
    answers = model.predict(faces)
    found = suggest(model, faces, 6, near=1, strategy="margin")
    for one in found:
        first, second = sorted(answers[one.index].values(), reverse=True)[:2]
        assert one.score == pytest.approx(1 - (first - second), abs=1e-4)
        assert one.answer == pytest.approx(answers[one.index], abs=1e-5)
        assert [*one.answer][:1] == [*answers[one.index]][:1]
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_what_the_last_layer_reads_is_what_gives_the_logits(model):
    from ciao_peft.suggestions.reading import read_faces

    faces = [paint_face(seed=number, size=64) for number in range(3)]
    for name in ("moods", "signals"):
        read, head = read_faces(model, faces, name), model.adapters[name].head
        last = getattr(head, str(head.num_layers - 1))
        assert torch.allclose(last(read.hidden), read.logits, atol=1e-5)


def test_without_an_adapter_faces_are_chosen_by_what_the_encoder_sees():
    encoder = load_encoder("small-face")
    before = bits(encoder)
    faces = [paint_face(seed=number, size=64) for number in range(7)]
    found = suggest(encoder, faces, 3, strategy="typiclust")
    assert len(found) == 3
    assert all(one.answer is None for one in found)
    assert same_bits(before, bits(encoder)) and all(each.requires_grad for each in encoder.parameters())


def test_an_adapter_of_values_tells_them_and_faces_are_chosen_without_them(model):
    faces = [paint_face(seed=number, size=64) for number in range(5)]
    found = suggest(model, faces, 2, adapter_name="arousal")
    assert found.strategy == "random" and len(found.chosen[0].answer) == 1
    with pytest.raises(InputError, match="none answers here with classes or labels"):
        suggest(model, faces, 2, adapter_name="arousal", strategy="entropy")
    assert len(suggest(model, faces, 2, adapter_name="signals", strategy="margin")) == 2


def test_unreadable_pictures_and_near_duplicates_are_passed_over_said_and_counted(model, folder):
    found = suggest(model, folder, 20)
    names = {one.file_name.replace("more/copy", "3") for one in found}  # which of two equal ones is of no account
    assert names == {*(f"{number}.png" for number in range(6)), "more/6.png", "more/7.png"} and len(found) == 8
    assert (found.looked_at, found.near) == (9, 1)
    assert dict(found.unreadable) == {"damaged.png": "damaged image", "empty.jpg": "empty file"}
    assert str(found).startswith("8 of 9 faces, chosen by 'random'; 1 passed over, which nearly equal another one; 2 ")


def test_nothing_that_nearly_equals_a_labelled_face_is_suggested(model, folder):
    again = folder.parent / "again.jpg"
    paint_face(seed=5, size=64).save(again, quality=90)
    found = suggest(model, folder, 20, labelled=[folder / "3.png", again])
    assert {"3.png", "5.png", "more/copy.png"}.isdisjoint({one.file_name for one in found})
    assert (len(found), found.near) == (6, 3)
    (folder.parent / "none.png").touch()
    told = suggest(model, folder, 1, labelled=[folder / "3.png", folder.parent / "none.png"]).unreadable
    assert (str(folder.parent / "none.png"), "labelled; empty file") in told


def test_what_are_no_faces_is_refused(model, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    other = wrap()
    for wrong, kind, word in (
        (tmp_path / "nowhere", DataNotFoundError, "no folder"),
        ([], DataError, "empty"),
        ([tmp_path / "a.png"], DataError, "None of 1 pictures can be read"),
        ({"train": []}, InputError, "several splits"),
        (7, InputError, "got int"),
        (cache_features(other, [{"pixel_values": torch.rand(other.input_size)}]), FeatureCacheError, "not made by"),
    ):
        with pytest.raises(kind, match=word) as raised:
            suggest(model, wrong, 3)
        assert isinstance(raised.value, CIAOError)
    with pytest.raises(ConfigError, match="`count`"):
        suggest(model, [paint_face()], 0)
    with pytest.raises(InputError, match=r"model\.eval\(\)"):
        suggest(wrap().train(), [{"pixel_values": torch.rand(other.input_size)}], 1)
    clips = wrap(frames=2, recurrent_size=4).eval()
    with pytest.raises(InputError, match="reads clips of 2 frames"):
        suggest(clips, [{"pixel_values": torch.rand(other.input_size)}], 1)


def test_the_choice_leaves_model_and_random_state_as_they_were(model):
    before, state = bits(model), torch.random.get_rng_state()
    suggest(model, [paint_face(seed=number, size=64) for number in range(5)], 2, strategy="badge")
    assert same_bits(before, bits(model)) and model.active_adapter == "moods"
    assert torch.equal(state, torch.random.get_rng_state())


def rows_of(table):
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_that_is_filled_in_can_be_trained_from(model, folder, tmp_path):
    table = save_suggestions(suggest(model, folder, 6), tmp_path / "ask", pictures=folder)
    rows = rows_of(table)
    assert list(rows[0]) == ["file_name", "label", "score", "says", "sure"]
    assert all(row["label"] == "" and row["says"] in ("calm", "glad", "sad") for row in rows)
    assert (table.parent / SHEET_FILE).read_bytes()[1:4] == b"PNG"
    with pytest.raises(DataError, match="without a label"):
        load_faces(csv=table, data_dir=folder, min_images_per_class=0)
    for number, row in enumerate(rows[:4]):
        row["label"] = ("glad", "sad")[number % 2]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    faces = load_faces(csv=table, data_dir=folder, min_images_per_class=0)["train"]
    assert len(faces) == 4 and faces.features["label"].names == ["glad", "sad"]
    assert labelled_rows(table).files == [row["file_name"] for row in rows[:4]]


def test_labels_that_somebody_gave_are_never_written_over(model, folder, tmp_path):
    (tmp_path / TABLE_FILE).write_text("file_name,label,who\n0.png,glad,ann\n1.png,,\n")
    before = (tmp_path / TABLE_FILE).read_bytes()
    found = suggest(model, folder, 2)
    with pytest.raises(ConfigError, match="1 labels that would be lost"):
        save_suggestions(found, tmp_path)
    assert (tmp_path / TABLE_FILE).read_bytes() == before
    rows = rows_of(save_suggestions(found, tmp_path, labelled=labelled_rows(tmp_path / TABLE_FILE).rows))
    assert rows[2] == {"file_name": "0.png", "label": "glad", "score": "", "says": "", "sure": "", "who": "ann"}


def test_a_sheet_has_room_for_every_face_and_takes_pictures_by_number():
    faces = {number: paint_face(seed=number, size=64) for number in range(7)}
    chosen = tuple(Suggestion(number, "a" * 60, 0.5, {"glad": 0.75, "sad": 0.25}) for number in faces)
    few = suggestion_sheet(Suggestions(chosen[:5], "margin", 7, 0, ()), faces)
    many = suggestion_sheet(Suggestions(chosen, "margin", 7, 0, ()), faces)
    heights = [int.from_bytes(picture[20:24], "big") for picture in (few, many)]
    assert heights[1] == 2 * heights[0]
    with pytest.raises(InputError, match="face 0 has none"):
        save_suggestions(Suggestions((Suggestion(0, None, 0.5, None),), "margin", 1, 0, ()), "nowhere")


def test_the_command_asks_round_after_round(folder, tmp_path, capsys):
    out = tmp_path / "ask"
    assert main(["suggest", str(folder), "--num", "3", "--output_dir", str(out)]) == 0
    said = capsys.readouterr().out
    assert "3 of 9 faces, chosen by 'random'" in said and "damaged.png (damaged image)" in said
    assert f"ciao train --csv {out / TABLE_FILE} --data_dir {folder}" in said
    first = rows_of(out / TABLE_FILE)
    (out / TABLE_FILE).write_text(
        "\n".join(["file_name,label,score,says,sure", *(f"{row['file_name']},glad,{row['score']},," for row in first)])
    )
    again = ["suggest", str(folder), "--num", "9", "--output_dir", str(out), "--strategy", "k-center"]
    assert main(again) == 1
    assert "3 labels that would be lost" in capsys.readouterr().err
    assert main([*again, "--labelled", str(out / TABLE_FILE)]) == 0
    rows = rows_of(out / TABLE_FILE)
    named = [row["file_name"] for row in rows]
    assert len(set(named)) == len(named) and named[-3:] == [row["file_name"] for row in first]
    assert [row["label"] for row in rows] == [""] * (len(rows) - 3) + ["glad"] * 3
    assert (out / SHEET_FILE).exists()


def test_the_command_tells_what_the_adapter_says_and_names_its_labels(model, folder, tmp_path):
    for name, columns in (("moods", ["label"]), ("signals", ["LABEL_0", "LABEL_1"])):
        model.save_pretrained(tmp_path / name, name)
        command = [
            "suggest",
            str(folder),
            "--adapter",
            str(tmp_path / name),
            "--output_dir",
            str(tmp_path / "out" / name),
        ]
        assert main(command) == 0
        rows = rows_of(tmp_path / "out" / name / TABLE_FILE)
        assert list(rows[0])[1:-3] == columns and all(row["says"] for row in rows)


def test_the_command_refuses_what_cannot_work(folder, tmp_path, capsys):
    table = tmp_path / "labels.csv"
    table.write_text("file_name,label\nelsewhere.png,glad\n")
    for words, said in (
        (["--output_dir", str(folder / "ask")], "lies among the faces"),
        (["--labelled", str(table)], "names 1 files that are not in"),
        (["--labelled", str(table), "--label_column", "mood"], "no column 'mood'"),
        (["--label_column", "a,,b"], "joined with commas"),
        (["--adapter", "ciao/everyday-six", "--align", "five-points"], "An adapter knows its encoder"),
    ):
        assert main(["suggest", str(folder), "--output_dir", str(tmp_path / "ask"), *words]) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "ask").exists()


def test_pooled_answers_are_means_of_u(model):
    from ciao_peft.suggestions.reading import read_faces

    faces = [paint_face(seed=number, size=64) for number in range(2)]
    u = model.extract_features(model.preprocessing(faces), include_excitation=True)[-1]
    read = read_faces(model, faces, None)
    assert F.cosine_similarity(read.vectors, u.mean(dim=(2, 3))).min().item() == pytest.approx(1, abs=1e-5)
