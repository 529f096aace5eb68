"""The doors through which a model's own files come: adapters, encoders, features, checkpoints, the Hub, weights."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from ciao_peft import CIAOTrainer, CIAOTrainingArguments, cache_features, load_encoder
from ciao_peft.door import read_file
from ciao_peft.encoders import convert_encoder, save_encoder
from ciao_peft.encoders.dlib_network import parse_network
from ciao_peft.errors import AdapterFileError
from ciao_peft.preprocessing.landmark_file import parse_landmarks
from ciao_peft.saving.digest import DIGEST, digest_of_folder
from helpers import anybodys, dlib_files, published
from helpers.fakes import forge, sealed
from helpers.features import SQUARE
from helpers.features import faces as feature_faces
from helpers.training import faces, make_model

from .bombs import zip_bomb
from .door import Door, digest, state_of
from .mutations import Rng, json_tree, some_bytes

_WEIGHTS = "adapter_model.safetensors"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_plain(*paths: Path) -> bool:
    paths = (*paths, *(path.with_name("preprocessor_config.json") for path in paths[:1]))
    paths = tuple(path for path in paths if path.name != "preprocessor_config.json" or os.path.lexists(path))
    return all(path.is_file() and not path.is_symlink() and path.stat().st_size < 2**24 for path in paths)


def _forged(folder: Path) -> bool:
    """An adapter's checksums, made right again; whether that could be done."""
    if not _is_plain(folder / "adapter_config.json", folder / _WEIGHTS):
        return False
    text = (folder / "adapter_config.json").read_bytes()
    try:
        forge(folder, (folder / _WEIGHTS).read_bytes())
    except (ValueError, TypeError, RecursionError):  # a config that is no JSON any more
        (folder / "adapter_config.json").write_bytes(text)
        return False
    return True


class AdapterFolder(Door):
    name, about = "adapter", "an adapter's folder, for `load_adapter`"
    compares = True

    def make_seeds(self, folder: Path) -> None:
        for name, config in published.PROBLEMS.items():
            model = published.trained_model(config, "theirs")
            model.preprocessing = SQUARE
            model.save_pretrained(folder / name, "theirs", training={"dataset": "faces", "metrics": {"accuracy": 0.5}})
            if name == min(published.PROBLEMS):
                model.save_pretrained(folder / "in-int8", "theirs", dtype="int8")

    def start(self, scratch: Path) -> None:
        self.model = published.fresh_model()

    def state(self) -> Any:
        return state_of(self.model)

    def finish(self, folder: Path, rng: Rng) -> bool:
        return rng.random() < 0.6 and _forged(folder)

    def open(self, folder: Path, scratch: Path) -> Any:
        self.model.load_adapter(folder, adapter_name="theirs")
        found = self.model.adapters["theirs"]
        content = digest(found.state_dict(), found.config.to_dict(), self.model.preprocessing)
        with torch.no_grad():
            self.model(published.PIXELS)
        self.model.delete_adapter("theirs")
        return content


class EncoderFolder(Door):
    name, about = "encoder", "an encoder's folder of this library, for `load_encoder`"
    compares, hostile = True, frozenset({"elsewhere"})

    def make_seeds(self, folder: Path) -> None:
        small = load_encoder("small-face", pretrained=False, channels=(8, "pool", "pool", 12), embedding_size=4)
        save_encoder(small, folder / "small-face")
        save_encoder(load_encoder("timm/test_resnet", pretrained=False), folder / "timm")
        theirs = anybodys.written(anybodys.of_transformers(), folder / "foreign")
        save_encoder(load_encoder(theirs), folder / "transformers")
        shutil.rmtree(theirs)
        for name, backbone in (("inside", "test_resnet"), ("elsewhere", "hf-hub:ann/other")):
            shutil.copytree(folder / "transformers", folder / name)
            config = json.loads((folder / name / "config.json").read_bytes())
            config["architecture"] = {"model_type": "timm_backbone", "backbone": backbone}
            files = ("model.safetensors", "preprocessor_config.json")
            (folder / name / "config.json").write_text(json.dumps(sealed(config, folder / name, files)))

    def wanted(self, path: Path) -> bool:
        return path.name != "README.md"

    def finish(self, folder: Path, rng: Rng) -> bool:
        config, weights = folder / "config.json", folder / "model.safetensors"
        if rng.random() < 0.4 or not _is_plain(config, weights):
            return False
        try:
            record = json.loads(config.read_bytes())
            record |= {"weights_sha256": _sha256(weights)}
            config.write_text(json.dumps(sealed(record, folder, (weights.name, "preprocessor_config.json"))))
        except (ValueError, TypeError, RecursionError):
            return False
        return True

    def open(self, folder: Path, scratch: Path) -> Any:
        encoder = load_encoder(folder)
        return digest(encoder.state_dict(), getattr(encoder, "preprocessing", None), encoder.architecture)


