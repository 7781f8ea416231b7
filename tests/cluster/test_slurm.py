"""On a real SLURM: the smoke study, and jobs that fail, are cancelled, take too much memory or lose their node.

Whatever happened, the artifacts are those of an undisturbed run on one machine, byte for byte.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from runs import ROOT, command, digests, skip_or_fail, snakemake, stages_in, wait_for

PROFILE = ("--profile", str(ROOT / "profiles/slurm"))
LORC = "results/cache/lorc/opt-standin-xs/rtn/none/w2-asym-row/a16/plain-int8/cap32/result.json"
SHORT = (LORC, "--config", "study=smoke")  # quantizing and factors of one model, trained already: one submission
MADE = ("quantize", "lorc")


def slurm(*words: str) -> str:
    """What one of SLURM's programs says."""
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def cluster():
    """Three nodes on this machine; nothing of them is left afterwards."""
    for program in ("munge", "slurmctld", "slurmd", "sbatch"):
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin"):
            skip_or_fail(f"{program} is not installed (apt-get install slurm-wlm munge)", "LORCBENCH_REQUIRE_SLURM")
    if os.geteuid() != 0:
        skip_or_fail("starting a cluster needs root", "LORCBENCH_REQUIRE_SLURM")
    base = Path(tempfile.mkdtemp(prefix="lorcbench-slurm-"))
    scripts = ROOT / "tests/cluster"
    try:
        started = subprocess.run([scripts / "start.sh", base], capture_output=True, text=True, check=False)
        assert started.returncode == 0, started.stderr
        yield base
    finally:
        subprocess.run([scripts / "stop.sh", base], check=False)
        shutil.rmtree(base, ignore_errors=True)


class Runs:
    """Runs on the cluster side by side, each in a folder of its own with trained models and nothing made from them."""

    def __init__(self, local: Path, base: Path) -> None:
        self.local, self.base, self.pool = local, base, ThreadPoolExecutor(16)

    def folder(self, name: str) -> Path:
        folder = self.base / name
        for part in (".snakemake/metadata", "results/cache/text", "results/cache/checkpoint"):
            shutil.copytree(self.local / part, folder / part)
        return folder

    def start(self, name: str, *arguments: str):
        """A run in the folder of that name, as a future of the finished process."""
        return self.pool.submit(snakemake, self.folder(name), *PROFILE, *arguments)


@pytest.fixture(scope="module")
def runs(cluster, smoke, tmp_path_factory):
    started = Runs(smoke, tmp_path_factory.mktemp("cluster"))
    yield started
    started.pool.shutdown()


def job_of(folder: Path) -> str | None:
    """The id of the running job that works in `folder`."""
    running = slurm("squeue", "--noheader", "--states=running", "--format=%i %Z").split("\n")
    return next((line.split()[0] for line in running if line.endswith(f" {folder}")), None)


def same_as_local(runs: Runs, folder: Path) -> None:
    expected = {path: digest for path, digest in digests(runs.local, *MADE).items() if "opt-standin-xs/rtn" in path}
    assert len(expected) == 6  # two results, and two blocks of each
    assert digests(folder, *MADE) == expected


def take_away(node: str, cluster: Path) -> None:
    """What remains of a node that lost its power: neither its daemon nor any process of its jobs."""
    jobs = slurm("squeue", "--noheader", f"--nodelist={node}", "--format=%i").split()
    os.kill(int((cluster / f"run/slurmd.{node}.pid").read_text()), signal.SIGKILL)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"SLURMD_NODENAME={node}".encode() in (process / "environ").read_bytes().split(b"\0")
            steps = [f"slurmstepd: [{job}.".encode() for job in jobs]
            if ours or (process / "cmdline").read_bytes().startswith(tuple(steps)):
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:  # ended meanwhile
            continue


def killed_and_started_again(runs: Runs) -> subprocess.CompletedProcess:
    """SIGKILL to the workflow while its job runs, which nobody cancels; then the same command."""
    folder = runs.folder("killed")
    first = subprocess.Popen(command(*PROFILE, *SHORT), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: stages_in(folder), "a stage")
    first.kill()
    first.wait()
    return snakemake(folder, *PROFILE, *SHORT)


