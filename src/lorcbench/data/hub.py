"""One error for whatever the clients of the hub raise; it says what to do without the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorcbench.common.artifacts import replacing, write_text
from lorcbench.config import places

MODEL_INSTEAD = "name a folder that holds it, model_path=FOLDER, or fill the hub's cache before"
_PATIENCE = 30.0  # seconds without a byte after which a request fails


class HubError(Exception):
    """Something cannot be downloaded; the message names it and says what to do on a machine without the hub."""


@contextmanager
def downloading(what: str, instead: str) -> Iterator[None]:
    """While open, every error becomes a `HubError`, caused by the client's own error, which the log of the stage shows.

    Only calls of a client of the hub belong inside.

    Args:
        what: is downloaded.
        instead: what to do on a machine without the hub.
    """
    from huggingface_hub import get_session

    hooks = get_session().event_hooks
    if _limit_waiting not in hooks["request"]:
        hooks["request"].append(_limit_waiting)
    try:
        yield
    except Exception as error:  # clients let through errors of the libraries below them; each list of them was incomplete
        said = f"{what} cannot be downloaded ({_reason(error)})"
        raise HubError(f"{said}; on a machine without the hub {instead}") from error


def _reason(error: Exception) -> str:
    """The type of a client's error, and what to do if the hub answered that there is no such thing, or none for this user."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    hint = {
        401: "the hub has none of that name, or it is private or gated: then accept its terms there and set HF_TOKEN",
        403: "it is gated: accept its terms on the hub with the account of HF_TOKEN",
        404: "the hub has no such repository, revision or file",
    }.get(status)
    return f"{type(error).__name__}: {hint}" if hint else type(error).__name__


def fetch_config(place: str) -> None:
    """Download the ``config.json`` of a model that was named by its repository, unless it was before.

    Its width, positions and sizes are then known before the first job, as those of a checkpoint folder are.

    Args:
        place: of the model, as `lorcbench.config.places` has it.

    Raises:
        HubError: the hub cannot be reached, or has no such repository.
    """
    from huggingface_hub import hf_hub_download

    target = places.fetched_config(place)
    if target.is_file():
        return
    repo, _, revision = place.partition("@")
    with downloading(f"{repo} at {revision}", MODEL_INSTEAD):
        path = Path(hf_hub_download(repo, "config.json", revision=revision))
    target.parent.mkdir(parents=True, exist_ok=True)
    if header := _header(repo, revision):
        with replacing(target.parent / "model.safetensors") as temporary:
            temporary.write_bytes(len(header).to_bytes(8, "little") + header)
    write_text(target, path.read_text(encoding="utf-8"))  # last: where it is, all is there


def _header(repo: str, revision: str) -> bytes | None:
    """The names and shapes of all tensors of a repository, as the header of one safetensors file; None if it has none.

    The hub sends the beginning of each file. Without it, as from a cache on a machine without the hub, sizes stay unknown
    until the model is prepared: then the plan says so.
    """
    from huggingface_hub import get_safetensors_metadata

    try:
        metadata = get_safetensors_metadata(repo, revision=revision)
    except Exception:  # clients let through errors of the libraries below them; the download itself will say what is wrong
        return None
    tensors = {name: tensor for file in metadata.files_metadata.values() for name, tensor in file.tensors.items()}
    about = {name: {"dtype": one.dtype, "shape": one.shape, "data_offsets": [0, 0]} for name, one in tensors.items()}
    return json.dumps(about).encode()


def _limit_waiting(request) -> None:
    """A hook of the hub's HTTP client: set the time limits that a request lacks, since some would wait for ever."""
    limits = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {step: limits.get(step) or _PATIENCE for step in ("connect", "read", "write", "pool")}
