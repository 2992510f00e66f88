"""What every request goes through: headers, sizes, slowness, methods, and whatever strangers send."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import html5lib
import pytest

from reset_flow.messages import LOCALES, Texts
from reset_flow.web import Limits
from tests.web.houses import ASKED, UNASKED, random_key

if TYPE_CHECKING:
    from tests.web.houses import House, Worker

pytestmark = pytest.mark.parametrize("house", ["memory"], indirect=True)

EVERYWHERE = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "reset-flow",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}
POLICY = {
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
    "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'",
}  # fmt: skip
FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
JSON = "Content-Type: application/json\r\n"


async def send(worker: Worker, request: str | bytes) -> tuple[int, dict[str, str], bytes]:
    """Send exactly these bytes, and return status, headers and body of the answer; the status is 0 without one."""
    address = urlsplit(worker.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(request if isinstance(request, bytes) else request.encode("utf-8", "surrogateescape"))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers.get("Content-Length", 0)))
    except asyncio.IncompleteReadError:
        return 0, {}, b""
    finally:
        writer.close()
    return int(head[0].split()[1]), headers, body


def defects(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged of us that is more than news. A broken request is logged by aiohttp."""
    ours = [
        record for record in caplog.records if record.levelno >= logging.WARNING and record.name != "aiohttp.server"
    ]
    return [record.getMessage() for record in ours]


def request_of(method: str, path: str, headers: str = "", body: str = "") -> str:
    length = f"Content-Length: {len(body.encode('utf-8', 'surrogateescape'))}\r\n" if body or method == "POST" else ""
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}{length}\r\n{body}"


ANSWERS = [
    (200, request_of("GET", "/reset/")),
    (200, request_of("GET", "/reset/healthz")),
    (200, request_of("GET", "/reset/readyz")),
    (200, request_of("GET", "/reset/api/openapi.json")),
    (400, request_of("POST", "/reset/api/flows", JSON, "{")),
    (403, request_of("POST", "/reset/start", FORM, "user=x")),
    (404, request_of("GET", "/reset/nowhere")),
    (404, request_of("GET", "/reset/assets/nothing.css")),
    (404, request_of("GET", "/reset/api/nowhere")),
    (404, request_of("GET", "/reset/api/flows/x")),
    (405, request_of("GET", "/reset/start")),
    (405, request_of("PUT", "/reset/api/flows")),
    (405, request_of("OPTIONS", "/reset/")),
    (410, request_of("GET", f"/reset/link/{'w' * 43}")),
    (413, request_of("POST", "/reset/api/flows", JSON, "x" * 20_000)),
    (415, request_of("POST", "/reset/api/flows", FORM, "user=x")),
    (415, request_of("POST", "/reset/start", JSON, "{}")),
    (417, request_of("POST", "/reset/api/flows", JSON + "Expect: more\r\n", "{}")),
]


@pytest.mark.parametrize(("status", "request_text"), ANSWERS, ids=lambda each: str(each).partition(" HTTP")[0])
async def test_every_answer_has_the_headers(house: House, status: int, request_text: str) -> None:
    found, headers, _ = await send(await house.worker(), request_text)
    assert found == status
    assert {name: headers.get(name) for name in EVERYWHERE} == EVERYWHERE
    assert {part.strip() for part in headers["Content-Security-Policy"].split(";")} == POLICY
    assert "camera=()" in headers["Permissions-Policy"]
    if status == 405:
        assert headers["Allow"]


async def test_files_of_the_page_may_be_kept_and_nothing_else(house: House) -> None:
    browser = await house.browser(await house.worker())
    page = await browser.get()
    links = [each.get("href") or each.get("src") or "" for each in html5lib.parse(page.text).iter()]
    files = sorted({link for link in links if "/assets/" in link})
    assert files
    for file in files:
        asset = await browser.get(file)
        assert asset.status == 200
        assert "immutable" in asset.headers["Cache-Control"]
        assert asset.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in asset.headers


async def test_no_page_has_code_or_style_in_it(house: House) -> None:
    browser = await house.browser(await house.worker())
    pages = [await browser.get(), await browser.start(ASKED), await browser.get("nowhere")]
    for page in pages:
        for each in html5lib.parse(page.text, namespaceHTMLElements=False).iter():
            assert each.tag != "style"
            assert each.tag != "script" or (each.get("src") and not each.text)
            assert not any(name == "style" or str(name).startswith("on") for name in each.attrib)


# --- sizes and slowness