class ForeignEncoder(EncoderFolder):
    name, about = "encoder-foreign", "a model's folder of transformers or timm, for `load_encoder`"
    compares = False

    def make_seeds(self, folder: Path) -> None:
        anybodys.written(anybodys.of_transformers(), folder / "transformers")
        anybodys.of_timm_in(folder).rename(folder / "timm")
        from transformers import TimmBackboneConfig, TimmWrapperConfig, TimmWrapperModel

        wrapped = TimmWrapperModel(TimmWrapperConfig(architecture="test_resnet", num_labels=0))
        wrapped.save_pretrained(folder / "wrapped")
        theirs = folder / "backbone"
        shutil.copytree(folder / "transformers", theirs)
        TimmBackboneConfig(backbone="test_resnet", use_pretrained_backbone=False).save_pretrained(theirs)


class Features(Door):
    name, about = "features", "a folder of stored features, for `cache_features`"
    compares = True

    def _store(self, folder: Path, number: str) -> Any:
        whole = {"include_excitation": True, "dtype": "bfloat16"} if number == "with-u" else {}
        model = getattr(self, "model", None) or published.fresh_model()
        return cache_features(model, feature_faces(20), folder, batch_size=1, disable_tqdm=True, **whole)

    def make_seeds(self, folder: Path) -> None:
        for name in ("plain", "with-u", "half"):
            self._store(folder / name / "features", name)
            (folder / name / "kind.txt").write_text(name)
        index = folder / "half" / "features" / "index.json"
        record = json.loads(index.read_bytes())
        record.pop("spots", None)
        index.write_text(json.dumps(sealed(record | {"complete": False}, index.parent, ())))
        (index.parent / "done.bin").write_bytes(b"\1" * 9 + b"\0" * 11)

    def start(self, scratch: Path) -> None:
        self.model = published.fresh_model()

    def state(self) -> Any:
        return state_of(self.model)

    def wanted(self, path: Path) -> bool:
        return path.name != "kind.txt"

    def finish(self, folder: Path, rng: Rng) -> bool:
        index = folder / "features" / "index.json"
        if rng.random() < 0.4 or not _is_plain(index):
            return False
        try:
            index.write_text(json.dumps(sealed(json.loads(index.read_bytes()), index.parent, ())))
        except (ValueError, TypeError, AttributeError, RecursionError):
            return False
        return True

    def open(self, folder: Path, scratch: Path) -> Any:
        stored = self._store(folder / "features", (folder / "kind.txt").read_text())
        return digest(stored.features(range(len(stored))))


class Checkpoint(Door):
    name, about = "checkpoint", "a checkpoint of a training, for `resume_from_checkpoint`"
    compares = True

    def _trainer(self, **settings: Any) -> CIAOTrainer:
        values = {"num_train_epochs": 2, "per_device_train_batch_size": 12, "load_best_model_at_end": True}
        values |= {"report_to": "none", "disable_tqdm": True, "feature_cache": "never", "logging_steps": 1}
        return CIAOTrainer(self.model, CIAOTrainingArguments(**(values | settings)))

    def begin(self) -> None:
        self.model = make_model()

    def state(self) -> Any:
        return state_of(self.model)

    def make_seeds(self, folder: Path) -> None:
        aside = folder.parent / "training"
        self.begin()
        self._trainer(output_dir=aside, save_strategy="steps", save_steps=1).train(faces(), faces(6))
        for number in (1, 3):
            shutil.copytree(aside / f"checkpoint-{number}", folder / f"step-{number}")
        shutil.rmtree(aside)

    def wanted(self, path: Path) -> bool:
        return path.name != "README.md"

    def finish(self, folder: Path, rng: Rng) -> bool:
        state = folder / "trainer_state.json"
        if rng.random() < 0.3 or not _is_plain(state):
            return False
        try:
            record = json.loads(state.read_bytes())
            names = [name for name in record["files"] if _is_plain(folder / name)]
            if rng.random() < 0.3:
                _forged(folder)
            record["files"] |= {name: _sha256(folder / name) for name in names}
            state.write_text(json.dumps(record | {DIGEST: digest_of_folder(record, record["files"])}))
        except (ValueError, TypeError, KeyError, RecursionError):
            return False
        return True

    def open(self, folder: Path, scratch: Path) -> Any:
        self._trainer(resume_from_checkpoint=str(folder)).train(faces(), faces(6))
        return digest(self.model.adapters["default"].state_dict())


