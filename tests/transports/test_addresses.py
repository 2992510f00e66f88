"""A provider is chosen by its address: ETNA, the others of the library, and those that other packages register."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reset_flow import (
    AllauthTransport,
    Case,
    CodeFormat,
    CognitoTransport,
    ConfigurationError,
    EtnaTransport,
    NotActed,
    Secret,
    from_env,
    open_transport,
)
from reset_flow.sandbox import Sandbox
from tests.transports.accounts_server import KEY, AccountsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

PAGE = Path(__file__).parents[2] / "docs" / "providers.md"


class Packages:
    """A folder on the path into which packages are put that register providers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, module: str, code: str, *entry_points: str) -> None:
        (self.folder / f"{module}.py").write_text(code)
        about = self.folder / f"{module}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        lines = ["[reset_flow.transports]", *entry_points]
        (about / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Packages]:
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield Packages(folder)
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


ACME = """
def opened(url, secret, *, x="", name="acme", aliases=(), proxy=None):
    return url, secret, x, name, aliases, proxy
def anything(url, secret, **options):
    return url, secret, options
missing = None
"""


@pytest.fixture
def acme(packages: Packages) -> Packages:
    packages.add("acme_resets", ACME, "acme = acme_resets:opened", "any = acme_resets:anything")
    return packages


