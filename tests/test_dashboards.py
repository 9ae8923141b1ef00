"""The dashboards and alerts that the package carries, and the command that writes them."""

import json
import re
import sys
from collections.abc import Iterator
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from dashboards.names import METRICS, Names
from dashboards.rules import ALERTS, RUNBOOK
from otel_queue_bridge.cli import main
from otel_queue_bridge.semconv import NAMINGS, Metric, Naming
from tests.servers import absent

ROOT = Path(__file__).parents[1]
FILES = ROOT / "otel_queue_bridge" / "cli" / "dashboards"
BOARDS = sorted(FILES.glob("*/*.json"))
GRAFANA = {"$__rate_interval": "5m", "$system": "celery", "$queue": "low", "$task": "mail"}

OF_WORKERS = {"messaging_system"}
OF_QUEUES = OF_WORKERS | {"messaging_destination_name"}
OF_TASKS = OF_QUEUES | {"task_name"}
# As opentelemetry-exporter-prometheus, Prometheus and VictoriaMetrics name what arrives.
PROMETHEUS: dict[str, dict[str, set[str]]] = {
    "task": {
        "task_submitted_total": OF_TASKS,
        "task_dispatched_total": OF_TASKS,
        "task_completed_total": OF_TASKS | {"task_status", "error_type"},
        "task_retried_total": OF_TASKS,
        "task_duration_seconds": OF_TASKS | {"task_status", "error_type"},
        "task_wait_seconds": OF_TASKS,
        "task_workers_active": OF_WORKERS,
        "task_workers_busy": OF_WORKERS,
        "task_queue_depth": OF_QUEUES,
        "task_queue_delayed": OF_QUEUES,
        "task_queue_dead": OF_QUEUES,
        "task_oldest_seconds": OF_QUEUES,
    },
    "system": {
        ".+_tasks_submitted_total": OF_TASKS,
        ".+_tasks_dispatched_total": OF_TASKS,
        ".+_tasks_completed_total": OF_TASKS | {"status", "error_type"},
        ".+_tasks_retried_total": OF_TASKS,
        ".+_tasks_duration_seconds": OF_TASKS | {"status", "error_type"},
        ".+_tasks_wait_seconds": OF_TASKS,
        ".+_workers_active": OF_WORKERS,
        ".+_workers_busy": OF_WORKERS,
        ".+_queue_depth": OF_QUEUES,
        ".+_queue_delayed": OF_QUEUES,
        ".+_queue_dead": OF_QUEUES,
        ".+_tasks_oldest_seconds": OF_QUEUES,
    },
    "messaging": {
        "messaging_client_sent_messages_total": OF_TASKS,
        "messaging_client_consumed_messages_total": OF_TASKS,
        "messaging_process_duration_seconds": OF_TASKS | {"task_status", "error_type"},
        "messaging_client_operation_duration_seconds": OF_TASKS | {"error_type"},
    },
}
PARTS = ("", "_bucket", "_count", "_sum")


def parsed(expression: str) -> Any:
    try:
        import promql_parser
    except ModuleNotFoundError:
        absent("promql-parser (make .venv/installed-test)")
    for variable, value in GRAFANA.items():
        expression = expression.replace(variable, value)
    return promql_parser.parse(expression)


def below(node: Any) -> Iterator[Any]:
    """Yield what an expression is made of."""
    yield from getattr(node, "args", None) or ()
    for name in ("lhs", "rhs", "expr", "param", "vector_selector"):
        if getattr(node, name, None) is not None:
            yield getattr(node, name)


def selectors(node: Any, by: frozenset[str] = frozenset()) -> Iterator[tuple[Any, frozenset[str]]]:
    """Yield each selector, with the labels that the expression groups it by."""
    if type(node).__name__ == "VectorSelector":
        yield node, by
    if type(node).__name__ == "AggregateExpr":
        by |= frozenset(node.modifier.labels if node.modifier else ())
    for child in below(node):
        yield from selectors(child, by)


def wrong(expression: str, naming: str) -> list[str]:
    """Return what an expression asks for and nobody reports."""
    found = []
    for selector, by in selectors(parsed(expression)):
        matchers = [(m.name, m.value) for m in selector.matchers.matchers if m.name != "__name__"]
        named = [m.value for m in selector.matchers.matchers if str(m.op) == "MatchOp.Re"]
        if "messaging_system" not in dict(matchers):
            found.append(f"{selector} may be anybody's")
        for name in (selector.name or named[0]).split("|"):
            known = metric_labels(name, naming)
            if known is None:
                found.append(f"metric {name}")
            else:
                asked = dict(matchers).keys() | by - {"le"}
                found += [f"label {label} of {name}" for label in asked - known]
    return found


def metric_labels(name: str, naming: str) -> set[str] | None:
    for part in PARTS:
        if part == name[len(name) - len(part) :] and (
            known := PROMETHEUS[naming].get(name[: len(name) - len(part)])
        ):
            return known
    return None


