"""The error of a wrong configuration, and the checks that several schemas share."""

from __future__ import annotations

import math
from typing import Any

from lorcbench.core.settings import TrainingSettings

MOST = 2**31  # upper bound of every count; a larger value is a typing error


class ConfigError(Exception):
    """A configuration that makes no sense; the message is one line that says what would be right."""


def one_of(owner: str, key: str, value: Any, allowed: tuple) -> None:
    """Refuse a value that is not one of `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{owner}.{key}={value}: expected one of {', '.join(map(str, allowed))}")


def positive(owner: str, **values: float | None) -> None:
    """Refuse a value that is not positive, and a whole number above `MOST`; None passes."""
    for key, value in values.items():
        most = MOST if isinstance(value, int) else math.inf
        if value is not None and not 0 < value < most:
            raise ConfigError(f"{owner}.{key}={value}: expected a positive number" + f" below {MOST:,}" * (value >= most))


def spelled(number: float) -> str:
    """A number as paths have it: short where that is the same number, else with all its digits."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def seed(owner: str, value: int) -> None:
    """Refuse a seed that some random generator would not take."""
    if not 0 <= value < MOST:
        raise ConfigError(f"{owner}.seed={value}: expected a whole number from 0 to {MOST - 1:,}")


def training(owner: str, settings: TrainingSettings) -> None:
    """Refuse steps, learning rates and a held-out share with which nothing can be trained."""
    positive(owner, iterations=settings.iterations)
    rates = settings.lr_grid if settings.lr == "auto" else [settings.lr]
    if not rates or any(isinstance(rate, str) or not 0 < rate < math.inf for rate in rates):
        raise ConfigError(f"{owner}.lr={settings.lr} of {settings.lr_grid}: expected auto with a grid, or a positive number")
    if not 0 < settings.held_out < 1:
        raise ConfigError(f"{owner}.held_out={settings.held_out}: expected a share between 0 and 1")