async def test_a_body_is_read_up_to_its_limit(house: House) -> None:
    worker = await house.worker(limits=Limits(body=2048))
    fitting = '{"user": "%s"}' % ("x" * 300)
    status, _, _ = await send(worker, request_of("POST", "/reset/api/flows", JSON, fitting + " " * 1000))
    assert status == 201
    for body in (" " * 2049, " " * 100_000):
        status, _, told = await send(worker, request_of("POST", "/reset/api/flows", JSON, body))
        assert (status, b'"too_large"' in told) == (413, True)
    chunks = f"{2049:x}\r\n{' ' * 2049}\r\n0\r\n\r\n"
    head = f"POST /reset/api/flows HTTP/1.1\r\nHost: x\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n"
    assert (await send(worker, head + chunks))[0] == 413


async def test_who_does_not_send_the_whole_body_is_dropped(house: House) -> None:
    worker = await house.worker(limits=Limits(slowness=timedelta(milliseconds=100)))
    for path, kind in (("api/flows", JSON), ("start", FORM)):
        head = f"POST /reset/{path} HTTP/1.1\r\nHost: x\r\n{kind}Content-Length: 50\r\n\r\n"
        status, headers, _ = await send(worker, head + "{")
        assert (status, headers["Connection"]) in ((408, "close"), (403, "close"))


@pytest.mark.parametrize("path", ["api/flows", "start"])
async def test_who_goes_away_in_the_middle_of_a_body_is_no_defect(
    house: House, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker = await house.worker()
    browser = await house.browser(worker)
    await browser.get()
    cookie = f"Cookie: reset={browser.cookie}\r\n"
    kind = JSON if path.startswith("api") else FORM
    address = urlsplit(worker.url)
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            _, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(
                f"POST /reset/{path} HTTP/1.1\r\nHost: x\r\n{cookie}{kind}Content-Length: 50\r\n\r\n{{".encode()
            )
            await writer.drain()
            assert (await browser.get("healthz")).status == 200, "the other one has arrived before"
            writer.transport.abort()
        assert (await browser.get("healthz")).status == 200
        await worker.aclose()
    assert defects(caplog) == []


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("api/flows", JSON + "Content-Encoding: gzip\r\n", "no gzip"),
        ("api/flows", JSON + "Content-Encoding: br\r\n", "{}"),
        ("api/flows", "Content-Type: application/json; charset=utf-16\r\n", "{}"),
        ("api/flows", "Content-Type: text/plain\r\n", '{"user": "x"}'),
        ("api/flows", "Content-Type: application/json, text/html\r\n", "{}"),
        ("api/flows", "Content-Type: \r\n", "{}"),
        ("api/flows", "Content-Type: ;;;=\r\n", "{}"),
        ("api/flows", "Content-Type: multipart/form-data; boundary=x\r\n", "--x--"),
        ("api/flows", "", "{}"),
        ("start", "Content-Type: multipart/form-data; boundary=x\r\n", "--x--"),
        ("start", "Content-Type: text/plain\r\n", "user=x"),
    ],
)
async def test_a_body_of_another_kind_is_refused(house: House, path: str, headers: str, body: str) -> None:
    status, _, _ = await send(await house.worker(), request_of("POST", f"/reset/{path}", headers, body))
    assert status == 415 or (status == 400 and "Encoding" in headers)
    assert house.sandbox.calls == []


@pytest.mark.parametrize(
    "body",
    [
        "", "{", "[]", "null", '"x"', "{}", '{"user": null}', '{"user": 5}', '{"user": ""}', '{"user": ["x"]}',
        '{"user": "x", "more": 1}', '{"user": "x", "credential": "c"}', '{"user": "\\ud800"}', '{"user": "x\\u0000"}',
        '{"user": "x\udcff"}', "\ufeff{}", '{"user": "%s"}' % ("x" * 401), '{"user": "%s"}' % ("x" * 321), "[" * 10_000,
        '{"user": %s}' % ("[" * 10_000), '{"user": 1e999}', "NaN", '{"user": "   "}', '{"user": "x"} {}',
    ],
    ids=range(24),
)  # fmt: skip
async def test_what_is_no_start_is_malformed_and_not_repeated(house: House, body: str) -> None:
    status, headers, told = await send(await house.worker(), request_of("POST", "/reset/api/flows", JSON, body))
    assert (status, headers["Content-Type"]) == (400, "application/problem+json")
    assert b'"malformed"' in told or b'"invalid_input"' in told
    assert b"xxxx" not in told
    assert house.sandbox.calls == []


