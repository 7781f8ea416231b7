"""The terminal: one line per finished job, with count and estimate; and logger plugins hear of everything."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import logging.handlers
import os
import pty
import re
import subprocess

import pytest
from runs import PATIENCE, command
from snakemake_interface_logger_plugins.common import LogEvent

from lorcbench.common.paths import Wildcards
from lorcbench.config.schema import RuntimeConfig
from lorcbench.pipeline import plan
from lorcbench.pipeline.console import Expected, Remaining, duration, install
from lorcbench.pipeline.rules import Pipeline

RICH = "snakemake_logger_plugin_rich"


@pytest.fixture
def logger():
    """A logger like Snakemake's: a handler for the terminal and one for its plugins."""
    one = logging.Logger("snakemake", logging.INFO)
    terminal, others = logging.StreamHandler(io.StringIO()), logging.handlers.BufferingHandler(1000)
    terminal.name, terminal.terminator = "DefaultStreamHandler", "|"
    terminal.setFormatter(logging.Formatter("%(message)s"))
    for handler in (terminal, others):
        one.addHandler(handler)
    return one


def record(folder, number: int, seconds: float):
    """The run.json of a job."""
    path = folder / str(number) / "run.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"seconds": seconds}))
    return path


def finish(logger, done: int, *numbers: int) -> str:
    """What the terminal says when jobs have finished."""
    stream = logger.handlers[0].stream
    stream.truncate(0)
    stream.seek(0)
    logger.info("Execute 1 jobs...", extra={"event": LogEvent.JOB_STARTED, "jobs": list(numbers)})
    for number in numbers:
        logger.info("Finished jobid: %s (Rule: lorc)", number, extra={"event": LogEvent.JOB_FINISHED, "job_id": number})
    logger.info(None, extra={"event": LogEvent.PROGRESS, "done": done, "total": 120})
    return stream.getvalue().strip("|")


def test_a_finished_job_is_one_line_with_the_count_and_what_is_left(logger, tmp_path):
    console = install(logger)
    title = Wildcards(model="opt-125m", method="gptq", weight="w4-asym-row").title("quantize")
    jobs = {number: Expected(title, "quantize", 10.0, record(tmp_path, number, 3.21)) for number in range(6)}
    console.expect(jobs | {9: Expected("all", "all", 0.0, None)})
    assert finish(logger, 1, 0) == "[  1/120] quantize opt-125m gptq w4-asym-row, 3.2 s"
    assert finish(logger, 3, 1, 2).count("quantize") == 2  # together, as the jobs of one submission
    assert re.search(r"\[  4/120\] .*, 3\.2 s; run: about \d+ s left", finish(logger, 4, 3))
    assert finish(logger, 5, 9).startswith("[  5/120] all")
    assert finish(logger, 6, 77).startswith("[  6/120] Finished jobid: 77 (Rule: lorc)")
    logger.info("error: a line of ours")
    assert logger.handlers[0].stream.getvalue().endswith("error: a line of ours|")


def test_other_handlers_hear_of_everything(logger):
    install(logger).expect({})
    finish(logger, 1, 4)
    events = [getattr(line, "event", None) for line in logger.handlers[1].buffer]
    assert events == [LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.PROGRESS]
    assert not logger.filters
    assert install(logger) is not None  # once more, as a Snakefile that is parsed again
    assert finish(logger, 1, 4).count("/120]") == 1
    logger.removeHandler(logger.handlers[0])
    assert install(logger) is None