def grouped(node: Any) -> set[str] | None:
    """Return the labels of the answer: those of the first aggregation that is inside no other."""
    if type(node).__name__ == "AggregateExpr":
        return set(node.modifier.labels)
    return next((labels for labels in map(grouped, below(node)) if labels is not None), None)


def panels(board: Path) -> Iterator[dict[str, Any]]:
    for panel in json.loads(board.read_text())["panels"]:
        if panel["type"] != "row":
            yield panel


def naming_of(path: Path) -> str:
    return path.parent.name


named = pytest.mark.parametrize("board", BOARDS, ids=lambda path: f"{naming_of(path)}-{path.stem}")


def test_the_files_are_what_the_code_makes() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("grafana-foundation-sdk needs Python 3.11")
    try:
        from dashboards.__main__ import files
    except ModuleNotFoundError:
        absent("grafana-foundation-sdk (make .venv/installed-test)")
    made = files()
    committed = {
        str(path.relative_to(FILES)): path.read_text()
        for path in FILES.glob("*/*")
        if path.parent.name in NAMINGS
    }
    assert committed.keys() == made.keys(), "run `make dashboards`"
    for name, text in made.items():
        assert committed[name] == text, f"{name}: run `make dashboards`"


def test_each_vocabulary_gets_what_its_metrics_can_answer() -> None:
    rules = {naming: (FILES / naming / "rules.yml").read_text() for naming in NAMINGS}
    assert {
        naming: (
            {path.stem for path in BOARDS if naming_of(path) == naming},
            len(re.findall("alert: ", rules[naming])),
        )
        for naming in NAMINGS
    } == {
        "task": ({"overview", "queue", "task", "workers"}, 10),
        "system": ({"overview", "queue", "task", "workers"}, 10),
        "messaging": ({"overview", "queue", "task"}, 3),
    }


@pytest.mark.parametrize("naming", NAMINGS)
def test_metrics_have_the_names_that_arrive(naming: Naming) -> None:
    names = Names(naming)
    made = {names.series(metric): names.labels(metric) for metric in METRICS if names.has(metric)}
    assert made.keys() == PROMETHEUS[naming].keys()
    for name, labels in made.items():
        assert labels <= PROMETHEUS[naming][name]


def test_no_metric_is_forgotten() -> None:
    """A metric of semconv.py that is in no list here is on no dashboard."""
    from otel_queue_bridge import semconv

    known = {metric for metric in vars(semconv).values() if isinstance(metric, Metric)}
    assert set(METRICS) == known


@named
def test_each_panel_can_be_read_alone(board: Path) -> None:
    for panel in panels(board):
        title = panel["title"]
        assert panel["description"].endswith((".", "?")), title
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, title
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert panel["targets"], title
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"], title
            assert target["legendFormat"], title
            in_legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert in_legend <= grouped(parsed(target["expr"])), title
        if panel["type"] == "table":
            columns = {one["matcher"]["options"]: one for one in panel["fieldConfig"]["overrides"]}
            assert {target["legendFormat"] for target in panel["targets"]} < columns.keys()


@named
def test_expressions_ask_for_what_is_reported(board: Path) -> None:
    for panel in panels(board):
        for target in panel["targets"]:
            expression = target["expr"]
            assert not wrong(expression, naming_of(board)), f"{panel['title']}: {expression}"
            windows = re.findall(r"\[(.*?)\]", expression)
            assert set(windows) <= {"$__rate_interval"}
            assert len(windows) == len(re.findall(r"\b(?:rate|increase)\(", expression))


@named
def test_variables_offer_values_that_are_reported(board: Path) -> None:
    made = json.loads(board.read_text())
    variables = {variable["name"]: variable for variable in made["templating"]["list"]}
    assert variables["datasource"]["query"] == "prometheus"
    used = set(re.findall(r"\$(system|queue|task)\b", json.dumps(made["panels"])))
    assert used == variables.keys() - {"datasource"}
    for name in used:
        alone = (
            name == board.stem
        )  # Grafana escapes the value of a pattern only if it may be one of many
        compared = set(re.findall(rf'(=~?)\\"\${name}\\"', json.dumps(made["panels"])))
        assert compared == {"=" if alone else "=~"}
        asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variables[name]["query"]["query"])
        assert asked
        assert not wrong(f"sum by ({asked[2]}) ({asked[1]})", naming_of(board))
        assert variables[name]["datasource"]["uid"] == "${datasource}"
        assert variables[name]["includeAll"] == variables[name]["multi"] != alone
        assert variables[name].get("allValue", ".+") == ".+"  # nobody's series have an empty one


