"""lm-eval's definitions of tasks and groups, and the same over staged documents.

Prompts, metrics, versions and code stay lm-eval's; only the place of the documents changes, and what a name changes
(`lorcbench.config.protocols.TaskConfig`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorcbench.config.protocols import TaskConfig


class HarnessError(Exception):
    """A task is missing or cannot be run; the message names it."""


def definition(path: str) -> tuple[Path, dict]:
    """A file of lm-eval's tasks folder, or of the user's own, and its content with that of its includes.

    Args:
        path: of the file in that folder, or its full path.

    Raises:
        HarnessError: there is no such file.
    """
    import lm_eval
    from lm_eval.tasks._yaml_loader import load_yaml  # lm-eval's own reader; no other knows its includes and !function

    file = Path(lm_eval.__file__).parent / "tasks" / path
    if not file.is_file():
        place = "" if Path(path).is_absolute() else f"lm-eval {lm_eval.__version__} has no such file in its tasks folder"
        raise HarnessError(f"task.definition={path}: {place or 'no such file'}")
    return file, load_yaml(file, resolve_func=False)


@dataclass(frozen=True)
class Member:
    """One task of lm-eval: what a definition names, or one task of the group that it names.

    Attributes:
        name: lm-eval's.
        file: of the definition.
        content: of the file, with that of its includes.
        shots: few-shot examples before each document.
        alone: whether it is what was asked for, and no part of a group.
    """

    name: str
    file: Path
    content: dict
    shots: int
    alone: bool

    @property
    def split_key(self) -> str:
        """Which key of the definition names the split that lm-eval scores: the test split if the task has one."""
        return "test_split" if self.content.get("test_split") else "validation_split"

    @property
    def split(self) -> str:
        """The split that is scored."""
        return self.content[self.split_key]

    @property
    def examples_key(self) -> str | None:
        """Which key names the split of few-shot examples, in lm-eval's order; None if there are none, or in the definition."""
        own = self.content.get("fewshot_config") or {}
        if not self.shots or (own.get("samples") is not None and not self.content.get("fewshot_split")):
            return None
        keys = ("fewshot_split", "training_split", "validation_split", "test_split")
        return next(key for key in keys if self.content.get(key))

    @property
    def examples(self) -> str | None:
        """The split of few-shot examples, if it is another one than what is scored."""
        split = self.content[self.examples_key] if self.examples_key else None
        return None if split == self.split else split

    @property
    def spare(self) -> int:
        """How many examples more than shots lm-eval draws from: one where the document itself may be among them.

        It takes that to be so where the two splits have one name in the definition, and where neither has any.
        """
        own = self.content.get("fewshot_config") or {}
        one_name = (own.get("split") or self.content.get("fewshot_split")) == self.content.get("test_split")
        return int(not self.examples or (one_name and own.get("sampler") != "first_n"))

    def file_of(self, split: str) -> str:
        """The name of the staged file of one of its splits."""
        what = "documents" if split == self.split else "examples"
        return f"{what}.parquet" if self.alone else f"{self.name}.{what}.parquet"


def members(task: TaskConfig) -> list[Member]:
    """The task that a definition names, or all tasks of the group, in lm-eval's order.

    Raises:
        HarnessError: no such file, a member of the group is not beside it, or documents are made by a program.
    """
    file, content = definition(task.definition)
    if "group" not in content:
        return [_member(task, content.get("task", file.stem), file, content, alone=True)]
    index = _index(file)
    names = [name for name in _reached(task, content["group"], index) if index[name].kind.name == "TASK"]
    return [_member(task, name, index[name].yaml_path, index[name].cfg, alone=False) for name in names]


def _member(task: TaskConfig, name: str, file: Path, content: dict, alone: bool) -> Member:
    """One task, if its documents can be staged and the settings make sense for it."""
    program = next((key for key in ("class", "custom_dataset") if content.get(key)), None)
    if program or not (content.get("test_split") or content.get("validation_split")):
        reason = f"its documents come from a program ({program})" if program else "it names no split that is scored"
        raise HarnessError(f"task.definition={task.definition}: {name}: {reason}; expected a task over a data set")
    kind = content.get("output_type", "generate_until")
    if kind == "loglikelihood_rolling":
        for key in ("shots", "chat", "system"):
            if value := getattr(task, key):
                raise HarnessError(f"task.{key}={value}: {name} is a perplexity of texts without prompts; expected none")
    if task.max_gen_toks and kind != "generate_until":
        raise HarnessError(f"task.max_gen_toks={task.max_gen_toks}: {name} generates no text; expected none")
    shots = task.shots if task.shots is not None else content.get("num_fewshot") or 0
    return Member(name, file, content, shots, alone)


