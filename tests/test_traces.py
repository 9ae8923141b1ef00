"""Control over traces: which task starts one, what it is called, and what its metrics say."""

import asyncio
import logging
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from opentelemetry.context import get_current
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import otel_queue_bridge
from otel_queue_bridge import ConfigError, relation
from otel_queue_bridge.adapter import SUCCESS, Arguments, Task
from tests.test_operation import Bench, mail

KINDS = ["child", "link", "none"]


@pytest.fixture
def bench():
    benches = []

    def make(**options):
        benches.append(Bench(options))
        return benches[-1]

    yield make
    for made in benches:
        made.bridge.undo()


def of_trace(span, other) -> str:
    """Return how a span belongs to another one."""
    if span.context.trace_id == other.context.trace_id:
        return "child"
    return (
        "link"
        if [link.context.span_id for link in span.links] == [other.context.span_id]
        else "none"
    )


def submit(b, asked=None, **facts):
    """Submit a task inside the caller's span, and perhaps a block; return carrier and span."""
    carrier = facts.setdefault("carrier", {})
    with b.provider.get_tracer("user").start_as_current_span("caller"):
        if asked is None:
            b.bridge.submit(mail(**facts)).end()
        else:
            with relation(asked):
                b.bridge.submit(mail(**facts)).end()
    return carrier, b.spans[-2]


def worked(b, carrier, submitted) -> str:
    """Dispatch and execute the task in a worker; return how the first of both belongs to it."""
    before = len(b.spans)
    dispatch = b.bridge.dispatch(mail(carrier=carrier))
    dispatch.inject(carrier)
    dispatch.end()
    b.bridge.execute(mail(carrier=carrier)).end()
    first, *others = b.spans[before:]
    assert all(of_trace(other, first) == "child" for other in others)
    return of_trace(first, submitted)


# A block


@pytest.mark.parametrize("dispatch_spans", [True, False])
@pytest.mark.parametrize("option", KINDS)
@pytest.mark.parametrize("asked", KINDS)
def test_a_block_decides_whatever_the_options_of_the_worker(bench, asked, option, dispatch_spans):
    carrier, submitted = submit(bench(), asked)
    worker = bench(relation=option, linked_tasks="m*", link_after=0, dispatch_spans=dispatch_spans)
    assert worked(worker, carrier, submitted) == asked


def test_a_submit_is_the_callers_child_whatever_the_block_says(bench):
    b = bench()
    submit(b, "link")
    submitted, caller = b.spans
    assert submitted.parent.span_id == caller.context.span_id


def test_after_the_block_the_options_decide_again(bench):
    b = bench()
    submit(b, "link")
    assert worked(b, *submit(b)) == "child"


def test_the_inner_block_wins_also_after_an_error(bench):
    b = bench()
    with relation("link"):
        with suppress(KeyError), relation("none"):
            assert worked(b, *submit(b)) == "none"
            raise KeyError
        assert worked(b, *submit(b)) == "link"


def test_a_retry_keeps_what_the_block_has_decided(bench):
    b = bench()
    carrier, submitted = submit(b, "link")
    worked(b, carrier, submitted)
    carrier, again = submit(b, carrier=carrier, attempt=2)
    assert worked(b, carrier, again) == "link"


@pytest.mark.parametrize("junk", ["sideways", "", 7, None, b"\xff", ["x"], {}, "x" * 1_000_000])
def test_junk_from_a_broker_decides_nothing(bench, junk):
    b = bench()
    carrier, submitted = submit(b)
    carrier["otel-relation"] = carrier["otel-schedule"] = carrier["otel-labels"] = junk
    assert worked(b, carrier, submitted) == "child"
    schedules = [span.attributes.get("task.schedule", "") for span in b.spans]
    assert all(len(schedule) <= 200 for schedule in schedules)


@pytest.mark.parametrize("travelled", [b"link", ["link"], [b"link"]])
def test_it_is_read_whatever_a_broker_made_of_it(bench, travelled):
    b = bench()
    carrier, submitted = submit(b)
    carrier["otel-relation"] = travelled
    assert worked(b, carrier, submitted) == "link"


@pytest.mark.parametrize("asked", KINDS)
def test_an_eager_run_obeys_the_block_and_what_it_submits_is_not_in_it(bench, asked):
    b = bench()
    inner = {}
    with relation(asked), b.bridge.submit(mail()), b.bridge.execute(mail()):
        b.bridge.submit(Task("inner", "low", carrier=inner)).end()
    _, execute, submitted = b.spans
    assert of_trace(execute, submitted) == asked
    assert "otel-relation" not in inner