@pytest.fixture
async def accounts(packages: Packages) -> AsyncIterator[AccountsServer]:
    """Yield the provider of the page, whose transport is installed."""
    code = re.search(r"<!-- file: accounts.py -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    registered = re.search(r'^accounts = "(.*)"$', PAGE.read_text(), re.MULTILINE)
    assert code
    assert registered
    packages.add("accounts", code[1], f"accounts = {registered[1]}")
    async with AccountsServer() as server:
        yield server


def opened(url: str | Secret, secret: str | Secret | None = None, **options: Any) -> Any:
    return open_transport(url, secret, **options)


@pytest.mark.parametrize("prefix", ["", "etna+", "ETNA+"])
async def test_an_address_of_the_web_is_etna(prefix: str) -> None:
    async with Sandbox() as sandbox:
        transport = open_transport(
            Secret(prefix + sandbox.api_url), "sandbox", name="mine", aliases=["old"], revision="password"
        )
        assert isinstance(transport, EtnaTransport)
        assert transport.name == "mine"
        assert transport.aliases == {"old"}
        assert repr(transport) == "EtnaTransport(name='mine', revision='password')"
        assert not isinstance(await transport.challenge(Case(user="robert.zak")), NotActed)
        await transport.aclose()


@pytest.mark.parametrize(
    ("query", "options", "code"),
    [
        ("", {}, CodeFormat.letters(8)),
        ("?code=letters", {}, CodeFormat.letters(8)),
        ("?code=digits", {}, CodeFormat.digits(6)),
        ("?code=link", {}, CodeFormat.token()),
        ("", {"code": "link"}, CodeFormat.token()),
        ("", {"code": CodeFormat.letters(6)}, CodeFormat.letters(6)),
    ],
)
def test_a_site_with_allauth_says_which_codes_it_sends(query: str, options: dict[str, Any], code: CodeFormat) -> None:
    transport = open_transport(
        f"allauth+https://host/_allauth{query}", aliases=["old"], proxy="http://proxy", **options
    )
    assert isinstance(transport, AllauthTransport)
    assert transport.name == "allauth:https://host/_allauth"
    assert transport.aliases == {"old"}
    assert transport.capabilities.code == code


@pytest.mark.parametrize("secret", [None, "the client's"])
def test_a_user_pool_is_named_with_its_client(secret: str | None) -> None:
    address = "cognito+https://cognito-idp.eu-central-1.amazonaws.com?client_id=abc"
    transport = open_transport(address, secret, name="pool", aliases=["old"], proxy="http://proxy")
    assert isinstance(transport, CognitoTransport)
    assert transport.name == "pool"
    assert transport.aliases == {"old"}
    assert open_transport(address, secret).name == "cognito:https://cognito-idp.eu-central-1.amazonaws.com/abc"


def test_a_name_is_made_of_the_address_where_none_is_given() -> None:
    assert open_transport("https://broker.test/api/", "key").name == "etna:https://broker.test/api"


async def test_a_proxy_is_used() -> None:
    proxy = Secret("http://127.0.0.1:1")
    transport = open_transport("http://127.0.0.1:2/api", "key", proxy=proxy)
    outcome = await transport.probe(Case(user="robert.zak"))
    assert isinstance(outcome, NotActed)
    assert "Proxy" in outcome.detail
    await transport.aclose()


@pytest.mark.usefixtures("acme")
def test_another_package_serves_the_scheme_that_it_registers() -> None:
    assert opened("acme+https://host/api?x=a%20b", "key", name="mine", aliases=["old"], proxy="http://proxy") == (
        "https://host/api", Secret("key"), "a b", "mine", ["old"], Secret("http://proxy"),
    )  # fmt: skip
    assert opened("ACME+http://127.0.0.1:80") == ("http://127.0.0.1:80", None, "", "acme", (), None)
    assert opened(Secret("any+https://host?a=1&b=2"), Secret("key"), c=3) == (
        "https://host", Secret("key"), {"a": "1", "b": "2", "c": 3},
    )  # fmt: skip


@pytest.mark.usefixtures("acme")
def test_a_scheme_without_another_behind_it_is_passed_as_it_is() -> None:
    assert opened("acme://host:5/path?x=1", "key")[:3] == ("acme://host:5/path", Secret("key"), "1")


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(
    ("address", "options", "words"),
    [
        (
            "ftp://host",
            {},
            r"no provider is addressed by ftp: .* ETNA, acme\+https:.*, allauth\+https:.*, any\+https:",
        ),
        ("acm+https://host", {}, "no provider is addressed by acm: "),
        ("http+https://host", {}, "no provider is addressed by http: "),
        ("", {}, "the address of the provider must be like https://host/api"),
        ("host/api", {}, "the address of the provider must be like https://host/api"),
        ("acme+ftp://host", {}, "the address of the provider must be like https://host/api"),
        ("http://host/api", {}, "the address of the provider must be https"),
        ("acme+http://host/api", {}, "the address of the provider must be https"),
        ("acme+https://me:phrase@host/api", {}, "must have no credentials"),
        ("https://host/api?colour=red", {}, "an option that can't be honoured: colour"),
        ("https://host/api", {"colour": "red"}, "unexpected keyword argument 'colour'"),
        ("acme+https://host/api?colour=red", {}, "unexpected keyword argument 'colour'"),
        ("acme+https://host/api", {"colour": "red"}, "unexpected keyword argument 'colour'"),
        ("acme+https://host/api?x=1&x=2", {}, "the option x of the address of the provider is given twice"),
        ("acme+https://host/api?x=1", {"x": "2"}, "the option x of the provider is given twice"),
        ("allauth+https://host/_allauth?code=words", {}, "the option code of .* has a value that can't be honoured"),
        ("allauth+https://host/_allauth?answers_alike=no", {}, "can't be honoured: answers_alike"),
        ("allauth+https://host/_allauth", {}, "knows no secret of ours"),
        ("cognito+https://host?client=1", {}, "an option that can't be honoured: client"),
        ("cognito+https://host", {}, "missing a required argument: 'client_id'"),
        ("cognito+https://host?client_id=abc", {"colour": "red"}, "unexpected keyword argument 'colour'"),
        ("cognito+http://host?client_id=abc", {}, "the address of the provider must be https"),
    ],
)
def test_an_address_or_an_option_that_nobody_has_is_refused_by_its_name(
    address: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        open_transport(address, "key", **options)
    assert "phrase" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"code": "words"}, "code must be a CodeFormat"),
        ({"code_lifetime": timedelta(0)}, "code_lifetime must be a timedelta longer than zero"),
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
    ],
)
def test_a_site_with_allauth_has_no_other_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        open_transport("allauth+https://host/_allauth", **options)


