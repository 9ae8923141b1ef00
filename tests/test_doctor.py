"""Each mistake that `doctor` is there for, made in a process of its own; and nothing else found."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, version
from importlib.util import find_spec
from pathlib import Path
from socket import create_server
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from otel_queue_bridge.cli import masking
from otel_queue_bridge.cli.doctor import (
    SCHEMA_VERSION,
    broker,
    export,
    frameworks,
    loading,
    probe,
    tracing,
)
from otel_queue_bridge.config import OPTIONS, VARIABLE
from otel_queue_bridge.otlp import Receiver
from otel_queue_bridge.versions import ALLOW
from tests.servers import LIMIT, free_port
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DOCTOR = (sys.executable, "-m", "otel_queue_bridge", "doctor")
SCRIPTS = Path(sysconfig.get_path("scripts"))
UNDER_INSTRUMENT = (str(SCRIPTS / "opentelemetry-instrument"), *DOCTOR)
QUEUES = ("arq", "celery", "django", "dramatiq", "fastworker", "huey", "rq")
FOREIGN = ("OTEL_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy")


@dataclass
class Report:
    code: int
    output: str
    errors: str

    @property
    def findings(self):
        return json.loads(self.output)["findings"]

    @property
    def remarks(self):
        """What is not ok; Django is here for its tasks, and without its instrumentation."""
        found = [finding for finding in self.findings if finding["level"] != "ok"]
        return [finding for finding in found if not finding["message"].startswith("Django is ")]

    def of(self, check):
        return [finding for finding in self.findings if finding["check"] == check]

    def says(self, check, level, message):
        return any(
            finding["level"] == level and message in finding["message"]
            for finding in self.of(check)
        )


def run(*arguments, environment: Mapping[str, str | None], command=DOCTOR) -> Report:
    outer = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    path = f"{SCRIPTS}{os.pathsep}{outer.get('PATH', os.defpath)}"
    merged = {**outer, "PATH": path, "NO_PROXY": "127.0.0.1", **environment}
    ended = subprocess.run(
        [*command, *arguments],
        env={name: value for name, value in merged.items() if value is not None},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    return Report(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture(scope="module")
def collector():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def healthy(collector):
    """An environment in which there is nothing to remark."""
    return {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-scope-orgid=default",  # a word that is no secret
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery",
        "OTEL_SERVICE_NAME": "shop-worker",
        "OTEL_TRACES_SAMPLER": "",  # as good as unset
    }


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_nothing_is_found_where_nothing_is_wrong(healthy):
    report = run("--json", environment=healthy)
    assert (report.code, report.remarks, report.errors) == (0, [], "")
    checks = list(dict.fromkeys(finding["check"] for finding in report.findings))
    assert checks == [
        *("versions", "loading", "web frameworks", "patched now", "options", "export", "gauges"),
        *("forks", "propagation", "sampling", "privacy", "broker"),
    ]
    assert all(
        set(f) == {"check", "level", "message", "advice", "details"} for f in report.findings
    )
    assert report.says(
        "loading", "ok", "celery: opentelemetry-instrument loads queue_bridge_celery"
    )
    assert report.says("export", "ok", "accepts connections")
    assert report.says("privacy", "ok", "no arguments are recorded")
    assert report.says("broker", "ok", "not compared")


MISTAKES = {
    "metrics that are pulled": (
        {"OTEL_METRICS_EXPORTER": "prometheus"},
        ("export", "warning", "prometheus serves the main process alone", "docs/prometheus.md"),
    ),
    "misspelt option": (
        {f"{VARIABLE}NAMIGN": "task"},
        ("options", "problem", f"{VARIABLE}NAMIGN does not exist", f"{VARIABLE}NAMING"),
    ),
    "option like none of ours": (
        {f"{VARIABLE}ZZZ": "1"},
        ("options", "problem", f"{VARIABLE}ZZZ does not exist", f"unset {VARIABLE}ZZZ"),
    ),
    "bad option": (
        {f"{VARIABLE}RELATION": "sibling"},
        ("options", "problem", "allowed are child, link, none", f"unset {VARIABLE}RELATION"),
    ),
    "option without PYTHON": (
        {"OTEL_QUEUE_BRIDGE_NAMING": "system"},
        ("options", "problem", "OTEL_QUEUE_BRIDGE_NAMING", f"rename it to {VARIABLE}NAMING"),
    ),
    "misspelt standard variable": (
        {"OTEL_EXPORTER_OLTP_ENDPOINT": "http://collector:4318"},
        ("options", "warning", "OTEL_EXPORTER_OLTP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ),
    "unknown queue": (
        {f"{VARIABLE}QUEUES": "celery,kew"},
        ("loading", "problem", "'kew'", "celery"),
    ),
    "queue left out": (
        {f"{VARIABLE}QUEUES": ","},
        ("loading", "warning", "celery is left out", f"add celery to {VARIABLE}QUEUES"),
    ),
    "contrib beside ours": (
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "urllib3"},
        (
            *("loading", "warning", "opentelemetry.instrumentation.celery:CeleryInstrumentor"),
            "export OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=urllib3,celery",
        ),
    ),
    "left to contrib": (
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": None, f"{VARIABLE}CONFLICTS": "yield"},
        (
            *("loading", "warning", "is left to opentelemetry.instrumentation.celery"),
            "export OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=celery",
        ),
    ),
    "ours disabled": (
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery, queue_bridge_celery"},
        (
            *("loading", "warning", "celery is switched off"),
            "export OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=celery",
        ),
    ),
    "ours disabled in favour of contrib": (
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "queue_bridge_celery"},
        (
            *("loading", "warning", "celery is switched off"),
            "unset OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
        ),
    ),
    "no name of the service": (
        {"OTEL_SERVICE_NAME": None},
        ("export", "warning", "OTEL_SERVICE_NAME is not set", "OTEL_SERVICE_NAME=shop-worker"),
    ),
    "OpenTelemetry's name for no name": (
        {"OTEL_SERVICE_NAME": "unknown_service:python"},
        (
            *("export", "warning", "OTEL_SERVICE_NAME is unknown_service:python, as if"),
            "OTEL_SERVICE_NAME=shop-worker",
        ),
    ),
    "misspelt queue": (
        {"OTEL_PYTHON_QUEUE_BRIDGE_QUEUES": "celery,dramatik"},
        (
            *("loading", "problem", "QUEUES names 'dramatik': did you mean dramatiq?"),
            "name dramatiq in OTEL_PYTHON_QUEUE_BRIDGE_QUEUES",
        ),
    ),
    "all disabled": (
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"},
        (
            *("loading", "warning", "celery is switched off"),
            "unset OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
        ),
    ),
    "not on the PATH": (
        {"PATH": os.defpath},
        ("loading", "warning", "not on the PATH", str(SCRIPTS / "opentelemetry-instrument")),
    ),
    "gRPC without its exporter": (
        {"OTEL_EXPORTER_OTLP_PROTOCOL": None},
        (
            *("export", "problem", "otlp (its default, too) means gRPC"),
            "export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
        ),
    ),
    "gRPC for one signal": (
        {"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc"},
        (
            *("export", "problem", "means gRPC for metrics"),
            "export OTEL_EXPORTER_OTLP_METRICS_PROTOCOL=http/protobuf",
        ),
    ),
    "unknown protocol": (
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http"},
        (
            *("export", "problem", "OTEL_EXPORTER_OTLP_PROTOCOL=http is not supported"),
            "export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
        ),
    ),
    "exporter not installed": (
        {"OTEL_TRACES_EXPORTER": "otlp_proto_grpc"},
        (
            *("export", "problem", "otlp_proto_grpc for traces is not installed"),
            "pip install opentelemetry-exporter-otlp-proto-grpc",
        ),
    ),
    "unknown exporter": (
        {"OTEL_TRACES_EXPORTER": "oltp"},
        ("export", "problem", "oltp for traces", "none, otlp, console, otlp_proto_http"),
    ),
    "no exporter": (
        {"OTEL_TRACES_EXPORTER": "none"},
        ("export", "warning", "traces are not exported", "export OTEL_TRACES_EXPORTER=otlp"),
    ),
    "no distro of ours": (
        {
            "OTEL_TRACES_EXPORTER": None,
            "OTEL_PYTHON_DISTRO": "own",
            "OTEL_METRICS_EXPORTER": "none",
        },
        (
            *("export", "warning", "OTEL_TRACES_EXPORTER is not set"),
            "export OTEL_TRACES_EXPORTER=otlp",
        ),
    ),
    "endpoint without a scheme": (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
        (
            *("export", "problem", "begins with http:// or https://"),
            "export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318",
        ),
    ),
    "endpoint with a bad port": (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318o"},
        (
            *("export", "problem", "is not a URL: "),
            "export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318",
        ),
    ),
    "no file": (
        {"OTEL_CONFIG_FILE": "no-such-file.yaml"},
        ("export", "problem", "OTEL_CONFIG_FILE=no-such-file.yaml", "unset OTEL_CONFIG_FILE"),
    ),
    "nothing is flushed": (
        {f"{VARIABLE}FLUSH_TIMEOUT": "0"},
        ("forks", "warning", "the last spans", f"export {VARIABLE}FLUSH_TIMEOUT=2"),
    ),
    "no tracecontext": (
        {"OTEL_PROPAGATORS": "b3, baggage"},
        (
            *("propagation", "warning", "traceparent"),
            "export OTEL_PROPAGATORS=tracecontext,b3,baggage",
        ),
    ),
    "no propagation": (
        {"OTEL_PROPAGATORS": "none"},
        ("propagation", "warning", "no trace is propagated", "unset OTEL_PROPAGATORS"),
    ),
    "SDK disabled": (
        {"OTEL_SDK_DISABLED": "TRUE"},
        ("sampling", "problem", "nothing is recorded", "unset OTEL_SDK_DISABLED"),
    ),
    "always off": (
        {"OTEL_TRACES_SAMPLER": "always_off"},
        ("sampling", "warning", "always_off: no trace is", "unset OTEL_TRACES_SAMPLER"),
    ),
    "off without a parent": (
        {"OTEL_TRACES_SAMPLER": "parentbased_always_off"},
        ("sampling", "warning", "no trace that begins here", "unset OTEL_TRACES_SAMPLER"),
    ),
    "unknown sampler": (
        {"OTEL_TRACES_SAMPLER": "ALWAYS_ON"},
        ("sampling", "problem", "'ALWAYS_ON'", "always_on"),
    ),
    "no ratio": (
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10%"},
        ("sampling", "warning", "'10%' is not a number", "export OTEL_TRACES_SAMPLER_ARG=0.1"),
    ),
    "ratio too high": (
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10"},
        ("sampling", "problem", "10 is not between 0 and 1", "export OTEL_TRACES_SAMPLER_ARG=0.1"),
    ),
}


@pytest.mark.parametrize(("changes", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_each_mistake_is_found_and_nothing_else(healthy, changes, expected, tmp_path):
    without_grpc = Site(
        tmp_path
    )  # other tests need the exporter; here it is seen without its parts
    without_grpc.add("opentelemetry-exporter-otlp-proto-grpc", version("opentelemetry-sdk"))
    report = run("--json", environment=healthy | without_grpc.environment | changes)
    # A setting that affects every queue is reported once for each.
    others = (
        "arq is ",
        "django is ",
        "dramatiq is ",
        "fastworker is ",
        "huey is ",
        "rq is ",
        "FastAPI is ",
    )
    findings = [one for one in report.remarks if not one["message"].startswith(others)]
    assert len(findings) == 1, report.remarks
    (finding,) = findings
    check, level, message, advice = expected
    assert (finding["check"], finding["level"]) == (check, level)
    assert message in finding["message"]
    assert advice in finding["advice"]
    assert report.code == (level == "problem")


@pytest.mark.skipif(not find_spec("fastworker"), reason="FastWorker needs Python 3.12")
@pytest.mark.parametrize(
    ("changes", "level", "message"),
    [
        ({"FASTWORKER_OTEL_ENABLED": "off"}, "problem", "'off': allowed are true and false"),
        ({"FASTWORKER_OTEL_ENABLED": "false"}, "warning", "fastworker is switched off by FASTW"),
        ({"FASTWORKER_TELEMETRY_ENABLED": "yes"}, "warning", "ours takes its place"),
        (
            {"FASTWORKER_TELEMETRY_ENABLED": "yes", f"{VARIABLE}CONFLICTS": "yield"},
            *("warning", "fastworker is left to its own telemetry"),
        ),
    ],
)
def test_the_switches_of_a_library_are_looked_at(healthy, changes, level, message):
    report = run("--json", environment=healthy | changes)
    (finding,) = report.remarks
    assert (finding["check"], finding["level"]) == ("loading", level)
    assert message in finding["message"]
    assert finding["advice"] == f"unset {next(iter(changes))}"


@pytest.mark.skipif(not find_spec("fastworker"), reason="FastWorker needs Python 3.12")
def test_a_library_switched_on_by_its_own_variable_is_not_left_out(healthy):
    changes = {f"{VARIABLE}QUEUES": "celery", "FASTWORKER_OTEL_ENABLED": "true"}
    report = run("--json", environment=healthy | changes)
    assert report.says("loading", "ok", "opentelemetry-instrument loads queue_bridge_fastworker")


def test_all_wrong_options_are_told_at_once(healthy):
    wrong = {f"{VARIABLE}NAMING": "x", f"{VARIABLE}METRICS": "x", f"{VARIABLE}RELATION": "link"}
    report = run("--json", environment=healthy | wrong)
    assert len(report.remarks) == 2
    assert report.says("options", "ok", f"relation = link ({VARIABLE}RELATION)")
    assert report.says("options", "ok", "naming = task (default)")


def test_every_option_is_shown_with_its_origin(healthy):
    changes = {
        f"{VARIABLE}CAPTURE_ARGUMENTS": "shop.pay:order,amount",
        f"{VARIABLE}EXCEPTION_MESSAGES": "false",
    }
    report = run("--json", environment=healthy | changes)
    details = {f["details"]["option"]: f["details"] for f in report.of("options")}
    assert list(details) == list(OPTIONS)
    assert {name for name, detail in details.items() if detail["origin"] != "default"} == {
        "capture_arguments",
        "exception_messages",
    }
    assert report.says("privacy", "ok", "recorded arguments: shop.pay:amount,order")
    assert report.says("privacy", "ok", "only types and stacks")


OF_QUEUES = "they export of each queue, as far as its broker can tell: "
OF_NO_QUEUE = "they export of no queue: "


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (
            {},
            [
                "workers export task.workers.active, task.workers.busy",
                f"{OF_QUEUES}task.queue.depth, task.queue.delayed, task.queue.dead, task.oldest",
                "but nothing of django's queues: that takes queries on your database",
            ],
        ),
        (
            {"QUEUE_DEPTH": "true"},
            [
                "workers export task.workers.active, task.workers.busy",
                f"{OF_QUEUES}task.queue.depth, task.queue.delayed, task.queue.dead, task.oldest",
            ],
        ),
        (
            {"QUEUE_DEPTH": "false"},
            [
                "workers export task.workers.active, task.workers.busy",
                f"{OF_NO_QUEUE}task.queue.depth, task.queue.delayed, task.queue.dead, task.oldest",
            ],
        ),
        (
            {"NAMING": "messaging"},
            ["naming=messaging has no names for workers and for what waits in queues"],
        ),
        ({"METRICS": "false"}, ["no metrics are recorded"]),
    ],
)
def test_what_workers_tell_of_themselves_and_their_queues(healthy, options, messages):
    changes = {f"{VARIABLE}{name}": value for name, value in options.items()}
    report = run("--json", environment=healthy | changes)
    assert [finding["message"] for finding in report.of("gauges")] == messages
    assert {finding["level"] for finding in report.of("gauges")} == {"ok"}


def test_a_ratio_is_shown(healthy):
    ratio = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}
    report = run("--json", environment=healthy | ratio)
    assert report.says("sampling", "ok", "ratio 0.25")


def test_the_text_has_what_to_do_below_what_is_wrong(healthy):
    changes = {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "none"}
    report = run(environment=healthy | changes)
    assert report.code == 1
    first, advice, framework, _, second, _, _, last = report.output.splitlines()
    assert first == "problem  sampling: OTEL_SDK_DISABLED=true: nothing is recorded"
    assert advice.split() == [">", "unset", "OTEL_SDK_DISABLED"]
    assert second.startswith("warning  export: OTEL_TRACES_EXPORTER=none")
    assert framework.startswith("warning  web frameworks: Django is ")
    assert re.fullmatch(r"problems: 1, warnings: 2; fine: \d+, shown by --verbose", last)
    verbose = run("--verbose", environment=healthy | changes).output
    assert verbose.startswith(f"{first}\n{advice}\n{framework}\n")
    assert "\nok       export: the service is shop-worker" in verbose
    assert verbose.endswith("\nproblems: 1, warnings: 2\n")


# An unknown propagator breaks the import of OpenTelemetry, and of `otel_queue_bridge` with it.
# The check itself copes; for the command, `otel_queue_bridge.instrument` has to be imported late.
def test_an_unknown_propagator_is_found():
    (unknown, missing) = tracing.propagation({"OTEL_PROPAGATORS": "tracecontex"})
    assert (unknown.level, missing.level) == ("problem", "warning")
    assert "'tracecontex'" in unknown.message
    assert "export OTEL_PROPAGATORS=tracecontext,baggage" in unknown.advice
    (xray,) = tracing.propagation({"OTEL_PROPAGATORS": "tracecontext,xray"})
    assert xray.advice == "pip install opentelemetry-propagator-aws-xray"


def test_json_says_which_form_it_has(healthy):
    document = json.loads(run("--json", environment=healthy).output)
    assert document.keys() == {"schema_version", "findings"}
    assert document["schema_version"] == SCHEMA_VERSION


@pytest.mark.parametrize(
    ("framework", "name"), [("Django", "django"), ("Flask", "flask"), ("Starlette", "starlette")]
)
def test_a_web_framework_without_its_instrumentation_is_found(monkeypatch, framework, name):
    def remarks(*instrumentors, **environment):
        points = [EntryPoint(one, "x:y", "opentelemetry_instrumentor") for one in instrumentors]
        monkeypatch.setattr(frameworks, "entry_points", lambda **_: points)
        return [one for one in frameworks.findings(environment) if one.level != "ok"]

    monkeypatch.setattr(frameworks, "installed", lambda one: "1.0" if one == framework else "")
    (missing,) = remarks("fastapi")
    assert f"{framework} is installed, but its instrumentation is not" in missing.message
    assert missing.advice == f"pip install opentelemetry-instrumentation-{name}"
    assert remarks(name) == []
    (off,) = remarks(name, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=f"x,{name}")
    assert f"{framework} is switched off" in off.message


def test_starlette_is_a_part_of_fastapi(monkeypatch):
    monkeypatch.setattr(frameworks, "entry_points", lambda **_: [])
    monkeypatch.setattr(frameworks, "installed", lambda one: "1.0" * one.startswith(("F", "S")))
    assert [one.message.split()[0] for one in frameworks.findings({})] == ["FastAPI", "Flask"]


@pytest.mark.parametrize(
    "changes",
    [
        {"OTEL_SERVICE_NAME": None, "OTEL_RESOURCE_ATTRIBUTES": "a=b,service.name=x"},
        {"OTEL_SERVICE_NAME": "x"},
    ],
)
def test_a_service_with_a_name_is_fine(healthy, changes):
    assert run("--json", environment=healthy | changes).remarks == []


@pytest.mark.parametrize(
    ("exporter", "host", "port", "line"),
    [
        (export.HTTP, "localhost", 4318, "otel-queue-bridge view,"),
        (export.HTTP, "127.0.0.1", 9, "otel-queue-bridge view --port 9,"),
        (export.GRPC, "localhost", 4317, "otel-queue-bridge view,"),
        (export.GRPC, "localhost", 9, "otel-queue-bridge view --grpc-port 9,"),
        (export.HTTP, "192.0.2.1", 4318, "start a collector there,"),
    ],
)
def test_where_nothing_listens_view_is_named_if_it_can_listen_there(
    monkeypatch, exporter, host, port, line
):
    def refuse(*_):
        raise ConnectionRefusedError

    monkeypatch.setattr(export.socket, "create_connection", refuse)
    finding = export.connection(exporter, urlsplit(f"http://{host}:{port}"), port, ["traces"])
    assert finding.level == "problem"
    assert line in finding.advice


def test_an_unknown_propagator_does_not_stop_the_command(healthy):
    report = run("--json", environment=healthy | {"OTEL_PROPAGATORS": "tracecontext,tracecontex"})
    assert [finding["check"] for finding in report.remarks] == ["propagation"]
    assert report.code == 1


# What is installed


def test_an_untested_version_is_found(healthy, site):
    site.add("celery", "4.4.7")
    report = run("--json", environment=healthy | site.environment)
    assert report.code == 1
    (untested,) = report.remarks
    assert (untested["check"], untested["level"]) == ("versions", "problem")
    assert untested["message"] == (
        "celery 4.4.7 is not instrumented: it is outside the tested range, celery >= 5.3, < 6"
    )
    assert untested["advice"] == f"pip install 'celery >= 5.3, < 6', or export {ALLOW}"


def test_an_untested_version_that_is_allowed_is_a_warning_that_names_what_it_lacks(healthy, site):
    site.add("celery", "4.4.7")
    (site.folder / "strange.py").write_text(
        "from otel_queue_bridge.adapter import Adapter, Hook\n"
        "targets = ('json:dumps', 'json:gone', 'json.gone:dumps', 'json:JSONEncoder.gone')\n"
        "adapter = Adapter('json', ('wrapt < 1',), tuple(Hook(one, None) for one in targets))\n"
    )
    site.add("strange", **{"otel_queue_bridge.adapters": "json = strange:adapter"})
    allow = dict([ALLOW.split("=")])
    report = run("--json", environment=healthy | site.environment | allow)
    assert report.code == 0
    ours, strange = report.remarks
    assert ours["message"] == (
        "celery 4.4.7 is outside the tested range, celery >= 5.3, < 6; "
        "it is instrumented all the same, as tested ones"
    )
    missing = "json:gone, json.gone:dumps, json:JSONEncoder.gone"
    assert strange["message"].endswith(f"without {missing}, which it lacks")
    assert report.says("loading", "ok", "json: opentelemetry-instrument does not load it")


@pytest.mark.parametrize(
    ("distribution", "version", "level", "advice"),
    [
        ("wrapt", "1.0", "problem", "pip install 'wrapt<3,>=1.14'"),
        ("opentelemetry-sdk", "1.0", "warning", "pip install opentelemetry-sdk=="),
    ],
)
def test_a_dependency_of_the_wrong_version_is_found(
    healthy, site, distribution, version, level, advice
):
    site.add(distribution, version)
    report = run("--json", environment=healthy | site.environment)
    findings = [finding for finding in report.of("versions") if finding["level"] == level]
    assert [distribution in finding["message"] for finding in findings] == [True]
    assert advice in findings[0]["advice"]


def test_a_strangers_adapter_is_examined_like_ours(healthy, site):
    (site.folder / "strange.py").write_text(
        "from otel_queue_bridge.adapter import Adapter\n"
        "absent = Adapter('kew', ('kew >= 2',), ())\n"
        "present = Adapter('there', ('wrapt',), ())\n"
    )
    lines = "kew = strange:absent\nthere = strange:present\nbroken = strange:nothing"
    site.add("strange", **{"otel_queue_bridge.adapters": lines})
    report = run("--json", environment=healthy | site.environment)
    assert report.says("versions", "ok", "kew is not installed (tested: kew >= 2)")
    assert report.says("loading", "ok", "there: opentelemetry-instrument does not load it")
    (finding,) = report.remarks
    assert "the adapter of broken cannot be loaded: AttributeError" in finding["message"]


@pytest.mark.parametrize(
    ("distribution", "advice"),
    [
        ("opentelemetry-instrumentor-dramatiq", "pip uninstall"),
        ("sentry-sdk", "disabled_integrations"),
        ("ddtrace", "DD_TRACE_CELERY_ENABLED=false"),
    ],
)
def test_others_that_patch_the_same_are_named(healthy, site, distribution, advice):
    site.add(distribution)
    report = run("--json", environment=healthy | site.environment)
    (finding,) = report.remarks
    assert (finding["check"], finding["level"], report.code) == ("loading", "warning", 0)
    assert f"{distribution} 1.0" in finding["message"]
    assert advice in finding["advice"]


def test_taskiq_without_what_its_instrumentation_imports(monkeypatch):
    monkeypatch.setattr(loading, "entry_points", lambda **_: ["taskiq"])
    monkeypatch.setattr(loading, "installed", {"taskiq": "1.0"}.get)
    lacking = loading._left_alone("1.0", {})  # noqa: SLF001 - this environment has all of it
    assert lacking.advice == "pip install --upgrade 'taskiq[opentelemetry]'"


def test_taskiq_is_left_to_its_own_instrumentation(healthy, site):
    here = healthy | site.environment
    site.add("taskiq", opentelemetry_instrumentor="taskiq = taskiq.instrumentation:Instrumentor")
    site.add("psutil")
    report = run("--json", environment=here)
    assert report.says("loading", "ok", "taskiq 1.0 brings its own instrumentation")
    assert report.remarks == []
    off = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,taskiq"}
    (silent,) = run("--json", environment=here | off).remarks
    assert "taskiq's own instrumentation is switched off" in silent["message"]


def test_being_installed_twice_is_found(healthy, site):
    line = "queue_bridge_celery = otel_queue_bridge.instrumentor:CeleryInstrumentor"
    site.add("a-fork-of-ours", opentelemetry_instrumentor=line)
    report = run("--json", environment=healthy | site.environment)
    (finding,) = report.remarks
    assert "a-fork-of-ours 1.0" in finding["message"]
    assert "otel-queue-bridge" in finding["message"]


WITHOUT = """
import sys
for name in ("opentelemetry.sdk", "rich", "click", "google.protobuf", "requests", "celery"):
    sys.modules[name] = None  # as if it were not installed
