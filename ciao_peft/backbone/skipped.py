"""Says which hooks of a cut backbone never fire, and which backbones begin with their only convolution."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from torch import nn

from ..errors import TargetModulesError, listed

if TYPE_CHECKING:
    from .tracing import Rooted

__all__ = ["SkippedHooks", "refuse_patches"]


class SkippedHooks:
    """Warns of forward hooks on modules that do not run as such in a cut backbone, once for each module.

    Args:
        backbone: The network that was cut.
        called: Paths of the modules that its pieces call. Modules around these run in parts, and never as a whole.
        after: Paths of those called behind the final map, where an adapter's head takes over.

    Example:
        >>> net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3)), nn.Flatten())
        >>> SkippedHooks(net, ["0.0", "1"], after=["1"]).paths
        (['', '0'], ['1'])
    """

    paths: tuple[list[str], list[str]]

    def __init__(self, backbone: nn.Module, called: Iterable[str], after: Iterable[str] = ()) -> None:
        self._called = set(called)
        around = {path[:place] for path in self._called for place, sign in enumerate(path) if sign == "."}
        around |= {""} if self._called - {""} else set()
        names = [name for name, _ in backbone.named_modules()]
        self.paths = [n for n in names if n in around - self._called], [n for n in names if n in set(after)]
        self._watched: tuple[Rooted | None, list[list[nn.Module]]] = (None, [])
        self._said: set[int] = set()

    def is_around(self, rooted: Rooted) -> bool:
        """Whether a hook sits on a module that runs in parts.

        Args:
            rooted: The modules that are about to run.
        """
        return any(map(_is_hooked, self._modules(rooted)[0]))

    def warn(self, rooted: Rooted, has_mask: bool, fires: Callable[[str], bool] = lambda path: False) -> None:
        """Warns of hooks that this call of the network passes over.

        Args:
            rooted: The modules that are about to run.
            has_mask: Whether an adapter reads, so that what is behind the final map does not run.
            fires: Says of a path whether its module runs as a whole this time, though the pieces run parts of it.
        """
        for is_after, modules in enumerate(self._modules(rooted)[: 1 + has_mask]):
            for path, module in zip(self.paths[is_after], modules, strict=True):
                if _is_hooked(module) and id(module) not in self._said and (is_after or not fires(path)):
                    self._say(module, path, bool(is_after))

    def _modules(self, rooted: Rooted) -> list[list[nn.Module]]:
        if self._watched[0] is not rooted:
            self._watched = rooted, [[rooted.backbone.get_submodule(path) for path in paths] for paths in self.paths]
        return self._watched[1]

    def _say(self, module: nn.Module, path: str, is_after: bool) -> None:
        self._said.add(id(module))
        where = f"{path!r} ({type(module).__name__})" if path else f"the backbone itself ({type(module).__name__})"
        why = "lies behind the final map, where the adapter's head takes over" if is_after else "runs in parts"
        warnings.warn(
            f"A forward hook sits on {where}, and will not fire: the backbone is cut at its masks, and this module "
            f"{why}. Put the hook on a layer inside that runs as a whole, such as a convolution, or call "
            "`model.backbone` itself.",
            stacklevel=2,
        )

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"_watched": (None, []), "_said": set()}

    def __deepcopy__(self, memo: dict[int, object]) -> SkippedHooks:
        other = object.__new__(SkippedHooks)
        vars(other).update(self.__getstate__())
        return other


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def refuse_patches(backbone: nn.Module, paths: Iterable[str]) -> None:
    """Refuses a choice that nobody made: the convolution that cuts a picture into patches is no last convolution.

    Args:
        backbone: The network.
        paths: Of the convolutions that would be masked.

    Raises:
        TargetModulesError: always; the message says how to insist.

    Example:
        >>> refuse_patches(nn.Sequential(nn.Conv2d(3, 8, 4, 4)), ["0"])
        Traceback (most recent call last):
        ...
        ciao_peft.errors.TargetModulesError: The last convolution of Sequential, '0', is also its first: ...
    """
    raise TargetModulesError(
        f"The last convolution of {type(backbone).__name__}, {listed(paths)}, is also its first: it turns pixels into "
        "patches, and other layers, such as attention, do the rest. CIAO masks the last convolution of a convolutional "
        f"network, so a mask here would mean nothing of what the paper says. Take a ConvNet; or insist with "
        f"`target_modules={tuple(paths)!r}` in the config."
    )
