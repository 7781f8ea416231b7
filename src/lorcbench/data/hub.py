"""The hub's clients, whatever they raise, as one error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_PATIENCE = 30.0  # seconds without a byte


class HubError(Exception):
    """Something cannot be downloaded; the message names it, and what to do on a machine without the hub."""


@contextmanager
def downloading(what: str, instead: str) -> Iterator[None]:
    """While open, an error of the hub's client is a `HubError`; the log of the stage has the client's own.

    Nothing but a call of a client belongs inside.

    Args:
        what: is downloaded.
        instead: what to do on a machine without the hub.
    """
    from huggingface_hub import get_session

    hooks = get_session().event_hooks
    if _with_an_end not in hooks["request"]:
        hooks["request"].append(_with_an_end)
    try:
        yield
    except Exception as error:  # its clients let through what the libraries below them raise, which no list of ours held all of
        reason = type(error).__name__
        raise HubError(f"{what} cannot be downloaded ({reason}); on a machine without the hub {instead}") from error


def _with_an_end(request) -> None:
    """A hook of the client's: for some of its requests it would itself wait for ever."""
    given = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {step: given.get(step) or _PATIENCE for step in ("connect", "read", "write", "pool")}
