"""Saving where people save: folders that cannot be replaced, modes that stay, and kills at any moment."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ciao_peft import CIAOTrainingArguments, cache_features
from ciao_peft.encoders import load_encoder, save_encoder
from ciao_peft.errors import AdapterFileError
from ciao_peft.model import CIAOModel
from ciao_peft.saving.adapter_folder import load_adapter
from ciao_peft.saving.files import local_path, move_into_place, write_folder
from ciao_peft.study.records import read_records
from ciao_peft.trainer.checkpoint import STATE_FILE, checkpoint_folders, clean_up
from helpers.fakes import bits, same_bits, tiny_backbone, wrap
from helpers.features import faces

OLD, NEW = {"weights": b"old", "config": b"old"}, {"weights": b"new", "config": b"new"}


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(params=["exchange", "one by one"])
def way(request, monkeypatch):
    if request.param == "one by one":
        monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kwargs: object())


def in_a_child(work):
    """Runs a function in a process of its own; returns how it ended."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


# -- folders that cannot be replaced ----------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_in_one_that_is_closed_is_written(tmp_path):
    for parent in [tmp_path, *tmp_path.parents]:
        if not parent.stat().st_mode & stat.S_IXOTH and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    folder = write_folder(tmp_path / "closed" / "saved", OLD)
    (folder / "notes.txt").write_text("mine")
    for path in [folder, *folder.iterdir()]:
        os.chown(path, 65534, 65534)
    (tmp_path / "closed").chmod(0o555)

    def save():
        os.setgid(65534)
        os.setuid(65534)
        write_folder(folder, NEW)

    assert in_a_child(save) == 0
    assert content(tmp_path) == {f"closed/saved/{k}": v for k, v in {**NEW, "notes.txt": b"mine"}.items()}
    assert [path.name for path in (tmp_path / "closed").iterdir()] == ["saved"]


def test_a_mount_is_written(tmp_path):
    folder = tmp_path / "mount"
    folder.mkdir()
    code = (
        "import pathlib, sys; from ciao_peft.saving import write_folder; f = pathlib.Path(sys.argv[1]); "
        "(f / 'notes').write_text('mine'); [write_folder(f, {'weights': t, 'config': t}) for t in (b'old', b'new')]; "
        "print(sorted((p.name, p.read_text()) for p in f.iterdir()))"
    )
    script = f'mount -t tmpfs none "{folder}" || exit 77; exec "{sys.executable}" -c "$0" "{folder}"'
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, code], capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[('config', 'new'), ('notes', 'mine'), ('weights', 'new')]"


def test_where_folders_cannot_change_places_their_files_do(monkeypatch, tmp_path):
    from ciao_peft.saving import aside

    monkeypatch.setattr(aside, "exchange", lambda one, other: False)
    model, other = wrap(), wrap(temperature=0.7)
    folder = model.save_pretrained(tmp_path / "saved")
    inode = folder.stat().st_ino
    other.save_pretrained(folder)
    assert folder.stat().st_ino == inode
    assert load_adapter(folder).config.temperature == 0.7
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_where_files_cannot_be_linked_they_are_not_moved_either(monkeypatch, tmp_path):
    folder = write_folder(tmp_path / "saved", OLD)
    (folder / "notes.txt").write_text("mine")
    inode = (folder / "notes.txt").stat().st_ino

    def refuse(*args, **kwargs):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    write_folder(folder, NEW)
    assert content(tmp_path) == {f"saved/{k}": v for k, v in {**NEW, "notes.txt": b"mine"}.items()}
    assert (folder / "notes.txt").stat().st_ino == inode


# -- modes ------------------------------------------------------------------------------------------------------------


