"""FastWorker's adapter in one process: FastWorker's classes, over sockets that a test answers."""

import asyncio
import gc
import json
import logging
import weakref
from datetime import datetime, timedelta
from importlib.metadata import version

import pytest
from fastworker.clients.client import Client
from fastworker.patterns import nng_patterns
from fastworker.tasks.models import Task, TaskPriority
from fastworker.tasks.registry import task_registry
from fastworker.workers.control_plane import ControlPlaneWorker

from otel_queue_bridge import instrument, uninstrument
from otel_queue_bridge.adapters.fastworker import worker
from tests.collected import Recorded
from tests.fastworker import ControlPlane
from tests.servers import LIMIT

since_0_3 = pytest.mark.skipif(version("fastworker") < "0.3", reason="0.1.1 has nothing of it")


class Socket:
    """A requester for whose requests a function of the test makes the replies."""

    def __init__(self, reply) -> None:
        self._reply = reply

    async def asend(self, data: bytes) -> None:
        self._sent = json.loads(data)

    async def arecv(self) -> bytes:
        answer = self._reply(self._sent)
        if answer is None:
            await asyncio.Event().wait()
        return json.dumps(answer).encode()

    def close(self) -> None:
        pass


class Respondent:
    async def send(self, data: bytes) -> None:
        pass


def success(request: dict) -> dict:
    return {"task_id": request["id"], "status": "success"}


def nothing(request: dict) -> None:
    return None


class OfFastWorker(Recorded):
    def named(self, name: str) -> list:
        return [span for span in self.spans() if span.name == name]

    def outcomes(self, name: str) -> list:
        return [
            (span.status.status_code.name, span.attributes.get("error.type"))
            for span in self.named(name)
        ]

    def count(self, metric: str) -> int:
        return sum(self.totals(metric).values())


@pytest.fixture
def recorded():
    recorded = OfFastWorker()
    instrument("fastworker", **recorded.options)
    yield recorded
    uninstrument("fastworker")


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("fastworker").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("fastworker").setLevel(logging.NOTSET)


@pytest.fixture
def client(monkeypatch):
    """Return a function that makes a client whose requests are answered by the given function."""

    def make(reply) -> Client:
        monkeypatch.setattr(nng_patterns.pynng, "Req0", lambda dial: Socket(reply))
        client = Client(timeout=1, retries=1)
        client.workers.add(("control-plane", "tcp://127.0.0.1:5555"))
        return client

    return make


@pytest.fixture
def registered(monkeypatch):
    """Return a function that registers a task for the duration of a test."""

    def register(function):
        monkeypatch.setattr(task_registry, "_tasks", dict(task_registry._tasks))  # noqa: SLF001
        task_registry.register(function)
        return function.__name__

    return register


def control_plane() -> ControlPlaneWorker:
    ports = ControlPlane()
    return ControlPlaneWorker(base_address=ports.address, discovery_address=ports.discovery)


def test_a_subworker_that_has_answered_is_not_busy(recorded, monkeypatch) -> None:
    plane, seen = control_plane(), []
    plane.subworkers["sw1"] = {"address": "tcp://127.0.0.1:5555", "status": "active", "load": 0}

    def reply(request: dict) -> dict:
        seen.append(worker._subworkers(plane)[0].busy)  # noqa: SLF001 - what a gauge reads
        return success(request)

    class Slow(Respondent):
        async def send(self, data: bytes) -> None:
            seen.append(worker._subworkers(plane)[0].busy)  # noqa: SLF001

    monkeypatch.setattr(nng_patterns.pynng, "Req0", lambda dial: Socket(reply))
    asyncio.run(plane._send_task_to_subworker(Task(id="1", name="any"), "sw1", Slow()))  # noqa: SLF001
    assert seen == [1, 0]


@since_0_3
def test_an_exception_that_the_caller_handles_is_none_of_a_batch(recorded, client) -> None:
    async def submit() -> None:
        try:
            raise ValueError("another story")
        except ValueError:
            await client(lambda _: {"batch_accepted": True}).submit_batch(
                [{"task_name": "a"}, {"task_name": "b", "priority": TaskPriority.CRITICAL}]
            )

    asyncio.run(submit())
    assert recorded.outcomes("nng.req_reply") == [("UNSET", None)]
    assert recorded.outcomes("submit a") == recorded.outcomes("submit b") == [("UNSET", None)]
    # The batch travels at one priority, whatever the priorities of its tasks.
    ports = [recorded.named(f"submit {name}")[0].attributes["server.port"] for name in "ab"]
    assert ports == [5557, 5557]


def test_a_task_made_by_hand_is_submitted_where_it_is_sent(recorded, client) -> None:
    made = Task(name="a")
    asyncio.run(client(success)._submit_task_internal(made))  # noqa: SLF001 - users have no other way
    (submit,) = recorded.named("submit a")
    (exchange,) = recorded.named("nng.req_reply")
    assert exchange.parent.span_id == submit.context.span_id
    assert submit.attributes["messaging.message.id"] == made.id
    assert recorded.count("task.submitted") == 1