@pytest.mark.parametrize(
    "made",
    [open_transport, partial(EtnaTransport, app_key="key"), AllauthTransport, partial(CognitoTransport, client_id="c")],
)
@pytest.mark.parametrize("address", [None, b"https://broker.test", 443])
def test_an_address_that_is_no_text_is_refused(made: Callable[[Any], object], address: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be text"):
        made(address)


@pytest.mark.parametrize("secret", [b"key", 5])
def test_an_app_key_that_is_no_text_is_refused(secret: Any) -> None:
    with pytest.raises(ConfigurationError, match="app_key"):
        open_transport("https://broker.test", secret)


def test_an_app_key_is_needed_at_etna() -> None:
    with pytest.raises(ConfigurationError, match="app_key is empty"):
        open_transport("https://host/api")


def test_a_provider_that_can_not_be_loaded_is_named(packages: Packages) -> None:
    packages.add("broken_resets", "import no_such_module", "broken = broken_resets:opened")
    with pytest.raises(ConfigurationError, match="broken can't be loaded: No module named 'no_such_module'"):
        open_transport("broken+https://host", "key")
    packages.add("half_resets", "", "half = half_resets:Transport")
    with pytest.raises(ConfigurationError, match="half can't be loaded: module 'half_resets' has no attribute"):
        open_transport("half+https://host", "key")


def test_two_packages_that_register_one_provider_are_named(acme: Packages) -> None:
    acme.add("other_resets", ACME, "acme = other_resets:opened")
    with pytest.raises(ConfigurationError, match=r"provider acme: acme_resets:opened, other_resets:opened"):
        open_transport("acme+https://host", "key")


def test_the_providers_of_the_library_are_no_other_packages(packages: Packages) -> None:
    packages.add("acme_resets", ACME, "etna = acme_resets:opened")
    assert isinstance(open_transport("etna+https://host/api", "key"), EtnaTransport)


# The environment.


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    for name in ("BROKER_URL", "BROKER_SECRET", "APP_KEY", "REVISION", "BROKER_NAME", "BROKER_ALIASES", "PROXY"):
        monkeypatch.delenv(f"RESET_FLOW_{name}", raising=False)
    monkeypatch.setenv("RESET_FLOW_STORE", "memory:")
    monkeypatch.setenv("RESET_FLOW_KEYS", str(tmp_path / "keys"))

    def put(**settings: str) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(f"RESET_FLOW_{name}", value)

    return put


async def test_the_environment_chooses_a_provider_of_another_package(
    accounts: AccountsServer, environment: Callable[..., None]
) -> None:
    environment(BROKER_URL=f"accounts+{accounts.url}", BROKER_SECRET=KEY, PROXY="environment", BROKER_NAME="accounts")
    user = await accounts.add_user()
    async with from_env(sweep=False) as service:
        flow = await service.start(user)
        assert flow.allowed
    assert (await accounts.counts(user)).mails == 1


async def test_the_command_line_takes_the_address_of_another_package(
    accounts: AccountsServer, packages: Packages, environment: Callable[..., None], tmp_path: Path
) -> None:
    environment(BROKER_SECRET=KEY, STORE="sqlite:///flows.db")
    user = await accounts.add_user()
    command = [sys.executable, "-m", "reset_flow.cli", "start", user, "--broker-url", f"accounts+{accounts.url}"]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(packages.folder)}, stdout=asyncio.subprocess.PIPE
    )
    shown, _ = await process.communicate()
    assert process.returncode == 0
    assert b"code" in shown
    assert (await accounts.counts(user)).mails == 1


@pytest.mark.parametrize("name", ["BROKER_SECRET", "APP_KEY"])
async def test_the_secret_of_etna_has_two_names(environment: Callable[..., None], name: str) -> None:
    async with Sandbox() as sandbox:
        environment(BROKER_URL=sandbox.api_url, **{name: "sandbox"})
        async with from_env(sweep=False) as service:
            assert (await service.start("robert.zak")).question


def test_one_secret_under_two_names_is_refused(environment: Callable[..., None]) -> None:
    environment(BROKER_URL="https://host/api", BROKER_SECRET="one", APP_KEY="two")
    with pytest.raises(ConfigurationError, match="RESET_FLOW_BROKER_SECRET and RESET_FLOW_APP_KEY are both set"):
        from_env()


@pytest.mark.parametrize("name", ["BROKER_SECRET", "APP_KEY"])
@pytest.mark.parametrize("other", ["BROKER_SECRET", "APP_KEY"])
async def test_a_secret_that_is_passed_goes_before_the_environment_under_either_name(
    environment: Callable[..., None], name: str, other: str
) -> None:
    async with Sandbox() as sandbox:
        environment(BROKER_URL=sandbox.api_url, **{other: "another"})
        async with from_env({name: "sandbox"}, sweep=False) as service:
            assert (await service.start("robert.zak")).question


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize("name", ["APP_KEY", "REVISION"])
@pytest.mark.parametrize(
    "address", ["acme+https://host/api", "allauth+https://host", "cognito+https://host?client_id=c"]
)
def test_a_setting_for_etna_that_is_left_over_is_named(
    environment: Callable[..., None], name: str, address: str
) -> None:
    environment(BROKER_URL=address, **{name: "password"})
    with pytest.raises(ConfigurationError, match=f"RESET_FLOW_{name} is a setting for ETNA: leave it out"):
        from_env()


def test_a_secret_that_is_left_over_for_allauth_is_named(environment: Callable[..., None]) -> None:
    environment(BROKER_URL="allauth+https://host/_allauth", BROKER_SECRET="a secret")
    with pytest.raises(ConfigurationError, match="leave RESET_FLOW_BROKER_SECRET out"):
        from_env()
