"""Names of conf files with changes, as values."""

import pytest

from lorcbench.config.variants import Variant


@pytest.mark.parametrize(
    "text", ["none", "zq_local+iterations=128+lr=5e-05", "zq_local*+iterations=128", "opt-125m+revision=a=b", "rtn+x="]
)
def test_a_name_is_taken_apart_and_put_together_again(text):
    assert str(Variant.parse(text)) == text


def test_settings_are_read_and_left_out_by_their_key():
    variant = Variant.parse("zq_local+iterations=128+lr=5e-05+seed=1")
    assert (variant.stem, variant.setting("lr"), variant.setting("damp")) == ("zq_local", "5e-05", None)
    assert str(variant.without("lr")) == "zq_local+iterations=128+seed=1"
    assert variant.without("damp") == variant and Variant.parse("rtn").without("lr") == Variant("rtn")
    assert len({variant, Variant.parse(str(variant)), variant.without("seed")}) == 2


def test_a_change_without_a_value_is_refused():
    with pytest.raises(ValueError, match=r"'gptq\+damp': expected gptq\+key=value, not 'damp'"):
        Variant.parse("gptq+damp")
