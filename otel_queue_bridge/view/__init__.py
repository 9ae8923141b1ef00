"""What `otel-queue-bridge view` holds and serves: the newest traces, the queue table, the page."""

from otel_queue_bridge.view.queues import Queues
from otel_queue_bridge.view.saved import Saver, load
from otel_queue_bridge.view.server import Server
from otel_queue_bridge.view.store import Store

__all__ = ["Queues", "Saver", "Server", "Store", "load"]