def _index(file: Path) -> dict[str, Any]:
    """lm-eval's entries of all tasks, groups and tags in the folder of a definition."""
    from lm_eval.tasks._index import TaskIndex

    return TaskIndex.build([file.parent])


def _reached(task: TaskConfig, name: str, index: dict[str, Any]) -> Iterator[str]:
    """A group, and the tasks and groups that it and its groups and tags name, each in its place."""
    if name not in index:
        raise HarnessError(f"task.definition={task.definition}: {name} is defined in no file of its folder")
    entry = index[name]
    if entry.kind.name == "TAG":
        for tagged in sorted(entry.tags):
            yield from _reached(task, tagged, index)
        return
    yield name
    if entry.kind.name == "GROUP":
        listed = entry.cfg["task"]
        for item in [listed] if isinstance(listed, str) else listed:
            if isinstance(item, dict) and not isinstance(item.get("task"), str) and item.get("group") not in index:
                raise HarnessError(
                    f"task.definition={task.definition}: {name} defines {item} in itself; expected names of files"
                )
            yield from _reached(task, item if isinstance(item, str) else item.get("group") or item["task"], index)


def over_staged(name: str, task: TaskConfig, folder: Path) -> list[dict]:
    """lm-eval's own task or group `name` over staged documents, as the contents of YAML files.

    Args:
        folder: of the staged documents, as the stage ``task`` leaves it.

    Returns:
        What was asked for first, then the members of a group.
    """
    file, content = definition(task.definition)
    tasks = members(task)
    if "group" not in content:
        return [_over_staged(name, task, tasks[0], folder)]
    index = _index(file)
    groups = [entry for entry in _reached(task, content["group"], index) if index[entry].kind.name == "GROUP"]
    asked, *inner = dict.fromkeys(groups)
    own = {"include": str(index[asked].yaml_path), "group": name}
    below = [{"include": str(index[group].yaml_path), "group": group} for group in inner]
    return [own, *below, *(_over_staged(member.name, task, member, folder) for member in tasks)]


def _over_staged(name: str, task: TaskConfig, member: Member, folder: Path) -> dict:
    """One task over staged documents.

    Splits that lm-eval does not read are taken out: without few-shot examples it reads the scored one only.
    """
    splits = {member.split: member.file_of(member.split)}
    if member.examples:
        splits[member.examples] = member.file_of(member.examples)
    content = {
        "include": str(member.file),
        "task": name,
        "dataset_path": "parquet",
        "dataset_name": None,
        # Absolute paths, since lm-eval resolves them against its own working directory.
        "dataset_kwargs": {"data_files": {split: str((folder / file).resolve()) for split, file in splits.items()}},
        **dict.fromkeys(("training_split", "validation_split", "test_split", "fewshot_split")),
        member.split_key: member.split,
    }
    if member.examples_key:
        content[member.examples_key] = member.content[member.examples_key]
    if task.shots is not None:
        content["num_fewshot"] = task.shots
    if task.max_gen_toks:
        content["generation_kwargs"] = (member.content.get("generation_kwargs") or {}) | {"max_gen_toks": task.max_gen_toks}
    return content


_METRICS = {
    "stdlib_prose": ["word_perplexity", "byte_perplexity", "bits_per_byte"],
    "stdlib_continuation": ["acc", "acc_norm"],
}


def stdlib_task(name: str, documents: Path) -> dict:
    """One of the two tasks made from the text that Python carries, as the content of a YAML file.

    Args:
        name: ``stdlib_prose`` or ``stdlib_continuation``.
        documents: a JSONL file, as `lorcbench.data.stdlib_text.harness_tasks` makes its documents.
    """
    task = {
        "task": name,
        "dataset_path": "json",
        # An absolute path, since lm-eval resolves it against its own working directory.
        "dataset_kwargs": {"data_files": {"test": str(documents.resolve())}},
        "test_split": "test",
        "metric_list": [{"metric": metric} for metric in _METRICS[name]],
        "metadata": {"version": 1.0},
    }
    if name == "stdlib_prose":
        return {**task, "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    fields = {"doc_to_text": "{{context}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{label}}"}
    return {**task, "output_type": "multiple_choice", "target_delimiter": "", **fields}
