"""Exported cells → MLflow: one LoggedModel per export, so that the tab Models shows what can be taken away.

The weights stay in the export's folder, which a tag names; MLflow holds the card and its picture. A model belongs to the run of
its cell, whose numbers it shows. Whoever imports twice changes nothing: a model is replaced if its export, or the run of its
cell, is another one now, and goes if its folder is gone.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Metric, Run

from lorcbench.common.artifacts import read_json
from lorcbench.report.card import PICTURE
from lorcbench.report.tracking.records import KEY, run_name
from lorcbench.report.tracking.runs import NOTE, runs_by_key, study_experiment
from lorcbench.report.tracking.store import Store, opened
from lorcbench.report.tracking.view import local_folder
from lorcbench.study.cells import RECIPE, Cell, Study
from lorcbench.study.exports import FORMATS, PUBLISHED, VERIFY
from lorcbench.study.stages import EXPORT

CARD = "README.md"
DIGEST = "lorcbench.digest"  # of the export's result
KIND = "lorcbench export"  # what MLflow calls the type of the model
_LONGEST = 8000  # characters of a tag that every store takes
# What a model shows of its cell's run.
_METRICS = ("ppl_mean", "delta_ppl", "delta_ppl_low", "delta_ppl_high", "bits_per_weight")
_UNFIT = re.compile(r"[/:.%\"']")  # signs that MLflow refuses in the name of a model


@dataclass(frozen=True)
class Exported:
    """One export on disk.

    Attributes:
        cell: that was exported.
        export, verify: its format, and how it was checked.
        place: the published folder.
        digest: of its result.
        bytes: of its files.
    """

    cell: Cell
    export: str
    verify: str
    place: Path
    digest: str
    bytes: int

    @property
    def key(self) -> str:
        """What no other export of the study is called."""
        return f"{self.cell.key}/{self.export}/{self.verify}"


def exported(study: Study) -> list[Exported]:
    """The exports of a study's cells that are there.

    Raises:
        ArtifactError: the result of one is damaged.
    """
    found = []
    for cell in study.cells:
        for export in FORMATS:
            for verify in VERIFY:
                folder = EXPORT.folder(replace(study.wildcards(cell), rank=str(cell.rank), export=export, verify=verify))
                if (folder / "result.json").is_file() and (folder / PUBLISHED / CARD).is_file():
                    result = read_json(folder / "result.json", EXPORT.kind)
                    found.append(Exported(cell, export, verify, folder / PUBLISHED, result["digest"], result["bytes"]))
    return found


def register(study: Study, store: Store) -> dict[str, str]:
    """Bring the study's models in line with its exports.

    Returns:
        What an export is called (`Exported.key`) → the id of its model.

    Raises:
        TrackingError: the store cannot be reached, opened or written.
        ArtifactError: as `exported`.
    """
    there = {one.key: one for one in exported(study)}
    with opened(store) as client:
        experiment_id = study_experiment(client, store)
        runs = {key: same[0] for key, same in runs_by_key(client, experiment_id, study.name, store).items()}
        models = {}
        for model in _models(client, experiment_id, study.name, store):
            key = model.tags[KEY]
            one = there.get(key)
            if one and key not in models and _shows(model, one, runs.get(one.cell.key)):
                models[key] = model.model_id
            else:
                client.delete_logged_model(model.model_id)
        for key, one in there.items():
            if key not in models:
                models[key] = _create(client, experiment_id, study.name, one, runs.get(one.cell.key), store)
    return models


def _models(client: MlflowClient, experiment_id: str, study: str, store: Store) -> list[LoggedModel]:
    """The study's models that an import may replace."""
    found, token = [], None
    while True:
        page = client.search_logged_models([experiment_id], page_token=token)
        found += [
            model for model in page if KEY in model.tags and model.tags.get("study") == study and store.owns_tagged(model.tags)
        ]
        token = page.token
        if not token:
            return found


def _shows(model: LoggedModel, one: Exported, run: Run | None) -> bool:
    """Whether a model is of this export and of the run of its cell."""
    run_id = run.info.run_id if run else None
    return (model.tags.get(DIGEST), model.source_run_id or None, str(model.status)) == (one.digest, run_id, "READY")


def _create(client: MlflowClient, experiment_id: str, study: str, one: Exported, run: Run | None, store: Store) -> str:
    """A new model that shows an export; returns its id."""
    note = f"The folder is `{one.place}`.\n\n{note_of((one.place / CARD).read_text(encoding='utf-8'))}"
    tags = {KEY: one.key, "study": study, DIGEST: one.digest, "folder": str(one.place), **store.first_tags}
    params = {axis: str(getattr(one.cell, axis)) for axis in RECIPE} | {"format": one.export, "verify": one.verify}
    name = _UNFIT.sub("_", f"{run_name(one.cell, [])} as {one.export}")
    model = client.create_logged_model(
        experiment_id,
        name,
        run.info.run_id if run else None,
        {**tags, NOTE: note[:_LONGEST]},
        params,
        KIND,
    )
    if store.may_write(model.artifact_location):
        _write_card(client, model, one)
    if run:
        _log_metrics(client, model, one, run)
    client.finalize_logged_model(model.model_id, "READY")
    return model.model_id


def note_of(card: str) -> str:
    """A card as a description in MLflow, which shows metadata of the hub as text, and no picture of a file."""
    return re.sub(r"\A---\n.*?\n---\n+|!\[[^\]]*\]\([^)]*\)\n*", "", card, flags=re.DOTALL)


def _write_card(client: MlflowClient, model: LoggedModel, one: Exported) -> None:
    """The card and its picture as artifacts of a model."""
    files = [file for name in (CARD, PICTURE) if (file := one.place / name).is_file()]
    with TemporaryDirectory() as temporary:
        folder = local_folder(model.artifact_location) or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copyfile(file, folder / file.name)
        if folder == Path(temporary):
            client.log_model_artifacts(model.model_id, temporary)


def _log_metrics(client: MlflowClient, model: LoggedModel, one: Exported, run: Run) -> None:
    """The numbers of the cell's run, and the size of the folder."""
    shown = {name: run.data.metrics[name] for name in _METRICS if name in run.data.metrics}
    shown["export_megabytes"] = one.bytes / 1e6
    when = run.info.start_time
    metrics = [Metric(name, value, when, 0, model_id=model.model_id) for name, value in shown.items()]
    client.log_batch(run.info.run_id, metrics)
