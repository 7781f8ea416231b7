"""The card of an exported model: what it is, what was measured of it, how it was checked, and how it is loaded.

It is the ``README.md`` of the folder, with the metadata that Hugging Face's hub reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lorcbench.report.intervals import nll_difference, perplexity, relative_change
from lorcbench.report.wording import recipe
from lorcbench.study.cells import Cell

PICTURE = "loss.png"
# The licences under which the repositories of published models stand, by the beginning of their names.
_LICENCES = {"facebook/opt-": "other", "bigscience/bloom": "bigscience-bloom-rail-1.0"}
_LOADED = 'model = AutoModelForCausalLM.from_pretrained("FOLDER"{options})'
_FRONT = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)


@dataclass
class Card:
    """What a card says.

    Attributes:
        cell: that was exported.
        export, verify: its format and its check.
        base: repository and revision of the base model, or its local name; the licence, None if it is not known.
        nll, baseline: losses of every window by corpus, of the cell and of full precision.
        independent: the corpora whose windows were drawn one by one.
        bits: per weight, as the page counts them.
        facts: what else there is to say, by name, in order: protocol, calibration, versions, device.
        agreement: what the check found, as the result of the export has it.
        bytes: of the folder's checkpoint, with its adapter.
        has_adapter: whether the factors lie beside the checkpoint.
        is_standin: whether the pipeline trained the base model.
    """

    cell: Cell
    export: str
    verify: str
    base: dict[str, str | None]
    nll: dict[str, np.ndarray]
    baseline: dict[str, np.ndarray]
    independent: frozenset[str]
    bits: float
    facts: dict[str, str] = field(default_factory=dict)
    agreement: dict = field(default_factory=dict)
    bytes: int = 0
    has_adapter: bool = False
    is_standin: bool = False


def licence(repo: str | None, folder: Path) -> str | None:
    """The licence of the base model: as its own card in `folder` has it, or that of its repository; None if neither says."""
    readme = folder / "README.md"
    if readme.is_file() and (front := _FRONT.match(readme.read_text(encoding="utf-8"))):
        for line in front[1].splitlines():
            key, _, value = line.partition(":")
            if key == "license" and value.strip():
                return value.strip()
    return next((name for start, name in _LICENCES.items() if (repo or "").startswith(start)), None)


def snippets(cell: Cell, export: str, has_adapter: bool) -> dict[str, str]:
    """How the folder is loaded, by library: Python with FOLDER in the place of its path."""
    options = ""
    first = "from transformers import AutoModelForCausalLM"
    if export == "gptq":
        first += ", GPTQConfig"
        options = f', quantization_config=GPTQConfig(bits={cell.weight_format.bits}, backend="torch")'
    loaded = _LOADED.format(options=options)
    tokenizer = 'tokenizer = AutoTokenizer.from_pretrained("FOLDER")'
    plain = "\n".join([f"{first}, AutoTokenizer", loaded, tokenizer])
    if not has_adapter:
        return {"transformers": plain}
    with_factors = "\n".join(
        [f"{first}; from peft import PeftModel", loaded, 'model = PeftModel.from_pretrained(model, "FOLDER/adapter")']
    )
    return {"transformers, without the correction": plain, "PEFT, with the correction": with_factors}


def render(card: Card) -> str:
    """The card as Markdown."""
    name = f"{card.cell.model}, {recipe(card.cell)}"
    parts = [
        _front(card),
        f"# {name}",
        _what(card),
        "## How good it is\n\n" + _table(card) + f"\n\n![Change of the loss on each corpus]({PICTURE})",
        "## How it was checked\n\n" + _check(card),
        "## How to load it\n\n" + _loading(card),
        "## How it was made\n\n" + _made(card),
    ]
    return "\n\n".join(parts) + "\n"


def _front(card: Card) -> str:
    """The metadata that the hub reads."""
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    if card.base.get("repo"):
        lines += [f"base_model: {card.base['repo']}", "base_model_relation: quantized"]
    if card.base.get("licence"):
        lines.append(f"license: {card.base['licence']}")
    fmt = card.cell.weight_format
    tags = ["lorcbench", "quantized", card.export, "mixed-precision" if fmt.is_mixed else f"{fmt.bits}-bit"]
    if card.has_adapter:
        tags.append("lora")
    return "\n".join(["---", *lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _what(card: Card) -> str:
    """What the folder holds, and of what model."""
    revision = f" at revision `{card.base['revision']}`" if card.base.get("revision") else ""
    base = f"`{card.base.get('repo') or card.cell.model}`{revision}"
    licence_words = (
        f"Its licence is `{card.base['licence']}`." if card.base.get("licence") else "Its licence is not known to us."
    )
    holds = {
        "merged": "An ordinary checkpoint: the quantized weights, with any correction added, in the base model's type.",
        "adapter": "An ordinary checkpoint of the quantized weights, and beside it their correction as a PEFT adapter.",
        "compressed-tensors": "Packed codes, scales and zero points in the format of compressed-tensors.",
        "gptq": "Packed codes, scales and zero points in the format of GPTQ.",
    }[card.export]
    lines = [f"{holds} The base model is {base}. {licence_words}"]
    if card.is_standin:
        lines.append("The base model is a stand-in, which the pipeline trained itself. Its numbers are no published model's.")
    if card.has_adapter and card.export != "adapter":
        lines.append("The low-rank correction lies in `adapter/`. The numbers below are of the model with it.")
    if card.cell.activation != "a16" and card.export != "compressed-tensors":
        lines.append(
            f"The numbers below are of this model with activations rounded to {card.cell.activation}. "
            "No file of this format can say that; loaded from here, activations are not rounded."
        )
    return "\n\n".join(lines)


def _table(card: Card) -> str:
    """What was measured, beside full precision."""
    lines = ["| corpus | full precision | this model | change of the loss, nats per token | 95 % interval |"]
    lines.append("| --- | ---: | ---: | ---: | --- |")
    for corpus, nll in card.nll.items():
        change = nll_difference(nll, card.baseline[corpus], corpus in card.independent)
        numbers = f"{perplexity(card.baseline[corpus]):.4g} | {perplexity(nll):.4g} | {change.value:+.4f}"
        lines.append(f"| {corpus} | {numbers} | {change.low:+.4f} to {change.high:+.4f} |")
    change = relative_change(card.nll, card.baseline, card.independent)
    mean = (
        f"The mean perplexity changes by {change.value:+.2%}, with a 95 % interval from {change.low:+.2%} to {change.high:+.2%}"
    )
    size = f"The study stores the block linears in {card.bits:.3f} bits per weight; this folder has {card.bytes:,} bytes."
    columns = "The second and the third column are perplexities."
    return "\n".join(lines) + f"\n\n{columns} {mean}, over the same windows of text. {size}"


def _check(card: Card) -> str:
    """Which check ran, and what both sides gave."""
    found = card.agreement
    libraries = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        f"A process of its own loaded this folder with {libraries}, in {found['dtype']}. "
        f"{found['compared']} tensors are equal to ours to the bit."
    ]
    if card.verify == "tensors":
        lines.append("Only tensors were compared, one module after another (`verify=tensors`); the model was not run.")
        return " ".join(lines)
    lines.append("Perplexity on the first windows of each corpus, by that library and by our own walk of the same tensors:")
    rows = [
        f"| {corpus} | {found['theirs'][corpus]:.6g} | {ours:.6g} | {abs(found['theirs'][corpus] / ours - 1):.1e} |"
        for corpus, ours in found["ours"].items()
    ]
    table = "\n".join(["| corpus | the library | our walk | difference |", "| --- | ---: | ---: | ---: |", *rows])
    generated = f"It then generated {len(found['generated'])} tokens."
    return " ".join(lines) + f"\n\n{table}\n\n{generated}"


def _loading(card: Card) -> str:
    """Three lines per library."""
    parts = [
        f"With {library}:\n\n```python\n{code}\n```"
        for library, code in snippets(card.cell, card.export, card.has_adapter).items()
    ]
    return "`FOLDER` is where this file lies.\n\n" + "\n\n".join(parts)


def _made(card: Card) -> str:
    """The recipe, and what the numbers depend on."""
    rows = {"recipe": f"`{card.cell.key}`", **card.facts}
    return "\n".join(["| what | which |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])


def draw(card: Card, path: Path) -> None:
    """The picture of a card: what the recipe changed on each corpus, with its interval."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from lorcbench.report.figures.style import COLOURS, STYLE

    changes = {
        corpus: nll_difference(nll, card.baseline[corpus], corpus in card.independent) for corpus, nll in card.nll.items()
    }
    with rc_context(STYLE):
        figure = Figure(figsize=(6.5, 0.9 + 0.35 * len(changes)), layout="constrained")
        axes = figure.add_subplot()
        for place, change in enumerate(changes.values()):
            sides = [[change.value - change.low], [change.high - change.value]]
            axes.errorbar(change.value, place, xerr=sides, fmt="o", color=COLOURS["gptq"], capsize=3)
        axes.set_yticks(range(len(changes)), list(changes))
        axes.set_ylim(len(changes) - 0.5, -0.5)
        axes.axvline(0, color="#999999", linewidth=0.8)
        axes.set_xlabel("change of the loss, nats per token; 0 is full precision, bars are 95 % intervals")
        figure.savefig(path, dpi=120, metadata={"Software": None})
