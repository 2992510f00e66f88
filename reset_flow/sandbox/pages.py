"""The inbox as a page for people."""

from collections.abc import Iterable
from html import escape
from itertools import islice

from aiohttp import web

from reset_flow.sandbox.broker import Broker, Mail

SHOWN_MAILS = 200

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sandbox inbox</title>
<style>
  :root {{ color-scheme: light dark; }}
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem; }}
  table {{ border-collapse: collapse; width: 100%; }}
  th, td {{ text-align: left; padding: .5rem .75rem; border-bottom: 1px solid #8884; overflow-wrap: anywhere; }}
  td.code {{ font: 600 1.15rem ui-monospace, monospace; letter-spacing: .12em; }}
  p.note {{ padding: .6rem .9rem; border-left: 4px solid #c80; background: #c802; }}
</style>
</head>
<body>
<h1>Sandbox inbox</h1>
<p class="note">A toy broker with toy secrets: its users, passwords and codes are nobody's, and everybody who reaches
this page can read them. Never give it a real password.</p>
{mails}
<p>API: <code>{api_url}</code> · <a href="/sandbox/inbox">mails</a> · <a href="/sandbox/log">calls</a> ·
<a href="/sandbox/faults">faults</a> (JSON)</p>
</body>
</html>
"""


class Pages:
    """The handlers of ``/`` and ``/inbox``."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the handlers."""
        return [web.get("/", self._inbox), web.get("/inbox", self._inbox)]

    async def _inbox(self, request: web.Request) -> web.Response:
        page = PAGE.format(
            mails=_table(islice(reversed(self._broker.mails), SHOWN_MAILS)),
            api_url=escape(f"http://{request.host}/api"),
        )
        headers = {
            "Cache-Control": "no-store",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
        }
        body = page.encode(errors="backslashreplace")
        return web.Response(body=body, content_type="text/html", charset="utf-8", headers=headers)


def _table(mails: Iterable[Mail]) -> str:
    rows = "\n".join(_row(mail) for mail in mails)
    if not rows:
        return "<p>No mail yet.</p>"
    return f"<table>\n<tr><th>Sent</th><th>To</th><th>User</th><th>Code</th></tr>\n{rows}\n</table>"


def _row(mail: Mail) -> str:
    return (
        f"<tr><td>{mail.sent_at:%H:%M:%S}</td><td>{escape(mail.email)}</td><td>{escape(mail.user)}</td>"
        f'<td class="code">{escape(mail.code)}</td></tr>'
    )
