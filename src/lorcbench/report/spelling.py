"""How numbers are spelled for people, on the page, in figures and on the terminal alike."""

from __future__ import annotations


def number(value: float, sign: str = "") -> str:
    """A perplexity or a difference (`sign` "+") for people: about four digits, no exponent, a typographic minus."""
    digits = 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0
    return _typographic(f"{value:{sign},.{digits}f}")


def percents(*shares: float) -> list[str]:
    """Signed shares in percent without the sign of percent, all with as many digits as show that one of them is not zero.

    One digit behind the point, and three at most; one if all are zero.
    """
    digits = next((count for count in (1, 2, 3) if any(round(100 * share, count) for share in shares)), 1)
    return [percent(share, digits).removesuffix(" %") for share in shares]


def percent(share: float, digits: int = 1) -> str:
    """A signed share in percent, with a typographic minus."""
    return f"{_typographic(f'{100 * share:+,.{digits}f}')} %"


def p_value(p: float) -> str:
    """A p-value for people."""
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def _typographic(text: str) -> str:
    """A number with a typographic minus; what is rounded to zero has no sign, since nobody can read one from it."""
    return text.lstrip("+-") if not text.strip("+-0.") else text.replace("-", "−")