@pytest.mark.parametrize(
    ("status", "path", "kind", "body"),
    [
        (400, "api/flows", JSON, "{"),
        (413, "api/flows", JSON, " " * 20_000),
        (415, "api/flows", FORM, "user=x"),
        (404, "api/nowhere", JSON, "{}"),
        (400, "start", FORM, "%FF"),
        (413, "start", FORM, "x" * 20_000),
        (415, "start", JSON, "{}"),
    ],
)
async def test_what_can_not_be_read_is_no_trouble_of_ours(
    house: House, status: int, path: str, kind: str, body: str
) -> None:
    worker = await house.worker()
    for locale in LOCALES:
        text = request_of("POST", f"/reset/{path}", f"{kind}Accept-Language: {locale}\r\n", body)
        found, _, told = await send(worker, text)
        assert (found, Texts().say("request.rejected", locale) in told.decode()) == (status, True)


# --- hostile headers, paths and fields


ODD = {
    "Accept-Language": ["\udcff", "de" * 5000, "de;q=9", "*", ",,,", "de-" + "a" * 7000, "xx;q=\x7f"],
    "Authorization": ["Bearer \udcff\udcfe", "Bearer", "Basic eDp4", "Bearer " + "w" * 7000, "\udcff"],
    "Cookie": ["\udcff=\udcff", "reset=\udcff", "reset=" + "w" * 7000, "=;=;=", "reset", 'reset="\\"', "reset-x"],
    "Idempotency-Key": ["\udcff", "", "a b", "w" * 201, "../x", "ü" * 40],
    "Origin": ["\udcff", "", "https://x\udcff"],
    "Sec-Fetch-Site": ["\udcff", "", "same-origin, cross-site"],
    "X-CSRF-Token": ["\udcff\udcfe", "ü", ""],
    "X-Forwarded-For": ["\udcff", "1.2.3.4", "::1, [", ", ,", "1" * 7000],
    "Content-Length": ["0"],
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
async def test_no_header_brings_the_service_down(house: House, name: str, caplog: pytest.LogCaptureFixture) -> None:
    worker = await house.worker(limits=Limits(trusted_proxies=("127.0.0.1",)))
    program = await house.program(worker)
    await program.start()
    cookie = f"Cookie: reset={program.secret}\r\n" if name != "Cookie" else ""
    for value in ODD[name]:
        for method, path, kind, body in (
            ("GET", "", "", ""),
            ("GET", f"api/flows/{program.flow_id}", "", ""),
            ("POST", f"api/flows/{program.flow_id}/resend", "", ""),
            ("POST", "api/flows", JSON, "{"),
            ("POST", "cancel", FORM, "csrf=%FF"),
        ):
            text = request_of(method, f"/reset/{path}", f"{cookie}{kind}{name}: {value}\r\n", body)
            status, _, _ = await send(worker, text)
            assert 200 <= status < 500, (value, method, path)
    assert defects(caplog) == []
    assert (await program.get()).body["state"] == "question_answered"


@pytest.mark.parametrize(
    "path",
    [
        "/reset/../reset/", "/reset//", "/reset/%2e%2e/", "/reset/api%2Fflows", "/reset/api/flows/%00", "/reset/%ff%fe",
        "/reset/api/flows/..%2f..%2fhealthz", "/reset/assets/..%2f..%2fapp.py", "/reset/assets/%2e%2e%2fapp.py",
        "/reset/link/", "/reset/link/%2F", "http://elsewhere.example/reset/nowhere", "//elsewhere.example/reset/",
        "/reset/api/flows/" + "x" * 5000, "/reset/?" + "x" * 5000, "*", "/reset/;x=y", "/reset/api/flows/{id}",
    ],
)  # fmt: skip
async def test_no_path_brings_the_service_down(house: House, path: str, caplog: pytest.LogCaptureFixture) -> None:
    worker = await house.worker()
    for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "TRACE", "PATCH", "NONSENSE"):
        status, headers, _ = await send(worker, request_of(method, path).replace("HEAD ", "GET ", 1))
        assert 200 <= status < 500
        assert "elsewhere" not in str(headers)
    assert defects(caplog) == []


async def test_an_absolute_address_leads_where_its_path_does(house: House) -> None:
    worker = await house.worker()
    status, _, body = await send(worker, request_of("GET", "http://elsewhere.example/reset/api/nowhere"))
    assert (status, b'"not_found"' in body) == (404, True)
    status, _, body = await send(worker, request_of("GET", "http://elsewhere.example/reset/"))
    assert (status, b"elsewhere" in body) == (200, False)


ODD_TEXTS = [
    "\x00", "a\x00b", "\x1b[31m", "\r\nSet-Cookie: x=y", "\u202e", "\ufeff", "  ", "'\"><script>alert(1)</script>",
    "{{ 7 * 7 }}", "%s%n", "../../etc/passwd", "x" * 14_000, "🏳️‍🌈" * 100, "\u0300" * 500, "1' OR '1'='1",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD_TEXTS, ids=range(len(ODD_TEXTS)))
