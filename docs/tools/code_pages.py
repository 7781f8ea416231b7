"""Pages of the reference that are made from the code: the groups of conf/, and the commands.

`python docs/tools/code_pages.py` writes them into docs/; `make docs` does, too. A test says when they are out of date.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import typer
from omegaconf import MISSING

from lorcbench import stages
from lorcbench.cli import app
from lorcbench.config import compose
from lorcbench.config.protocols import CorpusConfig, SourceConfig
from lorcbench.config.schema import AXES, AXIS_DEFAULTS, SCHEMAS, StandinConfig, StudyConfig

# What a folder of conf/ is for, in the order in which a newcomer meets them.
GROUPS = {
    "study": "A named set of cells. The only place that says which cells there are.",
    "model": "A checkpoint: where it comes from, and its shape if that must be known before it is there.",
    "method": "How weights become codes.",
    "lorc": "A low-rank correction, which mends what a method lost.",
    "calibration": "Which tokens a method sees.",
    "eval": "A protocol: on which texts, in which windows, a perplexity is measured.",
    "text": "Documents that calibrations and protocols read.",
    "task": "A task of lm-eval.",
    "runtime": "Facts of the machine. They are in no name, and no result depends on them beyond rounding.",
    "tracking": "Where MLflow keeps its runs.",
}
# Tables inside other entries.
PARTS = {
    "model": {"`standin`": StandinConfig},
    "eval": {"an entry of `corpora`": CorpusConfig},
    "calibration": {"an entry of `corpora`": SourceConfig},
}
_ENTRY = re.compile(r"^([\w`, …]+): (.+)$")


def meanings(schema: type) -> dict[str, str]:
    """What each key of a dataclass means, as the docstrings of the class and of those that it inherits from say it."""
    merged: dict[str, str] = {}
    for owner in reversed(schema.__mro__):
        if "__doc__" in vars(owner) and owner is not object:
            merged |= _attributes(inspect.cleandoc(owner.__doc__ or ""), [spec.name for spec in _fields(owner)])
    return merged


def _fields(owner: type) -> list[Field]:
    return list(fields(owner)) if hasattr(owner, "__dataclass_fields__") else []


def _attributes(docstring: str, names: list[str]) -> dict[str, str]:
    """The section "Attributes" of a docstring: a line may begin with several names, or with the ends of a range."""
    _, _, section = docstring.partition("Attributes:\n")
    section = re.split(r"\n\S", section)[0]
    found: dict[str, str] = {}
    chosen: list[str] = []
    for line in section.splitlines():
        entry = _ENTRY.match(line.strip()) if re.match(r" {4}\S", line) else None
        if entry:
            chosen = _names(entry.group(1), names)
            found |= dict.fromkeys(chosen, entry.group(2))
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in chosen}
    return {name: _sentence(text) for name, text in found.items()}


def _names(text: str, names: list[str]) -> list[str]:
    first, ellipsis, last = (part.strip() for part in text.replace("`", "").partition("…"))
    if ellipsis:
        return names[names.index(first) : names.index(last) + 1]
    return [name.strip() for name in first.split(",")]


def _sentence(text: str) -> str:
    """A meaning as a cell of a table: no vertical bar, a capital letter in front, a full stop behind."""
    text = text.strip().replace("|", "\\|").replace("``", "`")
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _default(schema: type, spec: Field) -> str:
    value: Any = spec.default if spec.default_factory is NO_DEFAULT else spec.default_factory()
    if schema is StudyConfig and spec.name in AXES:  # None there only says that the study names no values
        value = AXIS_DEFAULTS.get(spec.name, MISSING)
    if value is NO_DEFAULT or value == MISSING:
        return "**needed**"
    if isinstance(value, dict | list) and not value:
        return "none"
    words = {None: "null", True: "true", False: "false"}
    return f"`{words[value] if isinstance(value, bool | None) else str(value).replace(chr(39), '')}`"


def _table(schema: type, left_out: tuple[str, ...] = ()) -> list[str]:
    """A row for each key, or for neighbours with one meaning; a key without a meaning is an error of the docstring."""
    known = meanings(schema)
    rows: dict[str, list[Field]] = {}
    for spec in fields(schema):
        if spec.name not in left_out:
            rows.setdefault(known[spec.name], []).append(spec)
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    for meaning, specs in rows.items():
        keys = ", ".join(f"`{spec.name}`" for spec in specs)
        lines.append(f"| {keys} | {', '.join(dict.fromkeys(_default(schema, spec) for spec in specs))} | {meaning} |")
    return [*lines, ""] if rows else ["It has no settings.", ""]


def conf_page() -> str:
    """The groups of conf/: keys, defaults, meanings, and the files that are there."""
    lines = [
        "# The groups of conf/",
        "",
        "One folder of `conf/` is a *group*. One file in it is an *entry*; its name is what paths and tables carry. A setting",
        "of an entry is changed behind its name: `gptq+damp=0.05`. This page is made from the dataclasses that check the files",
        "(`src/lorcbench/config`), so it cannot say anything else than they do.",
        "",
    ]
    for group, about in GROUPS.items():
        lines += [f"## {group}", "", about, ""]
        for name, schema in SCHEMAS[group].items():
            if len(SCHEMAS[group]) > 1:
                lines += [f"### {group}: {name}", "", _summary(schema), ""]
            lines += _table(schema, ("kind",) if group == "method" else ())
        for where, schema in PARTS.get(group, {}).items():
            lines += [f"Keys of {where}:", "", *_table(schema)]
        lines += [f"Entries of `conf/{group}`:", "", "| name | what it is |", "| --- | --- |"]
        lines += [f"| `{name}` | {_escaped(_about(group, name))} |" for name in compose.names(group)]
        lines.append("")
    return "\n".join(lines)


def _about(group: str, name: str) -> str:
    """The first sentence of the comment at the head of a conf file."""
    comment = []
    for line in (compose.conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return re.split(r"(?<=[.?!]) (?=[A-Z`0-9])", " ".join(comment))[0]


def _summary(schema: type) -> str:
    return inspect.cleandoc(schema.__doc__ or "").partition("\n\n")[0].replace("\n", " ").replace("``", "`")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def commands_page() -> str:
    """Every command of `lorcbench`, with its arguments and options, and every stage."""
    group = typer.main.get_command(app)
    commands = {name: command for name, command in group.commands.items() if name != "stage" and not command.hidden}
    lines = [
        "# Commands",
        "",
        "`lorcbench` and `snakemake` lie in `.venv/bin`. This page is made from the commands themselves; `--help` behind each",
        "of them says the same.",
        "",
        "| command | what it does |",
        "| --- | --- |",
        *(
            f"| [`lorcbench {name}`](#{name}) | {_escaped(_paragraphs(command.help)[0])} |"
            for name, command in commands.items()
        ),
        "| [`lorcbench stage`](#stages) | Run one stage by hand, as the workflow does. |",
        "",
    ]
    for name, command in commands.items():
        lines += [f"## {name}", "", *_usage(f"lorcbench {name}", command)]
    lines += [
        "## Stages",
        "",
        "    lorcbench stage quantize model=opt-standin-s method=gptq calibration=stdlib weight=w3-asym-g32",
        "",
        "A stage takes the names that its folder under `results/cache` has. Its inputs must be there.",
        "",
        "| stage | what it does |",
        "| --- | --- |",
        *(f"| `{name}` | {_escaped(stages.description(name)).replace('``', '`')} |" for name in stages.names()),
        "",
    ]
    return "\n".join(lines)


def _paragraphs(text: str | None) -> list[str]:
    """The paragraphs of a help; one that begins with a backspace, which keeps its lines, becomes a block of code."""
    parts = re.split(r"\n[ ]*\n", inspect.cleandoc(text or "").replace("\f", ""))
    parts = [part.removeprefix("\n") for part in parts]
    return [
        "\n".join("    " + line.strip() for line in part[1:].strip("\n").splitlines())
        if part.startswith("\b")
        else _joined(part)
        for part in parts
        if part.strip()
    ]


def _joined(part: str) -> str:
    return " ".join(part.split())


def _usage(name: str, command: Any) -> list[str]:
    """The line to type, what it does, and its options."""
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and "--help" not in one.opts]
    lines = ["    " + " ".join([name, *(one.metavar or one.name.upper() for one in arguments)]), ""]
    for paragraph in _paragraphs(command.help):
        lines += [paragraph, ""]
    if options:
        lines += ["| option | meaning |", "| --- | --- |"]
        lines += [f"| `{', '.join(option.opts)}` | {_escaped(option.help or '')} |" for option in options]
        lines.append("")
    return lines


def pages() -> dict[str, str]:
    """The pages by their names in docs/."""
    return {"reference-conf.md": conf_page(), "reference-commands.md": commands_page()}


if __name__ == "__main__":
    for _name, _text in pages().items():
        (Path(__file__).resolve().parents[1] / _name).write_text(_text, encoding="utf-8")
