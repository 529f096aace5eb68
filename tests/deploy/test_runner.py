"""`runner.py` by itself: pictures to answers without torch and this library, and what it refuses."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ciao_peft.deploy import RUNNER_FILE
from ciao_peft.deploy.align import Aligner
from ciao_peft.preprocessing import Alignment, Preprocessing
from ciao_peft.preprocessing.landmarks import landmark_trees
from ciao_peft.saving.digest import with_digest
from helpers.exported import open_runner, runner_of
from helpers.fakes import small_config, tiny_backbone, train, wrap

pytestmark = pytest.mark.usefixtures("no_shape_checks")


def model_with(preprocessing):
    model = train(wrap(tiny_backbone(), "fer", id2label={0: "sad", 1: "glad", 2: "calm"})).eval()
    model.add_adapter("arousal", small_config(problem_type="regression", num_labels=1, id2label={0: "arousal"}))
    model.preprocessing = preprocessing
    return model


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    preprocessing = Preprocessing(size=(16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    from helpers import shapes

    with shapes.off():
        model = model_with(preprocessing)
        return model, model.export_onnx(tmp_path_factory.mktemp("exports") / "onnx")


@pytest.fixture
def exported(original, tmp_path):
    """A model, and a copy of its folder that a test may damage."""
    model, folder = original
    return model, shutil.copytree(folder, tmp_path / "onnx")


def pictures(count, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (20 + k, 30, 3), dtype=np.uint8) for k in range(count)]


def alter(folder, change):
    """Changes the manifest, and gives it the digest that belongs to it."""
    record = json.loads((folder / "manifest.json").read_text("utf-8"))
    del record["digest"]
    change(record)
    (folder / "manifest.json").write_bytes(with_digest(record, record["files"]))


# -- answers ----------------------------------------------------------------------------------------------------------


def test_named_answers_are_those_of_predict(exported):
    model, folder = exported
    runner, faces = open_runner(folder), pictures(3)
    answers = runner(faces)
    for own, expected in zip(answers, model.predict(faces, adapter_names=["fer", "arousal"]), strict=True):
        assert own.keys() == expected.keys()
        for name in own:
            assert list(own[name]) == list(expected[name])
            assert list(own[name].values()) == pytest.approx(list(expected[name].values()), abs=1e-5)
    assert runner([]) == []
    one = runner(faces[0])
    assert {name: one[name] == pytest.approx(answers[0][name], abs=1e-6) for name in one} == {
        "fer": True,
        "arousal": True,
    }


@pytest.mark.parametrize("resample", ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"])
@pytest.mark.parametrize("crop_mode", ["squash", "center", "border"])
@pytest.mark.parametrize("mode", ["RGB", "BGR", "L"])
def test_pictures_are_prepared_to_the_bit(resample, crop_mode, mode, exported):
    _, folder = exported
    runner, generator = open_runner(folder), np.random.default_rng(0)
    channels = 1 if mode == "L" else 3
    for crop_pct, size in ((1.0, (16, 16)), (0.875, (20, 12))):
        preprocessing = Preprocessing(
            size=size,
            mode=mode,
            mean=(0.4, 0.5, 0.6)[:channels],
            std=(0.2, 0.3, 0.25)[:channels],
            resample=resample,
            crop_pct=crop_pct,
            crop_mode=crop_mode,
        )
        runner.manifest["preprocessing"]["settings"] = preprocessing.to_dict()
        for shape in ((40, 30), (7, 60, 3), (60, 7, 3), (16, 16, 3), (1, 1), (400, 3), (33, 21, 1)):
            picture = generator.integers(0, 256, shape, dtype=np.uint8)
            assert np.array_equal(runner.prepare(picture), preprocessing(picture)[0].numpy())


def test_files_are_opened_as_predict_opens_them(exported, tmp_path):
    from PIL import Image

    model, folder = exported
    runner, face = open_runner(folder), pictures(1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.fromarray(face).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    see_through = Image.fromarray(face).convert("RGBA")
    see_through.putalpha(Image.fromarray(np.ascontiguousarray(face[:, :, 0])))
    see_through.save(tmp_path / "through.png")
    Image.fromarray(face).quantize(16).save(tmp_path / "palette.png")
    Image.fromarray(face).convert("L").save(tmp_path / "gray.png")
    for path in sorted(tmp_path.glob("*.*")):
        assert np.array_equal(runner.prepare(path), model.preprocessing(path)[0].numpy()), path.name
        assert np.array_equal(runner.prepare(str(path)), runner.prepare(path))


def test_adapters_are_swapped_while_it_runs_and_the_trunk_is_read_once(exported):
    _, folder = exported
    runner, faces = open_runner(folder, []), pictures(2)
    with pytest.raises(ValueError, match="No adapter is loaded"):
        runner(faces)
    runner.choose("fer")
    assert [list(answer) for answer in runner(faces)] == [["fer"], ["fer"]]
    runner.choose("arousal")
    assert list(runner(faces)[0]) == ["arousal"]
    runner.choose()
    runs = []
    trunk = runner._trunks["trunk.onnx"]

    class Counted:
        get_outputs = trunk.get_outputs

        def run(self, *args):
            runs.append(args)
            return trunk.run(*args)

    runner._trunks["trunk.onnx"] = Counted()
    assert list(runner(faces)[0]) == ["fer", "arousal"]
    assert len(runs) == 1
    runner.unload("fer")
    assert list(runner.loaded) == ["arousal"]
    assert runner.read(torch.zeros(5, 3, 16, 16).numpy())["arousal"]["logits"].shape == (5, 1)


def test_clips_get_one_answer_each(tmp_path):
    model = wrap(tiny_backbone(), "clips", frames=3, recurrent_size=4).eval()
    model.preprocessing = Preprocessing(size=(16, 16))
    model.add_adapter("fer", small_config())
    runner = open_runner(model.export_onnx(tmp_path / "onnx"))
    with pytest.raises(ValueError, match="Some adapters read clips, others pictures: `choose`"):
        runner(pictures(3))
    runner.choose("clips")
    clips = [pictures(3), pictures(3, seed=1)]
    expected = model.predict(clips, adapter_names=["clips"])
    for answer, own in zip(runner(clips), expected, strict=True):
        assert answer["clips"] == pytest.approx(own["clips"], abs=1e-5)
    assert runner(clips[0])["clips"] == pytest.approx(expected[0]["clips"], abs=1e-5)
    assert runner([]) == []
    with pytest.raises(ValueError, match=r"Pixel values must be \(batch, 3, 3, 16, 16\); got \(1, 2, 3, 16, 16\)"):
        runner(clips[0][:2])


def test_it_runs_as_a_program_without_torch_and_this_library(exported, tmp_path):
    from PIL import Image

    model, folder = exported
    Image.fromarray(pictures(1)[0]).save(tmp_path / "face.png")
    blocked = "import sys; sys.modules.update(torch=None, ciao_peft=None, onnx=None); import runpy; "
    run = f"sys.argv = ['runner.py', {str(tmp_path / 'face.png')!r}, '--adapter', 'fer']; "
    code = blocked + run + f"runpy.run_path({str(folder / 'runner.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert json.loads(done.stdout)["fer"] == pytest.approx(
        model.predict(tmp_path / "face.png", adapter_names=["fer"])["fer"], abs=1e-5
    )


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trunk.onnx", "adapters/fer.onnx"])
def test_a_file_that_was_changed_is_refused(name, exported):
    _, folder = exported
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"\.onnx' has another checksum than the manifest says: copy it anew"):
        open_runner(folder)
    if name != "trunk.onnx":
        assert list(open_runner(folder, ["arousal"]).loaded) == ["arousal"]


def test_a_file_that_is_gone_is_named(exported):
    _, folder = exported
    (folder / "trunk.onnx").unlink()
    with pytest.raises(ValueError, match=r"trunk\.onnx' is missing: copy it anew"):
        open_runner(folder)


def test_an_adapter_that_was_chosen_may_be_unloaded(exported):
    runner = open_runner(exported[1])
    one, other, *_ = runner.loaded
    runner.choose(one, other)
    runner.unload(one)
    assert list(runner(pictures(1)[0])) == [other]
    runner.unload(other)
    with pytest.raises(ValueError, match="No adapter is loaded"):
        runner(pictures(1)[0])


def test_pixel_values_that_are_no_numbers_are_refused(exported):
    with pytest.raises(ValueError, match="NaN or infinite"):
        open_runner(exported[1]).read(np.full((1, 3, 16, 16), np.nan, np.float32))


def test_a_manifest_that_was_changed_is_refused(exported):
    _, folder = exported
    path = folder / "manifest.json"
    path.write_text(path.read_text("utf-8").replace('"glad"', '"grim"'), "utf-8")
    with pytest.raises(ValueError, match="was altered: its digest is another one"):
        open_runner(folder)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "is missing: give the folder that `model.export_onnx` wrote"),
        (b"", "is no manifest of an export"),
        (b"[]", "is no manifest of an export"),
        (b"[" * 100_000, "is no manifest of an export"),
        (b'{"files": 1}', "is no manifest of an export"),
        (b'{"files": {}, "digest": "", "format": "other"}', "has a format that this runner does not know"),
    ],
)
def test_what_is_no_manifest_is_refused(content, text, exported):
    _, folder = exported
    path = folder / "manifest.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=text):
        open_runner(folder)


@pytest.mark.parametrize(
    "file", ["../trunk.onnx", "/etc/passwd", "adapters/../../x.onnx", "adapters\\x.onnx", "x.onnx"]
)
def test_a_manifest_cannot_lead_out_of_its_folder(file, exported):
    _, folder = exported
    alter(folder, lambda record: record["adapters"]["fer"].update(file=file))
    with pytest.raises(ValueError, match="which is none of its files"):
        open_runner(folder)
    if file != "x.onnx":
        alter(folder, lambda record: record["files"].update({file: hashlib.sha256(b"").hexdigest()}))
        with pytest.raises(ValueError, match="which is none of its files"):
            open_runner(folder)


def entries(values, place=()):
    """Where each entry of a manifest stands that the runner reads."""
    for key, value in values.items():
        yield (*place, key)
        if isinstance(value, dict):
            yield from entries(value, (*place, key))


def placed(record, place):
    for key in place[:-1]:
        record = record[key]
    return record, place[-1]


def test_a_signed_manifest_without_an_entry_or_with_another_value_is_named(exported):
    """Whoever signs a manifest anew gets a sentence, whatever is missing or other: no error of Python's own."""
    _, folder = exported
    whole = (folder / "manifest.json").read_bytes()
    record = json.loads(whole)
    refused, read = 0, ("input", "preprocessing", "adapters", "files")
    for place in list(entries({key: record[key] for key in read})):
        if place == ("files",):  # the digest is over them
            continue
        for wrong in ("gone", None, "x", -1, [], {}, 1e99, [None], True):
            (folder / "manifest.json").write_bytes(whole)

            def change(record, place=place, wrong=wrong):
                holder, key = placed(record, place)
                if wrong == "gone":
                    del holder[key]
                else:
                    holder[key] = wrong

            try:
                alter(folder, change)
                open_runner(folder)(pictures(1)[0])
            except ValueError as error:
                refused += 1
                assert re.search("manifest|align|does not fit to this folder|Pixel values must be", str(error)), error
    assert refused > 100
    (folder / "manifest.json").write_bytes(whole)
    alter(folder, lambda record: record["adapters"]["fer"].pop("labels"))
    with pytest.raises(ValueError, match=r"lacks 'adapters\.fer\.labels', a list of names\. Export the model again"):
        open_runner(folder)


