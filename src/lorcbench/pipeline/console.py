"""What Snakemake's console says of finished jobs: one line each, with the count of the run and when the run may end.

::

    [ 22/240] quantize opt-standin-s gptq w3-asym-g32, 3.2 s; run: about 4 min left

A job that fails is one line too, with the path of its log: its own, or, where nobody can hear the job, what it left in a file.

Only the handler that writes to the terminal is changed. Every event still reaches Snakemake's log file and its logger plugins.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from snakemake_interface_logger_plugins.common import LogEvent

_FAILURES = (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR)
_CLOCKS = 60.0  # seconds by which the clock of a node may be behind
_HANDLER = "DefaultStreamHandler"  # Snakemake's name for the handler that writes to the terminal; a plugin may have replaced it
_FEWEST = 3  # finished jobs before the end of the run is estimated
_KNOWN = 0.5  # of the time that is left by the plan, the share of stages that have finished a job, below which nothing is said
_NOTHING = "Nothing to be done"
# What Snakemake advises after a change, which would keep the stale results; and its list of rules, in its own words.
_ADVICE = "Some jobs were triggered by provenance information"
_CHANGED = "Rules with provenance triggered jobs: "
_ALL_TOLD = "WorkflowError:\nAt least one job did not complete successfully."  # after everything else has been said
# How Snakemake says that the command of a stage failed, behind the stage's own line, which is better.
_FAILED = re.compile(
    r"CalledProcessError.*-m lorcbench\.stages .*"
    r"(?:returned non-zero exit status (?P<code>\d+)|died with <Signals\.(?P<name>\w+))",
    re.DOTALL,
)
_SPOKEN = {"1", "2"}  # exit codes of a stage, or of Python, that has said what is wrong
_INTERRUPTED = {"130", "SIGINT"}  # by Ctrl-C, of which nothing is to be said


@dataclass(frozen=True)
class Expected:
    """A job that is to run.

    Attributes:
        title: what people know it by.
        stage: its rule.
        seconds: what the plan says that it takes.
        record: the file in which it will say how long it took; None for a rule that starts no stage.
        is_heard: whether what it prints reaches this terminal.
    """

    title: str
    stage: str
    seconds: float
    record: Path | None
    is_heard: bool = True

    def taken(self) -> float | None:
        """Seconds that it took; None if it does not say."""
        if self.record is not None:
            with suppress(OSError, ValueError, KeyError, TypeError):
                return float(json.loads(self.record.read_text(encoding="utf-8"))["seconds"])
        return None

    def reason(self, since: float) -> str | None:
        """Why it failed, as it wrote down after a time of `time.time`; None if it did not."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            file = self.record.with_name("failed.json") if self.record else Path()
            if file.stat().st_mtime >= since:
                return str(json.loads(file.read_text(encoding="utf-8"))["reason"])
        return None

    def failure(self, reason: str, logs: list[str]) -> str:
        """The line of this job if it failed."""
        return f"{self.title} failed: {reason}; log: {', '.join(map(str, logs))}"


class Console(logging.Formatter):
    """A formatter around Snakemake's own, which says everything else.

    Args:
        formatter: Snakemake's own.

    Attributes:
        answer: what is said of a run that has nothing to do; None if nothing.
    """

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter
        self._jobs: dict[int, Expected] = {}
        self._finished: list[tuple[int, str]] = []  # since the latest count: its number in Snakemake, and what Snakemake says
        self.answer: Callable[[], str] | None = None
        self._remaining = Remaining({}, 0.0)
        self._began = 0.0
        self._table = ""  # of the jobs that are to run, as it was printed
        self._endings: dict[int | None, str] = {}  # of a stage's command whose error is due: by thread, its exit code or signal

    def expect(self, jobs: dict[int, Expected]) -> None:
        """Take the jobs of a run that begins now, by their number in Snakemake."""
        self._jobs = dict(jobs)
        self._began = time.time() - _CLOCKS
        self._remaining = Remaining(jobs, time.monotonic())

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record; "" if nothing is to be said."""
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_FINISHED:
            self._finished.append((record.job_id, record.getMessage()))
            return ""
        if event == LogEvent.PROGRESS:
            return "\n".join(self._lines(record.done, record.total))
        if event in _FAILURES:
            return "\n".join(self._failures(event, record))
        if self._is_said_better(event, record):
            return ""
        text = self._formatter.format(record)
        if event is None and text.startswith(_CHANGED):
            return f"jobs of these rules run again, since their code, settings or files changed: {text[len(_CHANGED) :]}"
        if self.answer and event is None and text.startswith(_NOTHING):
            return f"{text}\n{self.answer()}".rstrip()
        return text

    def _is_said_better(self, event: LogEvent | None, record: logging.LogRecord) -> bool:
        """Whether a line of Snakemake's says nothing that is not said better here, or was said already."""
        message = str(record.msg)
        if event == LogEvent.RUN_INFO:  # a dry run prints its table before and after it goes through the jobs
            again, self._table = message == self._table, message
            return again
        if event == LogEvent.ERROR and self._jobs and (found := _FAILED.search(message)):  # a node of a cluster knows no jobs
            self._endings[record.thread] = found["code"] or found["name"]
            return True
        if event == LogEvent.ERROR:
            return message == _ALL_TOLD
        return event == LogEvent.JOB_STARTED or (event is None and message.startswith(("Select jobs", _ADVICE)))

    def _failures(self, event: LogEvent, record: logging.LogRecord) -> list[str]:
        """A line for each job that failed, unless it has said why on this terminal.

        The thread that reports a job on this machine has just said how its command ended. Of the jobs of one submission nobody
        knows which failed, but for what they left.
        """
        ending = self._endings.pop(record.thread, None)
        if ending in _SPOKEN | _INTERRUPTED:
            return []
        if event == LogEvent.GROUP_ERROR:
            jobs = [(self._jobs.get(one["jobid"]), one["log"]) for one in record.job_error_info]
            reasons = [job.failure(reason, log) for job, log in jobs if job and (reason := job.reason(self._began))]
            return reasons or [
                job.failure("its submission left no reason", record.aux_logs or log) for job, log in jobs[:1] if job
            ]
        job = self._jobs.get(record.jobid)
        if job is None or record.indent or (ending is None and job.is_heard):  # indented is each job of a submission
            return []
        reason = _unsaid(ending) if ending else job.reason(self._began) or "it left no reason"
        return [job.failure(reason, record.log)]

    def _lines(self, done: int, total: int) -> list[str]:
        """A line for each job that has finished since the latest count; several of a cluster may finish together."""
        lines, first = [], done - len(self._finished) + 1
        for count, (number, message) in enumerate(self._finished, first):
            job = self._jobs.get(number)
            seconds = job.taken() if job else None
            self._remaining.finish(number, seconds)
            took = f", {seconds:.1f} s" if seconds is not None else ""
            lines.append(f"[{count:{len(str(total))}}/{total}] {job.title if job else message}{took}")
        self._finished.clear()
        left = self._remaining.seconds(time.monotonic())
        if lines and left and done < total:
            lines[-1] += f"; run: about {duration(left)} left"
        return lines


