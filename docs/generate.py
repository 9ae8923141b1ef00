"""Write docs/reference.md and docs/options.md from the code: `make docs`."""

from __future__ import annotations

from pathlib import Path
from string import Template

from otel_queue_bridge import semconv
from otel_queue_bridge.config import ABOUT, OPTIONS, VARIABLE

DOCS = Path(__file__).parent
NAMINGS: tuple[semconv.Naming, ...] = ("task", "system", "messaging")
VOCABULARIES = tuple(f"`naming={naming}`" for naming in NAMINGS)

REFERENCE = Template("""\
# Spans, attributes and metrics
<!-- Written by docs/generate.py: change that, or the code, and run `make docs`. -->

The option `naming` chooses one of three vocabularies. Attributes are the same in all of them,
except where this page says otherwise. What begins with `messaging.`, `server.` and `error.` follows
OpenTelemetry's semantic conventions 1.44.0; `task.` is ours, since these have nothing for task
queues yet.

## Spans

$spans

FastWorker has one more, `nng.req_reply` (CLIENT), and its control plane's dispatch is
`fastworker.control_plane.dispatch` under `naming=system`: see [fastworker.md](fastworker.md).

## Attributes

$attributes

What only one queue has begins with its name: see [celery.md](celery.md),
[fastworker.md](fastworker.md) and [django.md](django.md).

## Metrics

$metrics

Under `naming=messaging` the unit `{task}` is `{message}`, and counters and histograms may also have
`messaging.operation.name`. All metrics of tasks have the system, the queue and the task's name;
those of attempts also the status and `error.type`, where they apply. `metric_attributes` adds
more: see [traces.md](traces.md).

A retry is not submitted again. `task.workers.active` counts the places that can run a task:
Celery's pool slots, Dramatiq's threads, RQ's, Huey's and Django's workers, ARQ's `max_jobs`,
FastWorker's subworkers.
`task.workers.busy` counts those of them that run one now. Both add up over processes, and are 0
when a worker has stopped: busy / active is how much of the capacity is in use.

What waits is read by the workers, of each queue that they consume, once for each export, within a
second, on a separate connection; `queue_depth=false` turns it off. Django's are asked only with
`queue_depth=true`: see [django.md](django.md). What cannot be told is not exported.

| | depth | delayed | dead | oldest |
| --- | --- | --- | --- | --- |
| Celery | all priorities | held by this worker for its ETA | | Redis, instrumented callers |
| Dramatiq | without `.DQ`, `.XQ` | the delay queue (`.DQ`) | dead letters (`.XQ`) | Redis |
| RQ | the list of jobs | scheduled, deferred, rate-limited jobs | failed jobs | yes |
| ARQ | ready, not claimed | planned for later, retries with a pause | | yes |
| FastWorker | due, not handed out | planned for later | | yes |
| Huey | what no worker has looked at | the schedule | | Redis, SQLite, PostgreSQL |
| Django Tasks, if asked for | ready rows | `run_after` to come | failed rows | yes |

The broker tells every worker the same of a queue: take the maximum over workers. What each worker
itself holds until its time adds up: take the sum of `task.queue.delayed` of Celery, and of Dramatiq
on RabbitMQ. Celery's `celery_delayed` is no queue of yours: RabbitMQ delays in there what goes to
any quorum queue.

A failed span has an event `exception` with `exception.type`, `exception.message` and
`exception.stacktrace`.

Buckets of the histograms, in seconds: $buckets.
""")

OPTION_PAGE = Template("""\
# Options
<!-- Written by docs/generate.py: change that, or the code, and run `make docs`. -->

Each is a keyword of `instrument()` and a variable `$variable<NAME>`, in capitals:
`${variable}NAMING=system`. Keywords win over variables.

$options

Keywords only: `propagator`, `tracer_provider`, `meter_provider`, `submit_hook(span, task)`,
`execute_hook(span, task)`, and `task_name(task)` and `metric_attributes(task)`, which
[traces.md](traces.md) explains. The trace travels in the format of OpenTelemetry's propagators
(`OTEL_PROPAGATORS`), unless `propagator` is another one.

In a declarative configuration (`OTEL_CONFIG_FILE`) options go under `instrumentation/development:
python: queue_bridge_celery`, or another queue after `queue_bridge_`. To leave a queue out, set
`OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=queue_bridge_rq`.

A bad value is an error that says what is allowed. Under `opentelemetry-instrument` it is logged
once, and no queue is instrumented. A misspelt variable is one warning that suggests the nearest
name, and changes nothing else. A second call of `instrument()` does not change the options: a
warning lists those that it ignores.
""")