def test_files_of_another_export_are_told(exported):
    """Checksums that were made anew do not make two exports one."""
    _, folder = exported
    alter(folder, lambda record: record["adapters"]["fer"].update(trunk=None))
    with pytest.raises(ValueError, match=r"fer\.onnx' does not fit to this folder: nothing gives '"):
        open_runner(folder)
    alter(folder, lambda record: record["adapters"]["fer"].update(trunk="trunk.onnx", labels=["one"]))
    with pytest.raises(ValueError, match=r"fer\.onnx' answers \d values, and the manifest names 1"):
        open_runner(folder)
    (folder / "adapters" / "fer.onnx").write_bytes(b"junk")
    digest = hashlib.sha256(b"junk").hexdigest()
    alter(folder, lambda record: record["files"].update({"adapters/fer.onnx": digest}))
    with pytest.raises(ValueError, match=r"fer\.onnx' cannot be run by onnxruntime"):
        open_runner(folder)


def test_a_name_that_is_not_there_lists_those_that_are(exported):
    _, folder = exported
    for call in (lambda: open_runner(folder, ["../x"]), lambda: open_runner(folder).choose("../x")):
        with pytest.raises(ValueError, match=r"No adapter '\.\./x' in .*; there are: fer, arousal"):
            call()


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 3, 16, 15), (2, 1, 16, 16), (0, 3, 16, 16), (2, 4, 3, 16, 16)])
def test_pixel_values_of_another_shape_are_refused(shape, exported):
    _, folder = exported
    with pytest.raises(ValueError, match=r"Pixel values must be \(batch, 3, 16, 16\); got"):
        open_runner(folder).read(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    "picture",
    [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.float32), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8)],
)
def test_arrays_that_are_no_pictures_are_refused(picture, exported):
    _, folder = exported
    with pytest.raises(ValueError, match=r"A picture is \(H, W\) or \(H, W, 3\) of uint8; got"):
        open_runner(folder)(picture)


