"""Every causal language model of the pinned transformers, shrunk: what discovery says of it, and whether the walk is exact.

`python tests/support/decoders.py` writes the table of docs/families.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES
from transformers.pytorch_utils import Conv1D
from transformers.utils.logging import disable_progress_bar

from lorcbench.core.formats import WeightFormat
from lorcbench.core.lorc import decompose
from lorcbench.core.settings import GptqSettings
from lorcbench.jobs.hessians import from_moments
from lorcbench.jobs.inputs import by_linear
from lorcbench.jobs.solving import solve_block
from lorcbench.models import discovery
from lorcbench.models.architecture import Architecture
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.checkpoint import CheckpointError
from lorcbench.models.network import logits
from lorcbench.models.observe import last_linear_skipped, observed
from lorcbench.models.surgery import install_weights

disable_progress_bar()
DOC = Path(__file__).resolve().parents[2] / "docs/families.md"
MARK = "<!-- What follows is written by `python tests/support/decoders.py`. -->\n\n"
VOCABULARY, LENGTH, SLIDING = 96, 20, 6
FORMAT = WeightFormat.parse("w4-asym-row")
_MOST = 20_000_000
_OF_THE_CLASS = ("no linear", "different linears", "lists of")  # refusals for which nothing has to run
# Of all configurations, where they have them; a name that a configuration has not is left out.
SIZES = {
    **{"vocab_size": VOCABULARY, "num_hidden_layers": 4, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "sliding_window": SLIDING, "ffn_dim": 48},
    **{"decoder_ffn_dim": 48, "decoder_layers": 4, "decoder_attention_heads": 4, "n_inner": 48, "rotary_dim": 4},
    **{"encoder_ffn_dim": 48, "encoder_layers": 4, "encoder_attention_heads": 4, "d_model": 32, "ffn_hidden_size": 48},
    **{"word_embed_proj_dim": 32, "dropout": 0.0, "n_ctx": 64, "attention_window_size": SLIDING, "window_size": SLIDING},
    **{"query_pre_attn_scalar": 8, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 2, "embedding_size": 32},
    **{"vocab_size_per_layer_input": VOCABULARY, "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4},
    **{"num_experts_per_tok": 2, "moe_topk": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1},
    **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8},
    **{"d_ff": 48, "expand_ratio": 2, "max_seq_len": 64, "n_positions": 64, "max_target_positions": 64},
    **{"dim_model": 32, "dim_head": 8, "dim_ff": 48, "local_attention": SLIDING},
}
# What transformers' own classes need beside: they refuse, or make no sense, without it.
OWN: dict[str, dict] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": SLIDING},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "minicpm3": {"num_key_value_heads": 4},
    "youtu": {"num_key_value_heads": 4},
    "zaya": {"num_experts_per_tok": 1},
    "dots1": {"n_shared_experts": 1},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "reformer": {"is_decoder": True},
}


@dataclass(frozen=True)
class Outcome:
    """What became of one model type.

    Attributes:
        state: ``works``, ``refused``, ``inexact``, or ``not shrunk``: no small model of it could be made here.
        note: the line of the refusal, or why there is no small model.
    """

    model_type: str
    model_class: str
    state: str
    note: str = ""
    record: Architecture | None = None


def shrunk(model_type: str, **changes) -> PretrainedConfig:
    """The configuration of a small text model; of several models in one, of the text model."""
    whole = transformers.CONFIG_MAPPING[model_type]()
    default = whole.get_text_config(decoder=True)
    aliases = default.attribute_map or {}
    names = {*type(default)().to_dict(), *aliases}
    known = {name for name in names if not _is_computed(default, aliases.get(name, name))}
    sizes = {aliases.get(name, name): value for name, value in SIZES.items() if name in known}
    if "layer_types" in known and getattr(default, "layer_types", None):
        kinds = list(dict.fromkeys(default.layer_types))
        sizes["layer_types"] = [kinds[index % len(kinds)] for index in range(4)]
    tokens = {name: 1 for name, value in default.to_dict().items() if name.endswith("_token_id") and value is not None}
    return type(default)(**sizes | tokens | OWN.get(default.model_type, {}) | changes)


def _is_computed(config: PretrainedConfig, name: str) -> bool:
    return isinstance(getattr(type(config), name, None), property)


def network(config: PretrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A float32 model with random weights, no matrix, bias or norm of which is trivial."""
    with init_empty_weights():
        count = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    if count > _MOST:
        raise ValueError(f"{count / 1e6:.0f} million weights are left of it")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for weight in made.parameters():
            spread = weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.2
            weight.data = (weight.data if weight.ndim < 2 else 0.0) + spread * torch.randn_like(weight)
    return made.eval()


@torch.no_grad()
def walked(walk: BlockWalk, tokens: torch.Tensor, change=lambda index, block: None) -> torch.Tensor:
    """Logits (n, length, vocabulary) by the block walk; `change` may alter each block before it runs."""
    hidden = walk.embed(tokens)
    for index in range(walk.depth):
        with walk.block(index) as block:
            change(index, block)
            walk.advance(block, hidden)
    with walk.stand_ins(hidden):
        output = walk.model.base_model(input_ids=tokens, use_cache=False)
    return torch.stack([logits(walk.model, output, states) for states in output.last_hidden_state])


