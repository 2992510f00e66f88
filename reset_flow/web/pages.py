"""Renders what a person sees: one screen, one thing to do. Reads no request and keeps no state."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

import attrs

from reset_flow.domain.capabilities import CodeKind
from reset_flow.domain.errors import (
    AnswerRejected,
    CodeRejected,
    ConfigurationError,
    FlowBusy,
    FlowEnded,
    InputRejected,
    InvalidInput,
    OutcomeInDoubt,
    PasswordRejected,
    ResetFlowError,
    UnknownUser,
)
from reset_flow.domain.flow import Failure, Flow, State, Step
from reset_flow.messages import Message, doubt_of, masked, message_of, message_of_error, reasons_of
from reset_flow.web.assets import Asset, assets_of
from reset_flow.web.problems import seconds_to_wait

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from jinja2 import Environment

    from reset_flow.domain.capabilities import CodeFormat
    from reset_flow.domain.password_rules import PasswordRules
    from reset_flow.web.look import Look

RETRY_AFTER = 5
"""Seconds to wait where nobody knows better."""


class Kind(StrEnum):
    """
    What is shown. `FLOW`: whatever the flow asks for or tells. `LINK`: the landing of a one-time link. `FORBIDDEN`: the
    form is too old, came without a cookie or from elsewhere. `REJECTED`: what came is no form, or is too long or slow.
    `HELD`: the code was typed elsewhere. `LIMITED`: this client asks too often. `UNAVAILABLE`: store or broker are out
    of reach, and no flow is known.
    """

    ACCOUNT = "account"
    FLOW = "flow"
    LINK = "link"
    LINK_USED = "link_used"
    FORBIDDEN = "forbidden"
    REJECTED = "rejected"
    HELD = "held"
    LIMITED = "limited"
    UNAVAILABLE = "unavailable"
    MISSING = "missing"


@attrs.frozen(kw_only=True)
class Screen:
    """
    One page for one person.

    Attributes:
        base: The path that all pages live under, with a slash at both ends.

        path: Of this page, under `base`.

        csrf, once: Go into every form.

        login: Prefilled where the account is asked for.

        reveals_login: Whether this browser may be told the login of the flow, which its password manager wants to know.

        back_url: The chat that the person came from, if the maker of their link has said which.
    """

    kind: Kind
    base: str
    path: str = ""
    locale: str
    now: datetime
    csrf: str = attrs.field(repr=False)
    once: str = attrs.field(repr=False)
    flow: Flow | None = None
    error: ResetFlowError | None = None
    login: str = attrs.field(default="", repr=False)
    reveals_login: bool = False
    back_url: str = ""


@attrs.frozen
class ShownStep:
    """A step of the reset, by the id of its name; `state` is `done`, `now` or `next`."""

    text: str
    state: str


STEPS = {
    Step.ANSWER: "page.step.question",
    Step.CODE: "page.step.code",
    Step.PASSWORD: "page.step.password",
    Step.PIN: "page.step.pin",
}
TITLES = {
    "account": "page.account.title",
    "another": "page.another.title",
    "answer": "page.answer.title",
    "busy": "page.busy.title",
    "code": "page.code.title",
    "held": "page.held.title",
    "link": "page.link.title",
    "password": "page.password.title",
    "pin": "page.pin.title",
    "request": "page.request.title",
}
CHECKS = {Step.PASSWORD: "page.password.check", Step.PIN: "page.pin.check"}
DONE = {Step.PASSWORD: "page.done.title", Step.PIN: "page.done.title_pin"}
FAILURES = {
    Failure.EXPIRED: "page.failed.expired",
    Failure.CANCELLED: "page.failed.cancelled",
    Failure.TOO_MANY_ATTEMPTS: "page.failed.too_many_attempts",
    Failure.BROKER_REFUSED: "page.failed.broker_refused",
}
NOTICES = {
    Kind.FORBIDDEN: ("page.forbidden.title", "page.forbidden.text", "page.forbidden.button"),
    Kind.REJECTED: ("page.forbidden.title", "request.rejected", "page.forbidden.button"),
    Kind.LINK_USED: ("page.link_used.title", "page.link_used.text", "page.failed.button"),
    Kind.MISSING: ("page.missing.title", "page.missing.text", "page.missing.button"),
    Kind.LIMITED: ("page.busy.title", "limit.wait", "page.retry"),
    Kind.UNAVAILABLE: ("page.unavailable.title", "store.unavailable", "page.retry"),
}
"""Title, text and link of screens without a form."""

AT_FIELD: dict[str, tuple[type[ResetFlowError], ...]] = {
    "account": (UnknownUser, InvalidInput),
    "answer": (AnswerRejected,),
    "code": (CodeRejected,),
    "password": (PasswordRejected,),
    "pin": (PasswordRejected,),
}
"""The errors that a template shows at its field. All others stand above the form."""

CODE_HINTS = {CodeKind.DIGITS: "page.code.digits", CodeKind.LETTERS: "page.code.letters"}


class Pages:
    """
    The screens of one tenant.

    Args:
        code: What the provider's codes look like.

        rules: What a new password must be.

    Attributes:
        assets: The files that the pages want below `base` + `assets/`, by name.

    Raises:
        ConfigurationError: A template or the logo can't be read, or Jinja2 is missing.
    """

    def __init__(self, look: Look, *, code: CodeFormat, rules: PasswordRules) -> None:
        self._look, self._code, self._rules = look, code, rules
        self._texts = look.wording()
        self._languages = _languages(self._texts.locales)
        self._assets = assets_of(look)
        self.assets: Mapping[str, Asset] = {asset.name: asset for asset in self._assets.values()}
        self._environment = _environment(look.templates)

    def render(self, screen: Screen) -> str:
        """Return the page as HTML."""
        from reset_flow.web.sayings import Sayings  # noqa: PLC0415 - it imports Jinja2's MarkupSafe

        say = Sayings(self._texts, screen.locale, screen.now)
        template = _template(screen)
        title = say.plain(_title(screen, template))
        errors = _errors(screen)
        at_field = errors if isinstance(screen.error, AT_FIELD.get(template, ())) else ()
        return self._environment.get_template(f"{template}.html").render(
            screen=screen,
            look=self._look,
            code=self._code,
            code_hint=_code_hint(self._code),
            rules=self._rules,
            name=self._look.name or say.plain("page.name"),
            languages=self._languages,
            asset=lambda name: f"{screen.base}assets/{self._assets[name].name}",
            say=say,
            title=title,
            mark={"done": "done", "failed": "stopped", "held": "stopped", "notice": "stopped"}.get(template, "open"),
            document_title=say.plain("page.error", title=title) if errors else title,
            told=_told(screen),
            doubt=doubt_of(screen.flow) if screen.flow else None,
            resend_from=_full_minute(screen.flow.resend_at) if screen.flow else None,
            login=masked(screen.flow.user) if screen.flow else "",
            alert=() if at_field else errors,
            field_errors=at_field,
            steps=_steps(screen, template),
            way_on=NOTICES[screen.kind][2] if screen.kind in NOTICES else "",
        )


def _environment(templates: Path | None) -> Environment:
    try:
        import jinja2  # noqa: F401, PLC0415 - an extra brings it
    except ModuleNotFoundError:
        raise ConfigurationError("the page needs Jinja2: pip install 'reset-flow[web]'") from None
    return _compiled(templates) if templates else _own()


@cache
def _own() -> Environment:
    return _compiled(None)


def _compiled(templates: Path | None) -> Environment:
    import jinja2  # noqa: PLC0415 - see above

    own = [jinja2.FileSystemLoader(templates)] if templates else []
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([*own, jinja2.PackageLoader("reset_flow.web")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    for name in environment.list_templates(["html"]):
        try:
            environment.get_template(name)
        except jinja2.TemplateError as error:
            raise ConfigurationError(f"templates: {name} is no template: {error}") from None
    return environment


def _languages(locales: tuple[str, ...]) -> dict[str, str]:
    """Return what each language calls itself."""
    try:
        from babel import Locale  # noqa: PLC0415 - an extra brings it
    except ModuleNotFoundError:
        raise ConfigurationError("the page needs Babel: pip install 'reset-flow[web]'") from None
    return {name: str(Locale.parse(name).get_display_name(name)).capitalize() for name in locales}


def _template(screen: Screen) -> str:
    flow = screen.flow
    if screen.kind in NOTICES:
        return "notice"
    if screen.kind is not Kind.FLOW or flow is None:
        return screen.kind.value
    if not flow.ended and (flow.busy_until or isinstance(screen.error, FlowBusy)):
        return "busy"
    return _template_of(flow)


def _template_of(flow: Flow) -> str:
    if flow.ended:
        return "failed" if flow.failure else "done"
    if flow.expects is Step.ANSWER:
        return "answer" if flow.question else "request"
    if flow.expects is Step.CODE:
        return "code" if "verify" in flow.allowed else "another"
    return str(flow.expects)


def _title(screen: Screen, template: str) -> str:
    flow = screen.flow
    if template == "notice":
        return NOTICES[screen.kind][0]
    if flow and template == "done":
        return DONE[flow.credential.step]
    if flow and template == "failed":
        return FAILURES.get(flow.failure, CHECKS[flow.credential.step]) if flow.failure else ""
    if flow and flow.in_doubt is flow.credential.step and template in CHECKS:
        return CHECKS[flow.in_doubt]
    return TITLES[template]


def _told(screen: Screen) -> Message | None:
    """Return what the person is told beside the title."""
    if screen.kind in {Kind.LIMITED, Kind.UNAVAILABLE}:
        seconds = screen.error and seconds_to_wait(screen.error)
        return Message(NOTICES[screen.kind][1], {"retry_after": seconds or RETRY_AFTER})
    if screen.kind is Kind.LINK_USED and screen.back_url:
        return Message("page.link_used.by_chat")
    if screen.kind in NOTICES:
        return Message(NOTICES[screen.kind][1])
    if screen.kind is Kind.HELD:
        return Message("held")
    return message_of(screen.flow) if screen.flow else None


def _errors(screen: Screen) -> tuple[Message, ...]:
    """Return what the person is told of the error, unless the screen itself says it."""
    error, flow = screen.error, screen.flow
    is_doubt = isinstance(error, OutcomeInDoubt) and flow is not None and doubt_of(flow)
    is_said = isinstance(error, FlowBusy | FlowEnded) or is_doubt or (flow and flow.ended)
    if error is None or is_said or screen.kind in NOTICES:
        return ()
    tries = flow.attempts_left if flow and isinstance(error, InputRejected) and error.sent else None
    left = () if tries is None else (Message("tries_left", {"count": tries}),)
    return (message_of_error(error), *reasons_of(error), *left)


def _steps(screen: Screen, template: str) -> tuple[ShownStep, ...]:
    """Return the road of this reset. There is none to show for a link, an adopted flow, or one that failed."""
    flow = screen.flow
    if template == "account":
        return (
            ShownStep("page.step.account", "now"),
            ShownStep("page.step.code", "next"),
            ShownStep("page.step.password", "next"),
        )
    adopted = flow and [each.trigger for each in flow.history[:1]] == ["token_adopted"]
    if flow is None or screen.kind is not Kind.FLOW or flow.failure or adopted:
        return ()
    steps = [*((Step.ANSWER,) if flow.question else ()), Step.CODE, flow.credential.step]
    at = len(steps) if flow.state is State.PASSWORD_SET else steps.index(flow.expects) if flow.expects in steps else 0
    states = ["done"] * at + ["now"] + ["next"] * len(steps)
    return (
        ShownStep("page.step.account", "done"),
        *(ShownStep(STEPS[step], state) for step, state in zip(steps, states, strict=False)),
    )


def _full_minute(at: datetime | None) -> datetime | None:
    """Return the next full minute: what is told without its seconds must not be too early."""
    return at and (at + timedelta(minutes=1, microseconds=-1)).replace(second=0, microsecond=0)


def _code_hint(code: CodeFormat) -> Message | None:
    if code.kind is CodeKind.TOKEN:
        return Message("page.code.link")
    return Message(CODE_HINTS[code.kind], {"count": code.length}) if code.length else None