from otel_queue_bridge.cli import main
sys.exit(main(["doctor", "--json", *sys.argv[1:]]))
"""


def test_it_needs_nothing_but_our_own_dependencies(healthy):
    report = run(environment=healthy, command=(sys.executable, "-c", WITHOUT))
    assert (report.code, report.remarks, report.errors) == (0, [], "")


# What is patched


def test_under_opentelemetry_instrument_the_patched_queues_are_shown(healthy):
    off = {"OTEL_METRICS_EXPORTER": "none", f"{VARIABLE}DISPATCH_SPANS": "false"}
    report = run("--json", environment=healthy | off, command=UNDER_INSTRUMENT)
    findings = report.of("patched now")
    assert (report.code, {finding["level"] for finding in findings}) == (0, {"ok"})
    assert [finding["message"] for finding in findings] == [
        f"{queue}: submit, execute; metrics on" for queue in QUEUES if find_spec(queue)
    ]


def test_under_opentelemetry_instrument_an_sdk_that_did_not_start_is_found(healthy, tmp_path):
    without_grpc = Site(tmp_path)
    without_grpc.add("opentelemetry-exporter-otlp-proto-grpc", version("opentelemetry-sdk"))
    grpc = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", **without_grpc.environment}
    report = run("--json", environment=healthy | grpc, command=UNDER_INSTRUMENT)
    assert report.code == 1
    assert report.says("patched now", "problem", "not patched: arq, celery")
    assert report.says("patched now", "problem", "no SDK is configured")
    assert report.says("export", "problem", "means gRPC")


def test_under_opentelemetry_instrument_a_bad_option_is_one_problem_and_what_follows_another(
    healthy,
):
    bad = {"OTEL_METRICS_EXPORTER": "none", f"{VARIABLE}RELATION": "sibling"}
    report = run("--json", environment=healthy | bad, command=UNDER_INSTRUMENT)
    patched, option = report.remarks
    assert patched["message"] == "not patched: " + ", ".join(q for q in QUEUES if find_spec(q))
    assert f"{VARIABLE}RELATION" in option["message"]


# The way to the collector


@pytest.mark.parametrize("path", ["/v1/traces", "/prefix/v1/traces/"])
def test_a_base_endpoint_with_the_path_of_a_signal_is_found(healthy, collector, path):
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint + path}
    report = run("--json", "--probe", environment=healthy | endpoint)
    (finding,) = report.remarks
    assert (finding["check"], finding["level"], report.code) == ("export", "problem", 1)
    right = collector.endpoint + path.partition("/v1")[0]
    assert finding["advice"] == f"export OTEL_EXPORTER_OTLP_ENDPOINT={right}"
    assert report.says("export", "ok", "no span was sent")


def test_an_endpoint_of_traces_without_a_path_is_found(healthy, collector):
    endpoint = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.endpoint}
    report = run("--json", environment=healthy | endpoint)
    (finding,) = report.remarks
    right = f"{collector.endpoint}/v1/traces"
    assert finding["advice"] == f"export OTEL_EXPORTER_OTLP_TRACES_ENDPOINT={right}"


def test_the_port_of_grpc_for_http_is_found(healthy):
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}
    report = run("--json", environment=healthy | endpoint)
    assert report.code == 1
    assert report.says("export", "problem", "port 4317 is that of gRPC")
    advice = next(finding["advice"] for finding in report.remarks)
    endpoint, _, protocol = advice.partition(" or ")
    assert endpoint == "export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"
    assert protocol == "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"


def test_the_port_of_http_for_grpc_is_found(healthy, site):
    site.add_grpc_exporter()
    grpc = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": "127.0.0.1:4318"}
    report = run("--json", environment=healthy | site.environment | grpc)
    assert report.code == 1
    assert report.says("export", "problem", "port 4318 is that of HTTP")
    advice = next(finding["advice"] for finding in report.remarks)
    assert advice.startswith("export OTEL_EXPORTER_OTLP_ENDPOINT=127.0.0.1:4317 or ")


def test_a_collector_that_is_not_there_is_found(healthy):
    port = free_port()
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    report = run("--json", "--probe", environment=healthy | endpoint)
    (finding,) = report.remarks
    assert (finding["check"], finding["level"], report.code) == ("export", "problem", 1)
    assert f"127.0.0.1:{port}, but nothing answers there" in finding["message"]
    assert finding["details"] == {"host": "127.0.0.1", "port": port}


def test_through_a_proxy_no_connection_is_expected(healthy):
    changes = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.invalid:4318",
        "http_proxy": "http://me:proxy-password@127.0.0.1:1",
    }
    report = run("--json", environment=healthy | changes)
    assert report.code == 0
    assert report.says("export", "ok", "through the proxy http://***@127.0.0.1:1")


def test_a_span_is_sent_and_accepted(healthy, receiver):
    endpoint = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_TRACES_SAMPLER": "always_off",
    }
    report = run("--json", "--probe", environment=healthy | endpoint)
    assert report.says("export", "ok", "was accepted")
    (span,) = receiver.spans()
    assert span.name == probe.NAME
    accepted = next(f for f in report.of("export") if "accepted" in f["message"])
    assert accepted["details"] == {"trace_id": span.trace_id}


def test_without_probe_nothing_is_sent(healthy, receiver):
    run(environment=healthy | {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint})
    assert receiver.requests == []


@pytest.mark.parametrize("status", [401, 404, 400])
def test_a_span_that_is_refused_is_a_problem_with_its_status(healthy, status):
    with Receiver(respond=lambda _: status) as receiver:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        report = run("--json", "--probe", environment=healthy | endpoint)
    (finding,) = report.remarks
    assert (finding["check"], finding["level"], report.code) == ("export", "problem", 1)
    assert str(status) in finding["message"]
    assert report.errors == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, "the SDK is disabled"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "no OTLP exporter"),
    ],
)
def test_where_no_span_can_be_sent_that_is_said(healthy, changes, message):
    report = run("--json", "--probe", environment=healthy | changes)
    assert report.says("export", "ok", message)


# Secrets

CHATTY = """
import os
class Exporter:
    def export(self, spans):
        raise RuntimeError("refused " + os.environ["OTEL_EXPORTER_OTLP_HEADERS"] + " Zm9v tiny")
