"""What the comparison with full precision adds to an evaluation: CPU seconds per token on one core, and bytes of hidden states.

    python benchmarks/divergence.py                         (half a minute)

Weights are random: one block of each shape is measured and counted as many times as the model has blocks. The start of a
process is left out.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import torch
import transformers

from lorcbench.models import discovery, final_states
from lorcbench.models.blocks import BlockWalk

OPT = {"vocab_size": 1024, "hidden_size": 128, "word_embed_proj_dim": 128, "ffn_dim": 512, "num_attention_heads": 4}
SMOLLM2 = {"vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9}
# Name → config class, its settings, blocks, windows, and tokens per window.
MODELS = {
    "opt-standin-m": (transformers.OPTConfig, OPT | {"max_position_embeddings": 128}, 4, 32, 128),
    "smollm2-135m": (transformers.LlamaConfig, SMOLLM2 | {"num_key_value_heads": 3, "tie_word_embeddings": True}, 30, 8, 256),
}


def cpu_seconds(work: Callable[[], object]) -> float:
    """The least of three runs, which others on the machine disturbed least."""
    times = []
    for _ in range(3):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def main() -> None:
    """Print a line per model."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, (config_class, sizes, depth, count, length) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            place, path = Path(folder) / "model", Path(folder) / "states.safetensors"
            model = transformers.AutoModelForCausalLM.from_config(config_class(num_hidden_layers=1, **sizes))
            model.save_pretrained(place)
            walk = BlockWalk(discovery.opened(place), torch.float32)
            tokens = torch.randint(4, sizes["vocab_size"], (count, length))
            hidden = walk.embed(tokens)
            with walk.block(0) as block:
                blocks = depth * cpu_seconds(lambda: walk.advance(block, hidden.clone()))  # noqa: B023  run at once
            stored = cpu_seconds(lambda: final_states.write(path, {"a": hidden}))  # noqa: B023
            full = final_states.FinalStates(path, {"a": tokens}, torch.float32)
            alone = cpu_seconds(lambda: walk.score(hidden, tokens))  # noqa: B023
            both = cpu_seconds(lambda: walk.compare(hidden, tokens, lambda batch: full.read("a", batch)))  # noqa: B023
        per_token = 1e6 / tokens.numel()
        print(
            f"{name}: per 1,000 tokens {blocks * per_token:.0f} ms of blocks, {alone * per_token:.1f} ms of head and loss, "
            f"with divergence {both * per_token:.1f} ms, {(both - alone) / (blocks + alone):.0%} more; full precision writes "
            f"{hidden.nbytes * per_token / 1e9:.2f} MB in {stored * per_token:.1f} ms"
        )


if __name__ == "__main__":
    main()
