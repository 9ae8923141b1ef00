"""How to start a worker of each queue, and what its tasks and its workers cannot do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from otel_queue_bridge.testing.rig import Library
from soak.tasks import KILLED, RETRIED
from tests.servers import wake_waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

_NO_RETRIES = dict.fromkeys(RETRIED, "it runs each task once")
_NO_CHILDREN = "the worker runs the tasks itself, and is killed in another fault"
_NO_BROKER = "there is no broker that could be restarted"


@dataclass(frozen=True)
class Queue:
    library: Callable[[str], Library]
    """Takes the broker's address."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """Tasks and faults that it does not have, with the reason."""
    held: int = 4
    """How many tasks a worker holds at most, and may take along when it is killed."""
    shaken: Collection[str] = ()
    """Further faults in which this library may lose tasks or run them twice."""
    waits: bool = False
    """Whether a submit waits for the task's end."""
    own_export: bool = False
    """Whether child processes export their spans themselves: a killed one loses some."""
    reports_killed: bool = True
    """Whether a task whose process was killed is reported by another process."""


def app(queue: str) -> str:
    return f"soak.apps.{queue}_app"


def _celery(broker: str) -> Library:
    return Library(
        system="celery",
        app=app("celery"),
        worker=("celery", "-A", app("celery"), "worker", "-l", "info", "-c", "2"),
        ready=" ready.",
        broker=broker,
        nowhere="",
    )


def _dramatiq(broker: str) -> Library:
    return Library(
        system="dramatiq",
        app=app("dramatiq"),
        worker=("dramatiq", app("dramatiq"), "--processes", "1", "--threads", "2"),
        ready="Worker process is ready for action.",
        broker=broker,
        nowhere="",
    )


def _rq(broker: str) -> Library:
    return Library(
        system="rq",
        app=app("rq"),
        # With the app as its configuration, the worker itself imports it.
        worker=("rq", "worker", "soak", "--url", broker, "-c", app("rq")),
        ready="Listening on soak",
        broker=broker,
        nowhere="",
        wake=lambda: wake_waiting(broker),
    )


def _huey(broker: str) -> Library:
    kind = ("--worker-type", "process", "--workers", "2")
    quick = ("--delay", "0.02", "--max-delay", "0.1", "--health-check-interval", "0.5")
    return Library(
        system="huey",
        app=app("huey"),
        worker=("huey_consumer", f"{app('huey')}.huey", *kind, *quick),
        ready="The following commands are available",
        broker=broker,
        nowhere="",
        stop_signal=signal.SIGINT,  # SIGTERM interrupts what runs
    )


def _arq(broker: str) -> Library:
    return Library(
        system="arq",
        app=app("arq"),
        worker=("arq", f"{app('arq')}.WorkerSettings"),
        ready="Starting worker for",
        broker=broker,
        nowhere="",
    )


def _fastworker(_: str) -> Library:
    from tests.fastworker import ControlPlane

    plane = ControlPlane(app("fastworker"))
    return Library(
        system="fastworker",
        app=app("fastworker"),
        worker=plane.command(),
        ready=plane.ready,
        broker=plane.address,
        nowhere="",
        also=(plane.subworker("sw1"),),
        ends=version("fastworker") < "0.3",
    )


def _django(broker: str) -> Library:
    settings = ("--settings", "soak.apps.django_settings")
    command = (sys.executable, "-m", "django", "migrate", "--verbosity", "0", *settings)
    subprocess.run(command, env={**os.environ, "SOAK_BROKER": broker}, check=True)
    quick = ("--no-startup-delay", "--interval", "0.05")
    return Library(
        system="django",
        app=app("django"),
        worker=("python", "-m", "django", "db_worker", *settings, *quick),
        ready="Starting worker",
        broker=broker,
        nowhere="",
    )


_ALONE = {KILLED: _NO_CHILDREN, "child-killed": _NO_CHILDREN}
_STAYS_OFF = "a child that the worker forks while it is off stays off, and tells nothing"
_NO_FORKS = "a client of nng does not outlive a fork: its threads are not there"
_IN_MEMORY = "its tasks are in the memory of the control plane alone, and end with it"

QUEUES = {
    "celery": Queue(
        _celery,
        {"switched": _STAYS_OFF},
        shaken=("worker-stops",),  # it may run what has begun twice: see docs/reliability.md
        own_export=True,
    ),
    "dramatiq": Queue(
        _dramatiq, {**_ALONE, "child-killed": "the main process ends with its child"}, held=6
    ),
    "rq": Queue(_rq, held=2),
    "huey": Queue(
        _huey,
        {KILLED: "nobody knows what a killed process ran; see child-killed"},
        held=2,
        own_export=True,
        reports_killed=False,
    ),
    "arq": Queue(_arq, _ALONE, held=2),
    "fastworker": Queue(
        _fastworker,
        {
            **_NO_RETRIES,
            KILLED: "it waits for ever for a lost subworker",
            "child-killed": "it waits for ever for a lost subworker",
            "nest": "two requests at once get each other's replies (0.3.0)",
            "forks": _NO_FORKS,
            "broker-restarts": _NO_BROKER,
            "worker-killed": _IN_MEMORY,
            "worker-stops": _IN_MEMORY,
        },
        waits=True,
    ),
    "django": Queue(_django, {**_ALONE, **_NO_RETRIES, "broker-restarts": _NO_BROKER}, held=1),
}
if not find_spec("fastworker"):  # it needs Python 3.12
    del QUEUES["fastworker"]