def linears_of(made: nn.Module, record: Architecture) -> dict[str, nn.Module]:
    """The linears in the blocks of a model, by full name."""
    blocks = made.get_submodule(record.blocks)
    return {name: module for name, module in blocks.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def windows(count: int = 2, length: int = LENGTH) -> torch.Tensor:
    """Random token windows (count, length)."""
    return torch.randint(2, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def cell(walk: BlockWalk, tokens: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """Weights (out, in) by linear of every block after GPTQ in 4 bits and a correction of rank 2."""
    checkpoint, record, settings = walk.checkpoint, walk.architecture, GptqSettings()
    hidden, blocks = walk.embed(tokens), []
    for index in range(walk.depth):
        with walk.block(index) as block:
            with observed(block, record) as moments, last_linear_skipped(block, record):
                for _, states in walk.fetched(hidden):
                    walk.forward(block, states)
            formats = dict.fromkeys(record.linear_names, FORMAT)
            solved = solve_block(checkpoint, index, from_moments(moments, settings, tokens.shape[1]), formats, settings)
            weights, products = solved.weights(), {}
            for name, weight in checkpoint.linears(index).items():
                error = weight.float() - weights[name]
                rows = record.part_rows(name, len(weight)) or {"": slice(None)}
                for part, indices in rows.items():
                    b, a = decompose(error[indices], 2, exact=True)
                    products[f"{name}.{part}".rstrip(".")] = b @ a
            blocks.append({name: weights[name] + product for name, product in by_linear(products, record).items()})
            install_weights(block, blocks[-1])
            walk.advance(block, hidden)
    return blocks


@torch.no_grad()
def difference(folder: Path) -> tuple[float, Architecture]:
    """The largest difference between the walk's logits and transformers', in shares of the largest logit; and the record.

    It is measured with the weights of the checkpoint, and with those of a cell; the larger difference counts.

    Raises:
        CheckpointError: discovery refuses the checkpoint.
    """
    checkpoint, tokens = discovery.opened(folder), windows()
    walk = BlockWalk(checkpoint, torch.float32)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=walk.attention).eval()
    expected = whole(input_ids=tokens, use_cache=False).logits
    assert expected.isfinite().all() and expected.std() > 1e-3
    covered = {f"{index}.{name}" for index in range(walk.depth) for name in checkpoint.architecture.linear_names}
    assert covered == set(linears_of(whole, checkpoint.architecture)), "not every linear is covered"
    off = float((walked(walk, tokens) - expected).abs().max() / expected.abs().max())
    blocks, linears = cell(walk, tokens), linears_of(whole, checkpoint.architecture)
    for name, linear in linears.items():
        index, _, own = name.partition(".")
        weight = blocks[int(index)][own]
        linear.weight.data = weight.T.contiguous() if own in checkpoint.architecture.transposed else weight
    rounded = whole(input_ids=tokens, use_cache=False).logits
    assert (rounded - expected).abs().max() > 1e-3 * expected.abs().max(), "rounding changed nothing"
    again = walked(walk, tokens, lambda index, block: install_weights(block, blocks[index]))
    return max(off, float((again - rounded).abs().max() / rounded.abs().max())), checkpoint.architecture


def outcome(model_type: str) -> Outcome:
    """What becomes of a small model of this type."""
    model_class = CLASSES[model_type]
    try:
        made = network(shrunk(model_type))
    except Exception as error:  # whatever a class says to sizes that it was not made for
        return Outcome(model_type, model_class, "not shrunk", _first_line(error))
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        try:
            off, record = difference(Path(folder))
        except CheckpointError as refusal:
            line = str(refusal).removeprefix(f"{folder}").lstrip("/: ")
            if not any(reason in line for reason in _OF_THE_CLASS):
                try:  # a model of sizes that do not fit together is none
                    made(input_ids=windows(), use_cache=False)
                except Exception as error:
                    return Outcome(model_type, model_class, "not shrunk", _first_line(error))
            return Outcome(model_type, model_class, "refused", line)
        except Exception as error:
            return Outcome(model_type, model_class, "not shrunk", _first_line(error))
    state = "works" if off <= 1e-5 else "inexact"
    return Outcome(model_type, model_class, state, "" if state == "works" else f"{off:.1e}", record)


def _first_line(error: Exception) -> str:
    lines = (str(error).strip() or type(error).__name__).splitlines()
    line = lines[-1 if lines[0].endswith(":") else 0].strip()
    return f"{type(error).__name__}: {line}"[:160]


def table(outcomes: list[Outcome]) -> str:
    """The tables of docs/families.md."""
    working = [one for one in outcomes if one.state == "works"]
    classes = {one.record.model_class for one in working}
    lines = [f"**{len(working)} model types of {len(classes)} classes work.**", ""]
    lines += ["| model type | class | linears of a block, by shared input | matrices in one |", "| --- | --- | --- | --- |"]
    for one in working:
        groups = "; ".join(" ".join(name.rpartition(".")[2] for name in group) for group in one.record.linears)
        fused = {name.rpartition(".")[2]: made["parts"] for name, made in one.record.fused.items()}
        parts = "; ".join(f"{name}: {' '.join(part for part, _ in made)}" for name, made in fused.items())
        lines.append(f"| {one.model_type} | {one.record.model_class} | {groups} | {parts} |")
    for state, title in (("refused", "Refused"), ("not shrunk", "Left out"), ("inexact", "Wrong")):
        chosen = [one for one in outcomes if one.state == state]
        if chosen:
            lines += ["", f"**{title}: {len(chosen)} model types.**", "", "| model type | class | why |", "| --- | --- | --- |"]
            lines += [f"| {one.model_type} | {one.model_class} | {one.note.replace('|', '/')} |" for one in chosen]
    return "\n".join(lines) + "\n"


def main(model_types: list[str]) -> None:
    """Write the tables, or show what becomes of the model types that are named."""
    outcomes = []
    for name in model_types or CLASSES:
        outcomes.append(outcome(name))
        print(name, outcomes[-1].state, outcomes[-1].note, sep=" | ", flush=True)
    if not model_types:
        text = DOC.read_text(encoding="utf-8")
        DOC.write_text(text[: text.index(MARK) + len(MARK)] + table(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
