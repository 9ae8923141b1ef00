"""The contract, on FastWorker: a control plane that runs tasks itself, and one with a subworker."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import ClassVar

import pytest

from otel_queue_bridge.testing.contract import AdapterContract
from otel_queue_bridge.testing.rig import Library, Rig
from tests.fastworker import ControlPlane, Mute

APP = "tests.contract.apps.fastworker_app"
OLD = version("fastworker") < "0.3"


@pytest.fixture(scope="class", params=["control plane", "subworker"])
def library(request: pytest.FixtureRequest) -> Iterator[Library]:
    plane = ControlPlane(APP)
    subworkers = [plane.subworker("sw1")] if request.param == "subworker" else []
    with Mute() as mute:
        yield Library(
            system="fastworker",
            app=APP,
            worker=plane.command(),
            ready=plane.ready,
            broker=plane.address,
            nowhere=mute.address,
            module="fastworker.cli",
            transport="nng",
            also=subworkers,
            workers=len(subworkers),  # a control plane is none
            ends=OLD,
            repeats="" if subworkers else "a subworker",
        )


class TestFastWorker(AdapterContract):
    lacks: ClassVar = {
        "retry": "`Task.max_retries` is read by nobody (0.3.0)",
        "cancel": "it cannot cancel a task",
        "schedule": "only the control plane has one: see tests/brokers",
        "forking": "a client of nng does not outlive a fork: its threads are not there",
        "dead": "it keeps no task that failed",
        "oldest": "it begins every task at once",
        "two_workers": "two control planes are two queues",
        "time_in_the_queue_is_in_seconds": "it begins every task at once",
        "the_depth_of_a_queue_is_what_waits_at_the_broker": "nothing waits at a broker",
        "workers_that_have_stopped_are_none": "0.3.0 ends on no signal: it has to be killed",
        "a_worker_that_is_told_to_stop_has_exported_all": "likewise; see tests/brokers",
        **({"delay": "0.1.1 has no planned start"} if OLD else {}),
    }

    def test_a_worker_that_runs_a_task_is_busy(self, rig: Rig) -> None:
        # A subworker of 0.3.0 that had two tasks at once may have lost a reply (`Worker.
        # _execute_and_respond`). The control plane waits for it: to it, that subworker is busy.
        rig.kill()
        super().test_a_worker_that_runs_a_task_is_busy(rig)
