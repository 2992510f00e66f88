"""Tracing, OpenTelemetry and the redaction of logs."""
