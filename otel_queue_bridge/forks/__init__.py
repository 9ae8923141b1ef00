"""All that a fork needs, the surgery on OpenTelemetry's SDK included."""
