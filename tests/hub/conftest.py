"""Fixtures that several files of this folder share."""

from __future__ import annotations

import pytest

from helpers.published import trained_model


@pytest.fixture
def no_waiting(monkeypatch):
    """The client waits between its tries; what it waits for does not come here."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture
def published(hub):
    """`ann/faces` on the Hub, and the model it came from."""
    model = trained_model()
    model.push_to_hub("ann/faces", token="hf_ann")
    hub.requests.clear()
    return model
