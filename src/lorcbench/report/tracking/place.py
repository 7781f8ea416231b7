"""Where runs are kept: the store, the folder of its artifacts, and whose runs are whose. MLflow is not imported.

MLflow stores absolute locations of artifacts. Our own store moves with its project, so its locations are mended whenever they
are those of another place: a project that was moved finds its files, and a copy never writes into its original.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import sqlite3
import uuid
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from lorcbench.common import paths
from lorcbench.common.artifacts import replacing
from lorcbench.report.tracking.view import local_folder

ARTIFACTS = Path(paths.MLFLOW_ARTIFACTS).name  # the folder beside a SQLite store
OWNER = "lorcbench.owner"  # the tag of a run that says which results folder it was imported from
DEFAULT = "/mlruns/0"  # where MLflow puts its own experiment Default: a folder of whatever folder it was started in


# Where a store says where artifacts are: table, its key, and the column with the place.
_LOCATIONS = (
    ("experiments", "experiment_id", "artifact_location"),
    ("runs", "run_uuid", "artifact_uri"),
    ("logged_models", "model_id", "artifact_location"),
)
_OWNERS = (
    "UPDATE tags SET value = ? WHERE key = ? AND value = ?",
    "UPDATE logged_model_tags SET tag_value = ? WHERE tag_key = ? AND tag_value = ?",
)


class TrackingError(Exception):
    """The tracking store cannot be used; the message is one line that names it."""


@dataclass(frozen=True)
class Owner:
    """A results folder as the owner of runs.

    Attributes:
        id: no other results folder has it.
        earlier: the id of the folder that this one is a copy of, or None.
        place: host and path, for people.
        user: who imports, for people; None for a user without a name, as in containers.
    """

    id: str
    earlier: str | None
    place: str
    user: str | None


def store_uri(setting: str | None) -> str:
    """The address of the store that ``tracking.uri`` asks for; our own store if it is null.

    Raises:
        TrackingError: it is to come from the environment, which has none.
    """
    if setting is None:
        return f"sqlite:///{Path(paths.MLFLOW).resolve()}"
    uri = os.environ.get("MLFLOW_TRACKING_URI", "") if setting == "environment" else setting
    if not uri:
        raise TrackingError("tracking.uri=environment: MLFLOW_TRACKING_URI is not set")
    return uri


def artifact_root(uri: str) -> Path:
    """The folder for artifacts: beside a SQLite store, whosever it is, else under our results."""
    _, sqlite, database = uri.partition("sqlite:///")
    return (Path(database).parent / ARTIFACTS if sqlite else Path(paths.MLFLOW_ARTIFACTS)).resolve()


def relocated(uri: str, root: Path) -> str:
    """The address that an artifact has if what lay in another project's artifact folder lies in `root`; others as they are."""
    folder, marker, rest = uri.rpartition(f"/{ARTIFACTS}/")
    return f"{root.as_uri()}/{rest}" if marker and local_folder(folder) else uri


def relative(uri: str) -> str:
    """The address of an artifact of our own store, as seen from the project's folder."""
    return f"{paths.MLFLOW_ARTIFACTS}/{uri.rpartition(f'/{ARTIFACTS}/')[2]}"


def mend(database: Path, root: Path, owner: Owner | None = None) -> int:
    """Bring a SQLite store that came from another place in line with where it is; returns how many entries were changed.

    Args:
        root: the folder of its artifacts now.
        owner: whose store it is now; runs of the folder that it was copied from become its own.

    Raises:
        sqlite3.Error: it is no store, or cannot be written.
    """
    changes = []
    with closing(sqlite3.connect(database)) as connection, connection:  # one transaction
        for table, key, column in _LOCATIONS:
            for name, uri in connection.execute(f"SELECT {key}, {column} FROM {table} WHERE {column} IS NOT NULL"):
                place = f"{root.as_uri()}/Default" if table == "experiments" and uri.endswith(DEFAULT) else relocated(uri, root)
                if place != uri:
                    changes.append((f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (place, name)))
        if owner and owner.earlier:
            changes += [(statement, (owner.id, OWNER, owner.earlier)) for statement in _OWNERS]
        return sum(connection.execute(*change).rowcount for change in changes)


def owner_of(results: Path) -> Owner:
    """The results folder as an owner, under an id that is kept in it.

    A folder that was moved keeps its id; a copy beside its original gets another one. A file is the same file if it has its
    path, or its number in the file system.

    Raises:
        OSError: the folder cannot be written.
    """
    file = results / Path(paths.OWNER).name
    known = {}
    with suppress(OSError, ValueError):
        known = json.loads(file.read_text(encoding="utf-8"))
    here = {"path": str(results.resolve()), "inode": file.stat().st_ino if known else None}
    same = any(known.get(key) == value for key, value in here.items()) if known else False
    number = known["id"] if same else uuid.uuid4().hex
    if not same or known["path"] != here["path"]:
        with replacing(file) as temporary:
            temporary.touch()
            here["inode"] = temporary.stat().st_ino
            temporary.write_text(json.dumps({"id": number, **here}) + "\n", encoding="utf-8")
    user = None
    with suppress(OSError, KeyError):
        user = getpass.getuser()
    return Owner(number, None if same else known.get("id"), f"{platform.node()}:{here['path']}", user)
