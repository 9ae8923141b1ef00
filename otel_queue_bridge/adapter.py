"""The contract between the core and one queue library: plain data and protocols.

An adapter says *where* its library has to be patched (`Hook`), *how to read* a task
(`Task`) and *what a run meant* (`Outcome`). Spans, metrics, context and errors belong to
the core, which the adapter reaches as a `Recorder`. docs/adapters.md shows how to write one.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from contextvars import ContextVar
    from types import ModuleType

    from opentelemetry.util.types import AttributeValue
    from typing_extensions import Self

Status = Literal["success", "failure", "retry", "cancelled", "rejected", "ignored"]
"""What became of an attempt; the values of `task.status`."""


class Arguments(NamedTuple):
    """What a task is called with. The core finds the names, also of what `**kwargs` takes up."""

    function: Callable[..., Any] | None
    """The task's function; None where this process does not have it."""
    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = {}


@dataclass(slots=True)
class Task:
    """The facts of one unit of work, as far as the caller of the core knows them."""

    name: str
    queue: str
    id: str | None = None
    carrier: MutableMapping[str, Any] | None = None
    """Written by a submit, read by a dispatch and an execute.

    Without one, the operation belongs to whatever is current (an eager run).
    """
    other_carriers: tuple[object, ...] = ()
    """Where else a trace may be that another tracer has sent; read after `carrier`, in order."""
    rerun_of: Mapping[str, Any] | None = None
    """A carrier that has served a run already: this one has its own trace, with a link to that.

    A submit inside a span belongs to the span all the same.
    """
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
    transport: str | None = None
    """What carries the task: `redis`, `amqp` and the like."""
    attributes: Mapping[str, AttributeValue] | None = None
    """What only this library has; each name begins with `{system}.`."""
    arguments: Callable[[], Arguments] | None = None
    """Called only if the user captures arguments of this task, or by the user's own functions."""
    batch: Sequence[Task] = ()
    """The tasks that one execute runs at once: it is linked to each, and each is counted."""
    schedule: str | None = None
    """Name of the schedule that submits it; a worker finds it in the carrier."""
    due: float | None = None
    """When it became due, in seconds since the epoch; the core finds it in the carrier."""
    metric_attributes: tuple[tuple[str, str | bool | int], ...] | None = None
    """More attributes of its metrics; the core asks the user's function for them."""

    @property
    def is_retry(self) -> bool:
        """Whether its submit is that of a retry, and no new task."""
        return (self.attempt or 1) > 1 if self.retry is None else self.retry


