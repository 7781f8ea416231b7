"""What MLflow's pages show of a study: a saved view of the experiment, and the addresses of its pages. MLflow is not imported.

A saved view is a tag of the experiment, ``mlflow.sharedViewState.KEY``, as the pages of MLflow 3.17 write it themselves: a JSON
object with a name, two times, and the state of table and charts as a JSON string. The parameter ``viewStateShareKey=KEY`` in
the page's address opens the view, and the menu of saved views lists it by its name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from lorcbench.report.tracking.records import LATEST

KEY = "lorcbench"
TAG = f"mlflow.sharedViewState.{KEY}"
NAME = "Cells, best first"
WHEN = 1_700_000_000_000  # the view's times, in milliseconds: fixed, so that importing again changes nothing
LEADING = ("ppl_mean", "delta_ppl_percent", "bits_per_weight", "size_mib")  # metrics of the first columns
PARAMS = ("model", "method", "calibration", "weight", "activation", "rank", "lorc")  # in the order of their columns
WIDTHS = {"model": 125, "method": 110, "weight": 115, "activation": 115}  # pixels, where MLflow's own are too few
COMPARED = 20  # runs on the comparison page at most
CHARTED = 100  # runs in a chart
SECTION = "recipes"
TRAINING = "workflowType=machine_learning"


def saved_view(params: Iterable[str], metrics: Iterable[str]) -> str:
    """The tag's value.

    Args:
        params, metrics: names that the study's runs have.
    """
    params = set(params)
    metrics = set(metrics)
    leading = [name for name in LEADING if name in metrics]
    others = sorted(name for name in metrics - set(leading) if name.startswith("ppl_") or name.endswith(("_acc", "_acc_norm")))
    columns = [f"params.`{name}`" for name in PARAMS if name in params] + [f"metrics.`{name}`" for name in leading + others]
    state = {
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {f"params.`{name}`": width for name, width in WIDTHS.items() if name in params},
        "searchFilter": f"tags.{LATEST} = 'true'",  # neither cells that the study no longer has, nor the study's own run
        "orderByKey": f"metrics.`{_lost(metrics)}`",
        "orderByAsc": True,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [{"uuid": SECTION, "name": "Recipes", "display": True, "isReordered": False}],
        "compareRunCharts": _charts(params, leading),
    }
    return json.dumps({"name": NAME, "createdAt": WHEN, "updatedAt": WHEN, "state": json.dumps(state)})


def _lost(metrics: Collection[str]) -> str:
    """The metric by which cells are told apart: perplexities of several models do not compare."""
    return "delta_ppl_percent" if "delta_ppl_percent" in metrics else "ppl_mean"


def _charts(params: set[str], metrics: list[str]) -> list[dict]:
    """What each cell loses by its bits, all settings against that, and bars."""
    lost = _lost(metrics)
    common = {"isGenerated": False, "deleted": False, "metricSectionId": SECTION, "runsCountToCompare": CHARTED}
    scatter = {
        "type": "SCATTER",
        "uuid": "bits",
        "xaxis": {"key": "bits_per_weight", "type": "METRIC"},
        "yaxis": {"key": lost, "type": "METRIC"},
    }
    chosen = [name for name in ("model", "method", "bits", "group", "activation", "rank") if name in params]
    parallel = {"type": "PARALLEL", "uuid": "settings", "selectedParams": chosen, "selectedMetrics": [lost]}
    bars = [{"type": "BAR", "uuid": f"bars-{name}", "metricKey": name} for name in metrics]
    return [{**common, **chart} for chart in (scatter, {**parallel, "showAllRuns": True}, *bars)]


def addresses(experiment_id: str, run_ids: list[str]) -> dict[str, str]:
    """Paths below the server's address: ``table`` and ``charts`` show the saved view, ``compare`` some runs side by side.

    Without `TRAINING` the pages open as MLflow's product for language-model applications, where runs are not shown.
    """
    view = f"/#/experiments/{experiment_id}/runs?viewStateShareKey={KEY}&{TRAINING}"
    runs, experiments = (quote(json.dumps(ids, separators=(",", ":"))) for ids in (run_ids[:COMPARED], [experiment_id]))
    return {
        "experiment": f"/#/experiments/{experiment_id}?{TRAINING}",
        "table": view,
        "charts": f"{view}&compareRunsMode=CHART",
        "compare": f"/#/compare-runs?runs={runs}&experiments={experiments}&{TRAINING}",
    }


def local_folder(artifact_uri: str) -> Path | None:
    """The folder on this machine that an artifact URI means, or None."""
    parts = urlsplit(artifact_uri)
    return Path(url2pathname(parts.path)) if parts.scheme in ("", "file") else None
