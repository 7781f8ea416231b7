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


def main(server: str) -> None:
    """Print the addresses of each study's pages, once our store knows where its artifacts are.

    Args:
        server: the address at which our store will be served.
    """
    results = Path(paths.MLFLOW).parent
    try:
        if (database := Path(paths.MLFLOW).resolve()).is_file():
            mend(database, artifact_root(store_uri(None)), owner_of(results))
    except (sqlite3.Error, OSError) as error:  # MLflow will say more, or show what it can
        print(f"{paths.MLFLOW}: {error}", file=sys.stderr)
    pages = [file.read_text(encoding="utf-8") for file in sorted(results.glob("*/track/pages.txt"))]
    print("".join(pages).replace(": /#/", f": {server}/#/").rstrip() or "Nothing was tracked yet")


def serve(port: int) -> NoReturn:
    """Become the server of MLflow over our store, once the addresses of each study's pages are printed.

    Raises:
        SystemExit: there is no store here.
    """
    if not Path(paths.MLFLOW).is_file():
        sys.exit(f"error: {paths.MLFLOW} is not there; expected a folder in which a study has run, such as lorcbench run demo")
    main(f"http://{HOST}:{port}")
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.execv(sys.executable, command(port))


def command(port: int) -> list[str]:
    """What serves our store. It has no password, so nobody but this machine reaches it."""
    server = [sys.executable, "-P", "-m", "mlflow", "ui", "--host", HOST, "--port", str(port), "--workers", "1"]
    return [*server, "--backend-store-uri", f"sqlite:///{paths.MLFLOW}", "--default-artifact-root", paths.MLFLOW_ARTIFACTS]
