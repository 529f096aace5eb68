"""What is published: an sdist whose tests run, a page whose links lead somewhere, data with a licence, one address."""

from __future__ import annotations

import fnmatch
import importlib
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

import ciao_peft
from helpers.places import PACKAGE, REPOSITORY
from helpers.processes import environment

COPIED = (
    "*.egg-info",
    "__pycache__",
    "build",
    "dist",
    "runs",
    "site",
    ".git",
    ".venv",
    ".*_cache",
    ".cache",
    ".hypothesis",
)


def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The unpacked sdist, built from a copy so that the checkout stays as it is."""
    pytest.importorskip("setuptools", minversion="77", reason="needs a setuptools that reads this pyproject.toml")
    folder = tmp_path_factory.mktemp("sdist")
    copy = shutil.copytree(REPOSITORY, folder / "copy", ignore=shutil.ignore_patterns(*COPIED))
    build = "import setuptools.build_meta as backend; backend.build_sdist('..')"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def test_an_sdist_holds_what_the_repository_holds(sdist):
    def files_of(folder: Path, *more: str) -> set[str]:
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        left_out = [pattern for one in (*COPIED, *more) for pattern in (one, f"{one}/*", f"*/{one}/*")]
        return {name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in left_out)}

    assert files_of(sdist, "PKG-INFO", "setup.cfg") == files_of(sdist.parent / "copy", "setup.cfg")


def test_tests_run_from_an_sdist(sdist, tmp_path):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/core/test_installed.py",
        "-k",
        "enough",
    ]
    done = subprocess.run(
        command, cwd=sdist, capture_output=True, text=True, env=environment() | {"PYTHONPATH": str(sdist)}, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert re.search(r"[1-9]\d* passed", done.stdout)


def test_the_page_of_the_package_has_no_link_that_only_a_checkout_has(sdist):
    page = (sdist / "PKG-INFO").read_text(encoding="utf-8").partition("\n\n")[2]
    links = re.findall(r"\]\(([^)\s]+)\)", page)
    address = re.search(r"^Project-URL: Repository, (\S+)$", (sdist / "PKG-INFO").read_text(), flags=re.MULTILINE)[1]
    assert f"{address}/blob/HEAD/docs/tutorial.md" in links
    assert [link for link in links if not re.match(r"https://|#", link)] == []


def test_every_data_file_in_the_package_has_its_terms_in_the_notice():
    listed = re.findall(r"^(ciao_peft/\S+)$", text_of("NOTICE"), flags=re.MULTILINE)
    packed = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    data = {path.relative_to(REPOSITORY).as_posix() for path in packed if path.suffix not in (".py", ".typed")}
    terms = {name for name in data if name.endswith(".LICENSE")}
    assert [name for name in data - terms if not any(fnmatch.fnmatch(name, pattern) for pattern in listed)] == []
    assert [pattern for pattern in listed if not fnmatch.filter(data, pattern)] == []
    spoken = set(re.findall(r"^    ([\w.-]+)\. ", text_of("NOTICE"), flags=re.MULTILINE))
    declared = re.search(r'^license = "(.+?)"', text_of("pyproject.toml"), flags=re.MULTILINE)[1]
    assert spoken == set(declared.split(" AND "))


def test_a_new_address_is_written_wherever_the_old_one_stands(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / ".ci"))
    address = importlib.import_module("address")
    (tmp_path / "docs").mkdir()
    for name in address.FILES:
        shutil.copy(REPOSITORY / name, tmp_path / name)
    present = re.search(r'^Repository = "(.+)"$', text_of("pyproject.toml"), flags=re.MULTILINE)[1]
    address.write_address(tmp_path, "https://forge.example/ann/ciao_peft")
    texts = [(tmp_path / name).read_text(encoding="utf-8") for name in address.FILES]
    assert [name for name, text in zip(address.FILES, texts, strict=True) if present in text] == []
    assert "git clone https://forge.example/ann/ciao_peft && cd ciao_peft" in texts[-1]
    everywhere = {
        path.relative_to(REPOSITORY).as_posix()
        for pattern in ("*.*", "docs/**/*.md", "ciao_peft/**/*.py")
        for path in REPOSITORY.glob(pattern)
        if path.is_file() and present in path.read_text(encoding="utf-8")
    }
    assert everywhere <= set(address.FILES)


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["version"] == ciao_peft.__version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert [author["family-names"] for author in citation["preferred-citation"]["authors"]] == ["Barros", "Sciutti"]


def test_the_hosted_tests_call_targets_that_there_are():
    workflow = yaml.safe_load(text_of(".github/workflows/tests.yml"))
    called = {one["target"] for one in workflow["jobs"]["make"]["strategy"]["matrix"]["include"]}
    assert {"test", "test-oldest", "quickstart"} <= called
    assert called <= set(re.findall(r"^([a-z-]+):", text_of("Makefile"), flags=re.MULTILINE))


def test_the_oldest_dependencies_are_tested_with_the_oldest_python():
    oldest = re.search(r'^requires-python = ">=([\d.]+)"$', text_of("pyproject.toml"), flags=re.MULTILINE)[1]
    workflow = yaml.safe_load(text_of(".github/workflows/tests.yml"))
    hosted = workflow["jobs"]["make"]["strategy"]["matrix"]["include"]
    assert {one["python"] for one in hosted if one["target"] == "test-oldest"} == {oldest}
    assert f" --python {oldest} build/oldest\n" in text_of("Makefile")
