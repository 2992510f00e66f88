"""docs/allauth.md: its settings and its transport fit each other, and a real site."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from reset_flow import Accepted, AllauthTransport, Case, NewCredential, Secret
from tests.transports.allauth.site import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.transports.allauth.site import Site


def run(mark: str) -> dict[str, Any]:
    """Run the snippet behind the mark, and return the names that it has set."""
    found = re.search(rf"<!-- {mark} -->\n```python\n(.*?)```", (ROOT / "docs" / "allauth.md").read_text(), re.DOTALL)
    assert found
    names: dict[str, Any] = {}
    exec(found[1], names)  # noqa: S102 - it is ours
    return names


@pytest.mark.parametrize("mode", ["letters"], indirect=True)
async def test_the_settings_fit_the_transport(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {name: value for name, value in run("settings").items() if name.isupper()}
    page: AllauthTransport = run("transport")["site"]
    assert page.capabilities.code_lifetime
    assert page.capabilities.code_lifetime.total_seconds() == settings["ACCOUNT_PASSWORD_RESET_BY_CODE_TIMEOUT"]

    await site.change(**settings)
    here = AllauthTransport(site.url, code=page.capabilities.code)
    try:
        case, new = Case(user=await site.add_user()), NewCredential(secret=Secret("violet tractor 5"))
        sent = await here.request(case, None)
        assert isinstance(sent, Accepted)
        case = Case(user=case.user, continuation=sent.continuation)
        code = Secret(await site.newest_code(case.user))
        assert await here.exchange(case, code) == Accepted(value=code)
        assert await here.update(case, code, new) == Accepted()
        assert await here.log_in(case, new.secret) == Accepted()
    finally:
        await here.aclose()
