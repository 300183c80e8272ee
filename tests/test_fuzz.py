"""A few hundred inputs of each target of `fuzzing.py`; `benchmarks/fuzz.py` tries more."""

import hypothesis
import pytest

from tests.support import fuzzing


@pytest.mark.nightly
@pytest.mark.parametrize("target", fuzzing.TARGETS, ids=lambda target: target.name)
def test_every_input_is_read_or_refused_in_one_line(target):
    outcomes = set()

    @hypothesis.settings(fuzzing.SETTINGS, max_examples=200, derandomize=True)
    @hypothesis.given(target.inputs)
    def check(value):
        outcomes.add(target.check(value))

    check()
    assert outcomes == {True, False}  # neither way goes untried
