"""Model cards, written from a record; what people wrote on them stays."""

from __future__ import annotations

from .contents import adapter_card, card_without_record, collection_card, encoder_card, text_reader
from .masks import mask_in_words
from .page import merge_cards

__all__ = [
    "adapter_card",
    "card_without_record",
    "collection_card",
    "encoder_card",
    "mask_in_words",
    "merge_cards",
    "text_reader",
]
