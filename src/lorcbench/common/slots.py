"""Who may use which GPU of this machine: slots, which are files that a job locks.

The memory of a GPU is divided into shares of 1 GiB, and every share is a file. A job locks (`flock`) as many shares of one GPU
as it needs, and sees no other GPU. The kernel takes the locks back when the process ends, however it ends. The files lie in one
folder per machine and bear the UUIDs of the GPUs, so that all results folders and all users of a machine share them.

Whoever looks for room holds the *turn* of every GPU that would do, until it has its shares. So those who wait are served in
order, and small jobs do not pass a large one over for ever. Turns are taken in the order of the UUIDs, so nobody waits in a
circle.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from lorcbench.common.gpus import Gpu, GpuError

SHARE = 1024  # MiB
FOLDER = "LORCBENCH_SLOTS"  # environment variable: where the files lie, if not in /tmp
_FOLDER = "/tmp/lorcbench-gpus"
_USABLE = 0.95  # of a GPU's memory: the driver keeps some
_PAUSE = 0.1  # seconds between looks for room


def shares_of(gpu: Gpu) -> int:
    """Into how many shares a GPU is divided."""
    return int(_USABLE * gpu.memory) // SHARE


def memory_for_jobs(gpus: Sequence[Gpu]) -> tuple[int, ...]:
    """MiB of each GPU that jobs may take together."""
    return tuple(SHARE * shares_of(gpu) for gpu in gpus)


class Slots:
    """Shares of GPUs that this process holds until it ends, or until `release`.

    Attributes:
        gpus: the devices.
    """

    def __init__(self, gpus: Sequence[Gpu], locks: list[int]) -> None:
        self.gpus = tuple(gpus)
        self._locks = locks

    def release(self) -> None:
        """Give them back."""
        for lock in self._locks:
            os.close(lock)
        self._locks = []


def take(gpus: Sequence[Gpu], memory: int | None, count: int = 1, say: Callable[[str], None] = print) -> Slots:
    """Hold room on one GPU, or several GPUs whole; wait until there is.

    Args:
        gpus: among which.
        memory: MiB on one GPU; None is a whole one.
        count: how many; more than one are whole ones.
        say: told once if it has to wait.

    Raises:
        GpuError: none of them is large enough, there are fewer than `count`, or the folder of the slots cannot be written.
    """
    need = None if memory is None or count > 1 else max(1, -(-memory // SHARE))
    fitting = sorted(gpu for gpu in gpus if need is None or need <= shares_of(gpu))
    if len(fitting) < count:
        what = f"{count} whole GPUs" if need is None else f"a GPU with {need * SHARE} MiB for jobs"
        largest = max((shares_of(gpu) * SHARE for gpu in gpus), default=0)
        raise GpuError(f"a job needs {what}; here are {len(gpus)}, the largest with {largest} MiB")
    turns = []
    try:
        turns += [_opened(f"{gpu.uuid}.turn") for gpu in fitting]
        for turn in turns:
            fcntl.flock(turn, fcntl.LOCK_EX)
        waiting = False
        while (slots := _room(fitting, need, count)) is None:
            if not waiting:
                say("waits for a GPU: other jobs have them all")
                waiting = True
            time.sleep(_PAUSE)
        return slots
    finally:
        for turn in turns:
            os.close(turn)


def _room(gpus: list[Gpu], need: int | None, count: int) -> Slots | None:
    """Shares on the emptiest of these GPUs, or `count` empty ones; None if there is no room now. The caller has their turns."""
    free = {gpu: _free(gpu) for gpu in gpus}
    needs = {gpu: shares_of(gpu) if need is None else need for gpu in gpus}
    chosen = [gpu for gpu in sorted(gpus, key=lambda gpu: -len(free[gpu])) if len(free[gpu]) >= needs[gpu]][:count]
    kept = [lock for gpu in chosen for lock in free[gpu][: needs[gpu]]] if len(chosen) == count else []
    for lock in {lock for locks in free.values() for lock in locks}.difference(kept):
        os.close(lock)
    return Slots(chosen, kept) if kept else None


def _free(gpu: Gpu) -> list[int]:
    """The shares of a GPU that nobody held, now locked by us."""
    locks = []
    for number in range(shares_of(gpu)):
        lock = _opened(f"{gpu.uuid}.{number:03d}")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locks.append(lock)
        except BlockingIOError:
            os.close(lock)
    return locks


def _opened(name: str) -> int:
    """A file of the folder, opened for reading: that is enough to lock it, whoever made it."""
    folder = Path(os.environ.get(FOLDER) or _FOLDER)
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # another user's process was faster
                folder.chmod(0o1777)
        with suppress(FileNotFoundError):
            return os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW)
        with suppress(FileExistsError):
            made = os.open(folder / name, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.fchmod(made, 0o644)  # whatever the user's mask is: other users open it too
            os.close(made)
        return os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise GpuError(f"{folder}/{name}: cannot be used ({error.strerror}); expected {FOLDER}=FOLDER that can") from None
