"""What the mask lets through, as maps and as pictures: GradCAM++ of M, and the mask itself."""

from __future__ import annotations

from .maps import gradcam_plus_plus, mask_strength
from .pictures import draw_saliency, saliency_picture

__all__ = ["draw_saliency", "gradcam_plus_plus", "mask_strength", "saliency_picture"]