def test_links_lead_to_dashboards() -> None:
    boards = {json.loads(path.read_text())["uid"]: path for path in BOARDS}
    assert len(boards) == len(BOARDS)
    assert all(len(uid) <= 40 for uid in boards)
    for path in BOARDS:
        text = path.read_text()
        linked = re.findall(r'"/d/([\w-]+)\?([^"]*)"', text)
        assert len(linked) == (path.stem in ("overview", "queue"))
        for uid, query in linked:
            assert naming_of(boards[uid]) == naming_of(path)
            listed = json.loads(boards[uid].read_text())["templating"]["list"]
            known = {variable["name"] for variable in listed}
            assert set(re.findall(r"var-(\w+)=", query)) < known


@pytest.mark.parametrize("naming", NAMINGS)
def test_alerts_ask_for_what_is_reported(naming: Naming) -> None:
    rules = (FILES / naming / "rules.yml").read_text()
    found = re.findall(r"alert: (\w+)\n +expr: \|-\n((?: {10}.*\n)+) +for: \d+[smh]\n", rules)
    assert len(found) == rules.count("alert: ")
    for name, expression in found:
        assert not wrong(expression, naming), name


@pytest.mark.parametrize(
    "expression",
    [
        'task_started_total{messaging_system!=""}',
        'task_queue_depth{messaging_system!="", task_name="mail"}',
        'sum by (job) (task_queue_depth{messaging_system!=""})',
        'sum by (service_name) (rate(task_completed_total{messaging_system!=""}[5m]))',
        "task_queue_depth",
        '1 - (max_over_time(task_queue_depth{messaging_system!="", status="x"}[5m]) or vector(0))',
    ],
)
def test_a_wrong_expression_is_found(expression: str) -> None:
    assert wrong(expression, "task")


def test_each_alert_has_a_section_in_the_runbook() -> None:
    from tests.test_docs import anchors

    known = anchors(ROOT / RUNBOOK)
    for alert in ALERTS:
        assert alert.section.partition("#")[2] in known


def test_the_list_of_alerts_is_that_of_the_rules() -> None:
    rows = re.findall(
        r"^\| \[(\w+)\]\(#\w+\) \|.*\| (\d+) min \| (\w+) \|$",
        (ROOT / RUNBOOK).read_text(),
        re.MULTILINE,
    )
    assert rows == [(alert.name, str(alert.lasts // 60), alert.severity) for alert in ALERTS]


def test_promql_to_copy_is_right() -> None:
    blocks = re.findall(r"```promql\n(.*?)```", (ROOT / RUNBOOK).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        for expression in re.split(r"\n\n+", re.sub(r"^#.*\n", "", block, flags=re.MULTILINE)):
            assert not wrong(expression, "task"), expression


# The command


@pytest.mark.parametrize("naming", NAMINGS)
def test_the_command_writes_all_files(naming: Naming, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("otel_queue_bridge.cli.dashboards.metadata", lambda _: Message())
    out = tmp_path / "new" / "folder"
    assert main(["dashboards", "--out", str(out), "--naming", naming]) == 0
    written = {path.name.removeprefix("otel-queue-bridge-"): path for path in out.iterdir()}
    assert sorted(capsys.readouterr().out.split()) == sorted(map(str, written.values()))
    assert {name: path.read_text() for name, path in written.items()} == {
        path.name: path.read_text() for path in (FILES / naming).iterdir()
    }


def test_task_is_the_naming_unless_another_is_asked_for(tmp_path: Path) -> None:
    assert main(["dashboards", "--out", str(tmp_path)]) == 0
    assert "task_submitted_total" in (tmp_path / "otel-queue-bridge-overview.json").read_text()


def test_a_data_source_can_be_chosen(tmp_path: Path) -> None:
    assert main(["dashboards", "--out", str(tmp_path), "--datasource", "P1809F7CD0C75ACF3"]) == 0
    for path in tmp_path.glob("*.json"):
        listed = json.loads(path.read_text())["templating"]["list"]
        (current,) = (one["current"] for one in listed if one["type"] == "datasource")
        assert current["value"] == "P1809F7CD0C75ACF3"


def test_alerts_lead_to_the_published_runbook(tmp_path: Path, monkeypatch) -> None:
    published = metadata.metadata("otel-queue-bridge")
    published["Project-URL"] = "Issues, https://code.example/issues"
    published["Project-URL"] = "Documentation, https://code.example/tree/main/docs"
    monkeypatch.setattr("otel_queue_bridge.cli.dashboards.metadata", lambda _: published)
    assert main(["dashboards", "--out", str(tmp_path)]) == 0
    links = re.findall("runbook_url: (.*)", (tmp_path / "otel-queue-bridge-rules.yml").read_text())
    assert links == [
        f"https://code.example/tree/main/docs/monitoring.md#{alert.name.lower()}"
        for alert in ALERTS
    ]


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file"
    assert main(["dashboards", "--out", str(out)]) == 1
    assert capsys.readouterr().err == (
        f"otel-queue-bridge dashboards: cannot write into {out}: File exists\n"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [([], "--out"), (["--out", "x", "--naming", "celery"], "'task', 'system', 'messaging'")],
)
def test_wrong_arguments_say_what_is_allowed(arguments, says, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["dashboards", *arguments])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
