"""What a process asks of the kernel."""

import ctypes
import os
import signal
import sys

PARENT = "LORCBENCH_JOB"  # environment variable: the process that starts a workflow's stages
SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}  # the latter: 2^4 rounds
# Bytes above those after the first block at which memory is given back: it costs time to get it again.
_KEPT = 64 << 20
_resident: int | None = None
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to end this process when its parent, the process `parent`, ends, however that comes about.

    Where it has ended already, this process ends here: the kernel would wait for the end of who has adopted it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent and not os.path.exists(f"/proc/{parent}"):
            os.kill(os.getpid(), signal.SIGKILL)


def give_back_memory() -> None:
    """Return to the kernel what has been freed, if it has become much; call it after every block of a walk.

    The C library keeps matrices of up to 32 MB for later, in pieces that the next ones do not fit: without this the memory of a
    walk was measured to grow by 54 MB with every block of OPT-1.3b.
    """
    import psutil  # here: every command of a stage imports this module, and hands over to the warm process

    global _resident
    now = psutil.Process().memory_info().rss
    if _resident is None:
        _resident = now
    elif now > _resident + _KEPT and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # glibc's
        trim(0)


def let_threads_sleep() -> None:
    """Have idle threads of the numerical libraries sleep instead of spin; call it before any of them is loaded.

    PyTorch and NumPy bring a pool each. With more than one kernel thread the idle pool's spinning takes the cores from the
    other: GPTQ with two threads on two cores took more than twice as long. A setting of the user's stays.
    """
    for name, value in SLEEPING.items():
        os.environ.setdefault(name, value)
