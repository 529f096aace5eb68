"""The second argument is the adapter's name; settings and a memory in its place are told by their names."""

from __future__ import annotations

import pytest

from ciao_peft import CIAOConfig, FeatureMemory, OnlineArguments, OnlineTrainer, get_ciao_model, load_encoder
from ciao_peft.errors import TrainingError


@pytest.mark.parametrize(("given", "name"), [(OnlineArguments(), "args"), (FeatureMemory(), "memory")])
def test_settings_in_the_place_of_the_name(given, name):
    model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
    with pytest.raises(TrainingError, match=rf"write `OnlineTrainer\(model, {name}=\.\.\.\)`"):
        OnlineTrainer(model, given)
