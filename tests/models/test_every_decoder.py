"""Every causal language model of the pinned transformers: docs/families.md says what becomes of each, and this is true."""

from __future__ import annotations

import decoders
import pytest


@pytest.mark.long
def test_the_table_says_what_becomes_of_every_class():
    outcomes = [decoders.outcome(model_type) for model_type in decoders.CLASSES]
    working = [one for one in outcomes if one.state == "works"]
    assert not [one for one in outcomes if one.state == "inexact"]
    assert len({one.record.model_class for one in working}) >= 50
    assert decoders.DOC.read_text(encoding="utf-8").endswith(decoders.MARK + decoders.table(outcomes))
