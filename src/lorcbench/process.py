"""What a process asks of the kernel."""

import ctypes
import os
import signal
import sys

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, however that comes about."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def let_threads_sleep() -> None:
    """Have idle threads of the numerical libraries sleep instead of spin; call it before any of them is loaded.

    PyTorch and NumPy bring a pool each. With more than one kernel thread the idle pool's spinning takes the cores from the
    other: GPTQ with two threads on two cores took more than twice as long. A setting of the user's stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # 2^4 rounds