@pytest.fixture(scope="module")
def finished(runs, cluster):
    """Runs side by side, all but the whole study disturbed once; the tests look at what became of them."""
    # The first attempt has less memory than importing torch takes, the second has more.
    memory = ("--set-resources", "quantize:mem_mb=75*4**attempt", "lorc:mem_mb=75*4**attempt")
    gpu = ("--set-resources", "quantize:gpu=1", "quantize:slurm_partition=gpu", "lorc:slurm_partition=gpu")
    started = {
        "fails-once": runs.start("fails-once", *SHORT, *gpu),
        "cancelled": runs.start("cancelled", *SHORT),
        "memory": runs.start("memory", *SHORT, *memory),
        "node": runs.start("node", *SHORT, "--default-resources", "slurm_partition=doomed", "mem_mb=2000", "runtime=60"),
        "time": runs.start("time", *SHORT, "--set-resources", "quantize:runtime=attempt", "lorc:runtime=attempt"),
        "killed": runs.pool.submit(killed_and_started_again, runs),
        "whole": runs.start("whole", "--config", "study=smoke"),
    }
    fails, cancelled, node, late = (runs.base / name for name in ("fails-once", "cancelled", "node", "time"))
    disturb = [
        runs.pool.submit(lambda: os.kill(wait_for(lambda: stages_in(fails, ".lorc"), "a stage")[0], signal.SIGKILL)),
        runs.pool.submit(lambda: os.kill(wait_for(lambda: stages_in(late, ".lorc"), "a stage")[0], signal.SIGSTOP)),
        runs.pool.submit(lambda: slurm("scancel", wait_for(lambda: job_of(cancelled), "a job"))),
        runs.pool.submit(lambda: wait_for(lambda: stages_in(node), "a stage") and take_away("n3", cluster)),
    ]
    for done in disturb:
        done.result()
    warm = stages_in(runs.base / "whole", ".warm")
    return {"warm": warm, **{name: run.result() for name, run in started.items()}}


def jobs(said: str) -> list[dict[str, str]]:
    """What SLURM knows of the jobs that a run submitted, in that order."""
    found = re.findall(r"SLURM jobid (\d+)", said)
    return [dict(re.findall(r"(\w+)=(\S+)", slurm("scontrol", "show", "job", number))) for number in found]


ENDS = {"fails-once": "FAILED", "cancelled": "CANCELLED", "memory": "FAILED", "node": "NODE_FAIL", "time": "TIMEOUT"}


@pytest.mark.parametrize("name", ENDS)
def test_a_job_that_was_disturbed_is_submitted_again_and_its_bytes_are_those_of_one_machine(finished, runs, name):
    assert finished[name].returncode == 0, finished[name].stdout
    assert [job["JobState"] for job in jobs(finished[name].stdout)] == [ENDS[name], "COMPLETED"]
    assert " failed: " in finished[name].stdout
    same_as_local(runs, runs.base / name)


def test_a_job_over_its_memory_is_submitted_with_more(finished, runs):
    first, second = jobs(finished["memory"].stdout)
    assert (first["MinMemoryNode"], second["MinMemoryNode"]) == ("300M", "1200M")
    log = next((runs.base / "memory/.snakemake/slurm_logs").rglob(f"{first['JobId']}.log")).read_text()
    assert "exceeded" in log


def test_a_job_over_its_time_is_submitted_with_more(finished):
    limits = [job["TimeLimit"] for job in jobs(finished["time"].stdout)]
    assert limits == ["00:02:00", "00:04:00"]  # of one submission with two stages


def test_a_job_that_lost_its_node_is_submitted_to_another(finished):
    assert [job["NodeList"] for job in jobs(finished["node"].stdout)] == ["n3", "n2"]


