"""A folder is written whole or not at all, whoever reads, saves or fails meanwhile."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from pathlib import Path

import pytest
import torch

from ciao_peft.errors import AdapterFileError
from ciao_peft.model import CIAOModel
from ciao_peft.preprocessing import Preprocessing
from ciao_peft.saving.adapter_folder import CONFIG_FILE, WEIGHTS_FILE, load_adapter
from ciao_peft.saving.files import write_folder
from helpers.fakes import bits, same_bits, tiny_backbone, train, wrap


def content(folder):
    """Every file under a folder, by its path there."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def two_models():
    one, other = wrap(), wrap(temperature=0.7, hidden_sizes=(9,))
    return train(one), train(other)


@pytest.fixture(params=["exchange", "renames"])
def way(request, monkeypatch):
    """Folders that change places in one step, and systems where they cannot."""
    if request.param == "renames":
        monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kwargs: object())


def test_a_reader_never_meets_half_a_save(way, tmp_path):
    models = two_models()
    for model, mean in zip(models, (0.5, 0.25), strict=True):
        model.preprocessing = Preprocessing(size=(16, 16), mode="RGB", mean=(mean,) * 3, std=(1.0,) * 3)
    wanted = [bits(model.adapters["default"]) for model in models]
    folder = models[0].save_pretrained(tmp_path / "saved")
    done, reads = threading.Event(), []

    def poll():
        while not done.is_set():
            try:
                saved = load_adapter(folder)
                place = 0 if saved.config.temperature == 0.1 else 1
                whole = (
                    saved.config == models[place].peft_config["default"]
                    and same_bits(saved.tensors, wanted[place])
                    and saved.preprocessing == models[place].preprocessing.to_dict()
                )
                reads.append("whole" if whole else "mixed")
            except Exception as error:
                reads.append(repr(error))

    reader = threading.Thread(target=poll)
    reader.start()
    for k in range(50):
        models[k % 2].save_pretrained(folder)
    done.set()
    reader.join()
    assert set(reads) == {"whole"}
    assert len(reads) > 5


@pytest.mark.parametrize("there_before", [True, False], ids=["over", "first"])
def test_concurrent_savers_leave_one_of_their_adapters_whole(way, there_before, tmp_path):
    models = two_models()
    wanted = [bits(model.adapters["default"]) for model in models]
    folder = tmp_path / "saved"
    if there_before:
        models[0].save_pretrained(folder)
        (folder / "notes.txt").write_text("mine")
    start, errors = threading.Barrier(4), []

    def save(model):
        start.wait()
        for _ in range(5):
            try:
                model.save_pretrained(folder)
            except Exception as error:
                errors.append(error)

    savers = [threading.Thread(target=save, args=(models[k % 2],)) for k in range(4)]
    for saver in savers:
        saver.start()
    for saver in savers:
        saver.join()
    assert errors == []
    assert any(same_bits(load_adapter(folder).tensors, state) for state in wanted)
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved"]
    if there_before:
        assert (folder / "notes.txt").read_text() == "mine"


def test_another_saver_may_make_the_folder_first(monkeypatch, tmp_path):
    one, other = two_models()
    rename = Path.rename

    def late(path, target):
        if not Path(target).exists():
            monkeypatch.setattr(Path, "rename", rename)
            other.save_pretrained(target)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    folder = one.save_pretrained(tmp_path / "saved")
    assert same_bits(load_adapter(folder).tensors, bits(one.adapters["default"]))
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved"]


def test_what_is_not_the_adapters_stays(way, tmp_path):
    one, other = two_models()
    folder = one.save_pretrained(tmp_path / "saved")
    (folder / "notes.txt").write_text("mine")
    (folder / "runs" / "1").mkdir(parents=True)
    (folder / "runs" / "1" / "log").write_text("also mine")
    other.save_pretrained(folder)
    assert same_bits(load_adapter(folder).tensors, bits(other.adapters["default"]))
    found = content(folder)
    assert (found["notes.txt"], found["runs/1/log"]) == (b"mine", b"also mine")
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved"]


