"""Who has the secret can tell, and nobody else: the Standard Webhooks scheme, both ways with its own library."""

from __future__ import annotations

import json
import traceback
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from multidict import CIMultiDict
from standardwebhooks import Webhook

from reset_flow import ConfigurationError, InvalidInput, State
from reset_flow.integrations.webhooks import WebhookListener, WebhookRejected, verify
from tests.integrations.receiver import OTHER_SECRET, SECRET, Office, Receiver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
PAYLOAD = {
    "type": "reset.ended",
    "timestamp": "2030-01-01T11:59:58Z",
    "data": {"event_id": "f.3", "flow_id": "f", "ref": "ticket-1", "state": "password_set", "failure": None},
}
BODY = json.dumps(PAYLOAD).encode()


def signed(body: bytes = BODY, secret: str = SECRET, event_id: str = "f.3", at: datetime = NOW) -> dict[str, str]:
    """Return the headers as the scheme's own library makes them."""
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(event_id, at, body.decode()),
    }


def test_what_the_library_of_the_scheme_signs_is_verified() -> None:
    event = verify(signed(), BODY, SECRET, now=NOW)
    assert (event.id, event.flow_id, event.ref, event.failure) == ("f.3", "f", "ticket-1", None)
    assert (event.type, event.state) == ("reset.ended", State.PASSWORD_SET)
    assert event.at == datetime(2030, 1, 1, 11, 59, 58, tzinfo=UTC)
    assert "ticket-1" not in repr(event)


async def test_what_is_sent_is_verified_by_the_library_of_the_scheme(tmp_path: Path) -> None:
    async with Receiver() as receiver, Office(tmp_path) as office:
        service = await office.service(crm=await office.hook(receiver.url, clock=lambda: datetime.now(UTC)))
        (flow,) = await office.ends(service)
        (got,) = await receiver.came(1)
    told = Webhook(SECRET).verify(got.body, dict(got.headers))
    assert told["data"]["flow_id"] == flow.id


@pytest.mark.parametrize("secrets", [[OTHER_SECRET, SECRET], (SECRET,), SECRET.removeprefix("whsec_"), f" {SECRET}\n"])
def test_any_of_several_secrets_may_have_signed(secrets: Any) -> None:
    assert verify(signed(), BODY, secrets, now=NOW).id == "f.3"


async def test_while_a_secret_is_changed_receivers_with_either_one_can_verify(tmp_path: Path) -> None:
    async with Receiver() as receiver, Office(tmp_path) as office:
        hook = await office.hook(receiver.url, [OTHER_SECRET, SECRET])
        await office.ends(await office.service(crm=hook))
        (got,) = await receiver.came(1)
        for secret in (SECRET, OTHER_SECRET):
            assert verify(got.headers, got.body, secret, now=office.clock()).id == got.id
        with pytest.raises(WebhookRejected):
            verify(got.headers, got.body, "whsec_" + 32 * "A", now=office.clock())


def test_names_of_headers_may_have_any_case() -> None:
    for headers in (
        {name.upper(): value for name, value in signed().items()},
        {name.title(): value for name, value in signed().items()},
        CIMultiDict(signed()),
    ):
        assert verify(headers, BODY, SECRET, now=NOW).id == "f.3"


def test_a_signature_among_others_and_of_other_versions_is_found() -> None:
    headers = signed()
    others = f"v1a,AAAA v1,AAAA v2 , {signed(secret=OTHER_SECRET)['webhook-signature']}"
    headers["webhook-signature"] = f"{others} {headers['webhook-signature']}"
    assert verify(headers, BODY, SECRET, now=NOW).id == "f.3"


@pytest.mark.parametrize("away", [timedelta(minutes=5), -timedelta(minutes=5), timedelta(0)])
def test_within_the_tolerance_a_delivery_is_in_time(away: timedelta) -> None:
    assert verify(signed(), BODY, SECRET, now=NOW + away).id == "f.3"
    assert verify(signed(), BODY, SECRET, now=NOW + 2 * away, tolerance=timedelta(minutes=10)).id == "f.3"


def without(name: str) -> Callable[[dict[str, str]], Any]:
    return lambda headers: {each: value for each, value in headers.items() if each != name}


def using(**values: Any) -> Callable[[dict[str, str]], Any]:
    return lambda headers: headers | {f"webhook-{name}": value for name, value in values.items()}