STATUSES = (
    "`success`, `failure`, `retry`, `cancelled` (expired, revoked, skipped), `rejected` (unknown"
    " task, undecodable message), `ignored`; under `naming=system` it is `status`"
)
ATTRIBUTES = {
    semconv.MESSAGING_SYSTEM: (
        "spans, metrics",
        "`celery`, `dramatiq`, `rq`, `huey`, `arq`, `fastworker`, `django`",
    ),
    semconv.MESSAGING_OPERATION_NAME: ("spans", "`submit`, `dispatch`, `execute`"),
    semconv.MESSAGING_OPERATION_TYPE: ("spans", "`send`, `receive`, `process`"),
    semconv.MESSAGING_DESTINATION_NAME: ("spans, metrics", "the queue"),
    semconv.MESSAGING_MESSAGE_ID: ("spans", "the task's id"),
    semconv.MESSAGING_BATCH_MESSAGE_COUNT: ("execute of a batch", "how many tasks it runs"),
    semconv.TASK_NAME: ("spans, metrics", "the task's name"),
    semconv.TASK_ATTEMPT: ("spans", "1 is the first"),
    semconv.TASK_PRIORITY: ("spans", "the priority that the caller chose"),
    semconv.TASK_STATUS: ("execute, a dispatch that ends the task, metrics of attempts", STATUSES),
    semconv.TASK_WAIT: ("execute", "seconds in the queue, without planned delay"),
    semconv.TASK_WORKER: ("dispatch, execute", "the worker's name"),
    semconv.TASK_SCHEDULE: (
        "spans",
        "the beat entry, cron job or periodic task that has started this run",
    ),
    f"{semconv.TASK_ARGUMENT}*": ("submit, execute", "what `capture_arguments` lists, no other"),
    semconv.ERROR_TYPE: ("what failed, metrics of attempts", "the exception's type"),
    semconv.transport_attribute("{system}"): ("spans", "`redis`, `amqp`, `nng` and the like"),
    semconv.SERVER_ADDRESS: ("spans", "the broker's host"),
    semconv.SERVER_PORT: ("spans", "the broker's port"),
}
METRICS = (*semconv.RECORDED.values(), *semconv.GAUGES)


def reference() -> str:
    spans = [
        [step.kind.name, *(f"`{_span(naming, step)}`" for naming in NAMINGS)]
        for step in (semconv.SUBMIT, semconv.DISPATCH, semconv.EXECUTE)
    ]
    metrics = [
        [metric.description, metric.unit, *(_metric(metric, naming) for naming in NAMINGS)]
        for metric in METRICS
    ]
    return REFERENCE.substitute(
        spans=_table(["kind", *VOCABULARIES], spans),
        attributes=_table(
            ["name", "where", "what"], [[f"`{name}`", *about] for name, about in ATTRIBUTES.items()]
        ),
        metrics=_table(["what it counts or measures", "unit", *VOCABULARIES], metrics),
        buckets=", ".join(f"{bound:g}" for bound in semconv.BUCKETS),
    )


def _span(naming: semconv.Naming, step: semconv.Step) -> str:
    system_name = f"{{system}}.{step.system_name}"
    return semconv.span_name(naming, step, task="{task}", queue="{queue}", system_name=system_name)


def _metric(metric: semconv.Metric, naming: semconv.Naming) -> str:
    name = metric.name(naming, "{system}")
    return f"`{name}`" if name else ""


def options() -> str:
    rows = [
        [f"`{name}`", _written(option.default), ABOUT[name], option.allowed.split(maxsplit=2)[2]]
        for name, option in OPTIONS.items()
    ]
    head = ["name", "default", "what it does", "allowed"]
    return OPTION_PAGE.substitute(variable=VARIABLE, options=_table(head, rows))


def _written(default: object) -> str:
    if default is None or default in ((), {}):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


PAGES = {"reference.md": reference, "options.md": options}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write(), encoding="utf-8")
