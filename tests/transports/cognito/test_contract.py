"""What every transport must do, over moto."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reset_flow import CognitoTransport
from reset_flow.testing import TransportContract
from tests.transports.cognito.clients import PLAIN

if TYPE_CHECKING:
    from datetime import timedelta

    from tests.transports.cognito.pool import UserPool


class TestCognito(TransportContract):
    weak_password = "short"

    @pytest.fixture
    def provider(self, pool: UserPool) -> UserPool:
        return pool

    def make_transport(self, url: str, deadline: timedelta) -> CognitoTransport:
        return CognitoTransport(url, PLAIN, deadline=deadline)
