"""Model cards, written from a record; what people wrote on them stays."""

from __future__ import annotations

from .contents import adapter_card, collection_card, encoder_card

__all__ = ["adapter_card", "collection_card", "encoder_card"]
