"""Values that a configuration may take: the errors, and the checks that several schemas share."""

from __future__ import annotations

from typing import Any


class ConfigError(Exception):
    """A configuration that makes no sense; the message is one line that says what would be right."""


def one_of(owner: str, key: str, value: Any, allowed: tuple) -> None:
    """Refuse a value that is not one of `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{owner}.{key}={value}: expected one of {', '.join(map(str, allowed))}")


def positive(owner: str, **values: float | None) -> None:
    """Refuse what is neither positive nor None."""
    for key, value in values.items():
        if value is not None and not value > 0:
            raise ConfigError(f"{owner}.{key}={value}: expected a positive number")