def test_faces_are_aligned_to_the_bit(tmp_path):
    from PIL import Image

    align = Alignment(size=48, padding=0.3)
    model = model_with(Preprocessing(size=(16, 16), align=align))
    runner = open_runner(model.export_onnx(tmp_path / "onnx", "fer"))
    generator = np.random.default_rng(0)
    for shape in ((100, 90, 3), (30, 200, 3), (300, 280)):
        picture = generator.integers(0, 256, shape, dtype=np.uint8)
        assert np.array_equal(runner.prepare(picture), model.preprocessing(picture)[0].numpy())
    picture = Image.fromarray(generator.integers(0, 256, (100, 90, 3), dtype=np.uint8))
    align(picture).save(tmp_path / "copy.png", exif=align.exif())
    assert np.array_equal(runner.prepare(tmp_path / "copy.png"), model.preprocessing(picture)[0].numpy())
    assert np.array_equal(runner.prepare(np.asarray(align(picture)), aligned=True), runner.prepare(np.asarray(picture)))
    align(picture).save(tmp_path / "other.png", exif=Alignment(size=64).exif())
    with pytest.raises(ValueError, match=r'was aligned in another way: .*"size": 64} there, .*"size": 48} here'):
        runner.prepare(tmp_path / "other.png")
    landmarks = tmp_path / "onnx" / "landmarks.npz"
    landmarks.write_bytes(landmarks.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"landmarks\.npz' has another checksum"):
        open_runner(tmp_path / "onnx").prepare(np.asarray(picture))
    landmarks.unlink()
    (tmp_path / "onnx" / "align.py").unlink()
    with pytest.raises(OSError, match=r"align\.py"):
        open_runner(tmp_path / "onnx").prepare(np.asarray(picture))