def test_what_is_left_follows_what_jobs_of_a_stage_took():
    jobs = {
        number: Expected("", "quantize" if number < 8 else "lorc", 10.0 if number < 8 else 2.0, None) for number in range(16)
    }
    remaining = Remaining(jobs, 0.0)
    for number in (0, 1):
        remaining.finish(number, 40.0)  # four times the plan, two at a time
    assert remaining.seconds(40.0) is None
    for number in (8, 9):
        remaining.finish(number, 2.0)
    assert remaining.seconds(42.0) == pytest.approx((6 * 40 + 6 * 2) / 2)
    jobs[100] = Expected("", "evaluate", 1000.0, None)
    later = Remaining(jobs, 0.0)
    for number in (0, 1, 8, 9):
        later.finish(number, 40.0)
    assert later.seconds(42.0) is None  # most of what is left is of a stage that has finished no job
    later.finish(100, 1000.0)
    assert later.seconds(1042.0) is not None
    remaining.finish(10, None)
    assert remaining.seconds(42.0) == pytest.approx((6 * 40 + 5 * 2) / 2)
    assert [duration(seconds) for seconds in (2, 84, 300, 9000)] == ["10 s", "80 s", "5 min", "2.5 h"]


COMMAND = """RuleException:
CalledProcessError in file "workflow/rules/prepare.smk", line 90:
Command 'set -euo pipefail;  exec python -m lorcbench.stages tokens model=a eval=b' {}."""


def fail(logger, number: int, ending: str, log: str = "") -> str:
    """What the terminal says when a job's command ends so; "" for a job that ran elsewhere."""
    stream = logger.handlers[0].stream
    stream.truncate(0)
    stream.seek(0)
    if ending:
        logger.error(COMMAND.format(ending), extra={"event": LogEvent.ERROR, "exception": "RuleException"})
    about = {"event": LogEvent.JOB_ERROR, "jobid": number, "log": [log], "indent": False}
    logger.error("Error in rule tokens, jobid: %s", number, extra=about)
    return stream.getvalue().strip("|")


def test_a_job_that_says_why_it_failed_is_not_said_to_have_failed_by_others(logger, tmp_path):
    # As Snakemake's own: it hides failed jobs where it does not print jobs.
    logger.handlers[0].addFilter(lambda record: getattr(record, "event", None) != LogEvent.JOB_ERROR)
    console = install(logger)
    console.expect({1: Expected("tokens a", "tokens", 1.0, tmp_path / "run.json")})
    for ending in ("returned non-zero exit status 1", "returned non-zero exit status 2", "died with <Signals.SIGINT: 2>"):
        assert fail(logger, 1, ending) == ""
    killed = "tokens a failed: it was killed (SIGKILL), most often because memory ran out; log: x/log.txt"
    for ending in ("died with <Signals.SIGKILL: 9>", "returned non-zero exit status 137"):
        assert fail(logger, 1, ending, "x/log.txt") == killed
    assert "exit code 77" in fail(logger, 1, "returned non-zero exit status 77")
    logger.error("WorkflowError:\nAt least one job did not complete successfully.", extra={"event": LogEvent.ERROR})
    logger.error("MissingOutputException", extra={"event": LogEvent.ERROR})
    assert re.search(r"77; log: \|+MissingOutputException\|$", logger.handlers[0].stream.getvalue())
    heard = [record.getMessage() for record in logger.handlers[1].buffer]
    assert sum("CalledProcessError" in message for message in heard) == 6


def test_a_job_on_a_cluster_says_why_it_failed_by_what_it_left(logger, tmp_path):
    install(logger).expect({n: Expected(f"tokens {n}", "tokens", 1.0, record(tmp_path, n, 1.0), False) for n in (1, 2, 3)})
    (tmp_path / "2/failed.json").write_text(json.dumps({"reason": "a text of 3 tokens"}))
    assert fail(logger, 1, "", "1/log.txt") == "tokens 1 failed: it left no reason; log: 1/log.txt"
    assert fail(logger, 2, "", "2/log.txt") == "tokens 2 failed: a text of 3 tokens; log: 2/log.txt"
    jobs = [{"jobid": number, "log": [f"{number}/log.txt"]} for number in (1, 2)]
    about = {"event": LogEvent.GROUP_ERROR, "job_error_info": jobs, "aux_logs": ["slurm/7.log"]}
    logger.error("Error in group 7", extra=about)  # of its jobs one failed, and the next did not start
    said = logger.handlers[0].stream.getvalue().strip("|").split("|")
    assert said[1:] == ["tokens 2 failed: a text of 3 tokens; log: 2/log.txt"]
    about["job_error_info"] = jobs[:1]
    logger.error("Error in group 7", extra=about)
    assert logger.handlers[0].stream.getvalue().endswith("tokens 1 failed: its submission left no reason; log: slurm/7.log|")


