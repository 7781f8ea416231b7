"""The largest input of each channel, as the evaluation of the unquantized model sees it."""

from __future__ import annotations

import pytest
import tiny
import torch

from lorcbench.core.formats import ActivationFormat
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.channels import unevenness
from lorcbench.models.discovery import opened
from lorcbench.models.perplexity import window_losses


def test_what_stands_out_among_channels_by_hand():
    assert unevenness(torch.tensor([1.0, 0.0, 8.0, 2.0, 4.0])) == {
        "max_over_median": 4.0,
        "dead": 1,
        "channel": 2,
        "max": 8.0,
    }


def test_where_most_channels_are_always_zero_there_is_no_ratio():
    assert unevenness(torch.tensor([0.0, 0.0, 3.0])) == {"max_over_median": None, "dead": 2, "channel": 2, "max": 3.0}


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_an_evaluation_sees_the_inputs_that_the_whole_model_has(tmp_path, kind):
    folder = tiny.checkpoint(tmp_path / kind, kind)
    windows = {"a": tiny.windows(3, 16), "b": tiny.windows(2, 16, seed=1)}
    walk = BlockWalk(opened(folder), torch.float32, batch_tokens=32)
    channels = {}
    losses = window_losses(walk, windows, lambda index: {}, ActivationFormat(16), channels)
    assert losses == window_losses(walk, windows, lambda index: {}, ActivationFormat(16))
    assert list(channels) == [group[0] for group in walk.architecture.linears]
    model, seen = tiny.model(kind), {}
    for index, block in enumerate(model.get_submodule(walk.architecture.blocks)):
        for name in channels:
            block.get_submodule(name).register_forward_pre_hook(
                lambda module, args, key=(name, index): seen.setdefault(key, []).append(args[0].flatten(0, -2).abs())
            )
    with torch.no_grad():
        for tokens in windows.values():
            model(tokens, use_cache=False)
    for (name, index), inputs in seen.items():
        expected = unevenness(torch.cat(inputs).amax(0))
        measured = channels[name][index]
        assert (measured["channel"], measured["dead"]) == (expected["channel"], expected["dead"])
        assert measured["max"] == pytest.approx(expected["max"], rel=1e-5)
        assert measured["max_over_median"] == pytest.approx(expected["max_over_median"], rel=1e-5)
