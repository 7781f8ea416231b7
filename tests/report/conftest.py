"""A store to import into."""

from __future__ import annotations

import pytest
from tracked import track


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory):
    """The bytes of a store without any run: MLflow takes a second to set one up."""
    folder = tmp_path_factory.mktemp("fresh")
    track("empty", "no cells", [], f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"))
    return (folder / "mlflow.db").read_bytes()


@pytest.fixture
def uri(tmp_path, fresh_store):
    """The address of a store without any run."""
    (tmp_path / "mlflow.db").write_bytes(fresh_store)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"
