"""Writes files as dlib's `serialize` does: small networks and small forests of landmark trees."""

from __future__ import annotations

import math

import numpy as np


def integer(value: int) -> bytes:
    size = (abs(value).bit_length() + 7) // 8
    return bytes([size | (0x80 if value < 0 else 0)]) + abs(value).to_bytes(size, "little")


def real(value: float) -> bytes:
    mantissa, exponent = math.frexp(float(np.float32(value)))
    return integer(int(mantissa * 2**24)) + integer(exponent - 24)


def text(value: str) -> bytes:
    return integer(len(value)) + value.encode()


def tensor(values: np.ndarray, sides: tuple[int, ...]) -> bytes:
    return b"".join(map(integer, (2, *sides))) + values.astype("<f4").tobytes()


def shape(*sides: int) -> bytes:
    return b"".join(map(integer, (1, *sides)))


STATE = b"110" + 3 * tensor(np.zeros(0), (0, 0, 0, 0))


def layer(name: str) -> bytes:
    return text(name) + STATE


def pooling(name: str, window: int, stride: int) -> bytes:
    return text(name) + b"".join(map(integer, (window, window, stride, stride, 0, 0))) + STATE


def unit(weight: np.ndarray, bias: np.ndarray, gain: np.ndarray, offset: np.ndarray, stride: int, first: bool) -> bytes:
    width, channels, kernel, _ = weight.shape
    padding = kernel // 2 if stride == 1 else 0
    values = np.concatenate([weight.ravel(), bias])
    written = text("con_4") + tensor(values, (len(values), 1, 1, 1))
    written += b"".join(map(integer, (width, kernel, kernel, stride, stride, padding, padding)))
    written += shape(width, channels, kernel, kernel) + shape(1, width, 1, 1) + 4 * real(1.0) + STATE
    written += integer(1) if first else b""
    written += text("affine_") + tensor(np.concatenate([gain, offset]), (2 * width, 1, 1, 1))
    return written + 2 * shape(1, width, 1, 1) + integer(0) + STATE


def network(widths: tuple[int, ...], blocks: tuple[int, ...], embedding_size: int) -> tuple[bytes, dict]:
    """A network of random weights in dlib's layout, and those weights: `(weight, bias, gain, offset)` by place."""
    rng = np.random.default_rng(0)
    weights: dict = {}

    def make(place: str, channels: int, width: int, kernel: int, stride: int) -> bytes:
        weight = rng.normal(size=(width, channels, kernel, kernel)) / (kernel * math.sqrt(channels))
        parts = (weight, rng.normal(size=width), rng.normal(1, 0.2, width), rng.normal(0, 0.2, width))
        weights[place] = tuple(part.astype(np.float32) for part in parts)
        return unit(*weights[place], stride, place == "stem")

    content = integer(1) + text("loss_metric_2") + real(0.04) + real(0.6) + 7 * integer(2) + integer(1) + integer(3)
    content += text("input_rgb_image_sized") + b"".join(map(real, (122.782, 117.001, 104.298))) + 2 * integer(150)
    content += make("stem", 3, widths[0], 7, 2) + layer("relu_") + pooling("max_pool_2", 3, 2)
    last = widths[0]
    for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for block in range(count):
            halves = level > 0 and block == 0
            content += make(f"{level}.{block}.first", last, width, 3, 2 if halves else 1) + layer("relu_")
            content += make(f"{level}.{block}.second", width, width, 3, 1)
            content += pooling("avg_pool_2", 2, 2) if halves else b""
            content += layer("add_prev_") + layer("relu_")
            last = width
    weights["embedding"] = rng.normal(size=(last, embedding_size)).astype(np.float32)
    content += pooling("avg_pool_2", 0, 1) + text("fc_2") + integer(embedding_size) + integer(last)
    content += tensor(weights["embedding"], (last, embedding_size, 1, 1)) + shape(last, embedding_size, 1, 1)
    return content + shape(0, 0, 0, 0) + integer(1) + 4 * real(1.0) + STATE, weights


def forest(cascades: int = 2, trees: int = 3, pixels: int = 4) -> tuple[bytes, dict[str, np.ndarray]]:
    """Random trees of 15 splits in dlib's layout, and what they hold, as `parse_landmarks` returns it."""
    rng = np.random.default_rng(0)
    held = {
        "shape": rng.random(10).astype(np.float32),
        "anchors": rng.integers(0, 5, (cascades, pixels)),
        "deltas": rng.normal(size=(cascades, pixels, 2)).astype(np.float32),
        "pixels": rng.integers(0, pixels, (cascades, trees, 15, 2)),
        "thresholds": rng.uniform(-64, 64, (cascades, trees, 15)).astype(np.float32),
        "leaves": rng.normal(size=(cascades, trees, 16, 10)).astype(np.float32),
    }

    def vector(values: np.ndarray) -> bytes:
        return integer(-10) + integer(-1) + b"".join(map(real, values))

    content = integer(1) + vector(held["shape"]) + integer(cascades)
    for k in range(cascades):
        content += integer(trees)
        for t in range(trees):
            content += integer(15)
            for (one, other), threshold in zip(held["pixels"][k, t], held["thresholds"][k, t], strict=True):
                content += integer(int(one)) + integer(int(other)) + real(threshold)
            content += integer(16) + b"".join(map(vector, held["leaves"][k, t]))
    content += integer(cascades)
    for anchors in held["anchors"]:
        content += integer(pixels) + b"".join(integer(int(anchor)) for anchor in anchors)
    content += integer(cascades)
    for deltas in held["deltas"]:
        content += integer(pixels) + b"".join(map(real, deltas.ravel()))
    return content, held
