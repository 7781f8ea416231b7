"""What ``lorcbench ui`` prints before MLflow's server starts."""

from __future__ import annotations

import os
import subprocess
import sys

from lorcbench.report.tracking import ui


def test_make_ui_prints_an_address_per_study_the_newest_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    long = "demo+ranks=" + ",".join(map(str, range(40)))
    places = {"old": "/#/experiments/1", long: "http://else/#/experiments/2", "new": "/#/experiments/3"}
    for age, (name, place) in enumerate(places.items()):
        file = tmp_path / "results" / name / "track/pages.txt"
        file.parent.mkdir(parents=True)
        file.write_text("".join(f"{name}, {page}: {place}/{page}\n" for page in ("experiment", "table", "charts")))
        os.utime(file, (age, age))
    ui.main("http://127.0.0.1:5000")
    newest, first, heading, *others = capsys.readouterr().out.splitlines()
    assert (newest, first) == ("study new:", "  http://127.0.0.1:5000/#/experiments/3/table")
    assert heading == "other studies, the newest first:"
    addresses = [line.split()[1] for line in others]
    assert addresses == ["http://else/#/experiments/2/table", "http://127.0.0.1:5000/#/experiments/1/table"]
    assert len({line.index("http") for line in others}) == 1 and others[0].index("http") < 60


def test_the_server_of_make_ui_says_nothing_of_the_libraries_of_mlflow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/mlflow.db").touch()
    monkeypatch.setattr(ui.os, "environ", dict(os.environ))
    warns = "import warnings; warnings.warn('starlette is deprecated', DeprecationWarning, 1)"
    said = []

    def become(python: str, _: list[str]) -> None:
        said.append(subprocess.run([python, "-c", warns], env=ui.os.environ, capture_output=True, check=True).stderr)

    monkeypatch.setattr(ui.os, "execv", become)
    ui.serve(5000)
    assert said == [b""]


def test_what_is_printed_before_the_server_starts_reaches_a_file_too(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/mlflow.db").touch()
    server = "ui.command = lambda port: [sys.executable, '-c', '']"
    code = f"import sys; from lorcbench.report.tracking import ui; {server}; ui.serve(5000)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "Nothing was tracked yet" in done.stdout
