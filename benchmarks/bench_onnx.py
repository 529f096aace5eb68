"""An exported model in ONNX Runtime against PyTorch, on one thread: float32, a trunk of 8 bits, and what that costs.

    python benchmarks/bench_onnx.py --data_dir ../shared/faces

Takes about five minutes; painted faces stand in where the folder is missing. Each model gets one adapter, trained for a
few epochs on stored features; VGG16 has fresh weights, so that its accuracy says nothing and its change does. Faces for
calibration and test are of people that the training has not seen. Swapping is timed between two adapters that are
loaded, and from the file.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_equal_accuracy import faces_of
from measuring import arguments, in_turns, medians, ratio, recorded, tiny, vgg16

from ciao_peft import (
    CIAOConfig,
    CIAOTrainer,
    CIAOTrainingArguments,
    Preprocessing,
    cache_features,
    get_ciao_model,
    load_encoder,
)
from ciao_peft.data import labels_of
from ciao_peft.deploy.runner import Runner


def of_the_package(name: str):
    encoder = load_encoder(name)
    return encoder, encoder.preprocessing


CASES = {  # what makes network and preprocessing, and how many faces are read at once
    "VGG16, 96x96": (lambda: (vgg16(), Preprocessing(size=(96, 96))), 8),
    "small-face": (lambda: of_the_package("small-face"), 16),
    "dlib-face": (lambda: of_the_package("dlib-face"), 8),
}
SMOKE = {"tiny": (lambda: (tiny(), Preprocessing(size=(16, 16))), 4)}


def pixels_of(faces, preprocessing) -> torch.Tensor:
    return torch.cat([preprocessing(batch["image"]) for batch in faces.iter(64)])


def trained(make, faces, labels: dict[str, Any], epochs: int):
    """A model with an adapter that learned from the faces, and one more that swaps with it."""
    network, preprocessing = make()
    model = get_ciao_model(network, CIAOConfig(**labels), "first", preprocessing=preprocessing)
    stored = cache_features(model, {"train": faces}, include_excitation=True, disable_tqdm=True)
    settings: dict[str, Any] = {"num_train_epochs": epochs, "eval_strategy": "no", "report_to": "none"}
    CIAOTrainer(model, CIAOTrainingArguments.recipe("paper", disable_tqdm=True, **settings)).train(stored["train"])
    model.add_adapter("second", CIAOConfig(**labels))
    return model.eval()


def measured(make, batch_size: int, faces: dict, labels: dict[str, Any], turns: int, epochs: int) -> dict[str, Any]:
    model = trained(make, faces["train"], labels, epochs)
    calibration = pixels_of(faces["calibration"], model.preprocessing)
    test, truth = pixels_of(faces["test"], model.preprocessing), np.array(faces["test"]["label"])
    with tempfile.TemporaryDirectory() as place:
        exact = model.export_onnx(Path(place) / "float32")
        small = model.export_onnx(Path(place) / "int8", quantize="int8", calibration=calibration)
        runners = {"float32": Runner(exact, threads=1), "int8": Runner(small, threads=1)}
        answers = {name: answered(runner, test) for name, runner in runners.items()}
        with torch.inference_mode():
            answers["torch"] = torch.cat(
                [model.read(rows, adapter_names=["first"])["first"] for rows in test.split(64)]
            ).numpy()
        sizes = {
            name: {path.name: path.stat().st_size for path in folder.rglob("*.onnx")}
            for name, folder in (("float32", exact), ("int8", small))
        }
        return {
            "batch_size": batch_size,
            "bytes": sizes,
            "accuracy": {name: float((own.argmax(1) == truth).mean()) for name, own in answers.items()},
            "same_class": float((answers["int8"].argmax(1) == answers["torch"].argmax(1)).mean()),
            "difference": float(np.abs(answers["float32"] - answers["torch"]).max()),
            "test_faces": len(truth),
            "calibration_faces": len(calibration),
            **timed(model, runners, test[:batch_size].contiguous(), turns),
            "swap": swapped(runners["float32"], test[:1].numpy(), turns),
        }


def answered(runner: Runner, pixels: torch.Tensor) -> np.ndarray:
    runner.choose("first")
    return np.concatenate([runner.read(rows.numpy())["first"]["logits"] for rows in pixels.split(64)])


def timed(model, runners: dict[str, Runner], pixels: torch.Tensor, turns: int) -> dict[str, Any]:
    """Seconds of trunk and one adapter, and of the trunk alone."""
    model.set_adapter("first")
    runs: dict[str, Any] = {}
    with torch.inference_mode():
        for rows in (batch_size := len(pixels), 1):
            some = pixels[:rows]
            runs[f"torch {rows}"] = lambda some=some: model.read(some, adapter_names=["first"])
            for name, runner in runners.items():
                runs[f"{name} {rows}"] = lambda runner=runner, some=some: runner.read(some.numpy())
        runs["trunk torch"] = lambda: model.extract_features(pixels, include_excitation=True)
        for name, runner in runners.items():
            session = runner._trunks["trunk.onnx"]
            runs[f"trunk {name}"] = lambda session=session: session.run(None, {"pixel_values": pixels.numpy()})
        seconds = in_turns(runs, turns)
    compared = {
        f"{slow} / {fast} {rows}": ratio(seconds, f"{slow} {rows}", f"{fast} {rows}")
        for rows in (batch_size, 1)
        for slow, fast in (("torch", "float32"), ("float32", "int8"), ("torch", "int8"))
    }
    compared["trunk float32 / int8"] = ratio(seconds, "trunk float32", "trunk int8")
    return {"seconds": medians(seconds), "ratio": compared}


def swapped(runner: Runner, one: np.ndarray, turns: int) -> dict[str, float]:
    """Milliseconds to choose another adapter: one that is loaded, and one from its file, with its checksum."""

    def choose() -> None:
        for _ in range(500):
            runner.choose("second")
            runner.choose("first")

    def load() -> None:
        runner.unload("second")
        runner.load("second")

    found = medians(in_turns({"choose": choose, "load": load}, max(turns, 3)))
    runner.choose("first")
    return {"loaded_ms": found["choose"], "from_file_ms": 1000 * found["load"]}


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv, data_dir=Path("../shared/faces"), train_faces=400, test_faces=400)
    with recorded("onnx", args) as record:
        name, faces = faces_of(args.data_dir, args.smoke)
        labels = labels_of(faces["train"]).as_config()
        held_out = faces["held_out"].shuffle(seed=0)
        calibrating = min(128, len(held_out) // 2)
        chosen = {
            "train": faces["train"].shuffle(seed=0).select(range(min(args.train_faces, len(faces["train"])))),
            "calibration": held_out.select(range(calibrating)),
            "test": held_out.select(range(calibrating, min(calibrating + args.test_faces, len(held_out)))),
        }
        record["faces"] = name
        cases = SMOKE if args.smoke else CASES
        turns, epochs = (1, 1) if args.smoke else (7, 4)
        record["cases"] = {
            case: measured(make, batch_size, chosen, labels, turns, epochs)
            for case, (make, batch_size) in cases.items()
        }
        import onnxruntime

        record["onnxruntime"] = onnxruntime.__version__


if __name__ == "__main__":
    main()
