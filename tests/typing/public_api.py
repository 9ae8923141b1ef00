"""What a user writes; mypy reads it, nothing runs it."""

import otel_queue_bridge

otel_queue_bridge.instrument()
otel_queue_bridge.instrument("celery", relation="link")
otel_queue_bridge.uninstrument()
