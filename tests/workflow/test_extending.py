"""Adding a method is three places, adding a family one: each is added to a copy of the tree, and a study runs with it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from runs import ROOT, digests, snakemake
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, Starcoder2Config, Starcoder2ForCausalLM

from lorcbench.core.formats import WeightFormat
from lorcbench.core.quantizer import quantize, to_stored
from lorcbench.models.checkpoint import Checkpoint

TREE = ("src", "conf", "workflow", "profiles", "Snakefile")
FMT = "w3-asym-row"

# file → (a line that is there, what takes its place); a file that is not there yet is written.
METHOD = {
    "src/lorcbench/config/recipes.py": [
        (
            '    "rtn": RtnMethod,\n',
            '    "rtn": RtnMethod,\n    "clipped": ClippedMethod,\n',
        ),
        (
            "@dataclass\nclass GptqMethod(",
            '''@dataclass
class ClippedMethod(Method):
    """Round to nearest, after the weights of each row were clipped to a share of its largest.

    Attributes:
        clip: the share.
    """

    kind: str = "clipped"
    clip: float = 0.9

    def __post_init__(self) -> None:
        one_of("method", "kind", self.kind, ("clipped",))
        if not 0 < self.clip <= 1:
            raise ConfigError(f"method.clip={self.clip}: expected a share between 0 and 1")


@dataclass
class GptqMethod(''',
        ),
    ],
    "src/lorcbench/stages/quantize.py": [
        (
            '    "rtn": _rtn,\n',
            '    "rtn": _rtn,\n    "clipped": _clipped,\n',
        ),
        (
            "def _gptq(",
            '''def _clipped(job: Job, checkpoint: Checkpoint, fmt: WeightFormat, blocks: QuantizedBlocks) -> None:
    """Round to nearest what is left after clipping."""
    clip = job.method.clip
    for index in range(checkpoint.depth):
        if blocks.kept(index) is None:
            matrices = {}
            for name, weight in checkpoint.linears(index).items():
                bound = clip * weight.float().abs().amax(dim=1, keepdim=True)
                matrices[name] = quantize(weight.float().clamp(-bound, bound), fmt)
            blocks.write(index, QuantizedBlock(matrices))


def _gptq(''',
        ),
    ],
    "conf/method/clipped.yaml": """# Round to nearest with clipped weights.
defaults: [/schema/method@_here_: clipped, _self_]
""",
}

FAMILY = {
    "src/lorcbench/config/families.py": [
        (
            "FAMILIES = {",
            """STARCODER2 = Family(
    model_type="starcoder2",
    model_class="Starcoder2ForCausalLM",
    root="model.",
    blocks="model.layers",
    linears=[
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["self_attn.o_proj"],
        ["mlp.c_fc"],
        ["mlp.c_proj"],
    ],
    block_returns_tuple=False,
    shape={"layers": "num_hidden_layers", "hidden": "hidden_size", "heads": "num_attention_heads", "ffn": "intermediate_size"},
    mlp_matrices=2,
    vocabulary=49_152,
)