class Hub(Door):
    name, about = "hub", "a repository on the Hub, and what the Hub answers"
    limit, compares = 5.0, True
    reaches = frozenset({"127.0.0.1", "localhost", "::1"})

    def make_seeds(self, folder: Path) -> None:
        published.trained_model().save_pretrained(folder / "faces" / "repository", "faces")

    def start(self, scratch: Path) -> None:
        from huggingface_hub import constants

        from helpers.hub_server import LocalHub

        self.hub = LocalHub().__enter__()
        self.model = published.fresh_model()
        constants.ENDPOINT, constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET = self.hub.url, False, True
        constants.HUGGINGFACE_CO_URL_TEMPLATE = self.hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        wait = time.sleep
        time.sleep = lambda seconds: wait(min(seconds, 0.01))  # between the client's attempts

    def state(self) -> Any:
        return state_of(self.model)

    def wanted(self, path: Path) -> bool:
        return path.name != "fault.json"

    def finish(self, folder: Path, rng: Rng) -> bool:
        fault = {"seed": rng.randrange(10**6), "how": rng.choice(("json", "bytes", "status", "cut", "none"))}
        fault["pattern"] = rng.choice(("GET /api/models", "GET .*safetensors", "GET .*json", "HEAD .*", "GET /", "."))
        fault["status"] = rng.choice((200, 204, 206, 302, 304, 400, 401, 403, 404, 409, 416, 418, 429, 500, 503))
        fault["times"] = rng.choice((1, 2, None))
        (folder / "fault.json").write_text(json.dumps(fault))
        return False

    def open(self, folder: Path, scratch: Path) -> Any:
        fault = {"how": "none"}
        if (folder / "fault.json").is_file():
            fault = json.loads((folder / "fault.json").read_text())
        self.hub.clear()
        files = {path.name: path.read_bytes() for path in (folder / "repository").iterdir() if _is_plain(path)}
        self.hub.add("ann/faces", files)
        rng, ways = Rng(fault.get("seed")), {}
        if fault["how"] == "status":
            ways = {"status": fault["status"]}
        elif fault["how"] == "cut":
            ways = {"cut_after": rng.choice((0, 1, 10, 1000))}
        elif fault["how"] in ("json", "bytes"):
            change = json_tree if fault["how"] == "json" else some_bytes
            ways = {"replace": lambda content: change(content, rng)}
        pattern = fault.get("pattern", "^$") if ways else "^$"
        with self.hub.failing(pattern, times=fault.get("times"), **ways):
            self.model.load_adapter("ann/faces", adapter_name="theirs", cache_dir=scratch / "cache")
        content = digest(self.model.adapters["theirs"].state_dict())
        self.model.delete_adapter("theirs")
        return content


_VGG = dict(enumerate((64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)))


