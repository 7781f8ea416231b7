"""Slots: who may use which GPU. No job sees the device of another, and whoever dies leaves room at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from threading import Thread

import pytest
from pretended import fake_driver

from lorcbench.common import slots
from lorcbench.common.gpus import CHOICE, VISIBLE, Choice, Gpu, GpuError
from lorcbench.jobs import devices

FOUR = tuple(Gpu(f"GPU-{number}", "NVIDIA Pretended", 8800) for number in range(4))  # eight shares each
JOB = """
import os, sys
from lorcbench.config.schema import RuntimeConfig
from lorcbench.jobs import devices
held = devices.take(RuntimeConfig(device="cuda", gpus_per_job={count}), whole={count} > 1)
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _own_slots(tmp_path, monkeypatch):
    monkeypatch.setenv(slots.FOLDER, str(tmp_path / "slots"))
    monkeypatch.setattr(slots, "_PAUSE", 0.01)
    for name in (VISIBLE, CHOICE, devices.MEMORY):
        monkeypatch.delenv(name, raising=False)


def devices_of(*held: slots.Slots) -> list[tuple[str, ...]]:
    return [tuple(gpu.uuid for gpu in each.gpus) for each in held]


def test_jobs_go_to_the_emptiest_device_and_share_one_as_far_as_they_fit():
    held = [slots.take(FOUR[:2], 3000) for _ in range(4)]
    assert devices_of(*held) == [("GPU-0",), ("GPU-1",), ("GPU-0",), ("GPU-1",)]
    small = slots.take(FOUR[:2], 2000)  # 3 + 3 + 2 shares of eight
    waiting = []
    late = Thread(target=lambda: waiting.append(slots.take(FOUR[:2], 3000, say=waiting.append)))
    late.start()
    time.sleep(0.1)
    assert waiting == ["waits for a GPU: other jobs have them all"]
    held[1].release()
    late.join(10)
    assert devices_of(waiting[1]) == [("GPU-1",)]
    assert devices_of(small) == [("GPU-0",)]


@pytest.mark.parametrize("memory", [1, 1024, 1025, 3000, 8192, None])
def test_a_device_is_never_promised_more_memory_than_it_has(memory):
    room = slots.shares_of(FOUR[0]) // (-(-memory // 1024) if memory else 8)
    held = [slots.take(FOUR[:1], memory) for _ in range(room)]
    taken = slots.shares_of(FOUR[0]) - len(slots._free(FOUR[0]))
    assert taken * slots.SHARE >= room * (memory or 8192)
    assert taken * slots.SHARE <= FOUR[0].memory
    assert len(held) == room


def test_several_devices_are_taken_whole_and_a_large_job_is_not_passed_over():
    small = slots.take(FOUR[:3], 1000)
    pair = slots.take(FOUR[:3], None, count=2)
    assert devices_of(small, pair) == [("GPU-0",), ("GPU-1", "GPU-2")]
    order = []
    large = Thread(target=lambda: order.append(slots.take(FOUR[:1], None, say=print)))
    large.start()
    time.sleep(0.1)
    later = Thread(target=lambda: order.append(slots.take(FOUR[:1], 1000, say=print)))  # there would be room
    later.start()
    time.sleep(0.1)
    assert order == []
    small.release()
    large.join(10)
    assert [each.gpus for each in order] == [FOUR[:1]]
    order[0].release()
    later.join(10)
    assert len(order) == 2


def test_runs_on_different_devices_do_not_wait_for_each_other():
    first = slots.take(FOUR[:1], None)
    waiting = Thread(target=lambda: slots.take(FOUR[:1], None, say=print).release())
    waiting.start()
    time.sleep(0.1)
    assert devices_of(slots.take(FOUR[1:2], None)) == [("GPU-1",)]
    first.release()
    waiting.join(10)


def test_what_no_device_can_hold_is_refused_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(GpuError, match=r"a GPU with 9216 MiB for jobs; here are 4, the largest with 8192 MiB"):
        slots.take(FOUR, 9000)
    with pytest.raises(GpuError, match="5 whole GPUs; here are 4"):
        slots.take(FOUR, None, count=5)
    (tmp_path / "file").touch()
    monkeypatch.setenv(slots.FOLDER, str(tmp_path / "file"))
    with pytest.raises(GpuError, match="expected LORCBENCH_SLOTS=FOLDER"):
        slots.take(FOUR, 1)