FAMILIES = {""",
        ),
        ("(OPT, BLOOM, LLAMA)", "(OPT, BLOOM, LLAMA, STARCODER2)"),
    ],
}

STUDY = """defaults: [/schema/study@_here_: study, _self_]
title: A method of our own
eval: stdlib
models: [opt-standin-xs]
methods: [clipped+clip=0.8]
weights: [w3-asym-row]
"""


@pytest.fixture
def tree(tmp_path) -> Path:
    """A copy of the tree, to be changed."""
    for name in TREE:
        source = ROOT / name
        if source.is_file():
            (tmp_path / "tree").mkdir(exist_ok=True)
            shutil.copyfile(source, tmp_path / "tree" / name)
        else:
            shutil.copytree(source, tmp_path / "tree" / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return tmp_path / "tree"


def change(tree: Path, changes: dict) -> None:
    """Apply `METHOD` or `FAMILY`."""
    for name, change in changes.items():
        path = tree / name
        if isinstance(change, str):
            assert not path.exists()
            path.write_text(change, encoding="utf-8")
            continue
        text = path.read_text(encoding="utf-8")
        for old, new in change:
            assert text.count(old) == 1, f"{name}: {old!r} is there {text.count(old)} times"
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")


def run(tree: Path, folder: Path, *arguments: str) -> str:
    """The workflow of the changed tree, in `folder`; what it said."""
    done = snakemake(folder, "--snakefile", str(tree / "Snakefile"), *arguments, PYTHONPATH=str(tree / "src"))
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_method_is_a_dataclass_a_function_and_a_conf_file(tree, copy):
    change(tree, METHOD)
    (tree / "conf/study/ours.yaml").write_text(f"# A study.\n{STUDY}", encoding="utf-8")
    before = digests(copy)
    run(tree, copy, "--config", "study=ours")
    with open(copy / "results/ours/cells.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["method"], row["weight"], row["status"]) for row in rows} == {
        ("none", "w16", "ok"),
        ("clipped+clip=0.8", FMT, "ok"),
    }
    after = digests(copy)
    added = {name.rpartition("/")[0] for name in after.keys() - before.keys()}
    assert added == {
        f"quantize/opt-standin-xs/clipped+clip=0.8/none/{FMT}/a16",
        f"evaluate/opt-standin-xs/clipped+clip=0.8/none/{FMT}/a16/a16/stdlib",
    }
    assert all(after[name] == digest for name, digest in before.items() if "checkpoint" in name)
    checkpoint, fmt = Checkpoint(copy / "results/cache/checkpoint/opt-standin-xs"), WeightFormat.parse(FMT)
    stored = load_file(copy / f"results/cache/quantize/opt-standin-xs/clipped+clip=0.8/none/{FMT}/a16/block001.safetensors")
    for name, weight in checkpoint.linears(1).items():
        rows = [row.clamp(-0.8 * row.abs().max(), 0.8 * row.abs().max()) for row in weight.float()]
        expected = to_stored(quantize(torch.stack(rows), fmt))
        assert torch.equal(stored[f"{name}.codes"], expected["codes"])


def starcoder(folder: Path, tokenizer: Path) -> Starcoder2ForCausalLM:
    """Save an untrained model of the added family with the stand-ins' tokenizer."""
    shape = {"num_hidden_layers": 2, "num_attention_heads": tiny.HEADS, "num_key_value_heads": 2, "intermediate_size": 40}
    tokens = {"vocab_size": 1024, "bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": 128}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Starcoder2ForCausalLM(Starcoder2Config(**tokens, **shape, hidden_size=tiny.HIDDEN, initializer_range=0.3)).eval()
    made.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), eos_token="</s>").save_pretrained(folder)
    return made


def test_a_family_is_one_record(tree, copy):
    change(tree, FAMILY)
    made = starcoder(copy / "starcoder", copy / "results/cache/text/stdlib/tokenizer.json")
    cells = [("none/none/w16/a16", "none"), (f"rtn/none/{FMT}/a16", "rtn")]
    files = [f"results/cache/evaluate/starcoder/{path}/a16/stdlib/result.json" for path, _ in cells]
    overrides = f"study.methods=[rtn] study.weights=[{FMT}] study.ranks=[0]"
    run(tree, copy, *files, "--config", "study=smoke", "model_path=starcoder", f"overrides={overrides}")
    full, rtn = (json.loads((copy / file).read_text())["variants"]["r0"] for file in files)
    windows = load_file(copy / "results/cache/tokens/starcoder/stdlib/tokens.safetensors")
    with torch.no_grad():
        for corpus, tokens in windows.items():
            losses = [float(made(input_ids=row[None], labels=row[None]).loss) for row in tokens.long()[:8]]
            assert full["nll"][corpus][:8] == pytest.approx(losses, rel=1e-3)
            assert rtn["nll"][corpus] != full["nll"][corpus]
    quantized = json.loads((copy / f"results/cache/quantize/starcoder/rtn/none/{FMT}/a16/result.json").read_text())
    linears = [name for name, module in made.model.layers[0].named_modules() if isinstance(module, torch.nn.Linear)]
    assert sorted(quantized["widths"]) == sorted(linears)
    assert quantized["weights"] == sum(
        module.weight.numel() for module in made.model.layers.modules() if isinstance(module, torch.nn.Linear)
    )
