"""What the tests of lm-eval share: no network, and a model whose vocabulary is the tokenizer's."""

from __future__ import annotations

import datasets
import pytest
import tiny


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Nothing is written to the user's cache, and the hub is out of reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")


@pytest.fixture(scope="package")
def lm():
    """A tiny BLOOM of 400 tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "VOCABULARY", 400)
        return tiny.model("bloom")
