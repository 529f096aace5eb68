"""Every file from outside comes through one door: no module reads one in a way of its own."""

from __future__ import annotations

import ast

from helpers.places import PACKAGE

# What opens or parses a file, as the last two names of a call.
READS = {
    *("open", "os.open", "io.open", "codecs.open", "os.fdopen", "io.FileIO", "fileinput.input"),
    *("read_text", "read_bytes", "readlines", "json.load", "json.loads", "json.JSONDecoder"),
    *("yaml.load", "yaml.safe_load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "yaml.safe_load_all"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open", "joblib.load"),
    *("np.load", "np.fromfile", "np.memmap", "np.loadtxt", "np.genfromtxt", "format.open_memmap"),
    *("torch.load", "torch.from_file", "jit.load", "load_file", "safe_open", "load_state_dict_from_url"),
    *("Image.open", "ImageFile.Parser", "cv2.imread", "cv2.VideoCapture", "av.open", "imageio.imread"),
    *("zipfile.ZipFile", "ZipFile", "tarfile.open", "tarfile.TarFile", "gzip.open", "gzip.GzipFile", "bz2.open"),
    *("lzma.open", "zlib.decompress", "gzip.decompress", "shutil.unpack_archive", "h5py.File"),
    *("csv.reader", "csv.DictReader", "pd.read_csv", "pd.read_json", "pandas.read_csv", "tomllib.load"),
    *("tomllib.loads", "configparser.ConfigParser", "ElementTree.parse", "ElementTree.fromstring", "mmap.mmap"),
}

# The door itself, and who has to read in a way of its own; each with its reason.
ALLOWED = {
    ("door.py", "os.open"): "the door",
    ("door.py", "os.fdopen"): "the door",
    ("door.py", "json.loads"): "the door",
    ("plain_yaml.py", "yaml.load"): "the door's, with a loader of its own",
    ("door.py", "archive.open"): "the door: a member of an archive, piece by piece",
    ("saving/aside.py", "os.open"): "a folder, to sync it",
    ("saving/safetensors_file.py", "json.loads"): "the header of weights, whose length was looked at",
    ("saving/safetensors_file.py", "torch.from_file"): "mapped, once the door has looked at the file",
    ("saving/safetensors_file.py", "read_bytes"): "the same where a disk cannot map, of the size that was looked at",
    ("saving/files.py", "path.open"): "what this process has just written, to sync it",
    ("remote/store.py", "_fs.open"): "a file on a web server, as many bytes as it said",
    ("remote/fetching.py", "open"): "to write what a store gives",
    ("trainer/precision.py", "read_text"): "/proc/cpuinfo",
    ("trainer/checkpoint.py", "read_bytes"): "what this process has just written",
    ("features/store.py", "open"): "rows, in place, at the offsets that the index gives",
    ("features/checks.py", "open"): "rows, whose sizes were looked at",
    ("features/layout.py", "path.open"): "rows, whose sizes were looked at",
    ("features/layout.py", "mmap.mmap"): "rows, as many bytes as the layout says",
    ("features/layout.py", "os.open"): "to fill a file of this process, no link",
    ("features/layout.py", "os.fdopen"): "the same",
    ("features/layout.py", "torch.from_file"): "rows, mapped, once their size was looked at",
    ("features/layout.py", "read_text"): "/proc/meminfo",
    ("features/digests.py", "read_bytes"): "a picture that was decoded before",
    ("preprocessing/pictures.py", "Image.open"): "from a file that the door opened",
    ("data/builder.py", "read_bytes"): "the code of the builders, of this package",
    ("data/builder.py", "Image.open"): "from a file that the door opened",
    ("data/cropping.py", "Image.open"): "from a file that the door opened",
    ("data/affectnet.py", "np.load"): "from bytes that the door read",
    ("data/tables.py", "csv.reader"): "from lines that the door reads",
    ("data/tables.py", "csv.DictReader"): "from lines that the door reads",
    ("data/frames.py", "av.open"): "by its path, if that is a regular file",
    ("data/frames.py", "cv2.VideoCapture"): "by its path, if that is a regular file; a camera by its number",
    ("packaged.py", "json.loads"): "a file of this package",
    ("deploy/export.py", "read_bytes"): "what this process has just written",
    ("deploy/runner.py", "read_bytes"): "by itself, without this package; its checksum is looked at before use",
    ("deploy/runner.py", "json.loads"): "the same",
    ("deploy/align.py", "np.load"): "the same: arrays alone, no pickles",
    ("deploy/runner.py", "Image.open"): "the same: a picture that its caller names",
    ("packaged.py", "read_bytes"): "a file of this package",
    ("encoders/conversion.py", "torch.load"): "with `weights_only`, in bounds",
    ("encoders/conversion.py", "zipfile.ZipFile"): "of bytes that the door read, members in bounds",
    ("encoders/conversion.py", "h5py.File"): "of bytes that the door read",
    ("encoders/from_transformers.py", "json.loads"): "what a config of transformers wrote",
    ("study/records.py", "json.loads"): "a line that the door refused, to say whether it is JSON at all",
    ("study/records.py", "path.open"): "to append; its last byte is read",
    ("study/report/figures.py", "Image.open"): "a figure that was drawn in memory",
    ("study/data.py", "format.open_memmap"): "a new file, to be written",
    ("study/data.py", "np.load"): "pixels that the study keeps for itself",
    ("capacity.py", "Image.open"): "a picture that was painted here",
    ("demo/looking.py", "Image.open"): "from bytes that the page encoded itself",
    ("demo/page.py", "Image.open"): "from bytes that a visitor sent; nothing is decoded before our limits",
    ("cli/search.py", "read_text"): "the page that the search has just written",
    ("cli/tune.py", "read_text"): "the table that the tuning has just written",
    ("data/shards.py", "_filesystem.open"): "files of a caller's store, read in parts of bounded size",
    ("data/shards.py", "tarfile.open"): "uncompressed; members are read by place and size, in bounds, none is unpacked",
    ("data/whole_video.py", "av.open"): "by its path, if that is a regular file",
    ("data/whole_video.py", "cv2.VideoCapture"): "the same",
    ("demo/learning.py", "zipfile.ZipFile"): "written in memory",
    ("engine.py", "pickle.loads"): "of an error that this process has just pickled",
    ("features/ray_pass.py", "open"): "rows that a worker of this pass has written",
    ("features/ray_pass.py", "pickle.loads"): "what a worker of this pass sent, as Ray itself does",
    ("online/saving.py", "read_bytes"): "what this process has just written",
    ("study/on_ray.py", "pickle.loads"): "the plan that the process which started this worker sent",
    ("study/search/on_ray.py", "pickle.loads"): "the same",
}

