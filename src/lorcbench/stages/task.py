"""The documents of an lm-eval task, staged: from a file on this machine, or from where lm-eval's definition says they are."""

from __future__ import annotations

from lorcbench.common import paths
from lorcbench.common.artifacts import file_digest, replacing
from lorcbench.config import compose
from lorcbench.data import texts
from lorcbench.data.hub import downloading
from lorcbench.jobs.job import Job, run
from lorcbench.models import harness


def main(job: Job) -> None:
    """Write the documents that are scored as one Parquet file."""
    folder, name = job.at(paths.TASK), job.names["task"]
    task = job.task
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
    job.finish("task", job.identity(compose.plain(task), {}), payload)


def _download(name: str, task, definition: dict, split: str):
    import datasets

    repo = definition["dataset_path"]
    instead = f"put its {split} split at {' or '.join(task.local)} and set runtime.data_dir to that folder"
    with downloading(f"task {name}: {repo}", instead):
        return datasets.load_dataset(
            repo, definition.get("dataset_name"), split=split, **(definition.get("dataset_kwargs") or {})
        )


if __name__ == "__main__":
    run("task", main)
