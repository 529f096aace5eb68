"""Which settings of a method are searched."""

from __future__ import annotations

import pytest

from ciao_peft.study import Method
from ciao_peft.study.search import SearchSpace


@pytest.mark.parametrize(
    ("config", "searched"),
    [({}, True), ({"inhibition": False}, False), ({"inhibition": False, "excitation_rank": 2}, True)],
    ids=str,
)
def test_the_rate_of_a_mask_is_searched_where_there_is_one(config, searched):
    assert ("mask_learning_rate" in SearchSpace().names(Method(name="mine", config=config))) == searched