def test_a_submit_that_is_given_up_with_its_loop_is_recorded(recorded, client) -> None:
    async def leave() -> None:
        asked = asyncio.Event()
        loop.create_task(client(lambda _: asked.set()).submit_task("a"))  # noqa: RUF006 - lost on purpose
        await asked.wait()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    gc.collect()  # this ends the pending call, in another context
    assert recorded.outcomes("submit a") == [("ERROR", "GeneratorExit")]


async def until_answered(sender: Client, task_id: str) -> None:
    async with asyncio.timeout(LIMIT):
        while sender.get_result(task_id).status.value == "pending":  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


def test_a_delay_whose_sending_runs_at_once_succeeds_if_that_does(recorded, client) -> None:
    answers = iter([OSError("no route"), None])

    def once_lost(request: dict) -> dict:
        if error := next(answers):
            raise error
        return success(request)

    async def submit() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        sender = client(once_lost)
        task_id = await sender.delay("a")
        await until_answered(sender, task_id)

    asyncio.run(submit())
    assert recorded.outcomes("submit a") == [("UNSET", None)]
    assert recorded.outcomes("nng.req_reply") == [("ERROR", "OSError"), ("UNSET", None)]
    assert recorded.count("task.submitted") == 1


def test_a_timed_out_task_keeps_nothing_of_its_arguments_alive(recorded, client) -> None:
    class Argument:
        pass

    async def submit() -> weakref.ref:
        sender = client(nothing)
        sender.timeout = 0.05
        argument = Argument()
        task_id = await sender.delay("a", argument)
        await until_answered(sender, task_id)
        return weakref.ref(argument)

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(submit())() is None
    finally:
        gc.enable()


def test_what_takes_the_worker_down_is_no_cancellation(recorded, registered) -> None:
    async def leaves() -> None:
        raise SystemExit(3)

    async def run() -> None:
        await control_plane()._execute_task(Task(id="1", name=registered(leaves)))  # noqa: SLF001

    with pytest.raises(SystemExit):
        asyncio.run(run())
    (execute,) = recorded.named("execute leaves")
    assert execute.attributes["task.status"] == "failure"
    assert recorded.outcomes("execute leaves") == [("ERROR", "SystemExit")]


def test_a_request_to_stop_cancels_nothing(recorded, registered) -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    async def works() -> None:
        started.set()
        await stopped.wait()

    async def run() -> str:
        plane = control_plane()
        running = asyncio.ensure_future(
            plane._execute_task(Task(id="1", name=registered(works)))  # noqa: SLF001
        )
        await started.wait()
        plane.stop()
        stopped.set()
        return (await running).status.value

    assert asyncio.run(run()) == "success"
    assert recorded.named("execute works")[0].attributes["task.status"] == "success"


def test_arguments_that_do_not_fit_cost_no_span(registered) -> None:
    async def fits(a: int) -> int:
        return a

    recorded = OfFastWorker()
    instrument("fastworker", capture_arguments="fits:a", **recorded.options)
    try:

        async def run() -> str:
            task = Task(id="1", name=registered(fits), args=(1, 2, 3))
            return (await control_plane()._execute_task(task)).status.value  # noqa: SLF001

        assert asyncio.run(run()) == "failure"
    finally:
        uninstrument("fastworker")
    assert recorded.outcomes("dispatch fits") == [("UNSET", None)]
    assert recorded.outcomes("execute fits") == [("ERROR", "TypeError")]


@since_0_3
def test_hooks_that_look_into_a_task_find_its_fields_alone(recorded, registered) -> None:
    seen = []

    async def plain() -> None:
        pass

    async def run() -> None:
        name = registered(plain)
        task_registry.register(plain, before=lambda task: seen.append(dict(task)))
        await control_plane()._execute_task(Task(id="1", name=name, otel={"x": "y"}))  # noqa: SLF001

    asyncio.run(run())
    assert set(seen[0]) == set(Task.model_fields)


@since_0_3
@pytest.mark.filterwarnings("ignore:coroutine .*_store_cancel_result:RuntimeWarning")  # theirs
def test_each_cancelled_copy_of_a_task_ends_once(recorded) -> None:
    async def cancel() -> None:
        plane = control_plane()
        copies = [
            Task(id="1", name="a", eta=datetime.now() + timedelta(hours=1))  # noqa: DTZ005 - as FastWorker has it
            for _ in range(3)
        ]
        plane.task_queue[TaskPriority.NORMAL].extend(copies[:2])
        plane._scheduled_heap.append((copies[2].eta, "1", copies[2], None))  # noqa: SLF001
        assert await plane._handle_cancel("1")  # noqa: SLF001
        assert len(recorded.named("dispatch a")) == 2
        assert await plane._handle_cancel("1")  # noqa: SLF001

    asyncio.run(cancel())
    spans = recorded.named("dispatch a")
    assert [span.attributes["task.status"] for span in spans] == ["cancelled"] * 3
    assert recorded.count("task.completed") == 3
