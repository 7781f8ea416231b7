"""What the record of a job says of the checkout: its commit, and whether its code or settings differ from that."""

import subprocess

import pytest

from lorcbench.common import shipped
from lorcbench.jobs import records
from lorcbench.report.results import commit_of


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit, which jobs take for theirs."""
    for name in ("src", "conf", "docs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("as committed")
    name = ["-c", "user.name=x", "-c", "user.email=x@x"]
    for arguments in (["init", "-q"], ["add", "."], [*name, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True)
    monkeypatch.setattr(shipped, "root", lambda: tmp_path)
    monkeypatch.setattr(shipped, "is_wheel", lambda: False)
    records.checkout.cache_clear()
    return tmp_path


@pytest.mark.parametrize(
    ("file", "changed"), [("src/file", True), ("src/new", True), ("conf/file", True), ("docs/file", False), ("notes", False)]
)
def test_changes_of_code_and_settings_are_marked_and_no_others(checkout, file, changed):
    before = records.of_process(1.0)
    assert len(before["commit"]) == 40 and before["with_changes"] is False
    (checkout / file).write_text("not committed")
    records.checkout.cache_clear()  # as in a process of its own
    after = records.of_process(1.0)
    assert (after["commit"], after["with_changes"]) == (before["commit"], changed)
    said = f"{before['commit'][:10]}{', with changes' if changed else ''}"
    assert commit_of(after, 10) == said


def test_a_wheel_and_a_folder_without_a_repository_have_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "root", lambda: tmp_path)
    for is_wheel in (True, False):
        monkeypatch.setattr(shipped, "is_wheel", lambda is_wheel=is_wheel: is_wheel)
        records.checkout.cache_clear()
        record = records.of_process(1.0)
        assert (record["commit"], record["with_changes"]) == (None, False) and commit_of(record) == ""
