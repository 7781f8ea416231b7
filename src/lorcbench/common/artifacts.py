"""Every file format that we write: JSON and safetensors, atomic, checksummed, with the identity of the job that made them.

A stage leaves two JSON files: ``result.json``, deterministic and compared byte for byte, and ``run.json``, how it went (time,
memory, host). Tensors lie beside the result in shards, one a decoder block, each named with its digest in the result; a
shard of the same job is reused when a killed stage starts again.
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

FORMAT_VERSION = 2
_UNSEALED = "0" * 64
_TEMPORARY = re.compile(r"\..+\.(?P<host>[^.]*)\.(?P<process>\d+)\.tmp")


class ArtifactError(Exception):
    """A file that is not what it should be: missing, damaged, of another kind or another format version."""


def canonical(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text."""
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
    """Yields a temporary path beside `path`; on success it is flushed to disk and renamed, else it is removed.

    Its name is no other process's, on this host or on another: a job that a killed workflow left on a cluster may write too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
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
        found = _TEMPORARY.fullmatch(path.name)
        if found and found["host"] == _host() and not Path(f"/proc/{found['process']}").exists():
            path.unlink(missing_ok=True)


def pull_back_times(folder: Path) -> None:
    """Date what is from the future to now: to Snakemake a result that is older than its inputs is a failure.

    Files are from the future where the clock was set back, or another host's is ahead.
    """
    now = time.time()
    for path in folder.rglob("*.json"):
        with suppress(OSError):  # removed meanwhile, or not ours to change
            if path.stat().st_mtime > now:
                os.utime(path, (now, now))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, kind: str, payload: dict) -> dict:
    """Write `payload` with its kind, format version and digest; returns what was written."""
    # What is digested is what a reader gets: keys that JSON turns into strings would sort otherwise.
    body = json.loads(canonical({"format": FORMAT_VERSION, "kind": kind, **payload}))
    body["digest"] = hashlib.sha256(canonical(body).encode()).hexdigest()
    write_text(path, json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return body


def read_json(path: Path, kind: str) -> dict:
    """Read what `write_json` wrote. One that says ``of`` whose work it is must lie in the folder of that name.

    Raises:
        ArtifactError: the file is missing, damaged, foreign, or of another kind or format version; the message names it.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        claimed = body.pop("digest")
        found = f"{body['kind']} in format {body['format']}"
        digest = hashlib.sha256(canonical(body).encode()).hexdigest()
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ArtifactError(f"{path}: damaged (not the JSON that was written); delete it and run again") from None
    if digest != claimed:
        raise ArtifactError(f"{path}: damaged (its digest does not match); delete it and run again")
    if body["kind"] != kind or body["format"] != FORMAT_VERSION:
        raise ArtifactError(f"{path}: expected {kind} in format {FORMAT_VERSION}, found {found}; delete it and run again")
    if not f"/{path.parent.absolute()}".endswith(f"/{body.get('of', '')}".rstrip("/")):
        raise ArtifactError(f"{path}: foreign (it was made as {body['of']}); delete it and run again")
    return {**body, "digest": claimed}


def verified(folder: Path, kind: str, *names: str) -> dict:
    """The result in `folder`, once the named of the files that it lists (all, if none is named) have the digests that it lists.

    Files are looked for beside the result, or in the ``folder`` that it names.

    Raises:
        ArtifactError: as `read_json`; or a file is missing, damaged or foreign.
    """
    result = read_json(folder / "result.json", kind)
    for name in names or result["files"]:
        path = folder / result.get("folder", "") / name
        check_digest(path, file_digest(path) if path.is_file() else None, result["files"].get(name), folder)
    return result


def check_digest(path: Path, found: str | None, claimed: str | None, folder: Path) -> None:
    """Refuse a file of the artifact in `folder` whose digest is not the claimed one; None: there is no such file.

    Raises:
        ArtifactError: missing, damaged or foreign.
    """
    if found is None:
        raise ArtifactError(f"{path}: missing; delete the folder {folder} and run again")
    if found != claimed:
        raise ArtifactError(f"{path}: damaged or foreign (its digest does not match); delete the folder {folder} and run again")


def write_shard(path: Path, tensors: dict, identity: str, notes: dict | None = None) -> str:
    """Write a safetensors file that carries the identity of its job and notes; returns the digest of its bytes."""
    from safetensors.torch import save_file

    ordered = {name: tensors[name].cpu().contiguous() for name in sorted(tensors)}
    with replacing(path) as temporary:
        # One metadata key: safetensors writes several in no fixed order, and equal jobs must give equal bytes.
        about = {"identity": identity, "notes": notes or {}, "seal": _UNSEALED}
        save_file(ordered, temporary, metadata={"lorcbench": canonical(about)})
        with open(temporary, "r+b") as file:  # sealed, so that it is known to be whole before any result names its digest
            size = int.from_bytes(file.read(8), "little")
            file.seek(8 + file.read(size).index(_UNSEALED.encode()))
            file.write(_seal(temporary, _UNSEALED).encode())
        temporary.chmod(0o644)
        digest = file_digest(temporary)
    return digest


def _seal(path: Path, seal: str) -> str:
    """SHA-256 of a shard's bytes with nothing but zeros where its seal is."""
    with open(path, "rb") as file:
        size = file.read(8)  # safetensors: the length of the header, the header, the tensors
        header = file.read(int.from_bytes(size, "little"))
        digest = hashlib.sha256(size + header.replace(seal.encode(), _UNSEALED.encode()))
        while part := file.read(1 << 24):
            digest.update(part)
    return digest.hexdigest()


def read_shard(path: Path, digest: str) -> dict:
    """The tensors of a shard, whose bytes must have the digest that its result names.

    Raises:
        ArtifactError: missing, truncated, altered or foreign.
    """
    from safetensors.torch import load

    data = path.read_bytes() if path.is_file() else None
    check_digest(path, data and hashlib.sha256(data).hexdigest(), digest, path.parent)
    return load(data)


def finished_shard(path: Path, identity: str) -> tuple[str, dict] | None:
    """Digest and notes of a whole shard left by an earlier, killed run of the same job, or None if there is none to reuse."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            found = json.loads((file.metadata() or {}).get("lorcbench", "{}"))
        whole = found.get("identity") == identity and found["seal"] == _seal(path, found["seal"])
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError):
        return None
    return (file_digest(path), found["notes"]) if whole else None
