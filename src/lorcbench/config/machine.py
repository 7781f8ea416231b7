"""Schemas of what is in no name: facts of the machine that a job runs on, and where runs are tracked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lorcbench.common.digests import VERIFY
from lorcbench.config.checks import ConfigError, one_of, positive

_TOGETHER = 4  # part of `hidden_gib` that the ranks which walk together may take
_EXPERIMENT = re.compile(r"(?!.*\.\.)[\w./+=,@-]{1,120}", re.ASCII)
_TRACKING = re.compile(r"(https?://|(sqlite|postgresql|mysql|mssql)(\+\w+)?:/)[^@]+|databricks|environment")


@dataclass
class RuntimeConfig:
    """Machine facts.

    Attributes:
        device: ``cpu``, ``cuda``, or ``auto``: GPUs if this machine has them and jobs run on it, else the CPU. ``auto`` keeps a
            finished result, whatever computed it; the others compute again what the other kind of device did.
        gpus: how many GPUs the jobs of a local run share; null is all that are visible.
        gpus_per_job: how many whole GPUs a job of lm-eval takes, for a model that is larger than one.
        threads: kernel threads. A fixed number, not the host's: sums change their last bits with it, so it is recorded.
        batch_tokens: tokens in one forward pass.
        hidden_gib: hidden states up to this size stay in memory, or in the GPU's; larger ones go to a file, or to the host.
            Ranks whose hidden states take no more than a quarter of it walk through the model together.
        keep_minutes: an evaluation keeps its hidden states on disk about this often, so that one that is killed goes on there;
            null never. Once in the job's folder, and once more while they are written, they take as much as in memory.
        memory_gib: memory that the jobs of a local run may take together; null is nine tenths of the machine's.
        bootstrap: once the resamples of an interval. Intervals need none any more (docs/intervals.md), so any value but the
            default is refused.
        verify: ``changed`` hashes a large file again only if its size, times or inode changed since its digest was recorded;
            ``always`` hashes what is read at every reading, which notices also a disk that loses bits by itself.
        data_dir: a folder with copies of public data sets; a text or task with a file there is read from it, not from the hub.
    """

    device: str = "auto"
    gpus: int | None = None
    gpus_per_job: int = 1
    threads: int = 1
    batch_tokens: int = 2048
    hidden_gib: float = 8.0
    keep_minutes: float | None = 10.0
    memory_gib: float | None = None
    bootstrap: int = 2000
    verify: str = "changed"
    data_dir: str | None = None

    def __post_init__(self) -> None:
        one_of("runtime", "device", self.device, ("auto", "cpu", "cuda"))
        one_of("runtime", "verify", self.verify, VERIFY)
        positive("runtime", threads=self.threads, batch_tokens=self.batch_tokens, bootstrap=self.bootstrap)
        positive("runtime", gpus=self.gpus, gpus_per_job=self.gpus_per_job)
        positive("runtime", hidden_gib=self.hidden_gib, memory_gib=self.memory_gib, keep_minutes=self.keep_minutes)
        if self.bootstrap != 2000:
            raise ConfigError(
                f"runtime.bootstrap={self.bootstrap}: expected 2000, without effect: intervals need no resampling"
            )

    def ranks_together(self, ranks: int, size: float) -> int:
        """How many of some ranks an evaluation takes through the model at a time: at least one.

        Args:
            size: bytes of the hidden states and the logits of one, and of a block's weights in float32.
        """
        return max(1, min(ranks, int(self.hidden_gib * 2**30 / _TOGETHER / size)))


@dataclass
class TrackingConfig:
    """Where runs are tracked.

    Attributes:
        uri: an MLflow tracking URI; ``environment`` is MLFLOW_TRACKING_URI; null a store under results/.
        experiment: the name of the experiment; STUDY in it stands for the study's name. null is the study's name in our own
            store, which holds nothing else, and ``lorcbench/STUDY`` in one that others may use.
    """

    uri: str | None = None
    experiment: str | None = None

    def __post_init__(self) -> None:
        if self.uri is not None and not _TRACKING.fullmatch(self.uri):
            raise ConfigError("tracking.uri: expected an address without a password, or environment for MLFLOW_TRACKING_URI")
        if self.experiment is not None and not _EXPERIMENT.fullmatch(self.experiment):
            expected = "letters, digits and ._+=,@/-, such as team/STUDY, where STUDY is the study's name; no .. in it"
            raise ConfigError(f"tracking.experiment={self.experiment!r}: expected at most 120 {expected}")

    def experiment_of(self, study: str) -> str:
        """The name of a study's experiment."""
        return (self.experiment or ("STUDY" if self.uri is None else "lorcbench/STUDY")).replace("STUDY", study)