@pytest.mark.parametrize("wrong", ["sideways", "", None, ["link"], "Link"])
def test_a_wrong_relation_is_refused_before_the_block_is_entered(wrong):
    with pytest.raises(ConfigError) as refused:
        relation(wrong)
    assert str(refused.value) == f"relation({wrong!r}): allowed are child, link, none"


def test_each_asyncio_task_and_each_thread_has_its_own(bench):
    b = bench()
    seen = {}

    async def one(kind):
        with relation(kind):
            await asyncio.sleep(0)
            carrier = {}
            b.bridge.submit(Task(kind, "low", carrier=carrier)).end()
            await asyncio.sleep(0)
            seen[kind] = carrier["otel-relation"]

    async def all_of_them():
        await asyncio.gather(*map(one, KINDS))

    asyncio.run(all_of_them())
    assert seen == dict(zip(KINDS, KINDS, strict=True))
    with relation("link"):
        thread = threading.Thread(target=lambda: seen.update(thread=get_current()))
        thread.start()
        thread.join()
    assert seen["thread"] == {}


def test_it_is_harmless_where_nothing_is_instrumented_and_no_sdk_is_there():
    code = """if True:
        import sys
        import otel_queue_bridge
        with otel_queue_bridge.relation("link"):
            pass
        assert "opentelemetry.sdk" not in sys.modules
        assert "otel_queue_bridge.instrumentor" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
    assert otel_queue_bridge.relation is relation


# linked_tasks


@pytest.mark.parametrize("option", KINDS)
def test_linked_tasks_are_linked_whatever_relation_says(bench, option):
    b = bench(relation=option, linked_tasks="x*,ma?l")
    assert worked(b, *submit(b)) == "link"


def test_one_that_no_glob_names_is_not(bench):
    b = bench(linked_tasks="mai")
    assert worked(b, *submit(b)) == "child"


def test_it_is_enough_that_the_caller_says_so(bench):
    caller = bench(linked_tasks="mail")
    assert worked(bench(), *submit(caller)) == "link"


def test_it_is_enough_that_the_worker_says_so(bench):
    assert worked(bench(linked_tasks="mail"), *submit(bench())) == "link"


def test_an_eager_run_of_a_linked_task_is_linked(bench):
    b = bench(linked_tasks="mail")
    with b.bridge.submit(mail()), b.bridge.execute(mail()):
        pass
    execute, submitted = b.spans
    assert of_trace(execute, submitted) == "link"


# retries


def attempt_and_retry(b, carrier):
    """Execute a task that asks for a retry inside a span of the user's; return both spans."""
    inner = b.provider.get_tracer("user").start_as_current_span("inner")
    with b.bridge.execute(mail(carrier=carrier)), inner:
        b.bridge.submit(mail(carrier=carrier, attempt=2)).end()
    retry, _, execute = b.spans[-3:]
    return retry, execute


@pytest.mark.parametrize("option", KINDS)
def test_a_linked_retry_starts_a_trace_and_links_to_the_attempt_that_asked(bench, option):
    b = bench(retries="link", relation=option)
    carrier, _ = submit(b)
    retry, execute = attempt_and_retry(b, carrier)
    assert (retry.parent, of_trace(retry, execute)) == (None, "link")
    assert worked(b, carrier, retry) == option


def test_a_retry_is_by_default_in_the_trace_of_its_attempt(bench):
    b = bench()
    carrier, _ = submit(b)
    retry, execute = attempt_and_retry(b, carrier)
    assert of_trace(retry, execute) == "child"


def test_a_retry_from_a_process_without_a_current_span_links_to_what_the_carrier_holds(bench):
    b = bench(retries="link")
    carrier, submitted = submit(b)
    b.bridge.submit(mail(carrier=carrier, attempt=2)).end()
    assert of_trace(b.spans[-1], submitted) == "link"
    b.bridge.submit(mail(attempt=2)).end()
    assert (b.spans[-1].parent, b.spans[-1].links) == (None, ())


def test_another_task_that_an_attempt_submits_stays_its_child(bench):
    b = bench(retries="link")
    with b.bridge.execute(mail(carrier={})):
        b.bridge.submit(Task("other", "low", carrier={}, attempt=1)).end()
    other, execute = b.spans
    assert of_trace(other, execute) == "child"


# batches


def test_a_batch_is_linked_to_those_of_its_tasks_that_want_it(bench):
    b = bench(relation="none", linked_tasks="report")
    submits, tasks = [], []
    for name, asked in (("mail", "link"), ("mail", "child"), ("mail", "none"), ("report", None)):
        carrier = {}
        with relation(asked or "none"):
            b.bridge.submit(Task(name, "low", carrier=carrier)).end()
        if asked is None:
            del carrier["otel-relation"]
        submits.append(b.spans[-1].context.span_id)
        tasks.append(Task(name, "low", carrier=carrier))
    b.bridge.execute(Task("mail", "low", batch=tasks)).end()
    linked = [link.context.span_id for link in b.spans[-1].links]
    assert linked == [submits[0], submits[1], submits[3]]


