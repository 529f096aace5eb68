"""Names for the kind and shape of tensors in annotations: `Float[Tensor, "batch dim"]`.

They are `typing.Annotated`, so that nothing is checked, and nothing more imported, where the library is used. While the
tests run, `tests/conftest.py` puts jaxtyping's types in their places, and every call checks its shapes.

Example:
    >>> from torch import Tensor
    >>> def lengths(rows: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
    ...     return rows.norm(dim=1)
"""

from __future__ import annotations

from typing import Annotated as Bool
from typing import Annotated as Float
from typing import Annotated as Int
from typing import Annotated as Num
from typing import Annotated as Shaped

__all__ = ["Bool", "Float", "Int", "Num", "Shaped"]
