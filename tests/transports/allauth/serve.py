"""Serve django-allauth on loopback. Prints the address, and ends with the standard input."""

from __future__ import annotations

import os
import sys
import threading
from tempfile import TemporaryDirectory

import django
from django.core.management import call_command
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler, get_internal_wsgi_application


class QuietHandler(WSGIRequestHandler):  # type: ignore[misc] # Django ships no types
    def log_message(self, *args: object) -> None:
        pass


with TemporaryDirectory() as folder:
    os.environ |= {"DJANGO_SETTINGS_MODULE": "tests.transports.allauth.django_settings", "ALLAUTH_FOLDER": folder}
    django.setup()
    call_command("migrate", verbosity=0)
    with ThreadedWSGIServer(("127.0.0.1", 0), QuietHandler) as server:
        server.set_app(get_internal_wsgi_application())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"http://127.0.0.1:{server.server_port}", flush=True)  # noqa: T201 - the fixture reads it
        sys.stdin.read()