# task.schedule


@pytest.mark.parametrize("dispatch_spans", [True, False])
def test_a_schedule_is_named_in_every_span_of_its_run(bench, dispatch_spans):
    carrier, submitted = submit(bench(), schedule="every night")
    worker = bench(dispatch_spans=dispatch_spans)
    worked(worker, carrier, submitted)
    found = {span.attributes["task.schedule"] for span in (submitted, *worker.spans)}
    assert found == {"every night"}


def test_what_is_submitted_once_more_without_its_schedule_does_not_name_it(bench):
    b = bench()
    carrier, _ = submit(b, schedule="every night")
    again, submitted = submit(b, carrier={**carrier})
    assert "otel-schedule" not in again
    assert "task.schedule" not in submitted.attributes


def test_the_name_of_a_schedule_has_a_limit_and_can_be_encoded(bench):
    b = bench()
    carrier, submitted = submit(b, schedule="\ud800" + "x" * 1_000_000)
    worked(b, carrier, submitted)
    assert {span.attributes.get("task.schedule") for span in b.spans} == {None, "?" + "x" * 199}
    assert carrier["otel-schedule"].encode()  # or a broker could not take the task


def test_other_tasks_have_none(bench):
    b = bench()
    worked(b, *submit(b))
    assert not any("task.schedule" in span.attributes for span in b.spans)


# task_name and metric_attributes