def test_a_second_save_keeps_modes_and_group(way, tmp_path):
    folder = wrap().save_pretrained(tmp_path / "saved")
    folder.chmod(0o700)
    for path in folder.iterdir():
        path.chmod(0o600)
    group = 12345 if os.geteuid() == 0 else folder.stat().st_gid
    for path in [folder, *folder.iterdir()]:
        os.chown(path, -1, group)
    wrap().save_pretrained(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert {path.stat().st_gid for path in [folder, *folder.iterdir()]} == {group}


# -- kills ------------------------------------------------------------------------------------------------------------

STEPS = ("mkdir", "link", "replace", "rename", "unlink", "fsync", "rmdir", "chmod", "scandir")


def killed_at(number, work):
    """Does some work in a process that is killed at one of its calls of the system; False if it ended before."""

    def counted():
        left = [number]

        def step(call):
            def stepped(*args, **kwargs):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return call(*args, **kwargs)

            return stepped

        for name in STEPS:
            setattr(os, name, step(getattr(os, name)))
        work()

    status = in_a_child(counted)
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status != 0


def test_a_kill_at_any_moment_strands_nobodys_files_and_the_next_save_clears_what_it_left(way, tmp_path):
    kills, met = 0, set()
    for number in range(200):
        folder = write_folder(tmp_path / str(number) / "saved", OLD)
        (folder / "notes.txt").write_text("mine")
        (folder / "runs" / "1").mkdir(parents=True)
        (folder / "runs" / "1" / "log").write_text("also mine")
        theirs = {"notes.txt": b"mine", "runs/1/log": b"also mine"}
        if not killed_at(number, lambda: write_folder(folder, NEW)):  # noqa: B023 - done at once
            break
        kills += 1
        found = content(folder)
        assert {name: found[name] for name in theirs} == theirs, number
        met.add((found["weights"], found["config"]))
        write_folder(folder, NEW | {"config": b"third"})
        assert content(folder.parent) == {f"saved/{k}": v for k, v in {**NEW, **theirs, "config": b"third"}.items()}
        assert os.listdir(folder.parent) == ["saved"]
    assert 10 < kills < 199
    assert {(b"old", b"old"), (b"new", b"new")} <= met <= {(b"old", b"old"), (b"new", b"new"), (b"new", b"old")}


def test_what_a_kill_of_an_earlier_version_stranded_comes_back(tmp_path):
    folder = write_folder(tmp_path / "saved", NEW)
    left = tmp_path / f".saved.{'0' * 32}.tmp"
    write_folder(left, OLD)
    (left / "notes.txt").write_text("mine")
    write_folder(folder, NEW)
    assert content(tmp_path) == {f"saved/{k}": v for k, v in {**NEW, "notes.txt": b"mine"}.items()}
    assert os.listdir(tmp_path) == ["saved"]


def test_what_a_living_saver_has_aside_is_left_alone(tmp_path):
    from ciao_peft.saving.aside import _open_aside

    folder = write_folder(tmp_path / "saved", OLD)
    aside, lock = _open_aside(tmp_path, "saved", private=True)
    write_folder(folder, NEW)
    assert aside.is_dir()
    os.close(lock)
    write_folder(folder, NEW)
    assert not aside.exists()


def test_a_checkpoint_whose_rewriting_is_killed_is_not_lost(way, tmp_path):
    kills = 0
    for number in range(60):
        folder = tmp_path / str(number)
        for name, text in (("checkpoint-5", "old"), (".checkpoint-5.tmp", "new")):
            (folder / name).mkdir(parents=True)
            (folder / name / STATE_FILE).write_text(text)
        work = lambda: move_into_place(folder / ".checkpoint-5.tmp", folder / "checkpoint-5")  # noqa: B023, E731
        if not killed_at(number, work):
            break
        kills += 1
        assert [path.name for path in checkpoint_folders(folder)] == ["checkpoint-5"], number
        clean_up(folder, 1)
        assert (folder / "checkpoint-5" / STATE_FILE).read_text() in ("old", "new")
        assert os.listdir(folder) == ["checkpoint-5"]
    assert 3 < kills < 59


def test_half_a_save_is_seen_by_its_digest(tmp_path, monkeypatch):
    from ciao_peft.saving import aside

    model, other = wrap(), wrap(hidden_sizes=(9,))
    folder, second = model.save_pretrained(tmp_path / "saved"), other.save_pretrained(tmp_path / "other")
    shutil.copy(second / "adapter_model.safetensors", folder)
    (folder / f".saving.{'0' * 32}.tmp").mkdir()
    with pytest.raises(AdapterFileError, match="config promises"):
        load_adapter(folder)
    monkeypatch.setattr(aside, "exchange", lambda one, two: False)
    model.save_pretrained(folder)
    assert same_bits(load_adapter(folder).tensors, bits(model.adapters["default"]))


# -- the home ---------------------------------------------------------------------------------------------------------


def test_a_tilde_is_the_home_wherever_a_folder_is_given(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    model = wrap()
    assert model.save_pretrained("~/fer") == tmp_path / "home" / "fer"
    assert load_adapter("~/fer").config == model.peft_config["default"]
    CIAOModel.from_pretrained(tiny_backbone(), "~/fer")
    model.load_adapter(Path("~/fer"), "again")
    save_encoder(load_encoder("small-face"), "~/encoder")
    load_encoder("~/encoder")
    stored = cache_features(tiny_backbone(), faces(4), "~/features")
    assert stored.folder == tmp_path / "home" / "features"
    assert CIAOTrainingArguments(output_dir="~/runs").output_dir == str(tmp_path / "home" / "runs")
    (tmp_path / "home" / "results.jsonl").touch()
    assert read_records("~/results.jsonl") == []
    shutil.rmtree(stored.folder)
    for path in (tmp_path / "home" / "results.jsonl", tmp_path / "home" / ".features.lock"):
        path.unlink(missing_ok=True)
    assert os.listdir(tmp_path) == ["home"]
    assert sorted(os.listdir(tmp_path / "home")) == ["encoder", "fer"]
    assert local_path("~") == tmp_path / "home"
