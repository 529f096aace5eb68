"""What people use instead of CIAO, on the same encoder, cut, head, samples and budget."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ...backbone import FrozenBackbone
from ...errors import ConfigError, listed, quoted

if TYPE_CHECKING:
    from torch import nn

    from ...config import CIAOConfig
    from .base import Trainee

BUILDERS = {
    "wide_head": "wide_head",
    "lora": "lora",
    "scale_and_shift": "scale_shift",
    "norm_and_bias": "norm_bias",
    "residual_adapters": "residual",
    "head2toe": "head2toe",
}
"""Name of each builder, `build_<name>`, and the file it is in."""


def build_baseline(name: str, encoder: nn.Module, config: CIAOConfig, **settings: Any) -> Trainee:
    """A baseline on a copy of an encoder, ready for `fit`.

    Args:
        name: One of `BUILDERS`.
        encoder: Any network that can be cut; afterwards it is as it was.
        config: Kind of problem, settings of the head, and `init_seed`.
        **settings: Of the builder.

    Raises:
        ConfigError: no such baseline, or a setting that it does not know, as `depths`.
        UntraceableBackboneError: the encoder could not be cut.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import CIAOConfig
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> net.input_size = (3, 16, 16)
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, hidden_sizes=())
        >>> baseline = build_baseline("residual_adapters", net, config)
        >>> {part: sum(p.numel() for p in own) for part, own in baseline.parts().items()}  # 8 x 16; 16 x 12 x 12 + 1
        {'encoder': 128, 'head': 2305}
    """
    if name not in BUILDERS:
        raise ConfigError(f"There is no baseline {quoted(name)}. Baselines: {listed(BUILDERS)}.")
    if config.depths is not None:
        raise ConfigError(
            f"The baseline {quoted(name)} has no `depths` beside its map; leave them out of its settings."
        )
    build = getattr(importlib.import_module(f"{__package__}.{BUILDERS[name]}"), f"build_{name}")
    frozen = FrozenBackbone(encoder)
    try:
        return build(frozen.open(config.target_modules), config, **settings)
    except TypeError as error:
        if "unexpected keyword" in str(error):
            raise ConfigError(f"The baseline {quoted(name)}: {error}.") from error
        raise
    finally:
        frozen.restore()
