"""A client of the store that runs are imported into; what goes wrong with it is one line."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from sqlalchemy import Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from lorcbench.common.artifacts import replacing
from lorcbench.report.tracking.place import OWNER, Owner, TrackingError, mend, relocated

# MLflow would wait minutes for a server that is not there, and print two lines per run. The user's own settings stay.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True)
class Store:
    """Where a study is imported to.

    Attributes:
        uri: an MLflow tracking URI: a SQLite store (made if there is none), another database, or a server.
        artifact_root: folder or URI for the runs' artifacts; a server has its own and is not told.
        experiment: the name of the experiment.
        owner: whose runs an import may replace.
        ours: whether it is the SQLite store of this project. Runs without an owner are its own. It holds nothing but imports,
            so that nothing is lost if the machine (not this process) crashes while it is written; it is written twice as fast.
    """

    uri: str
    artifact_root: str
    experiment: str
    owner: Owner
    ours: bool = False

    def owns(self, run: Run) -> bool:
        """Whether an import may replace a run."""
        return self.owns_tagged(run.data.tags)

    def owns_tagged(self, tags: dict[str, str]) -> bool:
        """The same of a run or a model with these tags."""
        tag = tags.get(OWNER)
        return tag == self.owner.id or (self.ours and tag is None)

    @property
    def tags(self) -> dict[str, str]:
        """Of every run that is imported."""
        return {OWNER: self.owner.id, "lorcbench.results": self.owner.place}

    @property
    def first_tags(self) -> dict[str, str]:
        """Of a run that is new: whose import made it."""
        return self.tags | ({"mlflow.user": self.owner.user} if self.owner.user else {})

    def may_write(self, artifact_uri: str) -> bool:
        """Whether artifacts are not those of another project, whose import made the experiment."""
        if "://" in self.artifact_root or self.uri.startswith("http"):
            return True
        return relocated(artifact_uri, Path(self.artifact_root).resolve()) == artifact_uri


@contextmanager
def opened(store: Store):
    """Yield a client of the store. A SQLite store that is not there yet is set up; ours is mended if it came from elsewhere.

    Raises:
        TrackingError: the store cannot be reached, opened or written, by this or by what is done with the client.
    """
    with _one_line_errors(store.uri), _settings(), _unsynchronized() if store.ours else nullcontext():
        yield _open(store)


def attach(uri: str, run_id: str, files: dict[Path, str | None]) -> None:
    """Copy files to a run's artifacts, through the tracking server; what was there under their names is replaced.

    Args:
        files: each with the folder of the artifacts that it goes to, None for none.

    Raises:
        TrackingError: the server cannot be reached or refuses.
    """
    with _one_line_errors(uri), _settings():
        for file, place in files.items():
            MlflowClient(uri).log_artifact(run_id, str(file), place)


def without_password(text: str) -> str:
    """The text with stars in place of the user's name and password in addresses."""
    return re.sub(r"//[^/@\s]*@", "//***@", text)


@contextmanager
def _one_line_errors(uri: str):
    """Whatever MLflow and its database raise becomes one line that names the store."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        reason = str(error).partition("[SQL:")[0]
        message = f"tracking store {uri}: {' '.join(reason.split())[:400]}"
        raise TrackingError(without_password(message)) from None


@contextmanager
def _settings():
    """SETTINGS hold while we talk to the store, and it logs no errors of its own: they arrive as exceptions too."""
    logger = logging.getLogger("mlflow.store")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    added = {name: value for name, value in SETTINGS.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name in added:
            del os.environ[name]


@contextmanager
def _unsynchronized():
    """New connections to SQLite do not wait for the disk."""

    def connected(connection, _record) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", connected)
    try:
        yield
    finally:
        event.remove(Engine, "connect", connected)


def _open(store: Store) -> MlflowClient:
    """A client of the store; a SQLite store that is not there yet is set up, ours is mended if it came from another place."""
    database = make_url(store.uri).database if store.uri.startswith("sqlite:") else None
    if database and Path(database).is_file():
        # MLflow tries for minutes to open a file that is no database; this line fails at once.
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA schema_version")
        if store.ours:
            mend(Path(database), Path(store.artifact_root), store.owner)
    elif database:
        # A store whose set-up was killed half-way stays unusable, so it is set up beside its place, then renamed.
        with replacing(Path(database)) as fresh:
            MlflowClient(f"sqlite:///{fresh}").search_experiments()
            if "://" not in store.artifact_root:
                mend(fresh, Path(store.artifact_root).resolve())
    return MlflowClient(store.uri)
