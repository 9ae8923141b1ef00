"""The contract between the core and one queue library: plain data and protocols.

An adapter says *where* its library has to be patched (`Hook`), *how to read* a task
(`Task`) and *what a run meant* (`Outcome`). Spans, metrics, context and errors belong to
the core, which reaches the adapter as a `Recorder`.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Mapping,
    MutableMapping,
    Sequence,
)
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import ModuleType

    from opentelemetry.util.types import AttributeValue
    from typing_extensions import Self

Status = Literal["success", "failure", "retry", "cancelled", "rejected", "ignored"]
"""What became of an attempt; the values of `task.status`."""


@dataclass(slots=True)
class Task:
    """The facts of one unit of work, as far as the caller of the core knows them.

    `carrier` is written for a submit and read for dispatch and execute, where it may be
    several mappings: the first that holds a trace is taken. Without one, the operation
    belongs to whatever is current (an eager run).
    """

    name: str
    queue: str
    id: str | None = None
    carrier: MutableMapping[str, Any] | tuple[object, ...] | None = None
    attempt: int | None = None
    """1 is the first; a submit above 1 is a retry, unless `retry` says otherwise."""
    retry: bool | None = None
    """Whether a submit is a retry, where the library goes on counting for a new task."""
    priority: int | str | None = None
    eta: float | None = None
    """When the task is planned to start, or became able to; in seconds since the epoch."""
    worker: str | None = None
    server: tuple[str, int | None] | None = None
    """Host and port of the broker."""
    attributes: Mapping[str, AttributeValue] | None = None
    """What only this library has, under `{system}.*`."""
    arguments: Callable[[], Mapping[str, object]] | None = None
    """The task's arguments by name; called only if the user listed some to be captured."""


ATTEMPT = "otel-attempt"
"""In a carrier: the number of the attempt that it is for, where its library counts none."""
_DIGITS = 6
"""Of that number; more are junk, and no backend takes them."""


def marked_attempt(carrier: Mapping[str, Any]) -> int | None:
    """Return the number that the carrier is marked with; None if there is none, or junk."""
    mark = str(carrier.get(ATTEMPT, ""))
    return int(mark) if mark.isdecimal() and len(mark) <= _DIGITS else None


class Outcome(NamedTuple):
    """What became of an attempt.

    `error` makes the span an error unless it is `expected`; `error_type` names the error
    where its object never reached this process, or only something in its place. A submit that
    is a success in spite of an error has handed its task over, and is counted.
    """

    status: Status
    error: BaseException | None = None
    expected: bool = False
    error_type: str | None = None


def error_name(error: BaseException) -> str:
    """Return what `error.type` says of it: the qualified name, of built-in ones without module."""
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


SUCCESS = Outcome("success")
RETRY = Outcome("retry")
CANCELLED = Outcome("cancelled")
REJECTED = Outcome("rejected")
IGNORED = Outcome("ignored")


def failed(error: BaseException, *, expected: bool = False) -> Outcome:
    """Return a failure for good; `expected` if the user declared the exception (`throws`)."""
    return Outcome("failure", error, expected)


class Reading(NamedTuple):
    """What a gauge shows: the number of workers, or the depth of a queue."""

    value: int
    queue: str | None = None
    priority: str | None = None


class Call:
    """One call of a patched function: what came in and, after `yield`, what came out.

    An advice may replace `args` and `kwargs` before it yields and `result` after. The
    product of a `factory` hook has the factory's own call as `maker`.
    """

    __slots__ = ("args", "error", "instance", "kwargs", "maker", "result")

    def __init__(
        self,
        instance: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        maker: Call | None = None,
    ) -> None:
        self.instance = instance
        self.args = args
        self.kwargs = kwargs
        self.maker = maker
        self.result: Any = None
        self.error: BaseException | None = None

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return the argument, however it was passed."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)


