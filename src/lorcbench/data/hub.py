"""One error for whatever the clients of the hub raise; it says what to do without the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
        reason = type(error).__name__
        raise HubError(f"{what} cannot be downloaded ({reason}); on a machine without the hub {instead}") from error


def _limit_waiting(request) -> None:
    """A hook of the hub's HTTP client: set the time limits that a request lacks, since some would wait for ever."""
    limits = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {step: limits.get(step) or _PATIENCE for step in ("connect", "read", "write", "pool")}
