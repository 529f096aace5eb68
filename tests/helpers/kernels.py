"""How many kernels a call would run on a GPU, counted on the CPU."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

NO_KERNEL = re.compile(
    r"aten::(as_strided_?|.*view.*|empty.*|to|resize_|resolve_.*|promote_types|_reshape_alias|lift_fresh|alias|detach"
    r"|select|slice|expand|permute|unbind|split.*|reshape|flatten|unflatten|movedim|transpose|t|squeeze|unsqueeze)"
)


def kernels(do: Callable[[], object]) -> int:
    """Operations that compute or copy, each a kernel on a GPU."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        do()
    names = [event.name for event in seen.events() if not event.cpu_children]
    return sum(name.startswith("aten::") and NO_KERNEL.fullmatch(name) is None for name in names)