def test_a_dry_run_has_one_table_and_no_advice_to_keep_stale_results(logger):
    install(logger)
    for _ in range(2):
        logger.info("Job stats:\nlorc 3", extra={"event": LogEvent.RUN_INFO})
    logger.info(
        "Some jobs were triggered by provenance information, … wipe its metadata … 'snakemake --cleanup-metadata <outfile>'. "
    )
    logger.info("Rules with provenance triggered jobs: lorc quantize\n")
    table, changed = filter(None, logger.handlers[0].stream.getvalue().split("|"))
    assert table == "Job stats:\nlorc 3"
    assert changed.strip() == "jobs of these rules run again, since their code, settings or files changed: lorc quantize"


CONF = {
    "text/ours.yaml": "# Ours.\nsource: file\npath: book.txt\nlines: whole\n",
    "eval/ours.yaml": "# Ours.\ncorpora: {book: {text: ours}}\nwindow: 64\n",
    "study/ours.yaml": (
        "# Ours.\ntitle: Ours\neval: ours\nmodels: [opt-standin-xs]\nmethods: [rtn]\nweights: [w4-asym-row]\nharness: []\n"
    ),
}
# A logger plugin that writes down what it hears of.
PLUGIN = """
from snakemake_interface_logger_plugins.base import LogHandlerBase


class LogHandler(LogHandlerBase):
    writes_to_stream = writes_to_file = needs_rulegraph = False
    has_filter = has_formatter = True

    def __post_init__(self):
        self.file = open("heard.txt", "w")

    def emit(self, record):
        print(getattr(record, "event", None), file=self.file, flush=True)
"""


@pytest.mark.slow
def test_logger_plugins_hear_of_jobs_and_conf_is_found_where_one_works(tmp_path, monkeypatch):
    """One job of a study that lies in ./conf, on a terminal; with the plugin rich too, where it is installed."""
    for name, text in CONF.items():
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / name).write_text(text)
    (tmp_path / "book.txt").write_text("A line of a book.\n" * 500)
    (tmp_path / "plugins/snakemake_logger_plugin_heard").mkdir(parents=True)
    (tmp_path / "plugins/snakemake_logger_plugin_heard/__init__.py").write_text(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/plugins{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.delenv("LORCBENCH_CONF", raising=False)
    plugins = ["heard", *(["rich"] if importlib.util.find_spec(RICH) else [])]
    line = command("--config", "study=ours", "--logger", *plugins, "--", "results/cache/text/ours/result.json")
    said = on_a_terminal(line, tmp_path)
    assert (tmp_path / "results/cache/text/ours/result.json").is_file(), said
    heard = (tmp_path / "heard.txt").read_text().splitlines()
    assert {str(event) for event in (LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.PROGRESS)} <= set(heard)
    if "rich" in plugins:
        assert "Total Progress" in said
        assert "100%" in said
    else:
        assert "[1/1] text ours, " in said


def on_a_terminal(line: list[str], folder) -> str:
    """What a command prints on a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(line, cwd=folder, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 1 << 16):
            parts.append(part)
    except OSError:  # the other end was closed
        pass
    os.close(ours)
    assert process.wait(PATIENCE) == 0, b"".join(parts).decode()
    return b"".join(parts).decode()


def test_every_job_of_a_study_has_a_time_in_which_it_is_expected(elsewhere):
    pipeline = Pipeline({"study": "smoke"})
    planned = plan.jobs(pipeline.study, RuntimeConfig())
    seconds = {(job.stage, job.model): pipeline.resources.seconds(job.stage, job.names) for job in planned}
    assert len({stage for stage, _ in seconds}) == 8
    assert min(seconds.values()) >= 2
    assert seconds["prepare", "opt-standin-xs"] > seconds["tokens", "opt-standin-xs"]
    assert pipeline.resources.seconds("report", Wildcards()) > 2