class Counting:
    """A meter provider, and what was counted with it."""

    def __init__(self):
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    def points(self):
        """Return for each metric the attributes of its data points."""
        data = self._reader.get_metrics_data()
        return {
            metric.name: [dict(point.attributes) for point in metric.data.data_points]
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


def job(kind="resize", **facts) -> Task:
    """A task of an app that runs all through one function."""
    return mail(arguments=lambda: Arguments(None, (), {"kind": kind}), **facts)


def by_kind(task):
    return f"run {task.arguments().kwargs['kind']}"


def through(b, task):
    """Take a task from its submit to its end; the worker does not know the arguments."""
    b.bridge.submit(task).end()
    carrier = task.carrier
    dispatch = b.bridge.dispatch(mail(carrier=carrier))
    dispatch.inject(carrier)
    dispatch.end()
    with b.bridge.execute(mail(carrier=carrier), measured=True) as operation:
        operation.settle(SUCCESS)


def test_a_name_of_the_users_is_that_of_all_spans_and_metrics(bench):
    counting = Counting()
    b = bench(task_name=by_kind, meter_provider=counting.provider)
    task = job(carrier={})
    through(b, task)
    assert [span.name for span in b.spans] == [
        f"{step} run resize" for step in ("submit", "dispatch", "execute")
    ]
    assert {span.attributes["task.name"] for span in b.spans} == {"run resize"}
    points = counting.points()
    assert len(points) == 5
    assert {one["task.name"] for found in points.values() for one in found} == {"run resize"}
    assert task.name == "mail"


def test_globs_and_lists_go_by_that_name(bench):
    b = bench(
        task_name=by_kind,
        excluded_tasks="run secret",
        linked_tasks="run r*",
        capture_arguments="run resize:kind",
    )
    through(b, job("secret", carrier={}))
    assert b.spans == ()
    through(b, job(carrier={}))
    submitted, dispatch, _ = b.spans
    assert submitted.attributes["task.argument.kind"] == "resize"
    assert of_trace(dispatch, submitted) == "link"


def test_names_of_the_users_count_for_the_cap(bench):
    counting = Counting()
    b = bench(task_name=by_kind, max_task_names=1, meter_provider=counting.provider)
    for kind in ("resize", "crop", "sharpen"):
        b.bridge.submit(job(kind)).end()
    found = [one["task.name"] for one in counting.points()["task.submitted"]]
    assert sorted(found) == ["_other", "run resize"]


def test_a_worker_that_has_no_name_from_the_caller_asks_itself(bench):
    b = bench(task_name=by_kind)
    b.bridge.execute(job(carrier={})).end()
    assert b.spans[-1].name == "execute run resize"


@pytest.mark.parametrize("answer", [7, b"x", ["x"], KeyError("secret")])
def test_a_wrong_name_is_logged_once_and_the_task_keeps_its_own(bench, caplog, answer):
    def wrong(task):
        if isinstance(answer, Exception):
            raise answer
        return answer

    b = bench(task_name=wrong)
    for _ in range(3):
        through(b, job(carrier={}))
    assert {span.attributes["task.name"] for span in b.spans} == {"mail"}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "wrong" in record.getMessage()
    assert "secret" not in record.getMessage()


@pytest.mark.parametrize("answer", [None, "", "  "])
def test_no_name_means_that_the_task_keeps_its_own(bench, caplog, answer):
    b = bench(task_name=lambda _: answer)
    through(b, job(carrier={}))
    assert {span.attributes["task.name"] for span in b.spans} == {"mail"}
    assert caplog.records == []


def test_a_name_has_a_limit_and_can_be_encoded(bench):
    b = bench(task_name=lambda _: "\ud800" + "x" * 1_000_000)
    through(b, job(carrier={}))
    assert {span.attributes["task.name"] for span in b.spans} == {"?" + "x" * 199}


def test_attributes_of_the_users_are_those_of_all_metrics_of_tasks(bench):
    counting = Counting()
    b = bench(
        metric_attributes=lambda task: {"tenant": task.arguments().kwargs["kind"], "vip": True},
        meter_provider=counting.provider,
    )
    through(b, job("acme", carrier={}))
    points = counting.points()
    assert len(points) == 5
    for name, (found,) in points.items():
        assert (name, found["tenant"], found["vip"]) == (name, "acme", True)
        assert found["task.name"] == "mail"
    assert not any("tenant" in span.attributes for span in b.spans)


def test_what_metrics_cannot_take_is_left_out_and_logged_once(bench, caplog):
    answer = {
        "text": "\ud800" + "x" * 1_000_000,
        "number": 7,
        "huge": 1 << 70,
        "half": 0.5,
        "list": ["x"],
        "nothing": None,
        7: "seven",
        "": "empty",
        "task.name": "not ours",
        **{f"z{number}": "many" for number in range(1000)},
    }
    counting = Counting()
    b = bench(metric_attributes=lambda _: answer, meter_provider=counting.provider)
    for _ in range(3):
        through(b, job(carrier={}))
    ours = {"messaging.system", "messaging.destination.name", "task.name"}
    for found in counting.points()["task.submitted"]:
        assert found.keys() == ours | {"number", "text", "z0", "z1"}
        assert found["text"] == "?" + "x" * 199
        assert found["task.name"] == "mail"
    (record,) = caplog.records
    assert "allowed are 5 attributes" in record.getMessage()


@pytest.mark.parametrize("answer", [None, {}, 7, "text", KeyError("secret")])
def test_no_attributes_or_an_error_leave_the_metrics_as_they_are(bench, caplog, answer):
    def wrong(task):
        if isinstance(answer, Exception):
            raise answer
        return answer

    counting = Counting()
    b = bench(metric_attributes=wrong, meter_provider=counting.provider)
    for _ in range(2):
        through(b, job(carrier={}))
    (found,) = counting.points()["task.submitted"]
    assert found.keys() == {"messaging.system", "messaging.destination.name", "task.name"}
    assert len(caplog.records) == bool(answer)
    assert "secret" not in caplog.text


def test_what_a_child_counts_has_them_in_its_parent(bench):
    counting = Counting()
    b = bench(metric_attributes=lambda _: {"tenant": "acme"}, meter_provider=counting.provider)
    # As JSON brings it: see `Relay`.
    b.bridge.relayed("submitted", None, "mail", "low", None, None, [["tenant", "acme"]])
    b.bridge.submit(mail()).end()
    assert len(counting.points()["task.submitted"]) == 1


def test_each_task_of_a_batch_has_its_own(bench):
    counting = Counting()
    b = bench(
        task_name=by_kind,
        metric_attributes=lambda task: {"tenant": task.arguments().kwargs["kind"]},
        meter_provider=counting.provider,
    )
    for kinds, name in ((("a", "b"), "mail"), (("c", "c"), "run c")):
        with b.bridge.execute(mail(batch=[job(kind) for kind in kinds]), measured=True) as one:
            one.settle(SUCCESS)
        assert b.spans[-1].name == f"execute {name}"
    found = {(one["task.name"], one["tenant"]) for one in counting.points()["task.completed"]}
    assert found == {("run a", "a"), ("run b", "b"), ("run c", "c")}


def test_without_these_options_a_task_is_neither_copied_nor_asked(bench):
    b = bench()
    carrier, _ = submit(b)
    assert not {"otel-labels", "otel-relation", "otel-schedule"} & carrier.keys()
    task = mail()
    operation = b.bridge.submit(task)
    operation.end()
    assert operation.task is task
