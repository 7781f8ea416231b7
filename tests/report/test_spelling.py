"""How numbers are spelled for people."""

import pytest

from lorcbench.report.spelling import p_value, percents


@pytest.mark.parametrize(
    ("shares", "spelled"),
    [
        ((0.0123, 0.0, -0.05), ["+1.2", "0.0", "−5.0"]),
        ((0.0001, -0.0002), ["+0.01", "−0.02"]),  # one digit would make zeros of both
        ((0.00001, 0.00002), ["+0.001", "+0.002"]),
        ((0.0, 0.0), ["0.0", "0.0"]),
    ],
)
def test_percents_have_as_many_digits_as_show_that_they_are_not_zero(shares, spelled):
    assert percents(*shares) == spelled


def test_a_p_value_is_no_zero():
    assert (p_value(0.0312), p_value(1e-9)) == ("0.0312", "< 0.0001")
