"""How numbers are spelled for people, on the page, in figures and on the terminal alike."""

from __future__ import annotations


def number(value: float, sign: str = "") -> str:
    """A perplexity or a difference (`sign` "+") for people: about four digits, no exponent, a typographic minus."""
    digits = 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0
    return _typographic(f"{value:{sign},.{digits}f}")


def percent(share: float, digits: int = 1) -> str:
    """A signed share in percent, with a typographic minus."""
    return f"{_typographic(f'{100 * share:+,.{digits}f}')} %"


def _typographic(text: str) -> str:
    """A number with a typographic minus; what is rounded to zero has no sign, since nobody can read one from it."""
    return text.lstrip("+-") if not text.strip("+-0.") else text.replace("-", "−")
