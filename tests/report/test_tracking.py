"""What the tracker leaves in a fresh SQLite store, read back through MLflow's own client."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from browser import Browser
from tracked import CORPORA, FAILED, MlflowClient, imported, result, runs_of, study_results, track

from lorcbench.common.artifacts import write_json
from lorcbench.report import tracking
from lorcbench.report.comparison import changes
from lorcbench.report.intervals import mean_perplexity_difference, relative_change
from lorcbench.report.results import CellResult
from lorcbench.report.tracking.place import TrackingError
from lorcbench.report.tracking.records import Record
from lorcbench.report.tracking.runs import compared
from lorcbench.report.tracking.store import SETTINGS, attach
from lorcbench.report.tracking.view import NAME, TAG, addresses, local_folder

pytestmark = pytest.mark.slow

RISE = {"": "value", "_low": "low", "_high": "high"}


def records(name: str, parent: str, results: list[CellResult]) -> dict[str, Record]:
    """What is logged of results by themselves."""
    return tracking.records.records(name, parent, results, changes(results))


def test_one_parent_and_one_child_a_cell(uri, tmp_path):
    outcome = imported(uri, study_results())
    runs = runs_of(uri, outcome["experiment_id"])
    parent = runs.pop("tiny")
    assert (outcome["created"], outcome["kept"], outcome["deleted"]) == (12, 0, 0)
    assert {key: run.info.run_id for key, run in runs.items()} == outcome["runs"]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert parent.info.run_id == outcome["parent_run_id"]
    assert (parent.data.tags["cells"], parent.data.tags["cells_ok"], parent.info.status) == ("12", "11", "FAILED")
    assert parent.data.tags["mlflow.note.content"] == "A tiny study"
    name = "model-b gptq w2-asym-g32 r8"
    assert runs["model-b/gptq/self/w2-asym-g32/a16/r8-plain-int8"].info.run_name == name
    assert runs["model-b/none/none/w16/a16/r0"].info.run_name == "model-b w16"
    experiment = MlflowClient(uri).get_experiment(outcome["experiment_id"])
    assert (experiment.name, experiment.tags["mlflow.note.content"]) == ("tiny", "A tiny study")
    assert experiment.artifact_location == f"{(tmp_path / 'mlflow.db.artifacts').as_uri()}/tiny"


def test_parameters_and_metrics(uri):
    results = study_results()
    runs = runs_of(uri, imported(uri, results)["experiment_id"])
    run = runs["model-a/rtn/none/w4-asym-g32/a16/r0"]
    expected = {"model": "model-a", "method": "rtn", "weight": "w4-asym-g32", "bits": "4", "group": "32"}
    # All cells have a16: no column for it.
    assert run.data.params == {**expected, "lorc": "none", "rank": "0"} and run.data.tags["activation"] == "a16"
    ppl = [np.exp(results[1].nll[corpus].mean()) for corpus in CORPORA]
    change = mean_perplexity_difference(results[1].nll, results[0].nll)
    rise = relative_change(results[1].nll, results[0].nll)
    assert run.data.metrics == pytest.approx(
        {
            **{"ppl_prose": ppl[0], "ppl_code": ppl[1], "ppl_mean": np.mean(ppl)},
            **{"delta_ppl": change.value, "delta_ppl_low": change.low, "delta_ppl_high": change.high},
            **{f"delta_ppl_percent{end}": 100 * getattr(rise, of) for end, of in RISE.items()},
            **{f"delta_nll_{name}": np.mean(results[1].nll[name] - results[0].nll[name]) for name in CORPORA},
            **{"bits_per_weight": 4.25, "size_mib": 8.5e6 / 8 / 2**20},
            **{"system/seconds": 3.0, "system/peak_rss_mib": 500.0},
            **{"lambada_acc_none": 0.25},  # and no lambada_perplexity, which is infinite
        }
    )
    assert runs["model-a/none/none/w16/a16/r0"].data.metrics["delta_ppl_high"] == 0


def test_without_full_precision_there_is_no_difference():
    record = records("tiny", "parent", [result("model-a", "rtn", "w4-asym-g32")]).popitem()[1]
    assert "ppl_mean" in record.metrics and not any(name.startswith("delta") for name in record.metrics)


def test_several_calibrations_are_told_apart():
    first = result("model-a", "gptq", "w4-asym-g32")
    second = dataclasses.replace(first, cell=dataclasses.replace(first.cell, calibration="self+seed=1"))
    both = list(records("tiny", "parent", [first, second]).values())
    assert [record.params["calibration"] for record in both] == ["self", "self+seed=1"]
    assert [record.name for record in both] == ["model-a gptq w4-asym-g32 self", "model-a gptq w4-asym-g32 self+seed=1"]


def test_importing_twice_changes_nothing(uri):
    first = imported(uri, study_results())
    before = {key: run.to_dictionary() for key, run in runs_of(uri, first["experiment_id"]).items()}
    slower = [dataclasses.replace(each, seconds=99.0, peak_rss_mib=1.0) for each in study_results()]
    second = imported(uri, slower)
    assert second == {**first, "created": 0, "kept": 12}
    assert {key: run.to_dictionary() for key, run in runs_of(uri, first["experiment_id"]).items()} == before


def test_only_what_changed_is_replaced(uri):
    results = study_results()
    first = imported(uri, results)
    results[10] = result("model-b", "gptq", "w2-asym-row")  # mended
    del results[5]
    # As an import that was killed would leave it.
    unfinished = first["runs"]["model-a/rtn/none/w2-asym-g32/a16/r0"]
    MlflowClient(uri).update_run(unfinished, "RUNNING")
    second = imported(uri, results)
    assert (second["created"], second["kept"], second["deleted"], second["former"]) == (2, 9, 2, 1)
    changed = {key for key in first["runs"] if second["runs"].get(key) != first["runs"][key]}
    removed = "model-a/gptq/self/w2-asym-g32/a16/r8-plain-int8"
    assert changed == {FAILED, removed, "model-a/rtn/none/w2-asym-g32/a16/r0"}
    runs = runs_of(uri, first["experiment_id"])
    assert runs[removed].info.run_id == first["runs"][removed] and runs[FAILED].info.status == "FINISHED"
    assert runs["tiny"].info.run_id == first["parent_run_id"]
    assert (runs["tiny"].info.status, runs["tiny"].data.tags["cells"]) == ("FINISHED", "11")


def test_failed_cell(uri):
    run = runs_of(uri, imported(uri, study_results())["experiment_id"])[FAILED]
    assert (run.info.status, run.data.tags["status"]) == ("FAILED", "failed")
    assert run.data.tags["reason"] == "Hessian of fc1 is not positive definite"
    assert run.data.metrics == {"system/peak_rss_mib": 500.0}


def test_tags_filter(uri):
    experiment_id = imported(uri, study_results())["experiment_id"]
    assert len(runs_of(uri, experiment_id, "tags.method = 'gptq'")) == 6
    query = "tags.standin = 'true' and tags.rank = '8' and tags.study = 'tiny' and metrics.ppl_mean < 1000"
    assert list(runs_of(uri, experiment_id, query)) == ["model-a/gptq/self/w2-asym-g32/a16/r8-plain-int8"]
    assert list(runs_of(uri, experiment_id, "tags.status = 'failed'")) == [FAILED]


def test_deleted_experiment_and_foreign_runs(uri):
    client = MlflowClient(uri)
    first = imported(uri, study_results()[:1])
    own = client.create_run(first["experiment_id"], run_name="the user's own").info.run_id
    client.delete_experiment(first["experiment_id"])
    second = imported(uri, study_results()[:1])
    assert second["experiment_id"] == first["experiment_id"]
    assert client.get_run(own).info.lifecycle_stage == "active"


def test_fresh_store_leaves_no_litter(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    track("tiny", "A tiny study", study_results()[:2], "sqlite:///results/mlflow.db", "results/mlflow-artifacts")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["cell.json", "cell.json", "mlflow.db"]
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert capfd.readouterr() == ("", "")


def test_unreachable_server_is_one_line_and_quick(monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://someone:secret@127.0.0.1:{unused.getsockname()[1]}"
    start = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        track("tiny", "A tiny study", [], uri, "artifacts")
    assert time.monotonic() - start < 10
    message = str(caught.value)
    assert "\n" not in message and uri.replace("someone:secret", "***") in message and "secret" not in message
    assert not set(SETTINGS) & set(os.environ)


def test_file_that_is_no_database(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    start = time.monotonic()
    with pytest.raises(TrackingError, match=r"mlflow\.db: file is not a database$"):
        track("tiny", "A tiny study", [], f"sqlite:///{tmp_path / 'mlflow.db'}", "artifacts")
    assert time.monotonic() - start < 5


def test_addresses():
    pages = addresses("1", ["ab", "cd"])
    assert pages["table"] == "/#/experiments/1/runs?viewStateShareKey=lorcbench&workflowType=machine_learning"
    assert all("workflowType=machine_learning" in page for page in pages.values())
    assert '"' not in pages["compare"] and "[" not in pages["compare"]
    page, _, query = unquote(pages["compare"]).partition("?")
    assert page == "/#/compare-runs"
    assert [json.loads(part.partition("=")[2]) for part in query.split("&")[:2]] == [["ab", "cd"], ["1"]]
    assert unquote(addresses("1", [str(run) for run in range(500)])["compare"]).count('"') == 2 * 21


def test_the_comparison_is_of_the_fronts_and_has_twenty_runs_at_most():
    bits = {"w16": 16.0, "w4-asym-g32": 4.25, "w2-asym-g32": 2.25}
    found = [result("model-a", "none", "w16"), result("model-a", "rtn", "w4-asym-g32"), result("model-a", "rtn", "w2-asym-g32")]
    found = [dataclasses.replace(one, bits_per_weight=bits[one.cell.weight]) for one in found]
    beaten = dataclasses.replace(result("model-a", "gptq", "w2-asym-g32"), bits_per_weight=5.0)
    assert [cell.weight for cell in compared([*found, beaten])] == ["w2-asym-g32", "w4-asym-g32", "w16"]
    many = [dataclasses.replace(one, cell=dataclasses.replace(one.cell, model=f"m{n}")) for n in range(9) for one in found]
    assert [cell.weight for cell in compared(many)] == 9 * ["w2-asym-g32", "w16"]
    assert compared([]) == []


def test_the_saved_view_has_the_columns_that_differ(uri):
    tags = MlflowClient(uri).get_experiment(imported(uri, study_results())["experiment_id"]).tags
    view = json.loads(tags[TAG])
    state = json.loads(view["state"])
    assert view["name"] == NAME and state["orderByKey"] == "metrics.`delta_ppl_percent`"
    params, metrics = (
        ["model", "method", "weight", "rank", "lorc"],
        ["ppl_mean", "delta_ppl_percent", "bits_per_weight", "size_mib"],
    )
    columns = [f"params.`{name}`" for name in params] + [f"metrics.`{name}`" for name in [*metrics, "ppl_code", "ppl_prose"]]
    assert state["selectedColumns"] == columns


def test_sizes_are_for_people():
    names = {"opt-125m": "125m", "bloom-7.1b": "7.1b", "my-model": "2m", "Llama-3-8B": "8b"}
    found = [result(name, "rtn", "w4-asym-g32") for name in names]
    tagged = {record.tags["model"]: record.tags["size"] for record in records("tiny", "parent", found).values()}
    assert tagged == names
    unknown = result("my-model", "none", "w16", weights=None)
    assert records("tiny", "parent", [unknown]).popitem()[1].tags["size"] == "unknown"


def with_jobs(folder: Path) -> CellResult:
    """A cell whose evaluation and calibration left their files in `folder`."""
    one = result("model-a", "gptq", "w4-asym-g32")
    stream = {"text": "stdlib", "documents": 5, "windows": 60, "stream_tokens": 7681, "stream_sha256": "ab" * 32}
    one.corpora = dict.fromkeys(CORPORA, stream)
    one.folders = {"calibration": folder / "calibration", "evaluation": folder / "evaluation"}
    identity = {"settings": {"n_samples": 64, "length": 128, "seed": 3}}
    tokens = {"identity": identity, "corpora": {"prose": {"text": "stdlib"}}}
    write_json(folder / "calibration" / "result.json", "tokens", tokens)
    write_json(folder / "evaluation" / "result.json", "perplexity", {"identity": {}})
    run = {"commit": "c0ffee", "finished": "2026-11-27T08:00:10+00:00", "seconds": 4.5}
    write_json(folder / "evaluation" / "run.json", "run", run)
    return one


def test_start_end_and_user_are_those_of_the_jobs_and_a_failed_job_leaves_its_log(uri, tmp_path):
    one = with_jobs(tmp_path / "cache")
    broken = dataclasses.replace(one, cell=dataclasses.replace(one.cell, weight="w2-asym-row"), status="failed", reason="why")
    broken.folders = {"quantized": tmp_path / "quantized"}
    write_json(tmp_path / "quantized" / "failed.json", "failed", {})
    (tmp_path / "quantized" / "log.txt").write_text("the traceback")
    outcome = imported(uri, [one, broken])
    client = MlflowClient(uri)
    run, failed, parent = (client.get_run(run) for run in (*outcome["runs"].values(), outcome["parent_run_id"]))
    assert run.info.end_time - run.info.start_time == 4500 and run.data.tags["mlflow.user"] == "ann"
    assert datetime.fromtimestamp(run.info.end_time / 1000, UTC).isoformat() == "2026-11-27T08:00:10+00:00"
    assert (parent.info.start_time, parent.info.end_time) == (run.info.start_time, run.info.end_time)
    folder = local_folder(failed.info.artifact_uri)
    assert (folder / "logs" / "quantized.txt").read_text() == "the traceback"
    assert not (local_folder(run.info.artifact_uri) / "logs").exists()


def test_a_run_from_before_the_percents_is_kept_and_gets_them(uri, monkeypatch):
    whole = tracking.records._metrics

    def before(one, change) -> dict[str, float]:
        return {name: value for name, value in whole(one, change).items() if "percent" not in name}

    monkeypatch.setattr(tracking.records, "_metrics", before)
    first = imported(uri, study_results())
    monkeypatch.setattr(tracking.records, "_metrics", whole)
    second = imported(uri, study_results())
    assert second["kept"] == 12 and second["runs"] == first["runs"]
    run = runs_of(uri, first["experiment_id"])["model-a/rtn/none/w4-asym-g32/a16/r0"]
    assert run.data.metrics["delta_ppl_percent"] > 0


def test_token_streams_are_inputs_and_the_cell_an_artifact(uri, tmp_path):
    one = with_jobs(tmp_path / "cache")
    outcome = imported(uri, [one])
    (run,) = [MlflowClient(uri).get_run(run_id) for run_id in outcome["runs"].values()]
    inputs = {each.dataset.name: each for each in run.inputs.dataset_inputs}
    contexts = {name: each.tags[0].value for name, each in inputs.items()}
    assert contexts == {"prose model-a": "eval", "code model-a": "eval", "self model-a": "calibration"}
    assert inputs["prose model-a"].dataset.digest == "ab" * 8
    assert json.loads(inputs["prose model-a"].dataset.profile) == {"tokens": 7681, "windows": 60}
    assert json.loads(inputs["self model-a"].dataset.profile) == {"n_samples": 64, "length": 128, "seed": 3}
    assert run.data.tags["mlflow.source.git.commit"] == "c0ffee"
    written = json.loads((local_folder(run.info.artifact_uri) / "cell.json").read_text())
    assert written["nll"]["prose"] == one.nll["prose"].tolist() and len(written["jobs"]["calibration"]["digest"]) == 64
    again = dataclasses.replace(one, corpora={**one.corpora, "prose": {**one.corpora["prose"], "stream_sha256": "cd" * 32}})
    assert imported(uri, [one])["kept"] == 1 and imported(uri, [again])["created"] == 1


def test_a_cell_in_two_studies_is_two_runs(uri):
    results = study_results()[:2]
    first = imported(uri, results)
    second = track("other", "Another study", results, uri, uri.removeprefix("sqlite:///") + ".artifacts")
    assert first["experiment_id"] != second["experiment_id"] and not set(first["runs"].values()) & set(second["runs"].values())
    assert imported(uri, results)["kept"] == 2


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of an MLflow server."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **quiet}, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "log.txt").read_text()
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def on_server(server):
    """What an import into the server gave."""
    return track("tiny", "A tiny study", study_results(), server, "not told")


def test_a_server_is_one_address(server, on_server, tmp_path):
    assert on_server["created"] == 12 and on_server["parent_artifacts"].startswith("mlflow-artifacts:")
    assert track("tiny", "A tiny study", study_results(), server, "not told")["kept"] == 12
    (tmp_path / "report.html").write_text("<p>the report</p>")
    (tmp_path / "bits.png").write_bytes(b"a picture")
    attach(server, on_server["parent_run_id"], {tmp_path / "report.html": None, tmp_path / "bits.png": "figures"})
    client = MlflowClient(server)
    assert [file.path for file in client.list_artifacts(on_server["parent_run_id"])] == ["figures", "report.html"]
    cell = on_server["runs"]["model-a/none/none/w16/a16/r0"]
    assert [file.path for file in client.list_artifacts(cell)] == ["cell.json"]
    with pytest.raises(TrackingError, match="tracking store"):
        attach(server, "0" * 32, {tmp_path / "report.html": None})


def test_mlflows_own_pages_show_the_view(server, on_server):
    browser = Browser(1700, 1000)
    try:
        browser.open(server + on_server["pages"]["table"])
        for text in ("12 matching runs", "model-a w16", "model-a gptq w2-asym-row"):
            browser.wait(f"document.body.innerText.includes('{text}')")
        shown = browser.run("document.body.innerText")
        assert NAME in shown and "A tiny study" in shown
        heads = (  # as the eye finds them
            "Array.from(document.querySelectorAll('.ag-header-cell')).map(head => [head.getBoundingClientRect().left, "
            "head.innerText.trim()]).sort((a, b) => a[0] - b[0]).map(head => head[1])"
        )
        expected = ["model", "method", "weight", "rank", "lorc", "ppl_mean", "delta_ppl_percent"]
        browser.wait(f"{heads}.filter(name => {expected}.includes(name)).join() === {expected}.join()", 20)
        assert shown.index("model-a w16") < shown.index("model-a gptq w2-asym-row")  # sorted by perplexity
        browser.open(server + on_server["pages"]["compare"])
        browser.wait("document.body.innerText.includes('Comparing 2 Runs from 1 Experiment')")
        browser.open(server + on_server["pages"]["charts"])
        browser.wait("document.body.innerText.includes('bits_per_weight vs. delta_ppl_percent')")
        at_home = (server, "data:", "about:", "blob:")
        assert [request[:200] for request in browser.requests if not request.startswith(at_home)] == []
    finally:
        browser.close()
