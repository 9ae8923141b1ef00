"""Writes what `otel-queue-bridge dashboards` copies: `make dashboards`. No user needs this."""
