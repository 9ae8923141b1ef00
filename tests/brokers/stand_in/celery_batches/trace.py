import logging
from typing import Any


def apply_batches_task(task: Any, args: Any, loglevel: int, logfile: None) -> Any:
    """Run it; what the body raises goes no further, and the caller gets None."""
    try:
        return task(*args)
    except Exception:
        logging.getLogger("celery").exception("batch failed")
        return None
