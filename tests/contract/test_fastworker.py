"""The contract, on FastWorker: a control plane that runs tasks itself, and one with a subworker."""

from collections.abc import Iterator
from importlib.metadata import version

import pytest

from otel_queue_bridge.testing.contract import AdapterContract
from tests.contract.rig import Fleet, Library, Submitted
from tests.fastworker import ControlPlane, Mute

APP = "fastworker_app"


class Waiting(Fleet):
    """FastWorker tells in its result that a submit failed: only who waits for that gets to know."""

    def run(self, task: str, *, caller: str = "auto", **submit) -> Submitted:
        waiting = {"wait": True} if caller == "unreachable" else {}
        return super().run(task, caller=caller, **submit, **waiting)


@pytest.fixture(scope="class", params=["control plane", "subworker"])
def rig(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    plane = ControlPlane(f"tests.contract.apps.{APP}")
    with Mute() as mute:
        library = Library(
            system="fastworker",
            app=APP,
            command=plane.command(),
            ready=plane.ready,
            broker=plane.address,
            nowhere=mute.address,
            module="fastworker.cli",
            also=[plane.subworker("sw1")] if request.param == "subworker" else [],
        )
        with Waiting(library, tmp_path_factory.mktemp("fastworker")) as fleet:
            yield fleet


class TestFastWorker(AdapterContract):
    # `Task.max_retries` is read by nobody (0.3.0); 0.1.1 has no eta and no countdown.
    lacks = ["retry", "delay"] if version("fastworker") < "0.3" else ["retry"]
