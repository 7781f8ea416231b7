"""Values that a configuration may take: the errors, and the checks that several schemas share."""

from __future__ import annotations

import math
from typing import Any

MOST = 2**31  # no number of anything is larger than this by intention


class ConfigError(Exception):
    """A configuration that makes no sense; the message is one line that says what would be right."""


def one_of(owner: str, key: str, value: Any, allowed: tuple) -> None:
    """Refuse a value that is not one of `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{owner}.{key}={value}: expected one of {', '.join(map(str, allowed))}")


def positive(owner: str, **values: float | None) -> None:
    """Refuse what is neither positive nor None, or too large to be meant."""
    for key, value in values.items():
        most = MOST if isinstance(value, int) else math.inf
        if value is not None and not 0 < value < most:
            raise ConfigError(f"{owner}.{key}={value}: expected a positive number" + f" below {MOST:,}" * (value >= most))


def seed(owner: str, value: int) -> None:
    """Refuse what is no seed of every random generator."""
    if not 0 <= value < MOST:
        raise ConfigError(f"{owner}.seed={value}: expected a whole number from 0 to {MOST - 1:,}")