def test_a_picture_without_landmarks_is_used_whole_or_refused():
    trees = io.BytesIO()
    np.savez(trees, **landmark_trees())
    thin = np.zeros((1, 9, 3), np.uint8)
    assert Aligner(trees.getvalue(), 48, 0.25, "whole")(thin) is thin
    with pytest.raises(ValueError, match="No landmarks of a face were found"):
        Aligner(trees.getvalue(), 48, 0.25, "error")(thin)


def test_a_copy_is_refused_where_nothing_is_aligned_and_landmarks_of_ones_own_are_not_found(exported, tmp_path):
    from PIL import Image

    model, folder = exported
    Image.new("RGB", (48, 48)).save(tmp_path / "copy.png", exif=Alignment().exif())
    with pytest.raises(ValueError, match=r"was aligned in another way: .* there, None here"):
        open_runner(folder)(tmp_path / "copy.png")
    settings = model.preprocessing.replace(align=Alignment(landmarks="own:mine")).to_dict()
    alter(folder, lambda record: record["preprocessing"].update(settings=settings))
    runner, face = open_runner(folder), pictures(1)[0]
    with pytest.raises(ValueError, match="aligned by landmarks of your own: align them, and pass `aligned=True`"):
        runner(face)
    assert sorted(runner(face, aligned=True)["fer"]) == ["calm", "glad", "sad"]


def test_without_preprocessing_pixel_values_are_read_alone(tmp_path):
    model = wrap(tiny_backbone(), "fer").eval()
    assert model.preprocessing is None
    runner = open_runner(model.export_onnx(tmp_path / "onnx"))
    with pytest.raises(ValueError, match="does not say how pictures are prepared; give pixel values to `read`"):
        runner(pictures(1)[0])
    assert runner.read(np.zeros((2, 3, 16, 16), np.float32))["fer"]["logits"].shape == (2, 3)


def test_the_copy_in_a_folder_is_the_file_of_the_package(exported):
    import ciao_peft.deploy.runner as own

    _, folder = exported
    assert runner_of(folder).__file__ == str(folder / RUNNER_FILE)
    assert (folder / RUNNER_FILE).read_bytes() == Path(own.__file__).read_bytes()
