"""The documents of an lm-eval task, staged: from files on this machine, or from where lm-eval's definition says they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lorcbench.common.artifacts import file_digest, fingerprint, replacing
from lorcbench.config.protocols import TaskConfig
from lorcbench.data import task_files, texts
from lorcbench.data.hub import downloading
from lorcbench.jobs.job import Job
from lorcbench.models import task_definitions
from lorcbench.models.task_definitions import HarnessError, Member
from lorcbench.stages import run_by_old_name
from lorcbench.study.stages import TASK

if TYPE_CHECKING:
    from datasets import Dataset


def main(job: Job) -> None:
    """Write the documents that are scored, and the few-shot examples before them, one Parquet file per task and split."""
    folder = job.at(TASK)
    task, name = job.task, job.names.task
    if task.definition is None:
        raise HarnessError(f"task {name}: it comes with text={task.text}; run that stage")
    files, about = {}, {}
    members = task_definitions.members(task)
    for number, member in enumerate(members):
        staged = _stage(job, name, member, folder)
        files |= staged.pop("files")
        about[member.name] = staged
        job.progress(number + 1, len(members), "task")
    # Of a task alone, what a result said before there were groups.
    described = next(iter(about.values())) if members[0].alone else {"tasks": about, **_total(about)}
    # Of a definition of the user's own; lm-eval's are told by its version.
    own = {f"definition of {member.name}": fingerprint(member.content) for member in members} if _is_own(task) else {}
    job.finish(job.identity(task.staged(), **own), {"files": files, **described})


def _is_own(task: TaskConfig) -> bool:
    """Whether the definition is a file of the user's, which has a full path."""
    return Path(task.definition).is_absolute()


def _total(about: dict[str, dict]) -> dict:
    """What a group's result says of all its tasks together."""
    return {"documents": sum(staged["documents"] for staged in about.values())}


def _stage(job: Job, name: str, member: Member, folder: Path) -> dict:
    """Write the files of one task; returns their digests, and what is said of them.

    Raises:
        HarnessError: there are no documents, fewer examples than shots, or a column is missing.
    """
    rows, about = _rows(job, name, member, member.split)
    _write(folder / member.file_of(member.split), rows)
    staged = {"documents": len(rows), "columns": rows.column_names, "split": member.split, **about}
    files = [member.file_of(member.split)]
    available = rows
    if member.examples:
        available, about = _rows(job, name, member, member.examples)
        _write(folder / member.file_of(member.examples), available)
        staged["examples"] = {"documents": len(available), "split": member.examples, **about}
        files.append(member.file_of(member.examples))
    if member.examples_key and (most := len(available) - member.spare) < member.shots:
        said = f"{member.shots} shots of {len(available)} examples in {_said(about)}"
        raise HarnessError(f"task {name}: {said}; expected at most {most}")
    return {"files": {file: file_digest(folder / file) for file in files}, **staged}


def _rows(job: Job, name: str, member: Member, split: str) -> tuple[Dataset, dict]:
    """One split of a task, and where it is from.

    Raises:
        HarnessError: there are no documents, or one of the columns that the definition reads is missing.
    """
    task = job.task
    own = member.content
    patterns = task_files.patterns(task, member.name, own.get("dataset_name"), split, examples=split != member.split)
    path = texts.local_file(patterns, job.runtime.data_dir)
    rows = texts.table(path) if path else _download(name, task, member, split, patterns)
    where = path or own["dataset_path"]
    if not len(rows):
        raise HarnessError(f"task {name}: no documents in {where}")
    if missing := [column for column in task.columns if column not in rows.column_names]:
        raise HarnessError(f"task {name}: {where} has {', '.join(rows.column_names)}, not {', '.join(missing)}")
    return rows, {"origin": {"file": path.name, "sha256": file_digest(path)} if path else {"repo": own["dataset_path"]}}


def _said(about: dict) -> str:
    """Where documents are from, for a message."""
    return about["origin"].get("file") or about["origin"]["repo"]


def _write(target: Path, rows: Dataset) -> None:
    with replacing(target) as temporary:
        rows.to_parquet(str(temporary))


def _download(name: str, task: TaskConfig, member: Member, split: str, patterns: list[str]) -> Dataset:
    """The split of the data set that lm-eval's definition names.

    Raises:
        HubError: the hub cannot be reached, or has no such data set.
    """
    from datasets import load_dataset

    repo, configuration = member.content["dataset_path"], member.content.get("dataset_name")
    instead = f"put its {split} split at {' or '.join(patterns)} and set runtime.data_dir to that folder"
    with downloading(f"task {name}: {repo}", instead):
        return load_dataset(repo, configuration, split=split, **(member.content.get("dataset_kwargs") or {}))


if __name__ == "__main__":
    run_by_old_name(__spec__.name)
