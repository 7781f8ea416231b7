"""What a stage answers to the flags of a command line, such as ``--help``, and to those that people know from Hydra.

A stage takes ``key=value`` alone: the line that the workflow runs. Everything else is answered with what prints it, or with
where that is.
"""

from __future__ import annotations

import re

from lorcbench.config import compose
from lorcbench.config.schema import SCHEMAS, JobConfig
from lorcbench.study.show import composed
from lorcbench.study.stages import STAGES

HELP = ("-h", "--help", "--hydra-help")
_CFG = ("--cfg", "-c")
_LISTS = {"eval": "protocols", "study": "studies", "calibration": "calibrations", "lorc": "lorc"}  # names of `lorcbench list`
# Flags of Hydra → where what they do is.
_ELSEWHERE = {
    ("-m", "--multirun"): "a study is the sweep: conf/study/NAME.yaml lists its cells, and `lorcbench run NAME` runs them all",
    ("-r", "--run"): "a stage runs when it is named; `lorcbench run STUDY` runs a study",
    ("-i", "--info"): "conf files are searched in {folders}; `--cfg job` prints what they compose to",
    ("-p", "--package", "--resolve"): "`--cfg job` prints the whole configuration of the job, resolved",
    ("-sc", "--shell-completion"): "`lorcbench --install-completion` completes the command lorcbench in your shell",
    ("-cp", "-cn", "-cd", "--config-path", "--config-name", "--config-dir"): (
        "conf/config.yaml is the one configuration; conf files of your own lie in ./conf, or where "
        f"{compose.EXTRA_CONF} says, and are chosen by name, such as model=NAME"
    ),
    ("--experimental-rerun",): "the first line of a job's log.txt is the command that runs it again",
    ("--version",): "`lorcbench --version` prints the version",
}


def answer(stage: str, arguments: list[str], description: str) -> tuple[str, bool] | None:
    """What there is to say to the flags of a command line, and whether that is what was asked for; None if it has no flag.

    Args:
        description: what the stage does, in a line.

    Raises:
        ConfigError: `--cfg job` of settings that make no sense.
    """
    flags = [argument for argument in arguments if argument.startswith("-")]
    if not flags:
        return None
    if set(flags) & set(HELP):
        return usage(stage, description), True
    name, _, value = flags[0].partition("=")
    if name in _CFG:
        values = {"job", "all", "hydra"}
        what = value or next((argument for argument in arguments if argument in values), "job")
        if what == "job":
            kept = [
                argument for argument in arguments if argument not in ("job", "--resolve") and not argument.startswith(_CFG)
            ]
            return composed(kept), True
        return f"{stage}: --cfg {what}: expected --cfg job; of Hydra's own settings nothing is used", False
    for names, where in _ELSEWHERE.items():
        if name in names:
            folders = " and ".join(map(str, compose.searched()))
            return f"{stage}: {name}: {where.format(folders=folders)}", False
    return f"{stage}: {flags[0]}: expected key=value such as model=opt-125m; --help says which there are", False


def usage(stage: str, description: str) -> str:
    """What a stage does, which settings it takes, and where its result goes."""
    records = [record for record in STAGES.values() if record.module == stage]
    patterns = [record.pattern for record in records]
    names = list(dict.fromkeys(name for pattern in patterns for name in re.findall(r"{(\w+)}", pattern))) or ["study"]
    if names == ["study"]:
        names += _OF_STUDY
    if stage in ("evaluate", "harness"):
        names.append("variants")
    lines = [_line(name) for name in names] + [("runtime.KEY=…", "facts of the machine: conf/runtime/default.yaml")]
    width = max(len(key) for key, _ in lines)
    settings = [f"  {key:{width}}  {about}" for key, about in lines]
    places = [f"It writes {' or '.join(patterns)}." if patterns else "It writes nothing."]
    return "\n".join(
        [
            f"usage: lorcbench stage {stage} key=value …",
            "",
            description,
            "",
            *settings,
            "",
            *places,
            "A setting of an entry goes behind its name, such as method=gptq+damp=0.05; one that is left out is its default.",
            "--cfg job prints the configuration that settings compose to, and runs nothing.",
        ]
    )


def _line(name: str) -> tuple[str, str]:
    """A setting as it is typed, and what it is."""
    key = {"protocol": "eval"}.get(name, name)
    if key in SCHEMAS:
        return f"{key}=NAME", f"one of those that `lorcbench list {_LISTS.get(key, f'{key}s')}` prints"
    return f"{key}=…", _ABOUT[key]


def _described() -> dict[str, str]:
    """What `JobConfig` says of its attributes."""
    text = JobConfig.__doc__.partition("Attributes:")[2]
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", text, re.MULTILINE)
    return {name: " ".join(about.replace("``", "").split()) for name, about in entries}


_OF_STUDY = ["study.KEY", "model_path", "text_path", "foreign", "name"]  # what else a stage takes that sees a whole study
_ABOUT = _described() | {"study.KEY": "changes of the study, such as study.models=[opt-125m], study.ranks=[0,8]"}