async def test_whatever_is_typed_into_a_form_is_shown_as_text_or_not_at_all(
    house: House, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker = await house.worker()
    browser = await house.browser(worker)
    await browser.get()
    pages = [await browser.do("start", user=text)]
    if not browser.page.has("code"):
        await browser.start()
    pages.append(await browser.do("code", code=text))
    if browser.page.has("code"):
        await browser.do("code", code=house.sandbox.newest_code(UNASKED)) if house.sandbox.mails else None
    if browser.page.has("password"):
        pages.append(await browser.do("password", password=text))
    for page in pages:
        assert page.status < 500
        assert "<script>alert" not in page.text
        assert "\x00" not in page.text
        assert "\x1b" not in page.text
        assert "x" not in page.headers.get("Set-Cookie", "reset=").partition("reset=")[0]
        html5lib.HTMLParser(strict=True).parse(page.text)
    assert defects(caplog) == []


@pytest.mark.parametrize(
    "body",
    ["%FF", "csrf=%FF%FE", "a=1&" * 100, "&&&&", "=", "csrf", "\udcff\udcfe", "csrf=a&csrf=b", "x" * 16_000, ";" * 500],
)
async def test_a_form_that_is_none_is_refused(house: House, body: str, caplog: pytest.LogCaptureFixture) -> None:
    worker = await house.worker()
    browser = await house.browser(worker)
    await browser.get()
    cookie = f"Cookie: reset={browser.cookie}\r\n"
    status, _, _ = await send(worker, request_of("POST", "/reset/start", cookie + FORM, body))
    assert status in (400, 403)
    assert house.sandbox.calls == []
    assert defects(caplog) == []


async def test_of_a_field_that_is_there_twice_the_last_counts(house: House) -> None:
    worker = await house.worker()
    browser = await house.browser(worker)
    form = (await browser.get()).form("start")
    fields = "&".join(f"{name}={quote(value)}" for name, value in {**form.fields, "user": "x"}.items())
    cookie = f"Cookie: reset={browser.cookie}\r\n"
    text = request_of("POST", "/reset/start", cookie + FORM, f"{fields}&user={UNASKED}")
    assert (await send(worker, text))[0] == 303
    assert house.sandbox.newest_code(UNASKED)


async def test_a_cookie_that_is_tossed_from_a_sibling_opens_nothing_of_ours(house: House) -> None:
    worker = await house.worker()
    mine, other = await house.program(worker), await house.program(worker)
    await mine.start()
    await other.start(ASKED)
    for cookies in (f"reset={other.secret}; reset={mine.secret}", f"reset={mine.secret}; reset={other.secret}"):
        found = [
            (await send(worker, request_of("GET", f"/reset/api/flows/{each.flow_id}", f"Cookie: {cookies}\r\n")))[0]
            for each in (mine, other)
        ]
        assert sorted(found) == [200, 404], "one cookie counts, and opens its own flow alone"


# --- looking changes nothing


async def test_to_look_changes_nothing(house: House) -> None:
    worker = await house.worker()
    program, browser = await house.program(worker), await house.browser(worker)
    await program.start(key=random_key())
    await browser.start(ASKED)
    link = f"link/{(await worker.links.create(program.flow_id)).rpartition('/')[2]}"
    before = [(await program.get()).body, await browser.flow(), len(house.sandbox.calls)]
    flow = f"api/flows/{program.flow_id}"
    for path in (
        "",
        "start",
        "code",
        "resend",
        "again",
        "cancel",
        "language",
        link,
        flow,
        f"{flow}/resend",
        "api/flows",
    ):
        await browser.get(path)
        await browser.get(f"{path}?user={ASKED}&code=123456&locale=de")
        await browser.head(path)
        await program.call("HEAD", path)
        await program.call("GET", path)
    assert [(await program.get()).body, await browser.flow(), len(house.sandbox.calls)] == before


async def test_head_says_what_get_says_without_a_body(house: House) -> None:
    worker = await house.worker()
    program = await house.program(worker)
    await program.start()
    for path in ("/reset/", "/reset/healthz", "/reset/readyz", f"/reset/api/flows/{program.flow_id}"):
        auth = f"Authorization: Bearer {program.secret}\r\n"
        got = await send(worker, request_of("GET", path, auth))
        address = urlsplit(worker.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(request_of("HEAD", path, auth + "Connection: close\r\n").encode())
        head = await reader.read()
        writer.close()
        assert int(head.split()[1]) == got[0] == 200
        assert head.endswith(b"\r\n\r\n")
