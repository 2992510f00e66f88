"""The contract of every transport, over a real django-allauth, in each of its modes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reset_flow import AllauthTransport
from reset_flow.testing import TransportContract

if TYPE_CHECKING:
    from datetime import timedelta

    from tests.transports.allauth.site import Mode, Site


class TestAllauthTransport(TransportContract):
    weak_password = "tiny"

    @pytest.fixture(autouse=True)
    def use(self, mode: Mode) -> None:
        self.mode = mode

    @pytest.fixture
    def provider(self, site: Site) -> Site:
        return site

    def make_transport(self, url: str, deadline: timedelta) -> AllauthTransport:
        return AllauthTransport(url, code=self.mode.code, deadline=deadline)