class Conversion(Door):
    name, about = "convert", "weights of VGG16 in foreign files, for `ciao convert-encoder`"
    fast, warms_up, limit = False, False, 12.0  # a whole one is a forward pass of VGG16 in NumPy, and 59 MB to write

    def _shapes(self) -> list[tuple[int, int]]:
        return [(_VGG[number], _VGG[number - 1] if number else 3) for number in _VGG]

    def make_seeds(self, folder: Path) -> None:
        import h5py
        import numpy as np

        for name in ("torchvision", "vggface", "keras", "keras3", "safetensors", "small", "payload", "bomb"):
            (folder / name).mkdir(parents=True)
        places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
        units = [f"{b}_{i}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)]
        one = torch.full((1,), 0.01)
        state = {}
        for place, (out, into) in zip(places, self._shapes(), strict=True):  # one stored number each: small files
            state |= {
                f"features.{place}.weight": one.expand(out, into, 3, 3),
                f"features.{place}.bias": one.expand(out),
            }
        torch.save(state, folder / "torchvision" / "weights.pth")
        names = {f"features.{place}": f"conv{unit}" for place, unit in zip(places, units, strict=True)}
        other = {f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in state.items()}
        torch.save({"state_dict": other}, folder / "vggface" / "weights.pth", _use_new_zipfile_serialization=False)
        for name in ("keras", "keras3"):
            with h5py.File(folder / name / "weights.h5", "w") as file:
                for number, (unit, (out, into)) in enumerate(zip(units, self._shapes(), strict=True)):
                    layer = (
                        f"block{unit[0]}_conv{unit[2]}"
                        if name == "keras"
                        else f"layers/conv2d{f'_{number}' * (number > 0)}"
                    )
                    parts = (
                        (f"{layer}/kernel:0", f"{layer}/bias:0")
                        if name == "keras"
                        else (f"{layer}/vars/0", f"{layer}/vars/1")
                    )
                    for part, shape in zip(parts, ((3, 3, into, out), (out,)), strict=True):
                        file.create_dataset(part, data=np.zeros(shape, "f4"), compression="gzip", chunks=True)
        import zipfile

        with zipfile.ZipFile(folder / "keras3" / "weights.keras", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(folder / "keras3" / "weights.h5", "model.weights.h5")
            archive.writestr("config.json", "{}")
        (folder / "keras3" / "weights.h5").unlink()
        from safetensors.torch import save_file

        save_file(
            {key: value.contiguous() for key, value in state.items()}, folder / "safetensors" / "weights.safetensors"
        )
        save_file({key: torch.zeros(2) for key in state}, folder / "small" / "weights.safetensors")
        (folder / "payload" / "weights.pth").write_bytes(b"\x80\x02cposix\nsystem\nX\r\x00\x00\x00touch reached\x85R.")
        (folder / "bomb" / "weights.keras").write_bytes(zip_bomb("model.weights.h5", 3 * 10**9))

    def open(self, folder: Path, scratch: Path) -> Any:
        source = next(iter(sorted(folder.iterdir())), folder / "weights.pth")
        convert_encoder(source, scratch / "converted", channel_order="rgb")
        return None


class DlibFiles(Door):
    name, about = "dlib", "dlib's files of networks and landmark trees, for `ciao convert-encoder --from dlib`"
    compares = False  # in use only the files with dlib's own checksums get this far

    def make_seeds(self, folder: Path) -> None:
        for name, content in (("network", dlib_files.network((4, 6), (1, 1), 5)[0]), ("trees", dlib_files.forest()[0])):
            (folder / name).mkdir(parents=True)
            (folder / name / f"{name}.dat").write_bytes(content)

    def open(self, folder: Path, scratch: Path) -> Any:
        path = next(iter(sorted(folder.iterdir())), folder / "network.dat")
        content = read_file(path, 2**26, error=AdapterFileError)
        if path.name.startswith("trees"):
            parse_landmarks(content, str(path))
        else:
            parse_network(content, str(path), widths=(4, 6), blocks=(1, 1), embedding_size=5)


class ModelCard(Door):
    name, about = "card", "a model card by others, in a folder that is saved into"

    def make_seeds(self, folder: Path) -> None:
        published.trained_model().save_pretrained(folder / "ours", "faces")
        (folder / "theirs").mkdir()
        text = "---\nlicense: mit\ntags: [a, b]\nmodel-index:\n- name: x\n  results: []\n---\n\n# Mine\n\nProse.\n"
        (folder / "theirs" / "README.md").write_text(text)

    def start(self, scratch: Path) -> None:
        self.model = published.trained_model()

    def state(self) -> Any:
        return state_of(self.model)

    def wanted(self, path: Path) -> bool:
        return path.name == "README.md"

    def open(self, folder: Path, scratch: Path) -> Any:
        self.model.save_pretrained(folder, "faces")
        return None


MODEL_DOORS = (
    AdapterFolder,
    EncoderFolder,
    ForeignEncoder,
    Features,
    Checkpoint,
    Hub,
    Conversion,
    DlibFiles,
    ModelCard,
)
