"""Model cards, written from what was recorded; what people wrote into them stays."""

from __future__ import annotations

from .contents import adapter_card, collection_card, encoder_card

__all__ = ["adapter_card", "collection_card", "encoder_card"]