def test_a_job_that_asks_for_a_gpu_gets_one_where_they_are(finished):
    for job in jobs(finished["fails-once"].stdout):
        assert (job["Partition"], job["NodeList"]) == ("gpu", "n1")
        assert job["TresPerJob"] == "gres:gpu:1"


def environment(pid: int) -> dict[str, str]:
    """What a process was started with."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


@pytest.fixture(scope="module")
def on_gpus(runs, cluster):
    """Three runs whose jobs ask for one of two GPUs each, in the partition that the profile names: what the jobs saw.

    The first two stages that run are held until the third job has been looked at.
    """
    profile = runs.base / "profile"
    profile.mkdir()
    text = (ROOT / "profiles/slurm/config.yaml").read_text()
    (partition,) = re.findall(r"^# (set-resources: \[.*)\]$", text, re.MULTILINE)
    (profile / "config.yaml").write_text(f"{text}\n{partition}, quantize:gpu=1, lorc:gpu=1]\n")
    names = ("gpu-first", "gpu-second", "gpu-third")
    where = {"LORCBENCH_SLOTS": str(profile / "slots")}
    started = {
        name: runs.pool.submit(snakemake, runs.folder(name), "--profile", str(profile), *SHORT, **where) for name in names
    }
    held: dict[str, int] = {}

    def hold() -> bool:
        for name in set(names) - held.keys():
            if len(held) < 2 and (pids := stages_in(runs.base / name)):
                os.kill(pids[0], signal.SIGSTOP)
                held[name] = pids[0]
        return len(held) == 2

    wait_for(hold, "two stages on GPUs")
    seen = [environment(pid) for pid in held.values()]
    (waiting,) = set(names) - held.keys()
    states = ("squeue", "--noheader", "--partition=gpu", "--format=%t %r %Z")
    wait_for(lambda: any(line.endswith(f"/{waiting}") for line in slurm(*states).splitlines()), "the third job")
    third = next(line for line in slurm(*states).splitlines() if line.endswith(f"/{waiting}"))
    for pid in held.values():
        os.kill(pid, signal.SIGCONT)
    return {"seen": seen, "third": third, "slots": profile / "slots", **{name: run.result() for name, run in started.items()}}


def test_jobs_that_ask_for_a_gpu_never_share_one(on_gpus, runs):
    about = [{name: value for name, value in each.items() if "GPU" in name or "CUDA" in name} for each in on_gpus["seen"]]
    for name in ("SLURM_STEP_GPUS", "CUDA_VISIBLE_DEVICES"):
        assert sorted(each.get(name, "") for each in about) == ["0", "1"], about
    assert on_gpus["third"].startswith("PD ")  # both are taken
    for name in ("gpu-first", "gpu-second", "gpu-third"):
        assert on_gpus[name].returncode == 0, on_gpus[name].stdout
        assert {job["Partition"] for job in jobs(on_gpus[name].stdout)} == {"gpu"}
        same_as_local(runs, runs.base / name)
    assert not on_gpus["slots"].exists()  # the cluster hands out its GPUs, and we take no slot


def test_a_killed_workflow_goes_on_beside_the_job_that_it_left_behind(finished, runs):
    assert finished["killed"].returncode == 0, finished["killed"].stdout
    wait_for(lambda: not job_of(runs.base / "killed"), "the end of the job left behind")
    same_as_local(runs, runs.base / "killed")


def test_the_whole_smoke_study_has_the_bytes_of_one_machine(finished, runs):
    assert finished["whole"].returncode == 0, finished["whole"].stdout
    assert digests(runs.base / "whole") == digests(runs.local)
    with open(runs.base / "whole/results/smoke/cells.csv", newline="") as file:
        assert {row["status"] for row in csv.DictReader(file)} == {"ok"}


def test_the_warm_process_is_for_local_runs_only(finished):
    assert finished["warm"] == []


def test_nothing_is_left_on_the_cluster(finished):
    waiting = ("squeue", "--noheader", "--states=running,pending")
    wait_for(lambda: not slurm(*waiting), "the end of every job")
    assert slurm(*waiting) == ""
