"""What exports in tests share: the exporter's table of operations, which it would make anew for each file."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_table_of_operations() -> Iterator[None]:
    from onnxscript import _framework_apis
    from onnxscript._framework_apis.torch_2_5 import get_torchlib_ops

    once = functools.cache(get_torchlib_ops)
    with pytest.MonkeyPatch.context() as patch:
        for module in pkgutil.iter_modules(_framework_apis.__path__, f"{_framework_apis.__name__}."):
            patch.setattr(importlib.import_module(module.name), "get_torchlib_ops", once, raising=False)
        yield
