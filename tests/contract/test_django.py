"""The contract, on Django Tasks with a worker process, on two databases."""

import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from otel_queue_bridge.testing.contract import AdapterContract
from otel_queue_bridge.testing.rig import NOWHERE, Library, Rig
from tests.servers import PostgreSQL

pytest.importorskip("django_tasks_db")

APP = "tests.contract.apps.django_app"
SETTINGS = "tests.contract.apps.django_settings"


def library_on(broker: str, nowhere: str, transport: str, repeats: str = "") -> Library:
    command = [sys.executable, "-m", "django", "migrate", "--settings", SETTINGS]
    subprocess.run(command, env={**os.environ, "CONTRACT_BROKER": broker}, check=True)
    return Library(
        system="django",
        app=APP,
        worker=[
            *("python", "-m", "django", "db_worker", "--settings", SETTINGS),
            *("--no-startup-delay", "--interval", "0.05"),
        ],
        ready="Starting worker",
        broker=broker,
        nowhere=nowhere,
        transport=transport,
        task_name=APP + ".{}",
        options={"queue_depth": "true"},
        repeats=repeats,
    )


@pytest.fixture(scope="class", params=["sqlite", "postgresql"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    if request.param == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgresql")
        nowhere = f"postgresql://test@127.0.0.1:{NOWHERE}/postgres"
        return library_on(server.url, nowhere, "postgresql", repeats="SQLite")
    folder: Path = tmp_path_factory.mktemp("database")
    there, nowhere = folder / "tasks.sqlite3", folder / "no such folder" / "tasks.sqlite3"
    return library_on(f"sqlite://{there}", f"sqlite://{nowhere}", "sqlite3")


class TestDjango(AdapterContract):
    lacks: ClassVar = {
        "retry": "it runs each task once",
        "cancel": "nothing expires, and nothing can be cancelled",
        "schedule": "it has no schedules",
    }

    def test_an_uninstrumented_caller_is_served(self, rig: Rig) -> None:
        """With its time in the queue: the row tells when it was enqueued."""
        run = rig.run("ok", caller="bare")
        (execute,) = run.spans("execute")
        (dispatch,) = run.spans("dispatch")
        assert (dispatch.parent_id, execute.parent_id) == ("", dispatch.span_id)
        assert execute.attributes["task.wait"] >= 0
        assert run.executed == 1
