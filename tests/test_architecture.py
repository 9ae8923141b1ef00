"""The imports go one way (the order is the architecture), and importing us costs nobody a thing."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest

import otel_queue_bridge

OURS = "otel_queue_bridge"
ROOT = Path(otel_queue_bridge.__file__).parent
HOSTS = {
    *("arq", "celery", "dramatiq", "fastworker", "huey", "rq"),
    *("django", "django_tasks", "django_tasks_db", "billiard", "kombu", "pynng"),
}

# A module imports only from rows above its own; `forks`, a folder, also from itself.
ROWS = [
    {"adapter", "semconv", "failures", "aggregations"},
    {"config"},
    {"propagation", "instruments", "versions"},
    {"tracing", "metrics"},
    {"operation"},
    {"labels"},
    {"patching", "forks"},
    {"greenlets"},
    {"bridge"},
    {"instrumentor"},
    {"layout", "processors"},
    {"testing", "view"},
    {"notebook"},
    {"cli"},
    {"__main__"},
]
ROW = {name: number for number, row in enumerate(ROWS) for name in row}


def imports(source: str, package: str) -> Iterator[tuple[str, bool]]:
    """Each name that a module in `package` imports, and whether it does so at once."""
    pending: list[tuple[ast.AST, bool]] = [(ast.parse(source), True)]
    while pending:
        node, at_once = pending.pop()
        match node:
            case ast.Import(names=names):
                yield from ((alias.name, at_once) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                parents = package.split(".")
                above = parents[: len(parents) + 1 - level] if level else []
                origin = ".".join([*above, *([module] if module else [])])
                yield from ((f"{origin}.{alias.name}", at_once) for alias in names)
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                pending += ((child, False) for child in node.body)
                pending += ((child, at_once) for child in node.orelse)
            case _:
                lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                pending += ((child, at_once and not lazy) for child in ast.iter_child_nodes(node))


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What a module, named from below our package (`cli.demo`), imports and must not."""
    full = f"{OURS}.{module}".rstrip(".")
    found = []
    for name, at_once in imports(source, full if is_package else full.rpartition(".")[0]):
        top, _, target = name.partition(".")
        if top in HOSTS and at_once and not module.startswith("cli.demo."):  # the demo's own app
            found.append(f"{module} imports {top} as soon as it is imported")
        if top == OURS and not allowed(module, target):
            found.append(f"{module} imports {target or OURS}")
    return found


def allowed(module: str, target: str) -> bool:
    own, _, part = module.partition(".")
    top = target.partition(".")[0]
    if own == "adapters":
        # An adapter that is a folder consists of parts.
        folder = f"adapters.{part.partition('.')[0]}"
        return target.startswith("adapter.") or f"{target}.".startswith(f"{folder}.")
    if own == top and own in {"cli", "forks", "notebook", "otlp", "testing", "view"}:
        return True
    if own == "otlp" or top == "otlp":  # it stands alone, and serves what is no part of the core
        return own in {"cli", "layout", "notebook", "testing", "view"}
    if own == "testing" and not target:  # the kit switches us on and off as a user does
        return True
    # The package itself offers what is below `testing`.
    return ROW.get(top, len(ROWS)) < ROW.get(own, ROW["testing"])


def modules() -> Iterator[tuple[str, str, bool]]:
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield ".".join(parts[:-1] if is_package else parts), path.read_text(), is_package


def test_the_imports_go_one_way():
    found = [
        wrong
        for name, source, is_package in modules()
        for wrong in violations(name, source, is_package=is_package)
    ]
    assert not found


def test_every_module_has_its_place():
    tops = {name.partition(".")[0] for name, _, _ in modules()}
    assert tops == {*ROW, "adapters", "otlp", ""}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("semconv", "import otel_queue_bridge.config"),
        ("adapter", "if TYPE_CHECKING:\n    from otel_queue_bridge.config import Config"),
        ("failures", "from otel_queue_bridge import adapter"),
        ("instruments", "from otel_queue_bridge import metrics"),
        ("metrics", "from otel_queue_bridge import tracing"),
        ("metrics", "from . import operation"),
        ("patching", "from otel_queue_bridge.forks import lifecycle"),
        ("forks.relay", "from otel_queue_bridge.bridge import Bridge"),
        ("bridge", "from otel_queue_bridge import instrumentor"),
        ("bridge", "from otel_queue_bridge.otlp import Receiver"),
        ("otlp", "from otel_queue_bridge.semconv import SCHEMA_URL"),
        ("testing", "from otel_queue_bridge.cli import main"),
        ("operation", "from otel_queue_bridge.instrumentor import instrument"),
        ("instrumentor", "def later():\n    from otel_queue_bridge.adapters import celery"),
        ("instrumentor", "from .adapters.celery import adapter"),
        ("adapters.celery", "from otel_queue_bridge.config import Config"),
        ("adapters.celery", "from ..semconv import TASK_NAME"),
        ("adapters.celery", "import celery"),
        ("adapters.celery", "from otel_queue_bridge.adapters.rq import adapter"),
        ("patching", "try:\n    from kombu import Connection\nexcept ImportError:\n    pass"),
        ("testing", "from otel_queue_bridge.cli import demo"),
        ("layout", "from otel_queue_bridge.view import Queues"),
        ("notebook.draw", "from otel_queue_bridge.cli.waterfall import waterfall"),
        ("otlp", "from otel_queue_bridge.semconv import TASK_NAME"),
        ("", "from otel_queue_bridge.cli import main"),
    ],
)
def test_a_wrong_import_is_found(module, source):
    assert violations(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("operation", "from otel_queue_bridge import metrics, semconv"),
        ("adapters.celery", "from otel_queue_bridge.adapter import Adapter"),
        ("adapters.celery", "def read(task):\n    import celery"),
        ("adapters.celery.workers", "from .tasks import read"),
        ("adapters.celery", "if TYPE_CHECKING:\n    import celery"),
        ("forks.lifecycle", "from otel_queue_bridge.forks import relay"),
        ("otlp.receiver", "from otel_queue_bridge.otlp.records import Span"),
        ("testing", "from otel_queue_bridge.otlp import Receiver"),
        (
            "cli.demo",
            "from otel_queue_bridge.otlp import Receiver\nimport otel_queue_bridge.config",
        ),
    ],
)
def test_a_right_import_passes(module, source):
    assert not violations(module, source)


def test_users_get_four_packages_and_no_more():
    hard = {
        re.split("[^a-z-]", line)[0]
        for line in requires("otel-queue-bridge")
        if "extra ==" not in line
    }
    assert hard == {
        "opentelemetry-api",
        "opentelemetry-instrumentation",
        "opentelemetry-semantic-conventions",
        "wrapt",
    }


def test_importing_us_imports_no_queue_and_no_sdk():
    heavy = HOSTS | {"google.protobuf", "h2", "opentelemetry.sdk", "rich"}
    code = f"import sys, otel_queue_bridge.testing; print(*{heavy}.intersection(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []
