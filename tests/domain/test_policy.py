"""Settings that would lose an outcome, or write what can't be read again, are refused at once."""

from datetime import timedelta
from typing import Any

import pytest

from reset_flow import Budget, ConfigurationError, GuessAlarm, Policy
from reset_flow.domain.policy import LONGEST


class Odd(timedelta):
    pass


LENGTHS = (
    "flow_lifetime",
    "code_lifetime",
    "token_lifetime",
    "resend_cooldown",
    "lease",
    "retention",
    "response_floor",
)


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("value", [timedelta.max, LONGEST * 2, Odd(hours=1), -timedelta(1), 60, "1h"])
def test_a_length_that_is_none_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be a timedelta"):
        Policy(**{name: value})


@pytest.mark.parametrize("window", [timedelta.max, timedelta(0), Odd(hours=1), 60])
def test_a_window_that_is_none_is_refused(window: Any) -> None:
    with pytest.raises(ConfigurationError, match="window must be a timedelta"):
        Budget(1, window)


@pytest.mark.parametrize("share", ["0.2", None, float("nan"), float("inf"), -0.1, True])
def test_a_share_that_is_none_is_refused(share: Any) -> None:
    with pytest.raises(ConfigurationError, match="share must be a number"):
        GuessAlarm(share=share)


@pytest.mark.parametrize("name", ["stop_on_alarm", "mask_unknown_users", "probe_by_login"])
@pytest.mark.parametrize("value", [1, "yes", None])
def test_a_switch_is_on_or_off(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be like True"):
        Policy(**{name: value})


@pytest.mark.parametrize("questions", [5, (5,), ("",), ("Pet\ud800?",), "q" * 1000])
def test_a_question_that_nobody_could_be_asked_is_refused(questions: Any) -> None:
    with pytest.raises(ConfigurationError, match="decoy_questions: it must"):
        Policy(decoy_questions=questions)


def test_the_longest_lengths_are_taken() -> None:
    policy = Policy(flow_lifetime=LONGEST, code_lifetime=LONGEST, token_lifetime=LONGEST, retention=LONGEST)
    assert policy.limits.token_lifetime == LONGEST


@pytest.mark.parametrize("name", ["flow_lifetime", "lease"])
def test_only_what_the_broker_may_judge_is_left_to_it(name: str) -> None:
    left: dict[str, Any] = {name: None}
    with pytest.raises(ConfigurationError, match=f"{name} must be a timedelta"):
        Policy(**left)
    assert Policy(code_lifetime=None, token_lifetime=None).limits.code_lifetime is None