SUBMITTED = "otel-submitted"
"""In a carrier: when the task was handed over, in seconds since the epoch."""
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
    """Return `error.type`: the qualified name, without the module for built-in exceptions."""
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
    """What gauges show of workers, or of one queue. None is unknown, and is not exported."""

    value: int | None
    """The number of workers, busy or not; or of tasks that wait ready at the broker."""
    queue: str | None = None
    priority: str | None = None
    busy: int | None = None
    """How many of the workers run a task now."""
    delayed: int | None = None
    """How many tasks of the queue wait for their time, or for other tasks."""
    dead: int | None = None
    """How many tasks of the queue failed for good, and are kept."""
    oldest: float | None = None
    """The age of the ready task that is served next, in seconds; 0 if none waits."""


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

    As a context manager it is current while it lasts. It ends exactly once: by `end`, or when
    the `with` is left.
    """

    def settle(self, outcome: Outcome) -> None:
        """Say what the operation came to; the last word counts."""

    def settle_by(self, call: Call) -> None:
        """Settle it by what the call came to: a success, or a failure with the call's error."""

    def inject(self, carrier: MutableMapping[str, Any], *, once: bool = False) -> None:
        """Hand over: write this operation into a carrier, for what runs next on its behalf.

        If that is `once`, its execute has the same span id wherever it is reported: by the
        process that runs it, or for one that was killed by its parent.
        """

    def identify(self, task_id: str) -> None:
        """Name the task where its id is known only after the submit."""

    def disown(self) -> None:
        """Leave it to another process to report this operation; here it never ends."""

    def end(self) -> None:
        """End the operation; a second end does nothing."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc_info: object) -> None: ...


class Exchange(Protocol):
    """One request to another process on behalf of a task, until its reply."""

    def note(self, attribute: str, value: AttributeValue) -> None:
        """Add an attribute that is known by now."""

    def close(self, outcome: Outcome = SUCCESS) -> None:
        """Close the exchange; a second close does nothing."""


class Relay(Protocol):
    """The way from forked children to this process, which reports for them."""

    def told(self) -> Collection[str]:
        """Return what children have sent by `tell` since the last call.

        All that a child wrote before it died has been read by then.
        """

    def close(self) -> None: ...


Owner = TypeVar("Owner")


class Recorder(Protocol):
    """What the core offers to the advices of one adapter."""

    def submit(self, task: Task) -> Operation: ...

    def store(self, task: Task) -> None:
        """Write the current span into the carrier of a task that is submitted later, elsewhere."""

    def dispatch(
        self, task: Task, *, start_time: int | None = None, measured: bool = True
    ) -> Operation:
        """Open a dispatch; `start_time` in nanoseconds since the epoch.

        It is not `measured` where another process has counted it already.
        """

    def execute(
        self, task: Task, *, start_time: int | None = None, measured: bool = False
    ) -> Operation:
        """Open an execute; `measured` if its end is to be counted by this process."""

    def parent_counts(self) -> bool:
        """Tell whether the process that forked this one records what is counted here.

        If not, because it has no SDK or is not instrumented, this one has to count for both.
        """

    def dispatched(self, task: Task) -> None:
        """Count an attempt whose dispatch nobody could record."""

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

    @overload
    def watch_workers(self, read: Callable[[], Iterable[Reading]]) -> Callable[[], None]: ...
    # Read the workers of this process at each export. `read` gets the object that they belong
    # to (`of`), as long as that lives. The reading ends by `close(of)`, by the function that is
    # returned, or when the object is gone.
    @overload
    def watch_workers(
        self, read: Callable[[Owner], Iterable[Reading]], of: Owner
    ) -> Callable[[], None]: ...

    @overload
    def watch_depth(self, read: Callable[[], Iterable[Reading]]) -> Callable[[], None]: ...
    # Likewise the queues. One read for each export brings all that is known of them; a read
    # that hangs or raises gives no reading and one warning.
    @overload
    def watch_depth(
        self, read: Callable[[Owner], Iterable[Reading]], of: Owner
    ) -> Callable[[], None]: ...

    def age(self, *carriers: object) -> float | None:
        """Return for how many seconds a task has been due, by the first carrier that tells.

        None if none does: who submitted it runs without us.
        """

    def relay(self, of: object = None) -> Relay:
        """Report here what children forked from now on have to report.

        It ends like a gauge: by `close(of)`, by its own `close`, or when `of` is gone.
        """

    def close(self, of: object) -> None:
        """Close all gauges and relays that were opened for this object."""

    def relay_spans(self, *, always: bool = False) -> None:
        """From a forked child: let the parent export the spans that end from now on.

        Unless there is no relay, or `child_export` is `own`; that does not count where the child
        could `always` export nothing.
        """

    def descriptors(self) -> list[int]:
        """In a forked child: return the numbers of its pipes, for code that closes all files."""

    def tell(self, message: str) -> None:
        """From a forked child: send a word to the parent's relay, as that something is reported."""

    def patch(self, owner: object, attribute: str, advice: Advice) -> None:
        """Advise one attribute of an object that appeared at run time."""

    def advised(self, function: Callable[..., Any], advice: Advice) -> Callable[..., Any]:
        """Return a function that runs this one inside the advice."""

    def flush(self, *, metrics: bool = False) -> None:
        """Export what this process has finished, within `flush_timeout`: it is about to end.

        Spans, and metrics if it has counted anything itself; with `metrics` gauges, too.
        """

    def suppressed(self) -> AbstractContextManager[None]:
        """Record nothing of what the host does inside the `with`."""

    def polling(self) -> AbstractContextManager[object]:
        """Let other instrumentations record nothing of what a worker does by itself.

        That is, of polling, heartbeats, maintenance and events, unless `suppress_polling` is off.
        Ours is not suppressed, but no task may run in there.
        """

    def not_polling(self) -> AbstractContextManager[bool]:
        """Suspend `polling` for what is done on behalf of a task; it tells whether that was on."""