class Remaining:
    """How long a run still takes: what the plan says of its jobs, corrected by how long jobs of each stage took until now.

    A stage that has finished no job goes by the plan alone. While such stages hold most of what is left, nothing is said: the
    trainings of a study's first minutes tell nothing of the cells that follow.

    Args:
        jobs: of the run, by number.
        started: when, in seconds.
    """

    def __init__(self, jobs: dict[int, Expected], started: float) -> None:
        self._waiting = dict(jobs)
        self._started = started
        self._count = 0
        self._expected: dict[str, float] = defaultdict(float)  # by stage, of the jobs that have finished
        self._taken: dict[str, float] = defaultdict(float)

    def finish(self, number: int, seconds: float | None) -> None:
        """A job has finished; None if it did not say how long it took."""
        job = self._waiting.pop(number, None)
        if job and seconds:
            self._count += 1
            self._expected[job.stage] += job.seconds
            self._taken[job.stage] += seconds

    def seconds(self, now: float) -> float | None:
        """Seconds until all have finished, if as many run at a time as until now; None if it is too early to say."""
        if self._count < _FEWEST or now <= self._started:
            return None
        waiting: dict[str, float] = defaultdict(float)
        for job in self._waiting.values():
            waiting[job.stage] += job.seconds
        factors = {stage: self._taken[stage] / expected for stage, expected in self._expected.items()}
        if sum(seconds for stage, seconds in waiting.items() if stage in factors) < _KNOWN * sum(waiting.values()):
            return None
        at_a_time = max(1.0, sum(self._taken.values()) / (now - self._started))
        return sum(seconds * factors.get(stage, 1.0) for stage, seconds in waiting.items()) / at_a_time


def duration(seconds: float) -> str:
    """A time to come, as roughly as it is known."""
    if seconds < 90:
        return f"{max(1, round(seconds / 10)) * 10} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _unsaid(ending: str) -> str:
    """What is said of a job that could not say what happened, by the exit code or the signal of its command."""
    signals = {str(128 + signal): signal.name for signal in Signals}  # as a shell reports them
    name = signals.get(ending, ending)
    if name == "SIGKILL":
        return "it was killed (SIGKILL), most often because memory ran out"
    return f"it was ended by {name}" if name.startswith("SIG") else f"its command ended with exit code {ending}"


class _Hearing(logging.Filter):
    """The filters of a handler, but failed jobs pass: Snakemake's filter hides them where it does not print the jobs."""

    def __init__(self, filters: list) -> None:
        super().__init__()
        self._inner = logging.Filterer()
        self._inner.filters = filters

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(record, "event", None) in _FAILURES or bool(self._inner.filter(record))


def install(logger: logging.Logger) -> Console | None:
    """Let a logger of Snakemake speak so on the terminal; None if a plugin has the terminal."""
    for handler in logger.handlers:
        if handler.name == _HANDLER:
            inner = handler.formatter
            console = Console(inner._formatter if isinstance(inner, Console) else inner)
            handler.setFormatter(console)
            if not isinstance(inner, Console):
                handler.filters = [_Hearing(handler.filters)]
            return console
    return None