@pytest.mark.parametrize(
    "spoil",
    [
        without("webhook-id"),
        without("webhook-timestamp"),
        without("webhook-signature"),
        using(id="f.4"),
        using(id=""),
        using(id="f.3\udcff"),
        using(timestamp=str(int(NOW.timestamp()) - 1)),
        using(timestamp=f"{NOW.timestamp()}"),
        using(timestamp=f"+{int(NOW.timestamp())}"),
        using(timestamp="١٨٩٣٤٩٩٢٠٠"),
        using(timestamp="9" * 11),
        using(timestamp="9" * 400),
        using(timestamp="nan"),
        using(signature=""),
        using(signature="v1,"),
        using(signature="v1"),
        using(signature="v1,\udce4"),
        using(signature=" "),
        using(signature="v1," + 5000 * "A"),
        using(signature=b"v1,AAAA"),
        lambda headers: using(signature=headers["webhook-signature"].replace("v1,", "v2,"))(headers),
        lambda headers: using(signature=headers["webhook-signature"].rstrip("="))(headers),
        lambda headers: CIMultiDict([*headers.items(), ("Webhook-Id", "f.4")]),
        lambda headers: headers | {"Webhook-Signature": headers["webhook-signature"]},
        lambda _: signed(secret=OTHER_SECRET),
        lambda _: signed(at=NOW - timedelta(minutes=5, seconds=1)),
        lambda _: signed(at=NOW + timedelta(minutes=5, seconds=1)),
        lambda _: signed(body=BODY + b" "),
        lambda _: {},
    ],
)
def test_a_delivery_that_is_forged_changed_or_late_is_rejected(spoil: Callable[[dict[str, str]], Any]) -> None:
    with pytest.raises(WebhookRejected) as caught:
        verify(spoil(signed()), BODY, SECRET, now=NOW)
    told = "".join(traceback.format_exception(caught.value))
    assert "ticket-1" not in told
    assert SECRET not in told
    assert verify(signed(), BODY, SECRET, now=NOW).id == "f.3"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\x00",
        b'{"type": "invoice.paid", "timestamp": "2030-01-01T11:59:58Z", "data": {"id": 7}}',
        json.dumps(PAYLOAD | {"timestamp": "2030-01-01T11:59:58"}).encode(),
        json.dumps(PAYLOAD | {"timestamp": "0001-01-01T00:00:00+10:00"}).encode(),
        BODY.replace(b"{", b'{"more": ' + 100_000 * b"[" + 100_000 * b"]" + b", ", 1),
        BODY.replace(b"f.3", b"f.4"),
    ],
)
def test_what_is_signed_and_tells_no_such_event_is_rejected(body: bytes) -> None:
    with pytest.raises(WebhookRejected, match="tells no event of a reset"):
        verify(signed(body), body, SECRET, now=NOW)


def test_fields_that_later_senders_add_do_no_harm() -> None:
    body = json.dumps(PAYLOAD | {"more": 1, "data": {**PAYLOAD["data"], "more": [2]}}).encode()  # type: ignore[dict-item]
    assert verify(signed(body), body, SECRET, now=NOW).ref == "ticket-1"


def test_what_is_wrong_with_the_call_is_no_matter_of_the_delivery() -> None:
    text: Any = BODY.decode()
    with pytest.raises(InvalidInput, match="bytes as they came"):
        verify(signed(), text, SECRET, now=NOW)
    with pytest.raises(InvalidInput, match="zone"):
        verify(signed(), BODY, SECRET, now=NOW.replace(tzinfo=None))
    assert verify(signed(), BODY, SECRET, now=NOW).id == "f.3"


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "hunter2", "whsec_", "whsec_" + 31 * "A", "whsec_" + 90 * "A", SECRET + "-_", None, 7, b"whsec_"),
        *([], 5 * [SECRET], [SECRET, ""]),
    ],
)
def test_a_secret_that_is_none_is_refused_with_what_makes_one(wrong: Any) -> None:
    for refused in (
        lambda: verify(signed(), BODY, wrong, now=NOW),
        lambda: WebhookListener("https://crm.example/hooks", wrong),
    ):
        with pytest.raises(ConfigurationError, match="whsec_ and 24 to 64 random bytes") as caught:
            refused()
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))
