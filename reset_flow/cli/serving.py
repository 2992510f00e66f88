"""Serves the page and the API by the environment."""

from __future__ import annotations

import asyncio
import logging
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from reset_flow.cli.screen import say
from reset_flow.config import from_env, setting
from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import printable
from reset_flow.integrations.webhooks import WebhookListener
from reset_flow.web import Limits, Look
from reset_flow.web.server import serve as serve_page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reset_flow.cli.session import Settings

__all__ = ["serve"]

FIELDS = tuple(each.name for each in attrs.fields(Look))


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    public_url: str | None,
    trusted_proxies: Sequence[str],
    look: Path | str,
) -> None:
    """Serve until the process is asked to end, with a line for each request on stderr."""
    looks = _read_look(Path(look)) if look else Look()
    limits = Limits(trusted_proxies=tuple(trusted_proxies))
    service = from_env({**settings.overrides, "STORE": settings.store}, listeners=_webhook(settings))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.INFO)
    logging.getLogger("transitions").setLevel(logging.WARNING)  # the audit log says the same, and of which flow
    asyncio.run(
        serve_page(
            service,
            host=host,
            port=port,
            public_url=public_url,
            look=looks,
            limits=limits,
            told=lambda address: say(f"serving {address}"),
        )
    )


def _webhook(settings: Settings) -> dict[str, WebhookListener]:
    """
    Return the receiver of webhooks that the environment names, if any, by the name of its listener.

    Raises:
        ConfigurationError: It can't be one.
    """
    url = Secret(settings.get("WEBHOOK_URL", ""))
    if not url:
        return {}
    secrets = [Secret(each) for each in setting("WEBHOOK_SECRET").split()]
    networks = settings.get("WEBHOOK_ALLOW_PRIVATE", "").replace(",", " ").split()
    proxy = Secret(settings.get("WEBHOOK_PROXY", ""))
    try:
        return {"webhook": WebhookListener(url, secrets, allow_private=networks, proxy=proxy or None)}
    except ConfigurationError as error:
        reason = str(error)
    raise ConfigurationError(f"RESET_FLOW_WEBHOOK_…: {reason}")


def _read_look(path: Path) -> Look:
    """
    Read the fields of a `Look` from a TOML file. Paths in it start at its folder.

    Raises:
        ConfigurationError: It can't be read, or has what no page has.
    """
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
        unknown = sorted(fields.keys() - set(FIELDS))
        for name in ("logo", "templates"):
            if name in fields:
                fields[name] = path.parent / str(fields[name])
        if not unknown:
            return Look(**fields)
        reason = f"there is no {printable(unknown[0])}, there are {', '.join(FIELDS)}"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except (ConfigurationError, TypeError, ValueError) as error:
        reason = str(error)
    raise ConfigurationError(f"the look in {path} can't be used: {reason}")
