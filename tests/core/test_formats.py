"""Formats: each prints to one spelling that parses back to it, and what makes no sense is refused with a reason."""

from __future__ import annotations

import itertools

import pytest
import torch

from lorcbench.config.lorc import CAPS, cap
from lorcbench.core import quantizer
from lorcbench.core.formats import CONVENTIONS, SCALE_DTYPES, ActivationFormat, WeightFormat, parse_formats, spelled_formats

GROUPS = (None, 1, 32, 128, 1024)


def weight_formats() -> list[WeightFormat]:
    combos = itertools.product(range(2, 9), (False, True), GROUPS, CONVENTIONS, SCALE_DTYPES.values())
    return [WeightFormat(*combo) for combo in combos if combo[1] or combo[3] != "restricted"] + [WeightFormat(16)]


def activation_formats() -> list[ActivationFormat]:
    combos = itertools.product(range(4, 9), (False, True), GROUPS, CONVENTIONS)
    return [ActivationFormat(*combo) for combo in combos if combo[1] or combo[3] != "restricted"] + [ActivationFormat(16)]


@pytest.mark.parametrize("formats", [weight_formats(), activation_formats()], ids=["weight", "activation"])
def test_every_format_round_trips_through_a_spelling_of_its_own(formats):
    assert [type(fmt).parse(str(fmt)) for fmt in formats] == formats
    assert len({str(fmt) for fmt in formats}) == len(formats)


@pytest.mark.parametrize(
    ("text", "fmt"),
    [
        ("w4-asym-g128", WeightFormat(4, group=128)),
        ("w3-sym-row-restricted", WeightFormat(3, True, None, "restricted")),
        ("w8-asym-g64-pow2-fp32scale", WeightFormat(8, False, 64, "pow2", "float32")),
        ("w16", WeightFormat(16)),
    ],
)
def test_published_spellings_of_weights(text, fmt):
    assert WeightFormat.parse(text) == fmt
    assert str(fmt) == text


def test_the_default_scale_type_may_be_spelled_out_but_is_not_printed():
    assert str(WeightFormat.parse("w4-asym-row-fp16scale")) == "w4-asym-row"


def test_published_spellings_of_activations():
    assert ActivationFormat.parse("a8-asym-token") == ActivationFormat(8)
    assert ActivationFormat.parse("a8-sym-g128-pow2") == ActivationFormat(8, True, 128, "pow2")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected w16 or wBITS"),
        ("w4", "expected w16 or wBITS"),
        ("W4-asym-row", "expected w16 or wBITS"),
        ("w4-asym-row ", "expected w16 or wBITS"),
        ("w04-asym-row", "expected w16 or wBITS"),
        ("w4-asym-g0", "expected w16 or wBITS"),
        ("w4-asym-g0128", "expected w16 or wBITS"),
        ("w4-asym-token", "expected w16 or wBITS"),
        ("w4-asym-row-fp32scale-pow2", "expected w16 or wBITS"),
        ("w16-asym-row", "expected w16 or wBITS"),
        ("w٤-asym-row", "expected w16 or wBITS"),
        ("w1-asym-row", "bits must be 2 to 8"),
        ("w9-sym-g128", "bits must be 2 to 8"),
        ("w4-asym-row-restricted", "'restricted' is a symmetric convention"),
    ],
)
def test_a_wrong_weight_spelling_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        WeightFormat.parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a8", "expected a16 or aBITS"),
        ("a8-asym-row", "expected a16 or aBITS"),
        ("a8-asym-token-fp32scale", "expected a16 or aBITS"),
        ("a16-sym-token", "expected a16 or aBITS"),
        ("a3-sym-token", "bits must be 4 to 8"),
        ("a8-asym-g128-restricted", "'restricted' is a symmetric convention"),
    ],
)
def test_a_wrong_activation_spelling_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        ActivationFormat.parse(text)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: WeightFormat(4, group=0), "at least one weight"),
        (lambda: WeightFormat(4, convention="nearest"), "convention must be one of"),
        (lambda: WeightFormat(4, scale_dtype="bfloat16"), "scales are float16 or float32"),
        (lambda: WeightFormat(16, symmetric=True), "takes no further options"),
        (lambda: ActivationFormat(8, group=-1), "at least one feature"),
        (lambda: ActivationFormat(8, convention="nearest"), "convention must be one of"),
        (lambda: ActivationFormat(16, group=128), "takes no further options"),
    ],
)
def test_a_format_that_no_spelling_names_cannot_be_built(build, reason):
    with pytest.raises(ValueError, match=reason):
        build()


def test_paper_bits_count_two_float16_numbers_a_group_and_a_row_as_768():
    assert WeightFormat(4, group=32).paper_bits() == 5.0
    assert WeightFormat(4).paper_bits() == pytest.approx(4 + 32 / 768)
    assert WeightFormat(16).paper_bits() == 16.0


def test_cap_holds_its_rank_never_falls_and_depends_on_nothing_else():
    caps = [cap(rank) or float("inf") for rank in range(1, 600)]
    assert all(held >= rank for rank, held in enumerate(caps, start=1))
    assert caps == sorted(caps)
    assert [cap(limit) for limit in CAPS] == list(CAPS)
    assert [cap(limit + 1) for limit in CAPS] == [*CAPS[1:], 0]


def test_mixed_is_a_format_that_no_matrix_has():
    assert str(WeightFormat.parse("mixed")) == "mixed"
    assert WeightFormat.parse("mixed").is_mixed and not WeightFormat(4).is_mixed
    with pytest.raises(ValueError, match="bits must be 2 to 8"):
        WeightFormat(0, group=64)


@pytest.mark.parametrize(
    ("text", "names", "printed"),
    [
        ("w4-w2-w3-asym-g64", "w4-asym-g64 w2-asym-g64 w3-asym-g64", "w2-w3-w4-asym-g64"),
        ("w4-sym-row.w2-w3-asym-g64-fp32scale", "w4-sym-row w2-asym-g64-fp32scale w3-asym-g64-fp32scale", None),
    ],
)
def test_several_formats_in_one_word(text, names, printed):
    formats = parse_formats(text)
    assert " ".join(map(str, formats)) == names
    spelled = spelled_formats(formats)
    assert spelled == printed or printed is None
    assert set(parse_formats(spelled)) == set(formats)
    assert spelled_formats(reversed(formats)) == spelled


@pytest.mark.parametrize(
    "text", ["", "w2", "w2-w3", "w2-w2-asym-g64", "w2-asym-g64.", "w2-asym-g64,w3-asym-g64", "w9-asym-row"]
)
def test_several_formats_that_no_word_spells_are_refused(text):
    with pytest.raises(ValueError, match="weight format"):
        parse_formats(text)


@pytest.mark.parametrize("fmt", [fmt for fmt in weight_formats() if fmt.bits < 16 and (fmt.group or 32) == 32], ids=str)
def test_the_size_of_a_matrix_is_known_before_it_is_made(fmt):
    if fmt.convention == "pow2" and not fmt.symmetric:
        with pytest.raises(ValueError, match="any integers"):
            fmt.stored_bits(7, 96)
        return
    stored = quantizer.to_stored(quantizer.quantize(torch.randn(7, 96), fmt))
    assert fmt.stored_bits(7, 96) == 8 * sum(tensor.nbytes for tensor in stored.values())
