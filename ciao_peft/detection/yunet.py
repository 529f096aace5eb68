"""YuNet (Wu, Peng and Yu, 2023), a small network that finds faces of many sizes; its weights are in this package."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checking import check_number
from ..errors import DataError
from ..packaged import packaged_bytes
from ..surroundings import outside_inference

if TYPE_CHECKING:
    import numpy as np

__all__ = ["WEIGHTS", "WEIGHTS_SHA256", "YuNet", "YuNetDetector"]

WEIGHTS = Path(__file__).parent / "weights" / "yunet.safetensors"
"""The bundled weights, made by `benchmarks/bundle_yunet.py`; their licence lies beside them."""

WEIGHTS_SHA256 = "48dceda34822672897a089f737d7b79b8341b7eeda08736033c0dac7d7d8f4a3"
"""Of the bundled weights."""

STRIDES = (8, 16, 32)
"""Pixels from one position of a map to the next, level by level."""

_WIDTHS = (16, 32, 64, 64, 64, 64)
_OUTPUTS = {"cls": 1, "obj": 1, "box": 4, "points": 10}


class _Separable(nn.Sequential):
    """A pointwise convolution, then a depthwise one of 3 x 3."""

    def __init__(self, width: int, channels: int, relu: bool = True):
        depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        super().__init__(nn.Conv2d(width, channels, 1), depthwise, *([nn.ReLU()] if relu else []))


class YuNet(nn.Module):
    r"""Finds faces at every position of three maps, as libfacedetection does.

    A position at column x and row y of a map with stride s (8, 16 or 32) tells of one face: how sure it is, by two
    numbers, where its box is, and its landmarks.

    $$p = \sqrt{\sigma(c)\,\sigma(o)}, \quad (c_x, c_y) = s\,(x + d_x, y + d_y), \quad (w, h) = s\,e^{(d_w, d_h)}$$

    Weights are random until `load_state_dict`; `YuNetDetector` loads those in the package.

    Shapes:
        - pixels: `(B, 3, H, W)`, RGB from 0 to 255, H and W multiples of 32.
        - output: scores `(B, N)`, 0 to 1; boxes `(B, N, 4)`, left, top, width and height; points `(B, N, 10)`, x and y
          of the eye on the left of the picture, the other eye, the tip of the nose and the corners of the mouth. All in
          pixels.

    Example:
        >>> scores, boxes, points = YuNet()(torch.zeros(1, 3, 64, 96))
        >>> scores.shape, boxes.shape, points.shape  # 8 * 12 + 4 * 6 + 2 * 3 positions
        (torch.Size([1, 126]), torch.Size([1, 126, 4]), torch.Size([1, 126, 10]))
    """

    stem: nn.Sequential
    stages: nn.ModuleList
    necks: nn.ModuleList
    heads: nn.ModuleList

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), _Separable(16, 16))
        self.stages = nn.ModuleList(
            nn.Sequential(_Separable(width, width), _Separable(width, wider))
            for width, wider in itertools.pairwise(_WIDTHS)
        )
        self.necks = nn.ModuleList(_Separable(64, 64) for _ in STRIDES)
        self.heads = nn.ModuleList(
            nn.ModuleDict({name: _Separable(64, size, relu=False) for name, size in _OUTPUTS.items()}) for _ in STRIDES
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(self.stem(pixels), 2)
        levels = []
        for number, stage in enumerate(self.stages):
            x = stage(F.max_pool2d(x, 2) if number >= 2 else x)
            if number >= 2:
                levels.append(x)
        found, deeper = [], None
        for level in reversed(range(len(STRIDES))):
            x = levels[level] if deeper is None else levels[level] + F.interpolate(deeper, scale_factor=2.0)
            deeper = self.necks[level](x)
            found.append(self._decoded(deeper, level))
        scores, boxes, points = (torch.cat(parts, dim=1) for parts in zip(*reversed(found), strict=True))
        return scores, boxes, points

    def _decoded(self, x: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
        stride, (rows, columns) = STRIDES[level], x.shape[-2:]
        heads = self.heads[level]
        assert isinstance(heads, nn.ModuleDict)
        out = {name: head(x).flatten(2).transpose(1, 2) for name, head in heads.items()}  # (B, rows * columns, ...)
        y, x = torch.meshgrid(*(torch.arange(n, device=x.device) for n in (rows, columns)), indexing="ij")
        place = torch.stack([x, y], dim=-1).view(1, -1, 2)
        size = stride * out["box"][..., 2:].exp()
        corner = stride * (place + out["box"][..., :2]) - size / 2
        points = stride * (place.repeat(1, 1, 5) + out["points"])
        scores = (out["cls"].sigmoid() * out["obj"].sigmoid()).sqrt()
        return scores[..., 0], torch.cat([corner, size], dim=-1), points


class YuNetDetector:
    """A detector that needs nothing but this package: YuNet, with the weights of libfacedetection.

    It finds faces of about 10 to 400 pixels, turned ones too. May be called in several threads at once.

    Args:
        threshold: Score from which on a hit counts as a face, above 0 and up to 1.
        overlap: Of two hits that share more than this (intersection over union), the surer one is kept; 0 to 1.
        device: Where the network runs.

    Raises:
        ConfigError: a setting is out of its range.
        AdapterFileError: the bundled weights are missing or damaged.

    Example:
        >>> import numpy as np
        >>> from ciao_peft.data import paint_face
        >>> scene = np.full((240, 320, 3), 110, np.uint8)
        >>> scene[60:180, 100:220] = paint_face(seed=2, size=120)
        >>> YuNetDetector()(np.zeros((240, 320, 3), np.uint8))
        []
    """

    parallel = True
    """That calls from several threads do not meet."""

    threshold: float
    overlap: float
    device: torch.device

    def __init__(self, threshold: float = 0.5, *, overlap: float = 0.3, device: str | torch.device = "cpu"):
        check_number("threshold", threshold, float, 0.01, 1)
        check_number("overlap", overlap, float, 0, 1)
        self.threshold, self.overlap, self.device = threshold, overlap, torch.device(device)
        self._network = _bundled(str(self.device))

    def __call__(self, image: np.ndarray) -> list[tuple[float, ...]]:
        """Finds the faces of a picture.

        Args:
            image: `(H, W, 3)`, uint8, RGB.

        Returns:
            For each face x, y, width, height, a score from 0 to 1, and x and y of five landmarks: the eye on the left
            of the picture, the other eye, the tip of the nose and the corners of the mouth; the surest face first.

        Raises:
            DataError: the image has another shape or type.
        """
        import numpy as np

        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise DataError(f"A detector needs (H, W, 3) of uint8; got {image.shape} of {image.dtype}.")
        with torch.inference_mode():
            # A copy: arrays of pictures may be read-only, which PyTorch warns of.
            pixels = torch.from_numpy(np.array(image)).to(self.device).permute(2, 0, 1)[None]
            height, width = image.shape[:2]
            pixels = F.pad(pixels.float(), (0, -width % 32, 0, -height % 32))
            found = self._network(pixels.contiguous(memory_format=torch.channels_last))
            scores, boxes, points = (part[0].float() for part in found)
            order = scores.argsort(descending=True, stable=True)
            order = order[: int((scores >= self.threshold).sum())]
            rows = torch.cat([boxes[order], scores[order, None], points[order]], dim=1).cpu().numpy()
        kept = _surest(rows, self.overlap)
        return [tuple(row) for row in rows[kept].tolist()]


def _surest(rows: np.ndarray, overlap: float) -> list[int]:
    """Which rows stay when each hit, the surest first, takes those away that it overlaps."""
    import numpy as np

    left, top, width, height = rows[:, :4].T
    area, free, kept = width * height, np.ones(len(rows), bool), []
    for index in range(len(rows)):
        if not free[index]:
            continue
        kept.append(index)
        across = np.minimum(left + width, left[index] + width[index]) - np.maximum(left, left[index])
        down = np.minimum(top + height, top[index] + height[index]) - np.maximum(top, top[index])
        shared = np.maximum(across, 0) * np.maximum(down, 0)
        free &= shared <= overlap * (area + area[index] - shared)
    return kept


@functools.cache
def _bundled(device: str) -> YuNet:
    from safetensors.torch import load

    content = packaged_bytes(WEIGHTS, WEIGHTS_SHA256, "that it was made with")
    with outside_inference():
        with torch.device("meta"):  # draws no numbers
            network = YuNet()
        network.load_state_dict(load(content), assign=True)
        network.eval().requires_grad_(False).to(device)
        return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
