"""A masked login can be known again, and not be learned."""

from __future__ import annotations

import pytest

from reset_flow.messages import masked


@pytest.mark.parametrize(
    ("login", "shown"),
    [
        ("robert.zak", "r…k"),
        ("robert.zak@example.com", "r…k@e….com"),
        ("bob", "b…"),
        ("b", "b…"),
        ("b@x.org", "b…@x….org"),
        ("robert@localhost", "r…t@l…"),
        ("@robert", "@…t"),
        ("", "…"),
        ("e\u0301milie\u0301", "e\u0301…e\u0301"),
        ("👍🏽abcd👎🏿", "👍🏽…👎🏿"),
        ("🇩🇪abc🇪🇸", "🇩🇪…🇪🇸"),
        ("\u202erobert\u202c", "r…t"),
        ("<b>robert</b>", "<…>"),
    ],
)
def test_a_login_is_masked_by_whole_characters(login: str, shown: str) -> None:
    assert masked(login) == shown
