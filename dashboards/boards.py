"""The Grafana dashboards: which panels there are, what each answers, and how it is drawn."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grafana_foundation_sdk.builders import common as options
from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.names import ERROR, QUEUE, SYSTEM, TASK, Nameless, Names
from dashboards.queries import BY_QUEUE, BY_SYSTEM, BY_TASK, FAILED, Over, Queries
from otel_queue_bridge.semconv import (
    BUSY,
    DEAD,
    DEPTH,
    DISPATCHED,
    DURATION,
    OLDEST,
    SUBMIT_DURATION,
    SUBMITTED,
    WAIT,
    WORKERS,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_queue_bridge.semconv import Metric, Naming

DATASOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
RATE = Over("rate", "$__rate_interval")
PER_SECOND, NUMBER, SECONDS, SHARE = "suffix: /s", "short", "s", "percentunit"
BUILDERS: dict[str, Callable[[], Any]] = {
    "timeseries": timeseries.Panel,
    "stat": stat.Panel,
    "table": table.Panel,
}
SIZES = {"timeseries": (12, 8), "stat": (4, 4), "table": (24, 9)}
VARIABLES = {"system": SYSTEM, "queue": QUEUE, "task": TASK}
RED = {SHARE: 0.1}


@dataclass
class Query:
    expression: str
    legend: str
    unit: str = ""
    """A column of a table has one; any other panel has one for all its lines."""


@dataclass
class Panel:
    title: str
    answers: str
    unit: str
    queries: list[Query]
    kind: str = "timeseries"
    opens: str = ""
    """The variable whose column of a table leads to the dashboard of the same name."""


@dataclass
class Board:
    key: str
    title: str
    answers: str
    variables: tuple[str, ...]
    single: str
    """The variable that has one value; any of the others may have many, or all."""
    rows: Callable[[Queries], dict[str, list[Callable[[], Panel]]]]


def _lines(
    title: str, answers: str, unit: str, *queries: tuple[str, str], kind: str = "timeseries"
) -> Panel:
    return Panel(title, answers, unit, [Query(*query) for query in queries], kind)


IN_SYSTEM = f"{{{{{SYSTEM}}}}}"
IN_QUEUE = f"{IN_SYSTEM} {{{{{QUEUE}}}}}"


def _quantiles(ask: Queries, metric: Metric) -> list[tuple[str, str]]:
    """Return the median and the slow end of a histogram."""
    return [
        (ask.quantile(share, metric, RATE, BY_SYSTEM), f"{IN_SYSTEM} p{share * 100:g}")
        for share in (0.5, 0.95, 0.99)
    ]


def _in_and_out(ask: Queries) -> Panel:
    return _lines(
        "In and out",
        "Does what is submitted get done? Callers that are not instrumented are missing"
        " in `submitted`.",
        PER_SECOND,
        (ask.submitted(RATE, BY_SYSTEM), f"{IN_SYSTEM} submitted"),
        (ask.completed(RATE, BY_SYSTEM), f"{IN_SYSTEM} done"),
    )


def _outcomes(ask: Queries, answers: str) -> Panel:
    status = ask.names.status
    ended = (ask.completed(RATE, status), f"{{{{{status}}}}}")
    return _lines("Outcomes", answers, PER_SECOND, ended)


def _times(ask: Queries, answers: str) -> list[Callable[[], Panel]]:
    return [
        lambda: _lines("Wait", answers, SECONDS, *_quantiles(ask, WAIT)),
        lambda: _lines(
            "Run time", "How long does an attempt run?", SECONDS, *_quantiles(ask, DURATION)
        ),
    ]


def _overview(ask: Queries) -> dict[str, list[Callable[[], Panel]]]:
    by_status = f"{SYSTEM}, {ask.names.status}"
    return {
        "Now": [
            lambda: _lines(
                "Done",
                "Tasks that ended for good, per second.",
                PER_SECOND,
                (ask.completed(RATE, BY_SYSTEM), IN_SYSTEM),
                kind="stat",
            ),
            lambda: _lines(
                "Failed",
                "The share of ended tasks that failed or were rejected.",
                SHARE,
                (ask.failure_ratio(RATE, BY_SYSTEM), IN_SYSTEM),
                kind="stat",
            ),
            lambda: _lines(
                "Wait, p95",
                "19 of 20 attempts wait no longer than this, beyond planned delay.",
                SECONDS,
                (ask.quantile(0.95, WAIT, RATE, BY_SYSTEM), IN_SYSTEM),
                kind="stat",
            ),
            lambda: _lines(
                "Waiting",
                "Tasks that are ready and wait at the broker.",
                NUMBER,
                (f"sum by ({BY_SYSTEM}) ({ask.queue(DEPTH)})", IN_SYSTEM),
                kind="stat",
            ),
            lambda: _lines(
                "Workers",
                "Places that can run a task, busy or not.",
                NUMBER,
                (ask.workers(WORKERS), IN_SYSTEM),
                kind="stat",
            ),
            lambda: _lines(
                "Dead",
                "Dead letters, and what is in a failed registry.",
                NUMBER,
                (f"sum by ({BY_SYSTEM}) ({ask.queue(DEAD)})", IN_SYSTEM),
                kind="stat",
            ),
        ],
        "Queues": [
            lambda: Panel(
                "By queue",
                "Which queue is slow, full or failing? A click on it opens its dashboard.",
                NUMBER,
                list(_columns(ask, BY_QUEUE)),
                kind="table",
                opens="queue",
            ),
        ],
        "Flow": [
            lambda: _in_and_out(ask),
            lambda: _lines(
                "Outcomes",
                "How do tasks end?",
                PER_SECOND,
                (ask.completed(RATE, by_status), f"{IN_SYSTEM} {{{{{ask.names.status}}}}}"),
            ),
            lambda: _lines(
                "Retries",
                "The share of attempts that will be tried again.",
                SHARE,
                (ask.retry_ratio(RATE, BY_SYSTEM), IN_SYSTEM),
            ),
            lambda: _lines(
                "Run time, p95",
                "19 of 20 attempts run no longer than this.",
                SECONDS,
                (ask.quantile(0.95, DURATION, RATE, BY_QUEUE), IN_QUEUE),
            ),
        ],
        "Backlog": _backlog(ask, IN_QUEUE),
    }


def _backlog(ask: Queries, legend: str) -> list[Callable[[], Panel]]:
    return [
        lambda: _lines(
            "Ready",
            "How many tasks wait at the broker? Those a worker already holds are not among them.",
            NUMBER,
            (ask.queue(DEPTH), legend),
        ),
        lambda: _lines(
            "Wait, p95",
            "19 of 20 attempts waited no longer than this, beyond planned delay.",
            SECONDS,
            (ask.quantile(0.95, WAIT, RATE, BY_QUEUE), legend),
        ),
        lambda: _lines(
            "Oldest",
            "How long has the oldest ready task waited? Not every broker can tell.",
            SECONDS,
            (ask.queue(OLDEST), legend),
        ),
        lambda: _lines(
            "Delayed",
            "How many tasks are not ready yet: an ETA, a retry's pause, a dependency? For"
            " Dramatiq on RabbitMQ it shows the worker that holds most.",
            NUMBER,
            (ask.delayed(), legend),
        ),
        lambda: _lines(
            "Dead",
            "How many tasks lie among the dead letters, or in the failed registry?",
            NUMBER,
            (ask.queue(DEAD), legend),
        ),
    ]


def _columns(ask: Queries, by: str) -> Iterator[Query]:
    """Yield the columns of a table, as far as the vocabulary has their metrics."""
    columns: list[tuple[str, str, Callable[[], str]]] = [
        ("Submitted", PER_SECOND, lambda: ask.submitted(RATE, by)),
        ("Done", PER_SECOND, lambda: ask.completed(RATE, by)),
        ("Failed", SHARE, lambda: ask.failure_ratio(RATE, by)),
        ("Retried", SHARE, lambda: ask.retry_ratio(RATE, by)),
        ("Wait, p95", SECONDS, lambda: ask.quantile(0.95, WAIT, RATE, by)),
        ("Run time, p95", SECONDS, lambda: ask.quantile(0.95, DURATION, RATE, by)),
    ]
    if by == BY_QUEUE:
        columns.append(("Ready", NUMBER, lambda: ask.queue(DEPTH)))
        columns.append(("Oldest", SECONDS, lambda: ask.queue(OLDEST)))
    else:
        columns.append(("Runs at once", NUMBER, lambda: ask.running(RATE, by)))
    for legend, unit, expression in columns:
        with suppress(Nameless):
            yield Query(expression(), legend, unit)


def _queue(ask: Queries) -> dict[str, list[Callable[[], Panel]]]:
    return {
        "Flow": [
            lambda: _lines(
                "In and out",
                "Do the workers keep up? Callers that are not instrumented are missing in"
                " `submitted`, and retries are in `taken`.",
                PER_SECOND,
                (ask.submitted(RATE, BY_SYSTEM), f"{IN_SYSTEM} submitted"),
                (ask.dispatched(RATE, BY_SYSTEM), f"{IN_SYSTEM} taken"),
                (ask.completed(RATE, BY_SYSTEM), f"{IN_SYSTEM} done"),
            ),
            lambda: _outcomes(ask, "How do this queue's tasks end?"),
        ],
        "Backlog": _backlog(ask, IN_SYSTEM),
        "Time": [
            *_times(ask, "How long do tasks wait, beyond planned delay?"),
            lambda: _lines(
                "Submit", "How long does a submit take?", SECONDS, *_quantiles(ask, SUBMIT_DURATION)
            ),
        ],
        "Tasks": [
            lambda: Panel(
                "By task",
                "Which task fills this queue, fails or is slow? A click on it opens its dashboard.",
                NUMBER,
                list(_columns(ask, BY_TASK)),
                kind="table",
                opens="task",
            ),
        ],
    }


def _task(ask: Queries) -> dict[str, list[Callable[[], Panel]]]:
    return {
        "Outcome": [
            lambda: _in_and_out(ask),
            lambda: _outcomes(ask, "How does this task end?"),
            lambda: _lines(
                "Failed and retried",
                "Which share of ended tasks failed; which share of attempts is tried again?",
                SHARE,
                (ask.failure_ratio(RATE, BY_SYSTEM), f"{IN_SYSTEM} failed"),
                (ask.retry_ratio(RATE, BY_SYSTEM), f"{IN_SYSTEM} retried"),
            ),
            lambda: _lines(
                "Errors",
                "Why does it fail?",
                PER_SECOND,
                (ask.completed(RATE, ERROR, FAILED), f"{{{{{ERROR}}}}}"),
            ),
        ],
        "Time": [
            *_times(ask, "How long does it wait, beyond planned delay?"),
            lambda: _lines(
                "Runs at once",
                "How many workers does it keep busy, on average?",
                NUMBER,
                (ask.running(RATE, BY_SYSTEM), IN_SYSTEM),
            ),
        ],
    }


def _workers(ask: Queries) -> dict[str, list[Callable[[], Panel]]]:
    return {
        "Workers": [
            lambda: _lines(
                "Places",
                "How many places can run a task, and how many do?",
                NUMBER,
                (ask.workers(WORKERS), f"{IN_SYSTEM} all"),
                (ask.workers(BUSY), f"{IN_SYSTEM} busy"),
            ),
            lambda: _lines(
                "Busy",
                "Are there enough workers? At 100 % the next task has to wait.",
                SHARE,
                (f"{ask.workers(BUSY)} / ({ask.workers(WORKERS)} > 0)", IN_SYSTEM),
            ),
            lambda: _lines(
                "Load",
                "Which share of the places did attempts fill, by the time that they took? It sees"
                " short tasks, too; an attempt counts when it ends.",
                SHARE,
                (f"{ask.running(RATE, BY_SYSTEM)} / ({ask.workers(WORKERS)} > 0)", IN_SYSTEM),
            ),
            lambda: _lines(
                "Attempts per worker",
                "How many attempts does one place take, per second?",
                PER_SECOND,
                (f"{ask.dispatched(RATE, BY_SYSTEM)} / ({ask.workers(WORKERS)} > 0)", IN_SYSTEM),
            ),
            lambda: _lines(
                "Waiting per worker",
                "How many ready tasks are there for each place?",
                NUMBER,
                (
                    f"sum by ({BY_SYSTEM}) ({ask.queue(DEPTH)}) / ({ask.workers(WORKERS)} > 0)",
                    IN_SYSTEM,
                ),
            ),
        ],
    }


BOARDS = (
    Board(
        "overview",
        "Task queues",
        "Is anything wrong, and in which queue?",
        ("system",),
        "",
        _overview,
    ),
    Board(
        "queue",
        "Task queue",
        "What is the matter with this queue?",
        ("system", "queue"),
        "queue",
        _queue,
    ),
    Board(
        "task",
        "Task",
        "What is the matter with this task?",
        ("system", "queue", "task"),
        "task",
        _task,
    ),
    Board("workers", "Task workers", "Are there enough workers?", ("system",), "", _workers),
)


def uid(naming: Naming, key: str) -> str:
    return f"otel-queue-bridge-{naming}-{key}"


def boards(naming: Naming) -> dict[str, str]:
    """Return the dashboards of a vocabulary, as JSON, by file name.

    A panel is left out where the vocabulary lacks its metrics, and a dashboard without panels.
    """
    built = {f"{board.key}.json": _build(board, naming) for board in BOARDS}
    return {
        name: JSONEncoder(sort_keys=True, indent=1).encode(made) + "\n"
        for name, made in built.items()
        if made is not None
    }


def _build(board: Board, naming: Naming) -> dashboard.Dashboard | None:
    # Grafana escapes a value for use in a pattern only if the variable may have several.
    matchers = {
        VARIABLES[name]: f'{"=" if name == board.single else "=~"}"${name}"'
        for name in board.variables
    }
    ask = Queries(naming, matchers)
    rows = {title: list(_possible(panels)) for title, panels in board.rows(ask).items()}
    if not any(rows.values()):
        return None
    made = (
        grafana.Dashboard(board.title)
        .uid(uid(naming, board.key))
        .description(f"{board.answers} Made by `otel-queue-bridge dashboards --naming {naming}`.")
        .tags(["otel-queue-bridge", naming])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .link(
            grafana.DashboardLink("Task queues")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags(["otel-queue-bridge", naming])
            .include_vars(include_vars=True)
            .keep_time(keep_time=True)
        )
        .with_variable(
            grafana.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
    )
    for number, name in enumerate(board.variables):
        made.with_variable(_variable(name, board, ask.names, board.variables[:number]))
    for title, panels in rows.items():
        if panels:
            made.with_row(grafana.Row(title))
        for panel in panels:
            made.with_panel(_draw(panel, naming))
    return made.build()


def _possible(panels: list[Callable[[], Panel]]) -> Iterator[Panel]:
    for panel in panels:
        with suppress(Nameless):
            yield panel()


def _variable(
    name: str, board: Board, names: Names, before: tuple[str, ...]
) -> grafana.QueryVariable:
    """Offer the values that callers or workers report, for what is chosen before it."""
    chosen = {VARIABLES[other]: f'=~"${other}"' for other in before}
    reported = names.either((SUBMITTED, DISPATCHED), chosen)
    many = name != board.single
    made = (
        grafana.QueryVariable(name)
        .label(name.capitalize())
        .datasource(DATASOURCE)
        .query({"query": f"label_values({reported}, {VARIABLES[name]})", "refId": name})
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(many)
        .include_all(many)
    )
    if many:
        everything = dashboard.VariableOption(selected=True, text="All", value="$__all")
        made.all_value(".+").current(everything)
    return made


def _draw(panel: Panel, naming: Naming) -> Any:
    width, height = SIZES[panel.kind]
    drawn = (
        BUILDERS[panel.kind]()
        .title(panel.title)
        .description(panel.answers)
        .datasource(DATASOURCE)
        .unit(panel.unit)
        .span(width)
        .height(height)
        .min(0)
    )
    for letter, query in _lettered(panel):
        target = (
            prometheus.Dataquery()
            .expr(query.expression)
            .legend_format(query.legend)
            .datasource(DATASOURCE)
            .ref_id(letter)
        )
        if panel.kind == "table":
            target = target.instant().format(PromQueryFormat.TABLE)
        drawn.with_target(target)
    if panel.kind == "table":
        _as_table(drawn, panel, naming)
    elif panel.kind == "timeseries":
        drawn.legend(
            options.VizLegendOptions()
            .show_legend(show_legend=True)
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
        ).fill_opacity(10).span_nulls(span_nulls=False)
    if panel.unit in RED and panel.kind == "stat":
        drawn.thresholds(
            grafana.ThresholdsConfig()
            .mode(dashboard.ThresholdsMode.ABSOLUTE)
            .steps(
                [
                    dashboard.Threshold(color="green", value=None),
                    dashboard.Threshold(color="red", value=RED[panel.unit]),
                ]
            )
        )
    return drawn


def _lettered(panel: Panel) -> Iterator[tuple[str, Query]]:
    return zip("ABCDEFGHIJ", panel.queries, strict=False)


def _as_table(drawn: Any, panel: Panel, naming: Naming) -> None:
    """Join the queries to one row per queue or task, with names for people."""
    columns = {f"Value #{letter}": query for letter, query in _lettered(panel)}
    drawn.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    drawn.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True},
                "renameByName": {
                    **{label: name.capitalize() for name, label in VARIABLES.items()},
                    **{column: query.legend for column, query in columns.items()},
                },
            },
        )
    )
    for query in columns.values():
        unit = dashboard.DynamicConfigValue(id_val="unit", value=query.unit)
        drawn.override_by_name(query.legend, [unit])
    chosen = "&".join(
        f"var-{name}=${{__data.fields.{name.capitalize()}}}" for name in ("system", panel.opens)
    )
    kept = "${datasource:queryparam}&${__url_time_range}"
    link = {
        "title": f"Open this {panel.opens}",
        "url": f"/d/{uid(naming, panel.opens)}?{chosen}&{kept}",
    }
    drawn.override_by_name(
        panel.opens.capitalize(), [dashboard.DynamicConfigValue(id_val="links", value=[link])]
    )
