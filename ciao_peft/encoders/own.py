"""What the encoders of this library have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ..preprocessing import Preprocessing

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

__all__ = ["OwnEncoder"]


class OwnEncoder(nn.Module):
    """A network that knows how its pictures must be prepared, and can be published.

    Attributes:
        preprocessing: How its pictures must be prepared.

    Shapes:
        As the network has them.

    Example:
        >>> from ciao_peft import load_encoder
        >>> isinstance(load_encoder("small-face"), OwnEncoder)
        True
    """

    preprocessing: Preprocessing

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of `pixel_values`."""
        return self.preprocessing.input_size

    def push_to_hub(self, repo_id: str, **options: Any) -> CommitInfo:
        """Publishes this encoder on the Hub.

        Args:
            repo_id: `user/name`.
            options: As for `push_encoder`.

        Returns:
            The commit.
        """
        from .push import push_encoder

        return push_encoder(self, repo_id, **options)
