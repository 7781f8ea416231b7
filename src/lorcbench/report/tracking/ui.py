"""MLflow over our own store, on this machine alone: ``lorcbench ui``, which is `make ui`."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path
from typing import NoReturn

from lorcbench.common import paths
from lorcbench.report.tracking.place import artifact_root, mend, owner_of, store_uri

HOST = "127.0.0.1"
_WIDEST = 40  # characters of a name in a list; an address needs the rest of the line


def main(server: str) -> None:
    """Print where the cells of each study are compared, once our store knows where its artifacts are.

    Args:
        server: the address at which our store will be served.
    """
    results = Path(paths.MLFLOW).parent
    try:
        if (database := Path(paths.MLFLOW).resolve()).is_file():
            mend(database, artifact_root(store_uri(None)), owner_of(results))
    except (sqlite3.Error, OSError) as error:  # MLflow will say more, or show what it can
        print(f"{paths.MLFLOW}: {error}", file=sys.stderr)
    files = sorted(results.glob("*/track/pages.txt"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    tables = [table for file in files if (table := _table(file, server))]
    print("\n".join(_lines(tables)), flush=True)  # `serve` becomes another program, which would forget it


def _table(file: Path, server: str) -> tuple[str, str] | None:
    """The name of a study and the address of its table; None if an import left none."""
    for line in file.read_text(encoding="utf-8").splitlines():
        study, _, page = line.rpartition(", ")
        name, _, address = page.partition(": ")
        if name == "table":
            return study, server + address if address.startswith("/#/") else address
    return None


def _lines(tables: list[tuple[str, str]]) -> list[str]:
    """What is printed of studies, the newest first: its address alone in a line, the others below each other."""
    if not tables:
        return ["Nothing was tracked yet"]
    (study, address), *others = tables
    lines = [f"study {study}:", f"  {address}"]
    if others:
        names = [name if len(name) <= _WIDEST else name[: _WIDEST - 1] + "…" for name, _ in others]
        width = max(map(len, names))
        lines.append("other studies, the newest first:")
        lines += [f"  {name:{width}}  {address}" for name, (_, address) in zip(names, others, strict=True)]
    return lines


def serve(port: int) -> NoReturn:
    """Become the server of MLflow over our store, once it is printed where the cells of each study are compared.

    Raises:
        SystemExit: there is no store here.
    """
    if not Path(paths.MLFLOW).is_file():
        sys.exit(f"error: {paths.MLFLOW} is not there; expected a folder in which a study has run, such as lorcbench run demo")
    main(f"http://{HOST}:{port}")
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # MLflow's libraries warn its developers of each other; nobody who reads the address above can do anything about it.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    os.execv(sys.executable, command(port))


def command(port: int) -> list[str]:
    """What serves our store. It has no password, so nobody but this machine reaches it."""
    server = [sys.executable, "-P", "-m", "mlflow", "ui", "--host", HOST, "--port", str(port), "--workers", "1"]
    return [*server, "--backend-store-uri", f"sqlite:///{paths.MLFLOW}", "--default-artifact-root", paths.MLFLOW_ARTIFACTS]
