"""For people who embed the library: writes down all that a service says and shows, to be searched."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any

from reset_flow.testing.shown import shown_by, shown_by_error, traceback_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from reset_flow.domain.flow import Event
    from reset_flow.ports import Tracer

__all__ = ["Witness"]


class Witness(logging.Handler):
    """
    Hears of all that a service says and shows, and writes it down at once: into a file, it outlives a SIGKILL.

    It is a handler for the root logger (see `hear_all`); `listen` is a listener for the service, `tracer` a tracer.

    Args:
        path: Of the file, which is appended to, and which `close` closes; `None` keeps it in memory, as `heard`.

        callers: As `traceback_of` takes them.
    """

    def __init__(self, path: Path | None = None, *, callers: Sequence[str | Path] = ()) -> None:
        super().__init__(0)
        self.heard = bytearray()
        self._callers = callers
        self._file = -1 if path is None else os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)

    def hear_all(self) -> None:
        """Hear every logger of the process, at any level, from now on."""
        root = logging.getLogger()
        root.addHandler(self)
        for each in (root, *root.manager.loggerDict.values()):
            if isinstance(each, logging.Logger):
                each.setLevel(1)

    def close(self) -> None:
        """Close the file. What is written down from now on is kept in memory."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        super().close()

    def write(self, text: str | bytes) -> None:
        """Write this down as well."""
        data = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
        if self._file < 0:
            self.heard += data + b"\n"
        else:
            os.write(self._file, data + b"\n")

    def emit(self, record: logging.LogRecord) -> None:
        """Write down a record as text, with its `extra`, and the traceback that a crash reporter makes of its error."""
        self.write(self.format(record))
        self.write(repr({**vars(record), "created": 0, "msecs": 0, "relativeCreated": 0}))
        if record.exc_info and record.exc_info[1]:
            self.write(traceback_of(record.exc_info[1], callers=self._callers))

    def see(self, *values: object) -> None:
        """Write down what somebody sees of these."""
        self.write(shown_by(*values))

    def see_error(self, error: BaseException) -> None:
        """Write down what somebody sees of an error, with the variables of all frames but the callers'."""
        self.write(shown_by_error(error, callers=self._callers))

    async def listen(self, event: Event) -> None:
        """Write down an event: this is a listener."""
        self.see(event, event.flow, event.transition)
        self.write(json.dumps(event.flow.public()))

    def tracer(self) -> Tracer:
        """Return a tracer that writes down each span as it ends. It needs the extra `testing`."""
        from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - not installed with the library
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult  # noqa: PLC0415

        from reset_flow.observability.opentelemetry import OpenTelemetryTracer  # noqa: PLC0415

        witness = self

        class Exporter(SpanExporter):
            def export(self, spans: Sequence[Any]) -> SpanExportResult:
                for span in spans:
                    witness.write(span.to_json())
                return SpanExportResult.SUCCESS

        nothing = Resource.get_empty()  # to find out where it runs would take longer than all else
        spans = TracerProvider(resource=nothing, shutdown_on_exit=False)
        spans.add_span_processor(SimpleSpanProcessor(Exporter()))
        return OpenTelemetryTracer(spans, MeterProvider(resource=nothing, shutdown_on_exit=False))
