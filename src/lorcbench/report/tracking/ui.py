"""What `make ui` says before it serves MLflow: ``python -m lorcbench.report.tracking.ui http://127.0.0.1:5000``."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

from lorcbench.common import paths
from lorcbench.report.tracking.place import artifact_root, mend, owner_of, store_uri


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


if __name__ == "__main__":
    main(sys.argv[1])
