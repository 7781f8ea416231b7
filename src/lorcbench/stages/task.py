"""The documents of an lm-eval task, staged: from a file on this machine, or from where lm-eval's definition says they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorcbench.common.artifacts import file_digest, replacing
from lorcbench.config import compose
from lorcbench.config.protocols import TaskConfig
from lorcbench.data import texts
from lorcbench.data.hub import downloading
from lorcbench.jobs.job import Job
from lorcbench.models import harness
from lorcbench.stages import run_by_old_name
from lorcbench.study.stages import TASK

if TYPE_CHECKING:
    from datasets import Dataset


def main(job: Job) -> None:
    """Write the documents that are scored as one Parquet file."""
    folder = job.at(TASK)
    task, name = job.task, job.names.task
    if task.definition is None:
        raise harness.HarnessError(f"task {name}: it comes with text={task.text}; run that stage")
    _, definition = harness.definition(task.definition)
    split = harness.scored_split(definition)
    path = texts.local_file(task.local, job.runtime.data_dir)
    rows = texts.table(path) if path else _download(name, task, definition, split)
    where = path or definition["dataset_path"]
    if not len(rows):
        raise harness.HarnessError(f"task {name}: no documents in {where}")
    if missing := [column for column in task.columns if column not in rows.column_names]:
        raise harness.HarnessError(f"task {name}: {where} has {', '.join(rows.column_names)}, not {', '.join(missing)}")
    target = folder / "documents.parquet"
    with replacing(target) as temporary:
        rows.to_parquet(str(temporary))
    origin = {"file": path.name, "sha256": file_digest(path)} if path else {"repo": definition["dataset_path"]}
    payload = {
        "files": {target.name: file_digest(target)},
        "documents": len(rows),
        "columns": rows.column_names,
        "split": split,
        "origin": origin,
    }
    job.finish(job.identity(compose.plain(task)), payload)


def _download(name: str, task: TaskConfig, definition: dict, split: str) -> Dataset:
    """The split of the data set that lm-eval's definition names.

    Raises:
        HubError: the hub cannot be reached, or has no such data set.
    """
    from datasets import load_dataset

    repo = definition["dataset_path"]
    instead = f"put its {split} split at {' or '.join(task.local)} and set runtime.data_dir to that folder"
    with downloading(f"task {name}: {repo}", instead):
        return load_dataset(repo, definition.get("dataset_name"), split=split, **(definition.get("dataset_kwargs") or {}))


if __name__ == "__main__":
    run_by_old_name(__spec__.name)
