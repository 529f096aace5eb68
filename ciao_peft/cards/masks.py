"""What an adapter does to the encoder's answer u, in a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..presets import over_paper

__all__ = ["mask_in_words"]

_FORMULAS = {
    "divisive": "{u} / (a + I)",
    "rescaled": "max(1, a0) {u} / (a + I)",
    "gain": "{u} (a0 + relu(u)) / (a + I)",
    "additive": "({sum} + I) / a",
    "subtractive": "({sum} - I) / a",
}


def mask_in_words(config: Mapping[str, Any]) -> str | None:
    """The equation of a mask, and what its letters are that adapters have apart; None where nothing masks u.

    Args:
        config: Settings of an adapter by name; the paper's preset has those that are missing.

    Example:
        >>> mask_in_words({})
        'M = u / (a + I); I from a copy of the convolution'
        >>> mask_in_words({"inhibition_form": "rescaled", "inhibition_rank": 16, "excitation_rank": 32})
        'M = max(1, a0) (u + E) / (a + I); I of rank 16, E of rank 32'
        >>> mask_in_words({"inhibition": False, "excitation_rank": 4})
        'M = u + E; E of rank 4'
    """
    config = over_paper(config)
    rank, excitation = config["inhibition_rank"], config["excitation_rank"]
    if not config["inhibition"]:
        return f"M = u + E; E of rank {excitation}" if excitation else None
    u, added = ("(u + E)", "u + E") if excitation else ("u", "u")
    letters = ["I from a copy of the convolution" if rank is None else f"I of rank {rank}"]
    letters += [f"E of rank {excitation}"] if excitation else []
    return f"M = {_FORMULAS[config['inhibition_form']].format(u=u, sum=added)}; {', '.join(letters)}"