def test_on_a_cluster_a_job_keeps_the_device_that_it_was_given(monkeypatch, tmp_path):
    from lorcbench.config.schema import RuntimeConfig

    monkeypatch.setenv(CHOICE, "")
    monkeypatch.setenv(VISIBLE, "3")
    Choice("cuda", None).hand_down()
    assert devices.take(RuntimeConfig(device="cuda"), whole=False) is None
    assert os.environ[VISIBLE] == "3"
    assert not (tmp_path / "slots").exists()


def test_a_job_on_the_cpu_sees_no_device(monkeypatch):
    from lorcbench.config.schema import RuntimeConfig

    monkeypatch.setenv(VISIBLE, "0")
    assert devices.take(RuntimeConfig(device="cpu"), whole=False) is None
    assert os.environ[VISIBLE] == ""


class Jobs:
    """Processes that hold a device each until they are told to end."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.seen: dict[subprocess.Popen, str] = {}
        self.readers = []

    def start(self, count: int = 1, **environment: str) -> None:
        job = subprocess.Popen(
            [sys.executable, "-c", JOB.format(count=count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **self.environment, **environment},
        )
        self.seen[job] = ""
        reader = Thread(target=lambda: self.seen.__setitem__(job, job.stdout.readline().strip()))
        reader.start()
        self.readers.append(reader)

    def running(self) -> dict[subprocess.Popen, str]:
        return {job: device for job, device in self.seen.items() if device and job.poll() is None}

    def wait_for(self, count: int, limit: float = 60) -> float:
        """Seconds until so many jobs hold a device."""
        started = time.monotonic()
        while len(self.running()) < count:
            assert time.monotonic() < started + limit, self.seen
            time.sleep(0.005)
        return time.monotonic() - started

    def stop(self) -> None:
        for job in self.seen:
            job.kill()
            job.wait()
        for reader in self.readers:
            reader.join(10)


@pytest.fixture
def jobs(tmp_path):
    (tmp_path / "bin").mkdir()
    environment = fake_driver(tmp_path / "bin", list(FOUR))
    # The workflow hands down what it found; these jobs are told the same, since the torch of this machine may be of any build.
    started = Jobs(environment | {CHOICE: '{"device": "cuda", "gpus": %s}' % [list(gpu) for gpu in FOUR]})
    started.environment[CHOICE] = started.environment[CHOICE].replace("'", '"')
    yield started
    started.stop()


@pytest.mark.slow
def test_four_pretended_gpus_eight_jobs_one_killed_no_job_sees_anothers_device_and_the_slot_is_free_at_once(jobs):
    for _ in range(8):
        jobs.start()
    jobs.wait_for(4)
    time.sleep(0.5)
    first = jobs.running()
    assert sorted(first.values()) == [gpu.uuid for gpu in FOUR]  # four jobs, four devices; four wait
    killed = next(iter(first))
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert jobs.wait_for(4) < 2
    assert sorted(jobs.running().values()) == sorted(first.values())
    (fifth,) = jobs.running().keys() - first.keys()
    assert jobs.seen[fifth] == first[killed]
    for _ in range(4):  # the others end as they should, and the rest come in
        ended = next(job for job in jobs.running() if job in first or job is fifth)
        ended.stdin.close()
        ended.wait()
        left = sum(job.poll() is None for job in jobs.seen)
        jobs.wait_for(min(4, left))
        assert len(set(jobs.running().values())) == min(4, left)


@pytest.mark.slow
def test_jobs_that_fit_share_a_device_and_one_of_several_devices_has_them_to_itself(jobs):
    for _ in range(8):
        jobs.start(**{devices.MEMORY: "4096"})
    jobs.wait_for(8)
    seen = sorted(jobs.running().values())
    assert seen == sorted([gpu.uuid for gpu in FOUR] * 2)
    jobs.start(count=2)
    time.sleep(1)
    assert len(jobs.running()) == 8
    for job, device in jobs.running().items():
        if device in ("GPU-1", "GPU-3"):
            job.kill()
            job.wait()
    jobs.wait_for(5)
    assert sorted(jobs.running().values())[-1] == "GPU-2"
    assert "GPU-1,GPU-3" in jobs.running().values()