def disk_is_full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["fsync", "mkdir"])
@pytest.mark.parametrize("there_before", [True, False], ids=["over", "first"])
def test_a_failed_save_leaves_what_was_there(what, there_before, monkeypatch, tmp_path):
    one, other = two_models()
    folder = tmp_path / "saved"
    if there_before:
        one.save_pretrained(folder)
        (folder / "notes.txt").write_text("mine")
    before = content(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, what, disk_is_full)
        with pytest.raises(
            AdapterFileError, match=r"saved' cannot be written: .*No space left.* What was there is unchan"
        ):
            other.save_pretrained(folder)
    assert content(tmp_path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == (["saved"] if there_before else [])
    other.save_pretrained(folder)
    assert same_bits(load_adapter(folder).tensors, bits(other.adapters["default"]))


@pytest.mark.parametrize("refused", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_save_that_fails_among_its_files_is_undone(refused, monkeypatch, tmp_path):
    """Where files are replaced one by one, some may be in place when another one is refused."""
    one, other = two_models()
    folder = one.save_pretrained(tmp_path / "saved")
    for name in ("a.txt", "notes.txt", "z.txt"):
        (folder / name).write_text(name)
    before = content(tmp_path)
    replace, failures = os.replace, []
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kwargs: object())

    def sometimes(path, target):
        if Path(target).name == refused and not failures:
            failures.append(path)
            raise OSError(errno.EACCES, "Permission denied")
        return replace(path, target)

    monkeypatch.setattr(os, "replace", sometimes)
    with pytest.raises(AdapterFileError, match=r"cannot be written: .*Permission denied"):
        other.save_pretrained(folder)
    assert failures
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    "training",
    [{"loss": float("nan")}, {"x": object()}, {"x": {1, 2}}, {"x": "\ud800"}],
    ids=["nan", "object", "set", "half a character"],
)
def test_what_is_no_plain_data_is_refused_before_anything_is_written(training, tmp_path):
    one, other = two_models()
    folder = one.save_pretrained(tmp_path / "saved")
    before = content(tmp_path)
    with pytest.raises(AdapterFileError, match=r"recorded of the adapter is no plain data: .*Nothing was saved"):
        other.save_pretrained(folder, training=training)
    assert content(tmp_path) == before


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_an_adapter_that_could_not_be_loaded_is_not_saved_over_a_good_one(value, tmp_path):
    model = wrap()
    model.save_pretrained(tmp_path / "saved")
    before = content(tmp_path)
    with torch.no_grad():
        model.adapters["default"].head.get_parameter("0.bias")[0] = float(value)
    for name in ("saved", "new"):
        with pytest.raises(AdapterFileError, match=r"NaN or infinite values in 'head\.0\.bias': .*Nothing was saved"):
            model.save_pretrained(tmp_path / name)
    assert content(tmp_path) == before and not (tmp_path / "new").exists()


def test_parents_are_made_and_a_link_to_a_folder_stays_one(way, tmp_path):
    one, other = two_models()
    one.save_pretrained(tmp_path / "deep" / "er" / "saved")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "deep" / "er" / "saved", target_is_directory=True)
    other.save_pretrained(link)
    assert link.is_symlink()
    assert same_bits(load_adapter(tmp_path / "deep" / "er" / "saved").tensors, bits(other.adapters["default"]))


def test_a_relative_folder_is_one_of_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model = train(wrap())
    for folder in ("saved", "./saved/", Path("saved")):
        model.save_pretrained(folder)
    assert same_bits(load_adapter("saved").tensors, bits(model.adapters["default"]))
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved"]


def test_the_working_folder_itself_is_not_replaced(monkeypatch, tmp_path):
    """It would be gone under the feet of the process."""
    monkeypatch.chdir(tmp_path)
    for folder in (".", "", tmp_path):
        with pytest.raises(
            AdapterFileError, match="is the working folder, which cannot be replaced; give a folder in it"
        ):
            wrap().save_pretrained(folder)
    assert content(tmp_path) == {}
    assert Path.cwd() == tmp_path


def test_a_file_in_the_way_is_not_overwritten(tmp_path):
    (tmp_path / "saved").write_text("mine")
    with pytest.raises(AdapterFileError, match="saved' is a file; give a folder to save into"):
        wrap().save_pretrained(tmp_path / "saved")
    with pytest.raises(AdapterFileError, match="cannot be written"):
        wrap().save_pretrained(tmp_path / "saved" / "below")
    assert content(tmp_path) == {"saved": b"mine"}


def test_others_may_read_what_the_users_mask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        folder = wrap().save_pretrained(tmp_path / "saved")
        wrap().save_pretrained(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    assert stat.S_IMODE((folder / WEIGHTS_FILE).stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", ".."])
def test_only_plain_file_names_are_written(name, tmp_path):
    with pytest.raises(AdapterFileError, match="is no plain file name"):
        write_folder(tmp_path / "saved", {name: b""})
    assert content(tmp_path) == {}


def test_saving_touches_no_global_setting(tmp_path):
    mask = os.umask(0o022)
    os.umask(mask)
    model, backbone = wrap(), tiny_backbone()
    state = torch.get_rng_state()
    folder = model.save_pretrained(tmp_path / "saved")
    CIAOModel.from_pretrained(backbone, folder)
    assert os.umask(mask) == mask
    assert torch.equal(torch.get_rng_state(), state)
    assert (folder / CONFIG_FILE).read_text("utf-8").endswith("}\n")
