"""Switches the instrumentation off and on in a running process, for as long as a file is there."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from soak.truth import FOLDER

SWITCHING = "SOAK_SWITCHING"
_PAUSE = 0.05  # seconds


def asked(folder: Path) -> Path:
    return folder / "switching"


def all_on(folder: Path) -> bool:
    """Tell whether no process alive is off, once nobody asks for it."""
    busy = [int(file.name) for file in _busy(folder).parent.glob("[0-9]*")]
    return not any(Path(f"/proc/{pid}").exists() for pid in busy)


def watch() -> None:
    """Switch in this process, if the run asks for it, and not in what is forked from it."""
    if SWITCHING in os.environ:
        threading.Thread(target=_switch, daemon=True).start()


def _busy(folder: Path) -> Path:
    return folder / "busy" / str(os.getpid())


def _switch() -> None:
    import otel_queue_bridge

    folder = Path(os.environ[FOLDER])
    busy = _busy(folder)
    busy.parent.mkdir(exist_ok=True)
    while True:
        busy.touch()  # before it looks: who takes the request back waits for what has seen it
        if asked(folder).exists():
            otel_queue_bridge.uninstrument()
            time.sleep(_PAUSE)
            otel_queue_bridge.instrument()
        busy.unlink()
        time.sleep(_PAUSE)
