"""Draws docs/saliency.png and docs/networks.png: what the mask lets through, on painted faces.

python docs/make_saliency.py

Trains one adapter in each of three painted worlds, and the six networks of the paper in one of them, all on the bundled
encoder and from stored features where its trunk is frozen. Takes about three minutes on one core.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ciao_peft import (
    CIAOConfig,
    CIAOModel,
    CIAOTrainer,
    CIAOTrainingArguments,
    cache_features,
    load_encoder,
    load_faces,
    saliency_picture,
)
from ciao_peft.data import labels_of

HERE = Path(__file__).parent
FACES = {"num_train": 1000, "num_validation": 2, "num_test": 200, "size": 64}
# The columns of the paper's Table I: title, name of the adapter, settings.
NETWORKS = [
    (title + after, name + also, {"tuning": tuning, "inhibition": ciao, "contrastive_weight": float(ciao)})
    for title, name, tuning in (
        ("decision layer", "decision", "decision_layer"),
        ("last convolution", "last", "last_conv"),
        ("full", "full", "full"),
    )
    for after, also, ciao in (("", "", False), ("\n+ CIAO", "-ciao", True))
]


def main() -> None:
    with TemporaryDirectory() as folder:
        model = CIAOModel(load_encoder("small-face")).eval()
        for world in ("eight", "affect", "signals"):
            faces = load_faces("painted_faces", world=world, cache_dir=folder, **FACES)
            train(model, world, faces, cache_features(model, faces["train"], disable_tqdm=True))
        shown = faces["test"].select(range(3))
        (HERE / "saliency.png").write_bytes(saliency_picture(model, shown["image"]))

        faces = load_faces("painted_faces", world="eight", cache_dir=folder, **FACES)
        stored = cache_features(model, faces, disable_tqdm=True)
        for _, name, settings in NETWORKS:
            full = settings["tuning"] == "full"
            train(model, name, faces, faces["train"] if full else stored["train"], settings)
        rows = one_face_of_each(faces["test"], ("happiness", "sadness", "surprise", "disgust"))
        model.set_adapter("decision")
        png = saliency_picture(
            model,
            faces["test"].select(rows)["image"],
            {title: name for title, name, _ in NETWORKS},
            views=("saliency", "mask"),
            features=stored["test"].features(rows),
            names=[faces["test"].features["label"].int2str(faces["test"][row]["label"]) for row in rows],
        )
        (HERE / "networks.png").write_bytes(png)


def train(model: CIAOModel, name: str, faces: Any, data: Any, settings: dict[str, Any] | None = None) -> None:
    model.add_adapter(name, CIAOConfig(**labels_of(faces["train"]).as_config(), **(settings or {})))
    full = (settings or {}).get("tuning") == "full"
    arguments = CIAOTrainingArguments(num_train_epochs=4 if full else 15, report_to="none", disable_tqdm=True)
    trainer = CIAOTrainer(model, arguments, name)
    trainer.train(data)
    scores = trainer.evaluate(faces["test"])
    print(name, {key: round(value, 3) for key, value in scores.items()})


def one_face_of_each(faces: Any, labels: tuple[str, ...]) -> list[int]:
    """The first row with each label."""
    known = list(faces["label"])
    return [known.index(faces.features["label"].str2int(label)) for label in labels]


if __name__ == "__main__":
    main()
