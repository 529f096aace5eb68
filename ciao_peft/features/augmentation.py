"""Augmented views of pictures, decided by seed, view and sample alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checking import check_number, make_plain
from ..errors import ConfigError
from ..preprocessing import Preprocessing

__all__ = ["Augmentation"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Makes augmented views of pictures. View 0 is always the picture as it is.

    Args:
        flip: Share of the views that are mirrored, 0 to 1.
        crop: Largest share of a side that a view leaves out, 0 to 0.9; the rest is enlarged to full size.
        brightness: Largest shift of the pixels up or down, as a share of white, 0 to 1.
        contrast: Largest share by which differences from the mean gray grow or shrink, 0 to 1.
        saturation: Largest share by which differences from gray grow or shrink, 0 to 1.
        seed: Another seed gives other views.

    Raises:
        ConfigError: a setting is out of its range.

    Shapes:
        pixels and output: `(B, C, H, W)`, same dtype.

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
        make_plain(self)
        for field in fields(self):
            kind, high = (int, 2**63 - 1) if field.name == "seed" else (float, 0.9 if field.name == "crop" else 1)
            check_number(field.name, getattr(self, field.name), kind, 0, high, of="Augmentation")

    @classmethod
    def of_views(cls, views: int) -> Augmentation | None:
        """How as many views differ in a training; None for one, which is the picture as it is.

        Args:
            views: 2 for the picture and its mirror image; with more, all but the first are mirrored by chance and
                cropped by up to a tenth.

        Example:
            >>> Augmentation.of_views(2)
            Augmentation(flip=1.0, crop=0.0, brightness=0.0, contrast=0.0, saturation=0.0, seed=0)
        """
        if views == 1:
            return None
        flip, crop = (1.0, 0.0) if views == 2 else (0.5, 0.1)
        return cls(flip=flip, crop=crop, brightness=0.0, contrast=0.0, saturation=0.0)

    @property
    def changes_colour(self) -> bool:
        """Whether brightness, contrast or saturation may change."""
        return self.brightness > 0 or self.contrast > 0 or self.saturation > 0

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain data."""
        return asdict(self)

    def __call__(self, pixels: Tensor, indices: list[int], *, view: int, preprocessing: Preprocessing | None) -> Tensor:
        """Makes one view of a batch.

        Args:
            pixels: `(B, C, H, W)`, prepared as for the encoder.
            indices: Number of each sample in its dataset, `B` numbers.
            view: Number of the view; 0 returns the pixels unchanged.
            preprocessing: Tells which values are black and white; needed if colours change.

        Returns:
            The augmented pixels, `(B, C, H, W)`, in the dtype of `pixels`.

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
        if preprocessing is not None and self.changes_colour:
            moved = self._colour(moved, draws, preprocessing)
        return moved.to(pixels.dtype)

    def _move(self, pixels: Tensor, draws: Tensor) -> Tensor:
        scale = 1 - self.crop * draws[:, 1]
        mirrored = torch.where(draws[:, 0] < self.flip, -1.0, 1.0).to(draws.dtype)
        zero = torch.zeros_like(scale)
        # Half of what is left out may go to either side, so that no view shows anything beyond the picture.
        shift_x, shift_y = ((2 * draws[:, k] - 1) * (1 - scale) for k in (2, 3))
        rows = [torch.stack([scale * mirrored, zero, shift_x], 1), torch.stack([zero, scale, shift_y], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
        return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def _colour(self, pixels: Tensor, draws: Tensor, preprocessing: Preprocessing) -> Tensor:
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=pixels.device).view(1, -1, 1, 1)
            for values in (preprocessing.mean, preprocessing.std)
        )
        light = pixels * std + mean
        added, contrast, saturation = ((2 * draws[:, k] - 1).view(-1, 1, 1, 1) for k in (4, 5, 6))
        gray = light.mean(dim=1, keepdim=True)
        light = gray + (light - gray) * (1 + self.saturation * saturation)
        middle = light.mean(dim=(1, 2, 3), keepdim=True)
        light = middle + (light - middle) * (1 + self.contrast * contrast) + self.brightness * added
        return (light.clamp(0, 1) - mean) / std
