"""Lines of progress: many on a terminal, few in a file that takes its place."""

import pytest

from lorcbench.jobs import job as jobs
from lorcbench.jobs import progress
from lorcbench.jobs.job import Job


@pytest.mark.parametrize(("is_terminal", "lines"), [(True, 30), (False, 10)])
def test_where_the_terminal_is_a_file_there_is_a_line_per_minute(is_terminal, lines, monkeypatch):
    now = [1000.0]
    for module in (jobs, progress):
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    job = Job("quantize", ["model=opt-standin-xs", "method=rtn", "weight=w3-asym-row"])
    said = []
    monkeypatch.setattr(job, "say", said.append)
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal, raising=False)
    for done in range(31):
        job.progress(done, 1000, "step")
        now[0] += 20.0
    assert len(said) == lines


def test_a_phase_is_said_at_once_and_logged(monkeypatch, capsys):
    job = Job("export", ["model=opt-standin-xs", "method=rtn", "weight=w3-asym-row"])
    logged = []
    monkeypatch.setattr(job, "log", logged.append)
    job.phase("loading it")
    assert logged == ["loading it"]
    assert capsys.readouterr().err.endswith("] loading it\n")