Advice = Callable[[Call, Recorder], "Generator[None, None, None] | None"]
"""What to do before a call, as a plain function; or around it, as a generator.

A generator yields once, where the original runs, and finds the call's result or error
afterwards. It never has to raise or return anything; one that returns without a yield has
nothing to say about this call, and what it has replaced is put back.
"""


def poll(_: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Advise a method of a worker that does nothing but polling, heartbeats and the like."""
    with recorder.polling():
        yield


Ask = Callable[[Sequence[Sequence[Any]]], "list[Any]"]
"""Sends commands, and returns the answers."""


def ask_redis(client: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Return Redis' answers to these commands, for a reading; `client` is one of redis-py."""
    with asking_redis(client) as ask:
        return ask(commands)


@contextmanager
def asking_redis(client: Any) -> Iterator[Ask]:
    """Open what asks Redis again and again, where a question depends on an earlier answer.

    The commands go over a new connection: the client's pool may have none to spare for tasks.
    """
    pool = getattr(client, "connection_pool", None)
    if pool is None:  # a cluster's client has several
        yield partial(_ask_cluster, client)
        return
    connection = pool.connection_class(**pool.connection_kwargs)
    try:
        connection.connect()
        yield partial(_ask, connection)
    finally:
        connection.disconnect()


def _ask(connection: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
    connection.send_packed_command(connection.pack_commands(commands))
    return [connection.read_response() for _ in commands]


def _ask_cluster(client: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
    with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = pipeline.execute()
        return answers


class Hook(NamedTuple):
    """A place to patch: `module:Qualified.name`, once that module is imported."""

    target: str
    advice: Advice
    overrides: bool = False
    """Patch every override of this method as well, also of classes that appear later.

    One that calls its parent's is one call: the advice runs once, for the first of them.
    """
    optional: bool = False
    """Some supported versions do not have the target."""
    aliases: tuple[str, ...] = ()
    """Other places that hold the same function, imported by name."""
    factory: bool = False
    """The target returns the function to advise."""
    find: Callable[[ModuleType], Iterable[tuple[object, str]]] | None = None
    """Further (owner, attribute) pairs that exist when the module is patched.

    The target is then the module alone.
    """
    within: ContextVar[Any] | None = None
    """The advice has something to do only while this holds something; not with `find`."""


class BuiltIn(NamedTuple):
    """Telemetry that a library has itself, and that would record each task a second time.

    `variable` switches it on with one of `values`; `functions` (`module:name`) are those that
    record, each called for nothing but that, or as a context manager around what it records.
    """

    variable: str
    values: tuple[str, ...]
    functions: tuple[str, ...]


class Variant(NamedTuple):
    """One of several packages that a library may come in."""

    tested: str
    """The tested version range, as a requirement string."""
    module: str
    """Its import shows that a process uses the library."""
    since: str = "0"
    """The first version that has the library in it; one below it counts as missing."""


class Adapter(NamedTuple):
    """One queue library.

    `instruments` are the tested version ranges, as requirement strings. `rivals` are
    instrumentors (`module:Class`) that record the same and must not run beside us.
    """

    system: str
    """`messaging.system`, and the adapter's name among the entry points."""
    instruments: tuple[str, ...]
    hooks: tuple[Hook, ...]
    rivals: tuple[str, ...] = ()
    span_names: Mapping[str, str] = {}
    """Span names under `naming=system` that differ from the rule, by operation."""
    built_in: BuiltIn | None = None
    """What the library records itself; it must not run beside us either."""
    switch: str = ""
    """A variable of the library's own that turns its instrumentation on or off where it is set."""
    child_export: Literal["relay", "own"] = "own"
    """How spans leave a forked child that asks for `relay_spans`, unless the user decides."""
    interrupts: tuple[str, ...] = ()
    """Exceptions that the library raises into running code, ours too: time limits.

    Written `module:Qualified.name`; their subclasses count as well.
    """
    queries_for_depth: bool = False
    """What waits takes a query on the user's database: only if the option `queue_depth` is set."""
    instruments_any: tuple[Variant, ...] = ()
    """In place of `instruments`: one has to be there, and each that is has to be tested."""

    @property
    def tested(self) -> tuple[str, ...]:
        """All tested version ranges, as requirement strings."""
        return self.instruments + tuple(variant.tested for variant in self.instruments_any)