class Operation(Protocol):
    """One live submit, dispatch or execute.

    As a context manager it is current while it lasts; it ends exactly once, by `end` or by
    leaving the `with`.
    """

    def settle(self, outcome: Outcome) -> None:
        """Say what the operation came to; the last word counts."""

    def inject(self, carrier: MutableMapping[str, Any], *, once: bool = False) -> None:
        """Hand over: write this operation into a carrier, for what runs next on its behalf.

        If that is `once`, its execute has the same span id wherever it is reported: by the
        process that runs it, or for one that was killed by its parent.
        """

    def identify(self, task_id: str) -> None:
        """Name the task where its id is known only after the submit."""

    def abandon(self) -> None:
        """Leave it to another process to report this operation; here it never ends."""

    def end(self) -> None:
        """End the operation; a second end does nothing."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc_info: object) -> None: ...


class Exchange(Protocol):
    """One request to another process on behalf of a task, until its reply."""

    def note(self, attribute: str, value: AttributeValue) -> None:
        """Add an attribute that is known by now."""

    def end(self, outcome: Outcome = SUCCESS) -> None:
        """End the exchange; a second end does nothing."""


class Relay(Protocol):
    """The way from forked children to this process, which reports for them."""

    def told(self) -> Collection[str]:
        """Return what children have told since the last call; the dead have been heard out."""

    def close(self) -> None: ...


class Recorder(Protocol):
    """What the core offers to the advices of one adapter."""

    def submit(self, task: Task) -> Operation: ...

    def dispatch(
        self, task: Task, *, start_time: int | None = None, measured: bool = True
    ) -> Operation:
        """Open a dispatch; not `measured` where another process has counted it already."""

    def execute(
        self, task: Task, *, start_time: int | None = None, measured: bool = False
    ) -> Operation:
        """Open an execute; `measured` if its end is to be counted by this process."""

    def attempted(
        self, task: Task, outcome: Outcome, *, started: float, duration: float | None
    ) -> None:
        """Count the end of an attempt that ran elsewhere, or, without a duration, did not run.

        Times are in seconds, `started` since the epoch.
        """

    def exchange(
        self, name: str, carriers: Sequence[object], attributes: Mapping[str, AttributeValue]
    ) -> Exchange:
        """Open an exchange below the operation in the carrier; of several, it links to each."""

    def watch_workers(self, read: Callable[[], Iterable[Reading]]) -> Callable[[], None]:
        """Read the workers of this process at each export; the function returned ends that."""

    def watch_depth(self, read: Callable[[], Iterable[Reading]]) -> Callable[[], None]:
        """Likewise the queues; a read that hangs or raises gives no reading and one warning."""

    def relay(self, *, spans_apart: bool = False) -> Relay:
        """Report here what children forked from now on have to report, until it is closed.

        With `spans_apart`, what `relay_spans` sends has a pipe of its own.
        """

    def relay_spans(self) -> None:
        """From a forked child: let the parent export the spans that end from now on.

        Unless there is no relay, or `horse_export` wants it otherwise.
        """

    def tell(self, message: str) -> None:
        """From a forked child: tell the parent's relay that something has been reported."""

    def patch(self, owner: object, attribute: str, advice: Advice) -> None:
        """Advise one attribute of an object that appeared at run time."""

    def advised(self, function: Callable[..., Any], advice: Advice) -> Callable[..., Any]:
        """Return a function that runs this one inside the advice."""

    def flush(self, *, metrics: bool = False) -> None:
        """Export what this process has finished, within `flush_timeout`: it is about to end.

        Spans, and the metrics of a process that records its own.
        """

    def suppressed(self) -> AbstractContextManager[None]:
        """Record nothing of what the host does inside the `with`."""


Advice = Callable[[Call, Recorder], "Generator[None, None, None] | None"]
"""What to do before a call, as a plain function; or around it, as a generator.

A generator yields once, where the original runs, and finds the call's result or error
afterwards. It never has to raise or return anything; one that returns without a yield has
nothing to say about this call, and what it has replaced is put back.
"""


class Hook(NamedTuple):
    """A place to patch: `module:Qualified.name`, once that module is imported.

    `aliases` are other places that hold the same function, imported by name. `factory` says
    that the target returns the function to advise. `find` lists further (owner, attribute)
    pairs that exist already when the module is patched; the target is then the module alone.
    An advice that only prepares what comes runs `always`, also before there is an SDK.
    """

    target: str
    advice: Advice
    aliases: tuple[str, ...] = ()
    factory: bool = False
    find: Callable[[ModuleType], Iterable[tuple[object, str]]] | None = None
    always: bool = False


class BuiltIn(NamedTuple):
    """Telemetry that a library has itself, and what would record each task a second time.

    `variable` switches it on with one of `values`; `functions` (`module:name`) are those that
    record, each called for nothing but that, or as a context manager around what it records.
    """

    variable: str
    values: tuple[str, ...]
    functions: tuple[str, ...]


class Adapter(NamedTuple):
    """One queue library.

    `instruments` are the tested version ranges, as requirement strings. `rivals` are
    instrumentors (`module:Class`) that record the same and must not run beside us.
    """

    system: str
    instruments: tuple[str, ...]
    hooks: tuple[Hook, ...]
    rivals: tuple[str, ...] = ()
    span_names: Mapping[str, str] = {}
    """Span names under `naming=system` that differ from the rule, by operation."""
    built_in: BuiltIn | None = None
    """What the library records itself; it must not run beside us either."""
    switch: str = ""
    """A variable of the library's own that turns its instrumentation on or off where it is set."""
    interrupts: tuple[str, ...] = ()
    """Names of exceptions that the library raises into running code, ours too: time limits."""
