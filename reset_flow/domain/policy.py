"""How long, how often, how strict."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.domain import settings, validation
from reset_flow.domain.errors import ConfigurationError, InvalidInput
from reset_flow.domain.flow_data import Limits
from reset_flow.domain.password_rules import PasswordRules
from reset_flow.domain.times import NO_TIME

if TYPE_CHECKING:
    from reset_flow.domain.flow_data import BudgetName

LONGEST = timedelta(days=3660)
"""More than anything here could mean; the sum of a time and a longer one may not exist."""


# Exactly these types: a flow that keeps another could not be read again.
_time = settings.must_be(
    f"a timedelta longer than zero, of at most {LONGEST.days} days",
    lambda value: type(value) is timedelta and NO_TIME < value <= LONGEST,
)
_wait = settings.must_be(
    f"a timedelta of zero or more, of at most {LONGEST.days} days",
    lambda value: type(value) is timedelta and NO_TIME <= value <= LONGEST,
)
_number = settings.must_be("a whole number of zero or more", lambda value: type(value) is int and value >= 0)
_share = settings.must_be(
    "a number of zero or more", lambda value: type(value) in (int, float) and 0 <= value < float("inf")
)
_budget = settings.must_be("like Budget(10, timedelta(hours=24))", lambda value: isinstance(value, Budget))
_alarm = settings.must_be("like GuessAlarm(at_least=100)", lambda value: value is None or isinstance(value, GuessAlarm))
_rules = settings.must_be("like PasswordRules(min_length=8)", lambda value: isinstance(value, PasswordRules))


def _questions(_: Any, field: attrs.Attribute[Any], values: tuple[Any, ...]) -> None:
    for value in values:
        try:
            validation.name(value, field.name)
        except InvalidInput as error:
            raise ConfigurationError(str(error)) from None


def _texts(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else (values,)


@attrs.frozen
class Budget:
    """Not more than `limit` uses in any `window`, by the store's clock."""

    limit: int = attrs.field(validator=settings.count)
    window: timedelta = attrs.field(validator=_time)


@attrs.frozen(kw_only=True)
class GuessAlarm:
    """
    When the wrong codes of a realm are too many to be honest: a code carries no user, so somebody may be trying all of
    them at once. Counted over all workers and restarts, approximately: a worker tells the others every few seconds.

    Attributes:
        at_least: Wrong codes in a window below which there is no alarm.

        share: Of the codes that were accepted in the same window, how many wrong ones are honest.
    """

    window: timedelta = attrs.field(default=timedelta(hours=1), validator=_time)
    at_least: int = attrs.field(default=100, validator=settings.count)
    share: float = attrs.field(default=0.2, validator=_share)


@attrs.frozen(kw_only=True)
class Policy:
    """
    The limits of every flow of a service.

    Attributes:
        flow_lifetime: From the start to the end, whatever happens in between (Ory Kratos: 1 h).

        code_lifetime: How long a code may be typed after it was asked for; `None`: as the provider's capabilities say.

        token_lifetime: How long a new password may be set after the code was verified; `None` likewise.

        answer_attempts: Wrong answers of a flow, after which it ends (django-allauth: 3).

        code_attempts: Wrong codes of a flow, over all the codes that it had sent (Ory Kratos: 5).

        password_attempts: Passwords that the broker refused, after which the flow ends.

        resend_cooldown: Between two codes (Supabase: 60 s).

        resends: Further codes of a flow.

        lease: How long a call may be under way before another worker takes it for lost. Must be longer than the
            transport's deadline.

        retention: How long a flow is kept after its end.

        codes_per_user: Wrong codes for one user, over all flows (NIST SP 800-63B-4 has a ceiling of 100 an account). A
            flow that runs holds its next guess in reserve. Each counts for a window from the latest end of its flow.

        codes_per_origin: Of those, wrong codes in flows that one origin started: nobody can use up all of them alone.

        answers_per_user: Wrong answers for one user, over all flows. A flow that asks for one holds its next try in
            reserve, and they count as codes do.

        starts_per_origin: Flows that one origin may start for one user (OWASP: no flooding of a mailbox).

        starts_per_user: Flows that may be started for one user. Those that run stay usable.

        guess_alarm: When to raise one, to the log, as a metric and to listeners; `None`: never.

        stop_on_alarm: Whether codes are refused while there is one. It lets anyone who guesses enough stop everyone.

        mask_unknown_users: Whether a reset that the broker refuses at the start goes on as if it had not, calling no
            more and refusing what is typed, so that nobody learns who has an account (OWASP Forgot Password). Off, it
            raises `UnknownUser`.

        decoy_questions: For tenants whose users all have a secret question: what those are asked who are unknown. One
            of these, always the same for the same user.

        response_floor: How long each call of the broker takes at least, to even out what is left.

        probe_by_login: Whether one log-in may tell if a password whose setting is in doubt is the new one.
    """

    flow_lifetime: timedelta = attrs.field(default=timedelta(minutes=60), validator=_time)
    code_lifetime: timedelta | None = attrs.field(default=None, validator=attrs.validators.optional(_time))
    token_lifetime: timedelta | None = attrs.field(default=None, validator=attrs.validators.optional(_time))
    answer_attempts: int = attrs.field(default=3, validator=settings.count)
    code_attempts: int = attrs.field(default=5, validator=settings.count)
    password_attempts: int = attrs.field(default=10, validator=settings.count)
    resend_cooldown: timedelta = attrs.field(default=timedelta(seconds=60), validator=_wait)
    resends: int = attrs.field(default=3, validator=_number)
    lease: timedelta = attrs.field(default=timedelta(seconds=30), validator=_time)
    retention: timedelta = attrs.field(default=timedelta(days=30), validator=_wait)
    codes_per_user: Budget = attrs.field(default=Budget(10, timedelta(hours=24)), validator=_budget)
    codes_per_origin: Budget = attrs.field(default=Budget(8, timedelta(hours=24)), validator=_budget)
    answers_per_user: Budget = attrs.field(default=Budget(20, timedelta(hours=24)), validator=_budget)
    starts_per_origin: Budget = attrs.field(default=Budget(5, timedelta(hours=1)), validator=_budget)
    starts_per_user: Budget = attrs.field(default=Budget(20, timedelta(hours=1)), validator=_budget)
    guess_alarm: GuessAlarm | None = attrs.field(factory=GuessAlarm, validator=_alarm)
    stop_on_alarm: bool = attrs.field(default=False, validator=settings.switch)
    mask_unknown_users: bool = attrs.field(default=True, validator=settings.switch)
    decoy_questions: tuple[str, ...] = attrs.field(default=(), converter=_texts, validator=_questions)
    response_floor: timedelta = attrs.field(default=NO_TIME, validator=_wait)
    probe_by_login: bool = attrs.field(default=True, validator=settings.switch)
    password: PasswordRules = attrs.field(factory=PasswordRules, validator=_rules)

    def __attrs_post_init__(self) -> None:
        if self.retention <= self.lease:
            raise ConfigurationError("retention must be longer than lease, or ends are deleted before they are told")

    @property
    def limits(self) -> Limits:
        """The limits that are sealed into each flow at its start."""
        return Limits(**{name: getattr(self, name) for name in Limits.__struct_fields__})

    def budget(self, name: BudgetName) -> Budget:
        """Return a budget by its name."""
        budget: Budget = getattr(self, name.field)
        return budget
