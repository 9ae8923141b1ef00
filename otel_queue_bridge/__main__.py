"""Make `python -m otel_queue_bridge` the same as `otel-queue-bridge`."""

from __future__ import annotations

import sys

from otel_queue_bridge.cli import main

sys.exit(main())
