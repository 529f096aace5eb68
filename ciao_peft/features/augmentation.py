"""Augmented views of pictures, each decided by seed, view and sample alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checking import check_number
from ..errors import ConfigError
from ..preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What may differ between the views of one face. View 0 is always the face as it is.

    Args:
        flip: Share of the views that are mirrored, 0 to 1.
        crop: Most of a side that a view may leave out, 0 to 0.9; what is left is drawn at full size.
        brightness: Most that is added to or taken from the pixels, as a share of white, 0 to 1.
        contrast: Most by which differences from the mean gray grow or shrink, 0 to 1.
        saturation: The same for differences from gray.
        seed: Of all of it.

    Example:
        >>> faces = torch.rand(2, 3, 8, 8)
        >>> augmentation = Augmentation(flip=1.0, crop=0.0, brightness=0.0, contrast=0.0, saturation=0.0)
        >>> torch.allclose(augmentation(faces, [0, 1], view=1, preprocessing=None), faces.flip(3), atol=1e-6)
        True
    """

    flip: float = 0.5
    crop: float = 0.1
    brightness: float = 0.1
    contrast: float = 0.2
    saturation: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            kind, high = (int, 2**63 - 1) if field.name == "seed" else (float, 0.9 if field.name == "crop" else 1)
            check_number(field.name, getattr(self, field.name), kind, 0, high, of="Augmentation")

    @property
    def changes_colour(self) -> bool:
        """Whether it touches more than the place of pixels."""
        return self.brightness > 0 or self.contrast > 0 or self.saturation > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def __call__(self, pixels: Tensor, indices: list[int], *, view: int, preprocessing: Preprocessing | None) -> Tensor:
        """One view of a batch.

        Args:
            pixels: `(B, C, H, W)` as the encoder is fed.
            indices: Place of each sample in its dataset.
            view: Number of the view; 0 gives the pixels back.
            preprocessing: Tells what is black and what is white; needed where colours change.

        Raises:
            ConfigError: colours are to change and there is no preprocessing.
        """
        if view == 0:
            return pixels
        if self.changes_colour and preprocessing is None:
            raise ConfigError(
                "Colours can only be changed where the preprocessing says what is black and white. Give "
                "`preprocessing=` to get_ciao_model, or set brightness, contrast and saturation to 0."
            )
        draws = np.stack([np.random.default_rng([self.seed, view, int(i)]).random(7) for i in indices])
        draws = torch.from_numpy(draws).to(pixels.device, torch.float32)
        moved = self._move(pixels.float(), draws)
        return (self._colour(moved, draws, preprocessing) if self.changes_colour else moved).to(pixels.dtype)

    def _move(self, pixels: Tensor, draws: Tensor) -> Tensor:
        scale = 1 - self.crop * draws[:, 1]
        mirrored = torch.where(draws[:, 0] < self.flip, -1.0, 1.0)
        zero = torch.zeros_like(scale)
        # Half of what is left out may go to either side, so that no view shows anything beyond the picture.
        shift_x, shift_y = ((2 * draws[:, k] - 1) * (1 - scale) for k in (2, 3))
        rows = [torch.stack([scale * mirrored, zero, shift_x], 1), torch.stack([zero, scale, shift_y], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
        return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def _colour(self, pixels: Tensor, draws: Tensor, preprocessing: Preprocessing) -> Tensor:
        mean, std = (
            torch.tensor(values, device=pixels.device).view(1, -1, 1, 1)
            for values in (preprocessing.mean, preprocessing.std)
        )
        light = pixels * std + mean
        added, contrast, saturation = ((2 * draws[:, k] - 1).view(-1, 1, 1, 1) for k in (4, 5, 6))
        gray = light.mean(dim=1, keepdim=True)
        light = gray + (light - gray) * (1 + self.saturation * saturation)
        middle = light.mean(dim=(1, 2, 3), keepdim=True)
        light = middle + (light - middle) * (1 + self.contrast * contrast) + self.brightness * added
        return (light.clamp(0, 1) - mean) / std
