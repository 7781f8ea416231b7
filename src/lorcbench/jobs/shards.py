"""The shards of a job: one safetensors file per decoder block, written block after block and read back one at a time.

A job that was killed starts again where it stopped. Every stage that writes shards follows one protocol::

    shards = ShardWriter(job, identity, depth)
    for index in range(depth):
        if shards.kept(index) is None:               # no whole shard of an earlier run of this job
            shards.write(index, tensors, notes)
    job.finish(identity, shards.payload())

The identity of the job is in every shard, so that a job with other settings, inputs or code never keeps it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lorcbench.common.artifacts import finished_shard, read_json, read_shard, write_shard
from lorcbench.common.process import give_back_memory
from lorcbench.jobs.job import Job, shard_identity


def shard_file(index: int) -> str:
    """The name of the file that holds decoder block `index`: ``block000.safetensors``."""
    return f"block{index:03d}.safetensors"


class KeptShard(NamedTuple):
    """A whole shard that an earlier, killed run of the same job wrote.

    Attributes:
        path: the file.
        digest: SHA-256 of its bytes.
        notes: what `ShardWriter.write` was told about the block.
    """

    path: Path
    digest: str
    notes: dict

    def tensors(self) -> dict:
        """Read the tensors of the shard, by the names that they were written under."""
        return read_shard(self.path, self.digest)


class ShardWriter:
    """Writes the shards of one job into its folder, and keeps those that an earlier run of the job left there.

    Args:
        job: whose folder is set (`Job.at`).
        identity: of the job, as in its result.
        depth: number of decoder blocks.
    """

    def __init__(self, job: Job, identity: dict, depth: int) -> None:
        self._job = job
        self._mark = shard_identity(identity)
        self._depth = depth
        self._digests: dict[int, str] = {}
        self._notes: dict[int, dict] = {}

    def kept(self, index: int) -> KeptShard | None:
        """The shard of block `index` of an earlier run, which then counts as written; None if the block must be made."""
        path = self._job.folder / shard_file(index)
        finished = finished_shard(path, self._mark)
        if finished is None:
            return None
        shard = KeptShard(path, *finished)
        self._count(index, shard.digest, shard.notes)
        return shard

    def write(self, index: int, tensors: dict, notes: dict | None = None) -> None:
        """Write the shard of block `index`.

        Args:
            tensors: by name, on any device.
            notes: what else is known of the block; any JSON object.
        """
        notes = notes or {}
        digest = write_shard(self._job.folder / shard_file(index), tensors, self._mark, notes)
        self._count(index, digest, notes)

    def _count(self, index: int, digest: str, notes: dict) -> None:
        """Remember a shard for the result, say how far the job is, and give freed memory back to the kernel."""
        self._digests[index] = digest
        self._notes[index] = notes
        self._job.progress(index + 1, self._depth, "block")
        give_back_memory()

    @property
    def notes(self) -> list[dict]:
        """The notes of all blocks, in their order."""
        return [self._notes[index] for index in range(self._depth)]

    def payload(self) -> dict:
        """What the result says of its shards: file and digest of every block, in their order.

        Raises:
            ValueError: a block was neither kept nor written.
        """
        if missing := sorted(set(range(self._depth)) - self._digests.keys()):
            raise ValueError(f"block {missing[0]} was not written; expected all of 0 to {self._depth - 1}")
        return {"shards": [{"file": shard_file(index), "sha256": self._digests[index]} for index in range(self._depth)]}


class Shards:
    """The shards of one result, read one block at a time.

    Raises:
        ArtifactError: as `read_json`.
    """

    def __init__(self, result_path: Path, kind: str) -> None:
        self.folder = result_path.parent
        self.result = read_json(result_path, kind)

    @property
    def depth(self) -> int:
        """Number of decoder blocks."""
        return len(self.result["shards"])

    def block(self, index: int) -> dict:
        """All tensors of decoder block `index`, by linear and part: ``fc1.weight`` → ``fc1.codes`` and so on.

        Raises:
            ArtifactError: as `read_shard`.
        """
        shard = self.result["shards"][index]
        return read_shard(self.folder / shard["file"], shard["sha256"])
