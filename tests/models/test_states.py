"""Hidden states that a killed walk left: the next one goes on behind them, or starts over, and ends with the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from lorcbench.core.formats import ActivationFormat
from lorcbench.models import discovery, states
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.perplexity import scores_of_ranks, window_losses
from lorcbench.models.states import KeptStates

WINDOWS = {"a": tiny.windows(5, 16), "b": tiny.windows(3, 8)}


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """A write is due whenever the minutes are over, however long it takes."""
    monkeypatch.setattr(states, "_SHARE", 0)


class Killed(BaseException):
    """What takes a walk away."""


def kept(folder: Path, mark: str = "job", minutes: float | None = 1e-9, said: list | None = None) -> KeptStates:
    return KeptStates(folder / "hidden.part", mark, minutes, ([] if said is None else said).append)


def walk(folder: Path, dtype: torch.dtype = torch.float32, hidden_bytes: float = 2**30) -> BlockWalk:
    return BlockWalk(discovery.opened(folder), dtype, batch_tokens=32, hidden_bytes=hidden_bytes, scratch=folder)


def losses(walk: BlockWalk, states: KeptStates | None, killed_at: int | None = None) -> tuple[dict, dict, list[int]]:
    """The losses, what stands out of the channels, and the blocks that windows passed."""
    passed, channels = [], {}

    def weights(index: int) -> dict:
        if index == killed_at:
            raise Killed
        return {}

    def progress(done: float, total: int) -> None:
        passed.append(int(done - 1e-9))

    with states or kept(Path("/nonexistent")) as open_states:
        found = window_losses(walk, WINDOWS, weights, ActivationFormat(16), channels, open_states if states else None, progress)
    return found, channels, sorted(set(passed[1:]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hidden_bytes", [2**30, 1], ids=["memory", "file"])
def test_a_killed_walk_goes_on_and_ends_with_the_same_numbers(tmp_path, dtype, hidden_bytes):
    folder = tiny.checkpoint(tmp_path / "opt", "opt")
    whole = losses(walk(folder, dtype), None)
    assert whole[2] == [0, 1, 2]
    for killed_at in (1, 2):
        with pytest.raises(Killed):
            losses(walk(folder, dtype, hidden_bytes), kept(tmp_path), killed_at)
        assert (tmp_path / "hidden.part").stat().st_size > 88 * tiny.HIDDEN * dtype.itemsize
        again = losses(walk(folder, dtype, hidden_bytes), kept(tmp_path))
        assert again[:2] == whole[:2]
        assert again[2] == list(range(killed_at, 3))
        assert not (tmp_path / "hidden.part").exists()


@pytest.mark.parametrize("change", ["mark", "windows", "truncated", "flipped", "text", "empty"])
def test_what_is_not_of_this_walk_or_damaged_is_removed_and_the_walk_starts_over(tmp_path, change, monkeypatch):
    folder = tiny.checkpoint(tmp_path / "opt", "opt")
    whole = losses(walk(folder), None)
    with pytest.raises(Killed):
        losses(walk(folder), kept(tmp_path), 2)
    file = tmp_path / "hidden.part"
    content = file.read_bytes()
    if change == "windows":
        monkeypatch.setitem(WINDOWS, "b", tiny.windows(2, 8))
        whole = losses(walk(folder), None)
    damaged = {"truncated": content[:-40], "flipped": content[:700] + b"\xff" + content[701:], "text": b"7\n", "empty": b""}
    file.write_bytes(damaged.get(change, content))
    again = losses(walk(folder), kept(tmp_path, "other" if change == "mark" else "job", None))
    assert again == whole
    assert not file.exists()


def test_what_fails_leaves_no_file(tmp_path):
    with pytest.raises(ValueError), kept(tmp_path) as open_states:
        open_states.keep(1, {"a": torch.ones(3)}, None)
        assert (tmp_path / "hidden.part").exists()
        raise ValueError
    assert not list(tmp_path.iterdir())


def test_a_write_is_due_after_the_minutes_and_twenty_times_its_own_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(states, "_SHARE", 20)
    monkeypatch.setattr(states.time, "monotonic", lambda: now[0])
    file, hidden = tmp_path / "hidden.part", {"a": torch.zeros(1000)}

    def written(at: float, open_states: KeptStates) -> bool:
        now[0] = at
        file.unlink(missing_ok=True)
        open_states.keep(1, hidden, None)
        return file.exists()

    each = kept(tmp_path, minutes=10)
    assert [written(at, each) for at in (599, 601, 1200, 1202)] == [False, True, False, True]
    monkeypatch.setattr(states, "_FIRST_RATE", 4000 / 100)  # 100 s
    now[0] = 0
    each = kept(tmp_path, minutes=10)
    assert [written(at, each) for at in (1999, 2001)] == [False, True]
    now[0] = 0
    assert not written(1e9, kept(tmp_path, minutes=None))


def test_without_room_the_walk_goes_on_and_says_what_a_kill_would_cost(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(states.shutil, "disk_usage", lambda folder: states.shutil._ntuple_diskusage(9, 2, 7))
    open_states = kept(tmp_path, said=said)
    for done in (1, 2):
        open_states.keep(done, {"a": torch.zeros(1000)}, None)
    (line,) = said
    assert "not kept (they take 0.0 GB" in line and "starts again at its first block" in line
    assert not list(tmp_path.iterdir())


def failing(error: BaseException, at: int):
    """Weights of a rank that are the checkpoint's own before block `at`, which cannot be had."""

    def weights(index: int) -> dict:
        if index == at:
            raise error
        return {}

    return weights


@pytest.mark.parametrize("killed", [False, True])
def test_what_fails_at_one_rank_ends_its_walk_alone_also_behind_a_kill(tmp_path, killed):
    folder, sound, whole = tiny.checkpoint(tmp_path / "opt", "opt"), failing(Killed(), at=-1), ActivationFormat(16)
    alone = window_losses(walk(folder), WINDOWS, sound, whole)
    if killed:
        ranks = {"sound": failing(Killed(), at=2), "damaged": sound}
        with pytest.raises(Killed), kept(tmp_path) as states_:
            scores_of_ranks(walk(folder), WINDOWS, ranks, whole, None, states_)
    said = []
    with kept(tmp_path, said=said) as states_:
        ranks = {"sound": sound, "damaged": failing(ArithmeticError("no block 1"), at=1)}
        scores = scores_of_ranks(walk(folder), WINDOWS, ranks, whole, None, states_)
    assert len(said) == killed
    assert scores["sound"]["nll"] == alone
    assert str(scores["damaged"]) == "no block 1"


def test_a_walk_all_of_whose_ranks_have_failed_loads_no_further_block(tmp_path, monkeypatch):
    opened, loaded, original = walk(tiny.checkpoint(tmp_path / "opt", "opt")), [], BlockWalk.block
    monkeypatch.setattr(BlockWalk, "block", lambda self, index: loaded.append(index) or original(self, index))
    ranks = {name: failing(ValueError(name), at=1) for name in ("one", "other")}
    scores = scores_of_ranks(opened, WINDOWS, ranks, ActivationFormat(16))
    assert {name: str(error) for name, error in scores.items()} == {"one": "one", "other": "other"}
    assert loaded == [0, 1]
