"""The file formats that we write, JSON and safetensors: atomic, with a checksum and the identity of the job that wrote them.

A stage leaves two JSON files: ``result.json``, which is deterministic and compared byte for byte, and ``run.json``, which
says how the job went (time, memory, host). Tensors lie beside the result in shards, one per decoder block, and the result
lists each shard with its digest. When a killed stage starts again, it keeps the shards that it finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lorcbench.common.digests import Reading

FORMAT_VERSION = 2
_UNSEALED = "0" * 64  # what stands in a shard in place of its seal, until that is known
_TEMPORARY = re.compile(r"\..+\.(?P<host>[^.]*)\.(?P<process>\d+)\.tmp")


class ArtifactError(Exception):
    """A file is not what it should be: it is missing, damaged, or of another kind, format version or job."""


# What one of several results of a job can fail with, so that the others are made all the same.
FAILURES = (ArtifactError, ArithmeticError, ValueError, RuntimeError)


def canonical(value: Any) -> str:
    """JSON with sorted keys and no blanks, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path):
    """Yield a temporary path beside `path`; on success its file is flushed to disk and renamed to `path`, else it is removed.

    The name holds host and process, because a job of a killed workflow may still write the same artifact on another node.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)  # the renaming is on disk only when the folder is
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def _host() -> str:
    return platform.node().replace(".", "-")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes of this host left in `folder`."""
    for path in folder.rglob(".*.tmp"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and match["host"] == _host() and not Path(f"/proc/{match['process']}").exists():
            path.unlink(missing_ok=True)


def pull_back_times(folder: Path) -> None:
    """Set modification times that lie in the future to now, because Snakemake fails on a result older than its inputs.

    Times lie in the future if the clock was set back, or if the clock of another host is ahead.
    """
    now = time.time()
    for path in folder.rglob("*.json"):
        with suppress(OSError):  # the file was removed meanwhile, or is not ours to change
            if path.stat().st_mtime > now:
                os.utime(path, (now, now))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, kind: str, payload: dict) -> dict:
    """Write `payload` with its kind, format version and digest; returns what was written."""
    # The digest is of what a reader gets: JSON turns keys into strings, which may sort in another order.
    body = json.loads(canonical({"format": FORMAT_VERSION, "kind": kind, **payload}))
    body["digest"] = hashlib.sha256(canonical(body).encode()).hexdigest()
    write_text(path, json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return body


def read_json(path: Path, kind: str) -> dict:
    """Read what `write_json` wrote. A file that names its job (key ``of``) must be in that job's folder.

    Raises:
        ArtifactError: the file is missing, damaged, foreign, or of another kind or format version; the message names it.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        claimed_digest = body.pop("digest")
        described = f"{body['kind']} in format {body['format']}"
        digest = hashlib.sha256(canonical(body).encode()).hexdigest()
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ArtifactError(f"{path}: damaged (not the JSON that was written); delete it and run again") from None
    if digest != claimed_digest:
        raise ArtifactError(f"{path}: damaged (its digest does not match); delete it and run again")
    if body["kind"] != kind or body["format"] != FORMAT_VERSION:
        raise ArtifactError(f"{path}: expected {kind} in format {FORMAT_VERSION}, found {described}; delete it and run again")
    if not f"/{path.parent.absolute()}".endswith(f"/{body.get('of', '')}".rstrip("/")):
        raise ArtifactError(f"{path}: foreign (it was made as {body['of']}); delete it and run again")
    return {**body, "digest": claimed_digest}


def verified(folder: Path, kind: str, *names: str) -> dict:
    """Read the result in `folder`, after checking that its files have the digests that it lists.

    Args:
        names: of the files to check; all that the result lists if none is named. They lie beside the result, or in the
            ``folder`` that it names.

    Raises:
        ArtifactError: as `read_json`; or a file is missing, damaged or foreign.
    """
    result = read_json(folder / "result.json", kind)
    for name in names or result["files"]:
        path = folder / result.get("folder", "") / name
        check_digest(path, digest_once(path), result["files"].get(name), folder)
    return result


def digest_once(path: Path) -> str | None:
    """SHA-256 of a file's bytes, which are not read again if they cannot have changed; None if there is no such file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return Reading(file).digest(lambda: hashlib.file_digest(file, "sha256").hexdigest())


def check_digest(path: Path, digest: str | None, expected: str | None, folder: Path) -> None:
    """Refuse a file of the artifact in `folder` whose digest is not the expected one.

    Args:
        path: of the file, for the message.
        digest: of the file; None if there is no such file.
        expected: as the result of the artifact lists it.

    Raises:
        ArtifactError: the file is missing, damaged or foreign.
    """
    if digest is None:
        raise ArtifactError(f"{path}: missing; delete the folder {folder} and run again")
    if digest != expected:
        raise ArtifactError(f"{path}: damaged or foreign (its digest does not match); delete the folder {folder} and run again")


def write_shard(path: Path, tensors: dict, identity: str, notes: dict | None = None) -> str:
    """Write a safetensors file that holds the identity of its job and notes; returns the digest of its bytes.

    It is sealed: a checksum of the file inside the file shows that it is whole before any result names its digest.
    """
    from safetensors.torch import save_file

    ordered = {name: tensors[name].cpu().contiguous() for name in sorted(tensors)}
    with replacing(path) as temporary:
        # All metadata is under one key, since safetensors writes keys in no fixed order and equal jobs must give equal bytes.
        metadata = {"identity": identity, "notes": notes or {}, "seal": _UNSEALED}
        save_file(ordered, temporary, metadata={"lorcbench": canonical(metadata)})
        with open(temporary, "r+b") as file:  # write the seal over its zeros; 8 bytes before the header hold its length
            size = int.from_bytes(file.read(8), "little")
            file.seek(8 + file.read(size).index(_UNSEALED.encode()))
            file.write(_seal(temporary, _UNSEALED).encode())
        temporary.chmod(0o644)
        digest = file_digest(temporary)
    return digest


def _seal(path: Path, seal: str) -> str:
    """SHA-256 of a shard's bytes with zeros in place of its seal."""
    with open(path, "rb") as file:
        size = file.read(8)  # a safetensors file: the length of the header, the header, the tensors
        header = file.read(int.from_bytes(size, "little"))
        digest = hashlib.sha256(size + header.replace(seal.encode(), _UNSEALED.encode()))
        while part := file.read(1 << 24):
            digest.update(part)
    return digest.hexdigest()


def read_shard(path: Path, digest: str) -> dict:
    """The tensors of a shard, whose bytes must have the digest that its result names.

    Raises:
        ArtifactError: the shard is missing, truncated, altered or foreign.
    """
    from safetensors.torch import load

    if not path.is_file():
        check_digest(path, None, digest, path.parent)
    with open(path, "rb") as file:
        reading, content = Reading(file), file.read()
        check_digest(path, reading.digest(hashlib.sha256(content).hexdigest), digest, path.parent)
    return load(content)


def finished_shard(path: Path, identity: str) -> tuple[str, dict] | None:
    """Digest and notes of a shard that an earlier, killed run of the same job finished; None if there is no such shard."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("lorcbench", "{}"))
        is_whole = metadata.get("identity") == identity and metadata["seal"] == _seal(path, metadata["seal"])
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError):
        return None
    return (file_digest(path), metadata["notes"]) if is_whole else None
