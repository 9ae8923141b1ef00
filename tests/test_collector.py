"""examples/collector: nothing here can start it, so what its files say must at least agree."""

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from otel_queue_bridge.cli import main
from otel_queue_bridge.config import unknown_variables
from tests.servers import LIMIT, absent

FOLDER = Path(__file__).parents[1] / "examples" / "collector"
FILES = {
    "compose": "compose.yaml",
    "collector": "collector.yaml",
    "prometheus": "prometheus.yml",
    "datasources": "grafana/datasources/datasources.yaml",
    "dashboards": "grafana/dashboards/dashboards.yaml",
}
IMAGES = {"jaeger": {4317, 16686}, "prometheus": {9090}, "grafana": {3000}, "valkey": {6379}}
"""The ports on which each image listens by default, according to its documentation."""

Stack = dict[str, Any]


@pytest.fixture(scope="module")
def stack() -> Stack:
    return {name: yaml.safe_load((FOLDER / file).read_text()) for name, file in FILES.items()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the service `dashboards` writes."""
    folder = tmp_path_factory.mktemp("monitoring")
    assert main(["dashboards", "--out", str(folder), "--datasource", "prometheus"]) == 0
    return folder


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


def seconds(duration: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m)", duration).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from texts(part)
    else:
        yield str(node)


def problems(stack: Stack) -> list[str]:
    services, collector = stack["compose"]["services"], stack["collector"]
    return [
        *_components(collector),
        *_sampling(collector, services),
        *_addresses(stack),
        *_protocols(services, collector),
        *_mounts(stack["compose"]),
        *_handed_over(stack),
        *_intervals(stack),
        *(
            f"{name} has no pinned version"
            for name, service in services.items()
            if "image" in service and not re.search(r":v?\d+\.\d+\.\d+(-\S+)?$", service["image"])
        ),
        *(
            f"{variable} is no option of ours"
            for service in services.values()
            for variable in unknown_variables(service.get("environment", {}))
        ),
    ]


def _components(collector: Any) -> Iterator[str]:
    pipelines = collector["service"]["pipelines"]
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in pipelines.values() for name in pipeline[kind]}
        for name in used ^ collector[kind].keys():
            yield f"{kind} {name} is only used, or only defined"
    for name, pipeline in pipelines.items():
        if pipeline["processors"][0] != "memory_limiter":
            yield f"the memory of {name} is limited too late"


def _sampling(collector: Any, services: Any) -> Iterator[str]:
    sampling = collector["processors"]["tail_sampling"]
    named = []
    for policy in sampling["policies"]:
        named += [policy, *policy.get("drop", {}).get("drop_sub_policy", [])]
    for policy in named:
        if policy.keys() != {"name", "type"} | ({policy["type"]} - {"always_sample"}):
            yield f"policy {policy['name']} is not of its type"
    if min(sampling["decision_cache"].values()) <= sampling["num_traces"]:
        yield "decisions are forgotten before their traces"
    dropped = {
        value
        for policy in named
        if policy.get("string_attribute", {}).get("key") in {"http.target", "url.path"}
        for value in policy["string_attribute"]["values"]
    }
    asked = " ".join(services["web"]["healthcheck"]["test"])
    web = (FOLDER / "shop" / "web.py").read_text()
    for path in dropped:
        if f"8000{path}'" not in asked or f'@app.get("{path}")' not in web:
            yield f"{path} is dropped, and not what the health check asks"
    later = services["worker"]["environment"]["OTEL_PYTHON_QUEUE_BRIDGE_LINK_AFTER"]
    if float(later) != seconds(sampling["decision_wait"]):
        yield "what is planned for after the decision has no separate trace"


def _addresses(stack: Stack) -> Iterator[str]:
    services, collector = stack["compose"]["services"], stack["collector"]
    protocols = collector["receivers"]["otlp"]["protocols"].values()
    listening = IMAGES | {
        "collector": {
            *(port(protocol["endpoint"]) for protocol in protocols),
            port(collector["exporters"]["prometheus"]["endpoint"]),
        },
        "web": {int(services["web"]["command"].partition("--port ")[2])},
    }
    spoken = {
        **{name: services[name]["environment"] for name in ("web", "worker")},
        **{name: stack[name] for name in ("collector", "prometheus", "datasources")},
    }
    for name, node in spoken.items():
        for host, number in re.findall(r"([a-z]+):(\d{4,5})\b", " ".join(texts(node))):
            if int(number) not in listening.get(host, ()):
                yield f"{name} asks {host}:{number}, where nothing listens"
    for name, service in services.items():
        for published in service.get("ports", ()):
            if port(published) not in listening[name]:
                yield f"{name} publishes {published}, where nothing listens"
        if missing := set(service.get("depends_on", ())) - services.keys():
            yield f"{name} depends on {missing}"


def _protocols(services: Any, collector: Any) -> Iterator[str]:
    for name in ("web", "worker"):
        environment = services[name]["environment"]
        if port(environment["OTEL_EXPORTER_OTLP_ENDPOINT"]) != port(
            collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
        ):
            yield f"{name} speaks HTTP to another port than the collector's for HTTP"
        if environment["OTEL_EXPORTER_OTLP_PROTOCOL"] != "http/protobuf":
            yield f"{name} does not speak HTTP"


def _mounts(compose: Any) -> Iterator[str]:
    for name in compose["services"]:
        for source in mounted(compose, name).values():
            if source.startswith("./") and not (FOLDER / source).exists():
                yield f"{name} mounts {source}, which is not there"
            if not source.startswith("./") and source not in compose["volumes"]:
                yield f"{name} mounts the volume {source}, which is not declared"


def mounted(compose: Any, service: str) -> dict[str, str]:
    """What a service has from outside, by where it has it."""
    volumes = (volume.split(":") for volume in compose["services"][service].get("volumes", ()))
    return {target: source for source, target, *_ in volumes}


def _handed_over(stack: Stack) -> Iterator[str]:
    compose, services = stack["compose"], stack["compose"]["services"]
    out = re.search(r"--out (\S+)", services["dashboards"]["command"])[1]
    (rules,) = stack["prometheus"]["rule_files"]
    (provider,) = stack["dashboards"]["providers"]
    read = {"prometheus": str(Path(rules).parent), "grafana": provider["options"]["path"]}
    for name, folder in {"dashboards": out, **read}.items():
        if mounted(compose, name).get(folder) != "monitoring":
            yield f"{name} has {folder} from elsewhere"
    for name, option in {"collector": "--config=", "prometheus": ""}.items():
        path = "".join(services[name].get("command", [])).removeprefix(option)
        if (path or "/etc/prometheus/prometheus.yml") not in mounted(compose, name):
            yield f"{name} reads another file than the one that is mounted"
    if mounted(compose, "grafana").get("/etc/grafana/provisioning") != "./grafana":
        yield "Grafana is not provisioned"
    source = re.search(r"--datasource (\S+)", services["dashboards"]["command"])[1]
    if {one["uid"]: one["type"] for one in stack["datasources"]["datasources"]}.get(
        source
    ) != "prometheus":
        yield f"the dashboards ask {source}, which is no Prometheus"


def _intervals(stack: Stack) -> Iterator[str]:
    environment = stack["compose"]["services"]["worker"]["environment"]
    exported = int(environment["OTEL_METRIC_EXPORT_INTERVAL"]) / 1000
    (metrics,) = (one for one in stack["datasources"]["datasources"] if one.get("isDefault"))
    others = {
        "Prometheus": stack["prometheus"]["global"]["scrape_interval"],
        "Grafana": metrics["jsonData"]["timeInterval"],
    }
    for name, interval in others.items():
        if seconds(interval) != exported:
            yield f"{name} thinks that metrics come every {interval}"
    expiration = stack["collector"]["exporters"]["prometheus"]["metric_expiration"]
    if seconds(expiration) < 3 * exported:
        yield "a metric is forgotten while its worker runs"
    if not all(one.get("honor_labels") for one in stack["prometheus"]["scrape_configs"]):
        yield "job and instance become the collector's"


def test_the_files_agree(stack: Stack) -> None:
    assert problems(stack) == []


def _set(value: Any, *path: Any) -> Callable[[Stack], None]:
    def change(stack: Stack) -> None:
        node: Any = stack
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = value

    return change


WORKER = ("compose", "services", "worker", "environment")
PIPELINES = ("collector", "service", "pipelines")
POLICIES = ("collector", "processors", "tail_sampling", "policies")
WRONG = {
    "an exporter that is not defined": _set(["otlp"], *PIPELINES, "traces", "exporters"),
    "memory that is limited too late": _set(
        ["tail_sampling", "memory_limiter"], *PIPELINES, "traces", "processors"
    ),
    "a policy of another type": _set("latency", *POLICIES, 2, "type"),
    "a policy to drop of another type": _set(
        "boolean_attribute", *POLICIES, 0, "drop", "drop_sub_policy", 0, "type"
    ),
    "another health check": _set(
        ["/healthz"], *POLICIES, 0, "drop", "drop_sub_policy", 0, "string_attribute", "values"
    ),
    "decisions that are forgotten": _set(
        1000, *POLICIES[:-1], "decision_cache", "non_sampled_cache_size"
    ),
    "a longer decision_wait": _set("1m", *POLICIES[:-1], "decision_wait"),
    "a port where nothing listens": _set(
        "jaeger:4318", "collector", "exporters", "otlp_grpc/jaeger", "endpoint"
    ),
    "a host that is not there": _set("redis://redis:6379/0", *WORKER, "REDIS_URL"),
    "HTTP to gRPC's port": _set("http://collector:4317", *WORKER, "OTEL_EXPORTER_OTLP_ENDPOINT"),
    "a misspelt option": _set("link", *WORKER, "OTEL_PYTHON_QUEUE_BRIDGE_RELATIONS"),
    "another target": _set(
        ["collector:8888"], "prometheus", "scrape_configs", 0, "static_configs", 0, "targets"
    ),
    "labels of the collector": _set(None, "prometheus", "scrape_configs", 0, "honor_labels"),
    "rules from elsewhere": _set(
        ["/rules/otel-queue-bridge-rules.yml"], "prometheus", "rule_files"
    ),
    "another interval": _set("60s", "prometheus", "global", "scrape_interval"),
    "another data source": _set("metrics", "datasources", "datasources", 0, "uid"),
    "dashboards from elsewhere": _set(
        "/var/lib/grafana/dashboards", "dashboards", "providers", 0, "options", "path"
    ),
    "a floating version": _set(
        "grafana/grafana:latest", "compose", "services", "grafana", "image"
    ),
    "a file that is not there": _set(
        ["./otel.yaml:/etc/collector.yaml:ro"], "compose", "services", "collector", "volumes"
    ),
    "a published port": _set(
        ["127.0.0.1:8080:8080"], "compose", "services", "web", "ports"
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_found(stack: Stack, wrong: str) -> None:
    changed = copy.deepcopy(stack)
    WRONG[wrong](changed)
    assert problems(changed)


def test_prometheus_accepts_its_files(stack: Stack, written: Path, tmp_path: Path) -> None:
    promtool = shutil.which("promtool") or absent("promtool (apt install prometheus)")
    (rules,) = stack["prometheus"]["rule_files"]
    there = written / Path(rules).name
    config = stack["prometheus"] | {"rule_files": [str(there)]}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [promtool, "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"SUCCESS: \d+ rules found", done.stdout)


def test_the_dashboards_ask_the_data_source_that_is_provisioned(
    stack: Stack, written: Path
) -> None:
    uids = {one["uid"] for one in stack["datasources"]["datasources"]}
    boards = [json.loads(path.read_text()) for path in written.glob("*.json")]
    assert boards
    for board in boards:
        (variable,) = (one for one in board["templating"]["list"] if one["type"] == "datasource")
        assert variable["current"]["value"] in uids
