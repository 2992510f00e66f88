"""Resets in a browser, and over JSON. Needs the extra `web`."""

from reset_flow.web.look import Look

__all__ = ["Look"]
