"""The block walk: Hugging Face's own logits and losses, one block in memory at a time."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from lorcbench.models import discovery
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.checkpoint import CheckpointError
from lorcbench.models.observe import last_linear_skipped, observed

LENGTH = 12
BATCH = 2 * LENGTH  # tokens of two windows: of five windows the last batch has one
CLOSE = 1e-6  # of the largest logit


def walk_through(walk: BlockWalk, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses (n,), and the logits (n · (length - 1), vocabulary) that the head made while they were computed."""
    hidden = walk.embed(tokens)
    for index in range(walk.depth):
        with walk.block(index) as block:
            walk.advance(block, hidden)
    logits = []
    head = walk.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, args, output: logits.append(output.flatten(0, -2)))
    losses = walk.score(hidden, tokens)
    hook.remove()
    return losses, torch.cat(logits)


def reference(folder, tokens: torch.Tensor, attention: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by the whole model: logits in the walk's batches, the loss that the model itself computes window by window."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()
    with torch.no_grad():
        logits = [model(input_ids=batch).logits[:, :-1].flatten(0, 1) for batch in tokens.split(BATCH // LENGTH)]
        losses = torch.stack([model(input_ids=window[None], labels=window[None]).loss for window in tokens])
    return losses, torch.cat(logits)


def walk_of(folder, **settings) -> BlockWalk:
    return BlockWalk(discovery.opened(folder), torch.float32, **{"batch_tokens": BATCH, **settings})


def materialized(walk: BlockWalk) -> set[str]:
    return {name for name, parameter in walk.model.named_parameters() if not parameter.is_meta}


def assert_same_as_transformers(folder, tokens: torch.Tensor) -> None:
    walk = walk_of(folder)
    losses, logits = walk_through(walk, tokens)
    expected_losses, expected_logits = reference(folder, tokens, walk.attention)
    assert logits.dtype == torch.float32
    assert (logits - expected_logits).abs().max() <= CLOSE * expected_logits.abs().max()
    assert torch.allclose(losses, expected_losses, rtol=1e-6, atol=0)
    assert expected_losses.std() > 0.01  # windows that all have one loss would show nothing


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_logits_and_losses_are_those_of_transformers(tmp_path, kind):
    assert_same_as_transformers(tiny.checkpoint(tmp_path, kind), tiny.windows(5, LENGTH))


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints_are_computed_in_float32(tmp_path, kind, dtype):
    folder = tiny.checkpoint(tmp_path, kind, dtype=dtype)
    walk = walk_of(folder)
    assert {tensor.dtype for tensor in walk.checkpoint.block(0).values()} == {dtype}
    with walk.block(0) as block:
        assert {parameter.dtype for parameter in block.parameters()} == {torch.float32}
    assert walk.embed(tiny.windows(1, LENGTH)).dtype == torch.float32
    assert_same_as_transformers(folder, tiny.windows(3, LENGTH))


def test_hidden_states_beyond_the_budget_lie_in_a_file_without_a_name_and_change_nothing(tmp_path):
    folder, tokens = tiny.checkpoint(tmp_path / "model", "opt"), tiny.windows(5, LENGTH)
    walk = walk_of(folder, hidden_bytes=0, scratch=tmp_path)
    hidden = walk.embed(tokens)
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert any(line.endswith("(deleted)") for line in mapped)
    assert hidden.shape == (5, LENGTH, walk.model.config.hidden_size)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert torch.equal(walk_through(walk, tokens)[0], walk_through(walk_of(folder), tokens)[0])


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_what_linears_see_is_observed_without_computing_the_last_of_them(tmp_path, kind):
    walk, tokens = walk_of(tiny.checkpoint(tmp_path, kind)), tiny.windows(5, LENGTH)
    hidden, seen = walk.embed(tokens), []
    with walk.block(0) as block:
        for outputs in (True, False):
            skipped = nullcontext() if outputs else last_linear_skipped(block, walk.architecture)
            with skipped, observed(block, walk.architecture) as moments:
                made = [walk.forward(block, states) for _, states in walk.fetched(hidden)]
            seen.append(({name: moment.mean() for name, moment in moments.items()}, torch.cat(made)))
        after = torch.cat([walk.forward(block, states) for _, states in walk.fetched(hidden)])
    assert seen[0][0].keys() == seen[1][0].keys() == {group[0] for group in walk.architecture.linears}
    assert all(torch.equal(seen[0][0][name], seen[1][0][name]) for name in seen[0][0])
    assert not torch.equal(seen[0][1], seen[1][1])
    assert torch.equal(after, seen[0][1])


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_second_thread_sums_to_the_same_bits_though_hidden_states_are_overwritten(tmp_path, kind):
    walk, tokens = walk_of(tiny.checkpoint(tmp_path, kind)), tiny.windows(40, LENGTH)
    seen = []
    for beside in (False, True):
        hidden = walk.embed(tokens)
        with walk.block(0) as block, observed(block, walk.architecture, second_thread=beside) as moments:
            walk.advance(block, hidden)
        seen.append((moments, hidden))
    assert all(torch.equal(seen[0][0][name].mean(), seen[1][0][name].mean()) for name in seen[0][0])
    assert torch.equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("kind", tiny.TIED)
def test_base_only_and_sharded_checkpoints_score_the_same(tmp_path, kind):
    made, tokens = tiny.model(kind), tiny.windows(3, LENGTH)
    losses = [
        walk_through(walk_of(tiny.save(made, tmp_path / name, **options)), tokens)[0]
        for name, options in {"whole": {}, "base": {"base": True}, "sharded": {"shard_size": "10KB"}}.items()
    ]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


@pytest.mark.parametrize("kind", ["opt", "bloom"])
def test_head_stored_as_well_or_instead_of_its_embedding(tmp_path, kind):
    embedding, tokens = tiny.EMBEDDING[kind], tiny.windows(3, LENGTH)
    folders = [tiny.checkpoint(tmp_path / name, kind) for name in ("one", "both", "head")]
    tiny.edit(folders[1], lambda tensors: tensors.update({"lm_head.weight": tensors[embedding]}))
    tiny.edit(folders[2], lambda tensors: tensors.update({"lm_head.weight": tensors.pop(embedding)}))
    losses = [walk_through(walk_of(folder), tokens)[0] for folder in folders]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])
    for folder in folders[1:]:
        assert_same_as_transformers(folder, tokens)
        walk = walk_of(folder)
        assert walk.model.get_output_embeddings().weight is walk.model.get_input_embeddings().weight


def test_an_error_without_a_word_of_a_config_class_is_named_by_its_kind(tmp_path, monkeypatch):
    def fails(**settings):
        raise AssertionError

    monkeypatch.setattr("transformers.AutoConfig.for_model", fails)
    with pytest.raises(CheckpointError, match=r"config\.json: AssertionError$"):
        walk_of(tiny.checkpoint(tmp_path, "opt"))


def test_head_that_differs_from_the_embedding_it_is_tied_to_is_refused(tmp_path):
    folder = tiny.checkpoint(tmp_path, "opt")
    embedding = tiny.EMBEDDING["opt"]
    tiny.edit(folder, lambda tensors: tensors.update({"lm_head.weight": tensors[embedding] * 1.5}))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight.*tie_word_embeddings"):
        walk_of(folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"tie_word_embeddings": true', '"tie_word_embeddings": false'))
    assert_same_as_transformers(folder, tiny.windows(2, LENGTH))


def test_checkpoint_without_any_head_is_refused(tmp_path):
    folder = tiny.checkpoint(tmp_path, "opt")
    tiny.edit(folder, lambda tensors: tensors.pop(tiny.EMBEDDING["opt"]))
    with pytest.raises(CheckpointError, match=tiny.EMBEDDING["opt"]):
        walk_of(folder)


def test_decoder_without_its_last_norm_as_before_transformers_4_20(tmp_path):
    folder = tiny.checkpoint(tmp_path, "opt")
    tokens = tiny.windows(2, LENGTH)
    with_norm, _ = walk_through(walk_of(folder), tokens)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"_remove_final_layer_norm": false', '"_remove_final_layer_norm": true'))
    assert_same_as_transformers(folder, tokens)
    assert not torch.allclose(walk_through(walk_of(folder), tokens)[0], with_norm, rtol=1e-3)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_batches_of_any_size_give_the_same_losses(tmp_path, kind):
    folder, tokens = tiny.checkpoint(tmp_path, kind), tiny.windows(5, LENGTH)
    sizes = [1, BATCH, 3 * LENGTH, 100 * LENGTH]
    losses = [walk_through(walk_of(folder, batch_tokens=size), tokens)[0] for size in sizes]
    assert [len(list(walk_of(folder, batch_tokens=size).batches(tokens))) for size in sizes] == [5, 3, 2, 1]
    assert all(torch.allclose(losses[0], other, rtol=1e-5, atol=0) for other in losses[1:])


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_windows_of_two_lengths_pass_through_one_walk(tmp_path, kind):
    folder, corpora = tiny.checkpoint(tmp_path, kind), [tiny.windows(3, LENGTH), tiny.windows(4, LENGTH - 3, seed=1)]
    walk = walk_of(folder)
    hidden = [walk.embed(tokens) for tokens in corpora]
    for index in range(walk.depth):
        with walk.block(index) as block:
            for states in hidden:
                walk.advance(block, states)
    for tokens, states in zip(corpora, hidden, strict=True):
        assert torch.equal(walk.score(states, tokens), walk_through(walk_of(folder), tokens)[0])


def test_a_walk_can_be_taken_again(tmp_path):
    walk, tokens = walk_of(tiny.checkpoint(tmp_path, "bloom")), tiny.windows(3, LENGTH)
    first, second = (walk_through(walk, tokens)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_one_block_is_in_memory_at_a_time(tmp_path, kind):
    walk = walk_of(tiny.checkpoint(tmp_path, kind))
    blocks = tiny.BLOCKS[kind] + "."
    every = {name for name, _ in walk.model.named_parameters()}
    outside = {name for name in every if not name.startswith(blocks)}
    assert materialized(walk) == outside
    tokens = tiny.windows(3, LENGTH)
    hidden = walk.embed(tokens)
    for index in range(walk.depth):
        with walk.block(index) as block:
            walk.advance(block, hidden)
            assert materialized(walk) == outside | {name for name in every if name.startswith(f"{blocks}{index}.")}
            assert materialized(walk) > outside
        assert materialized(walk) == outside
    walk.score(hidden, tokens)
    assert materialized(walk) == outside


def test_a_block_is_dropped_when_work_on_it_fails(tmp_path):
    walk = walk_of(tiny.checkpoint(tmp_path, "opt"))
    outside = materialized(walk)

    with pytest.raises(KeyError), walk.block(1):
        assert materialized(walk) > outside
        raise KeyError
    assert materialized(walk) == outside


def test_nothing_learns(tmp_path):
    walk = walk_of(tiny.checkpoint(tmp_path, "opt"))
    with walk.block(0) as block:
        hidden = walk.embed(tiny.windows(1, LENGTH))
        assert not walk.forward(block, hidden).requires_grad
        assert not any(parameter.requires_grad for parameter in walk.model.parameters())
        assert not block.training