_WRITING = ("w", "wb", "a", "ab", "x", "xb")


def _name(function):
    """`np.load`, `path.open`, `open`: the last two names of what is called."""
    if isinstance(function, ast.Name):
        return function.id
    if isinstance(function, ast.Attribute):
        before = function.value
        first = before.attr if isinstance(before, ast.Attribute) else getattr(before, "id", "")
        return f"{first}.{function.attr}" if first else function.attr
    return ""


def _only_writes(call):
    place = 0 if isinstance(call.func, ast.Attribute) else 1
    modes = [*call.args[place : place + 1], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    return any(isinstance(mode, ast.Constant) and mode.value in _WRITING for mode in modes)


def _is_round_trip(call):
    """`json.loads(json.dumps(value))`, which makes plain data of plain data."""
    return bool(call.args) and isinstance(call.args[0], ast.Call) and _name(call.args[0].func) == "json.dumps"


def reads_of(source):
    """The calls in a module that read a file or parse one, each as `np.load` or, of any path, `path.open`."""
    found = set()
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        name = _name(call.func)
        last = name.rpartition(".")[2]
        known = name if name in READS else last if last in READS - {"open"} else None
        if last == "open" and known is None:
            known = name
        if known is not None and not (last == "open" and _only_writes(call)) and not _is_round_trip(call):
            found.add(known)
    return found


def test_no_module_reads_a_file_in_a_way_of_its_own():
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        found |= {(name, call) for call in reads_of(path.read_text(encoding="utf-8")) if not _is_no_file(name, call)}
    assert sorted(found - {*ALLOWED}) == [], "read it through `ciao_peft.door`, or say in this test why not"
    assert sorted({*ALLOWED} - found) == [], "these are not there any more"


def _is_no_file(name, call):
    """`frozen.open()` cuts a backbone; the file objects of `features/store.py` are all rows of one store."""
    return call in ("_frozen.open", "frozen.open")


def test_the_search_finds_each_way_to_read_a_file():
    lines = ("open(p)", "p.open()", "p.open('r+b')", "open(p, 'rb')", "Path(p).read_text()", "json.load(f)")
    lines += ("yaml.safe_load(t)", "numpy.lib.format.open_memmap(p)", "PIL.Image.open(p)", "zipfile.ZipFile(p)")
    for line in lines:
        assert reads_of(f"def read():\n    return {line}"), line
    for line in ("open(p, 'wb')", "p.open('a')", "json.loads(json.dumps(x))", "read_file(p, 10)", "opened(p)"):
        assert not reads_of(f"def read():\n    return {line}"), line
