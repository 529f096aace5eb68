"""Writes the model cards of what is in the package: of each encoder, and of each adapter by its record.

python docs/make_cards.py
"""

from __future__ import annotations

import json
from pathlib import Path

from ciao_peft.cards import adapter_card, card_without_record, encoder_card, text_reader
from ciao_peft.encoders import dlib_face, small_face
from ciao_peft.hub.bundled import FOLDER, PREFIX
from ciao_peft.saving import CARD_FILE, CONFIG_FILE

# What stands on a card of an encoder: its keys in the file beside its weights, and their names for a reader.
TOLD = {
    "trained_for": "trained for",
    "trained_on": "trained on",
    "trained_by": "trained by",
    "people": "faces and people",
    "terms": "terms",
    "converted_from": "converted from",
    "command": "command",
    "verification_auc": "AUC of verification",
    "verification_auc_of_random_weights": "the same, with random weights",
    "verification": "what was verified",
    "weights_bytes": "bytes of the weights",
    "weights_sha256": "SHA-256 of the weights",
}
LIMITS = """
## Intended use and limits

An encoder of faces, to put adapters on: it tells people apart and reads no affect by itself. It knows the faces that it
learned from, and serves others less well; who was in its training data, and in what light, nobody has counted beyond
what stands above. It is not for finding out who somebody is, and not for decisions about people.
"""


def cards() -> dict[Path, str]:
    """The text of each card by its place in the package."""
    written = {}
    for weights, name in ((dlib_face.WEIGHTS, "dlib-face"), (small_face.WEIGHTS, "small-face")):
        told = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
        training = {TOLD[key]: value for key, value in told.items() if key in TOLD}
        record = {"license": told["license"], "training": training, "versions": told.get("versions")}
        written[weights.with_suffix(".md")] = encoder_card(record, name, num_parameters=told["parameters"]) + LIMITS
    for folder in sorted(FOLDER.iterdir()):
        if (folder / CONFIG_FILE).is_file():
            record = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            existing = card_without_record(text_reader(folder), CONFIG_FILE)
            written[folder / CARD_FILE] = adapter_card(record, PREFIX + folder.name, existing=existing)
    return written


if __name__ == "__main__":
    for path, card in cards().items():
        path.write_text(card, encoding="utf-8")
        print(f"wrote {path}")
