"""What a process asks of the kernel and of the numerical libraries: when to end, to take back memory, to let threads sleep."""

import ctypes
import os
import signal
import sys

PARENT = "LORCBENCH_JOB"  # environment variable: the process that starts a workflow's stages
SUMMARY_LATER = "LORCBENCH_SUMMARY_LATER"  # environment variable: the workflow prints what the report would print
SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}  # OpenBLAS: sleep after 2^4 rounds of waiting
# Freed memory is given back only when the process has grown by this many bytes: to get it again costs time.
_KEPT = 64 << 20
_first_resident: int | None = None  # bytes of the process at the first call of `give_back_memory`
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def die_with_parent(parent: int) -> None:
    """Kill this process when `parent`, its parent process, dies.

    If it is dead already, exit now: the kernel has re-parented us and would wait for the new parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent and not os.path.exists(f"/proc/{parent}"):
            os.kill(os.getpid(), signal.SIGKILL)


def give_back_memory() -> None:
    """Return freed memory to the kernel if it has become much; call this after each block of a walk.

    The C library keeps freed matrices of up to 32 MB for later, in pieces that the next matrices do not fit. Without this
    call the memory of a walk grew by 54 MB per block of OPT-1.3b (benchmarks/README.md, "Memory").
    """
    import psutil  # not above: each stage's command imports this module before it hands over to the warm process

    global _first_resident
    resident = psutil.Process().memory_info().rss
    if _first_resident is None:
        _first_resident = resident
    elif resident > _first_resident + _KEPT and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # glibc only
        trim(0)


def let_threads_sleep() -> None:
    """Let idle threads of the numerical libraries sleep instead of spin; call this before any of them is loaded.

    PyTorch and NumPy have one thread pool each. With more than one kernel thread the pool that is idle spins and takes the
    cores from the other: GPTQ with two threads on two cores took more than twice as long (benchmarks/README.md, "LoRC
    factors", has another case). Variables that the user has set stay as they are.
    """
    for name, value in SLEEPING.items():
        os.environ.setdefault(name, value)
