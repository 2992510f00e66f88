"""A pretended call takes as long as a real one would."""

from __future__ import annotations

import random
import statistics

import pytest

from reset_flow.engine.broker_client import Durations


def test_where_no_call_was_made_yet_it_takes_as_long_as_the_probe() -> None:
    durations = Durations()
    durations.note("challenge", 3.0)
    assert durations.like("EXCHANGE", 0.2, probed=True) == 0.2


def test_where_nothing_can_be_probed_it_takes_as_long_as_the_question_until_there_was_a_call() -> None:
    durations = Durations()
    assert durations.like("EXCHANGE", 0.0, probed=False) == 0.0
    durations.note("challenge", 3.0)
    assert durations.like("EXCHANGE", 0.0, probed=False) == 3.0
    durations.note("EXCHANGE", 5.0)
    assert durations.like("EXCHANGE", 0.0, probed=False) == 5.0


def test_it_is_late_when_the_probe_was_late() -> None:
    durations = Durations()
    for number in range(1, 11):
        durations.note("probe", number / 100)
        durations.note("EXCHANGE", float(number))
    assert durations.like("EXCHANGE", 0.0, probed=True) == 1.0
    assert durations.like("EXCHANGE", 0.055, probed=True) == 6.0
    assert durations.like("EXCHANGE", 9.0, probed=True) == 10.0


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_it_takes_as_long_as_real_calls_in_the_middle_and_at_both_ends(share: float) -> None:
    """Also where a probe takes as long as a call: the longer of both would be too long."""
    chance, durations = random.Random(7), Durations()  # noqa: S311 - so that a failure can be repeated
    real, pretended = [], []
    for _ in range(2000):
        real.append(chance.lognormvariate(-3, 0.3))
        durations.note("EXCHANGE", real[-1])
        probe = share * chance.lognormvariate(-3, 0.3)
        pretended.append(max(probe, durations.like("EXCHANGE", probe, probed=True)))
        durations.note("probe", probe)
    for mine, theirs in zip(statistics.quantiles(pretended, n=10), statistics.quantiles(real, n=10), strict=True):
        assert mine == pytest.approx(theirs, rel=0.1)
