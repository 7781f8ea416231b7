"""A whole model over several devices: where its blocks go, and that its outputs are those of one device."""

from __future__ import annotations

import pytest
import tiny
import torch

from lorcbench.models import discovery, spread
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.surgery import install_weights
from lorcbench.models.task_definitions import HarnessError


def test_blocks_fill_devices_by_the_same_share_in_their_order():
    assert spread.placement([1] * 8, [4, 4]) == [0] * 4 + [1] * 4
    assert spread.placement([1] * 8, [10, 30]) == [0, 0, 1, 1, 1, 1, 1, 1]
    assert spread.placement([3, 1, 1, 1], [100]) == [0, 0, 0, 0]
    for count in range(1, 6):
        places = spread.placement([7, 5, 5, 9, 3, 5, 5], [50] * count)
        assert places == sorted(places) and len(set(places)) == count


def test_blocks_that_do_not_fit_are_refused_with_what_they_take():
    with pytest.raises(HarnessError) as caught:
        spread.placement([2**30] * 8, [2**30, 2**31])
    assert str(caught.value) == "runtime.gpus_per_job=2: the blocks take 8.0 GiB, and 3.0 GiB are free; expected more GPUs"


@pytest.mark.parametrize("kind", ["opt", "bloom", "llama"])
def test_a_spread_model_gives_what_the_model_gives(tmp_path, kind):
    checkpoint = discovery.opened(tiny.checkpoint(tmp_path, kind))
    tokens = tiny.windows(2, 12)
    plain = BlockWalk(checkpoint, torch.float32).whole()
    # Two names of one device: accelerate's hooks are the same as between GPUs.
    split = spread.spread(BlockWalk(checkpoint, torch.float32), ["cpu", "cpu"], [2**30, 2**30])
    assert all(hasattr(block, "_hf_hook") for block in split.get_submodule(checkpoint.architecture.blocks))
    block = plain.get_submodule(checkpoint.architecture.blocks)[1]
    weights = {name: 2 * block.get_submodule(name).weight for name in checkpoint.architecture.linear_names}
    with torch.no_grad():
        assert torch.equal(split(tokens).logits, plain(tokens).logits)
        for model in (plain, split):  # quantized weights come later
            install_weights(model.get_submodule(checkpoint.architecture.blocks)[1], weights)
        assert torch.equal(split(tokens).logits, plain(tokens).logits)
        options = {"max_new_tokens": 6, "do_sample": False}
        assert torch.equal(split.generate(tokens, **options), plain.generate(tokens, **options))


def test_on_one_device_nothing_is_spread(tmp_path):
    checkpoint = discovery.opened(tiny.checkpoint(tmp_path, "opt"))
    model = spread.whole(BlockWalk(checkpoint, torch.float32))
    assert not any(hasattr(module, "_hf_hook") for module in model.modules())