"""


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_no_secret_is_shown(healthy, site, collector, form):
    site.add_grpc_exporter(CHATTY)
    port = collector.endpoint.rpartition(":")[2]
    environment = healthy | site.environment
    environment |= {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user-a:pass-b@127.0.0.1:{port}/?key=query-c",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://user-d:pass-e@127.0.0.1:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Basic%20Zm9v,x-key=tiny",
        "OTEL_EXPORTER_OLTP_HEADERS": "x-key=misspelt-f",
    }
    url = f"redis://user-g:pass-h%2F@127.0.0.1:{free_port()}/0"
    report = run(*form, "--probe", "--broker", url, environment=environment)
    assert report.code == 1
    assert "a span was not accepted: RuntimeError: refused" in report.output
    secrets = ["Zm9v", "tiny", "query-c", "misspelt-f"]
    secrets += ["user-a", "pass-b", "user-d", "pass-e", "user-g", "pass-h"]
    assert [secret for secret in secrets if secret in report.output + report.errors] == []
    assert "http://***@127.0.0.1:4317" in report.output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:p@ss/wo:rd@host:1/0 refused", "redis://***@host:1/0 refused"),
        ("https://host/v1?token=abc", "https://host/v1?***"),
        ("http://host:4318/v1 is fine; is it?", "http://host:4318/v1 is fine; is it?"),
    ],
)
def test_urls_are_masked_wherever_they_occur(text, shown):
    assert masking.masked(text) == shown


# The broker


@contextmanager
def fake_redis(*answers: bytes) -> Iterator[str]:
    """Answer one client; the commands it gave are not looked at."""
    with create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as commands:
                for answer in answers:
                    for _ in range(2 * int(commands.readline()[1:])):
                        commands.readline()
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}/0"
        thread.join()


def bulk(*words: str) -> bytes:
    lines = [f"*{len(words)}", *(line for word in words for line in (f"${len(word)}", word)), ""]
    return "\r\n".join(lines).encode()


def test_the_clock_of_a_real_broker_agrees(healthy, redis_url):
    report = run("--json", "--broker", redis_url, environment=healthy)
    (finding,) = report.of("broker")
    assert (report.code, finding["level"]) == (0, "ok")
    assert abs(finding["details"]["ahead"]) < LIMIT  # which is ok if the answer took that long


def test_a_clock_that_is_off_is_found(healthy):
    with fake_redis(b"+OK\r\n", bulk(str(int(time.time()) + 3600), "250000")) as place:
        report = run("--json", "--broker", f"redis://me:secret@{place}", environment=healthy)
    (finding,) = report.remarks
    assert (finding["check"], finding["level"], report.code) == ("broker", "warning", 0)
    assert "ahead of ours" in finding["message"]


@pytest.mark.parametrize(
    ("before", "after", "theirs", "level"),
    [
        (10.0, 10.0, 11.0, "ok"),
        (10.0, 10.0, 11.01, "warning"),
        (10.0, 10.0, 8.99, "warning"),
        (10.0, 12.0, 12.9, "ok"),  # the answer may have taken all of the time
        (10.0, 12.0, 13.1, "warning"),
    ],
)
def test_clocks_may_differ_by_a_second_beyond_what_the_question_took(before, after, theirs, level):
    assert broker.clock("it", before, after, theirs).level == level


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"-NOAUTH Authentication required.\r\n", "NOAUTH"),
        (b"HTTP/1.1 400 Bad Request\r\n", "this is not Redis"),
        (b"*2\r\n$1\r\nx\r\n$1\r\nx\r\n", "invalid literal"),
    ],
)
def test_a_broker_that_answers_otherwise_is_a_problem(healthy, answer, message):
    with fake_redis(answer) as place:
        report = run("--json", "--broker", f"redis://{place}", environment=healthy)
    (finding,) = report.remarks
    assert (finding["check"], finding["level"], report.code) == ("broker", "problem", 1)
    assert message in finding["message"]


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_is_not_there_is_a_problem(healthy, scheme):
    url = f"{scheme}://127.0.0.1:{free_port()}"
    report = run("--json", "--broker", url, environment=healthy)
    (finding,) = report.remarks
    assert (finding["check"], finding["level"], report.code) == ("broker", "problem", 1)
    assert "cannot be reached" in finding["message"]


def test_of_amqp_only_the_connection_is_tried(healthy, collector):
    url = collector.endpoint.replace("http", "amqp")
    report = run("--json", "--broker", url, environment=healthy)
    assert report.says("broker", "ok", "its clock cannot be read")


@pytest.mark.parametrize("url", ["secret", "kafka://:secret@host", "redis://:secret@host:secret"])
def test_a_bad_url_is_one_sentence_without_it(healthy, url):
    report = run("--broker", url, environment=healthy)
    assert (report.code, report.output, report.errors.count("\n")) == (2, "", 1)
    assert "argument --broker: not a URL SCHEME://HOST:PORT/NAME that begins" in report.errors
    assert "USER:PASSWORD@" in report.errors  # the hint is no secret
    assert "secret" not in report.errors
