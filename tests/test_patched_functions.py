"""A patched function is as good as it was: pickled, copied, inspected, bound, wrapped by others."""

import copy
import functools
import inspect
import pickle
import sys
import types

import pytest
import wrapt

from otel_queue_bridge.adapter import Hook
from otel_queue_bridge.failures import Reports
from otel_queue_bridge.patching import Patches
from tests import fakelib


class On:
    """The least of a recorder."""

    def active(self):
        return True


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setitem(sys.modules, fakelib.NAME, None)
    return fakelib.fresh()


@pytest.fixture
def patches():
    patches = Patches(On(), Reports("made_up"))
    yield patches
    patches.undo()


@pytest.fixture
def seen(patches):
    return []


@pytest.fixture
def patch(patches, seen):
    def advice(call, recorder):
        seen.append((call.instance, call.args))
        yield

    def patch(path, **more):
        patches.install(Hook(f"{fakelib.NAME}:{path}", advice, **more))

    return patch


PATHS = [
    "send",
    "send_soon",
    "Queue.push",
    "Queue.push_soon",
    "Queue.named",
    "Queue.named_soon",
    "Queue.limited",
]


def looks(library, path):
    """What can be known of the function, from its owner and, of a method, from an instance."""
    name = path.rpartition(".")[2]
    holders = [library.Queue, library.FastQueue()] if "." in path else [library]
    return [look(getattr(holder, name)) for holder in holders]


def look(function):
    return {
        "type": type(function),
        "signature": inspect.signature(function),
        "full": inspect.getfullargspec(function),
        "names": (function.__module__, function.__name__, function.__qualname__, function.__doc__),
        "kinds": [
            kind.__name__
            for kind in (
                inspect.isfunction,
                inspect.ismethod,
                inspect.isroutine,
                inspect.iscoroutinefunction,
                callable,
            )
            if kind(function)
        ],
        "isinstance": isinstance(function, (types.FunctionType, types.MethodType)),
        "source": inspect.getsource(function),
        "defaults": str(inspect.signature(functools.partial(function, 1))),
        "weak": type(getattr(function, "__self__", None)),
    }


@pytest.mark.parametrize("path", PATHS)
def test_a_patched_function_looks_as_before(library, patch, path):
    before = looks(library, path)
    patch(path)
    assert looks(library, path) == before


@pytest.mark.parametrize("path", PATHS)
def test_a_patched_function_is_bound_as_before(library, patch, path):
    name = path.rpartition(".")[2]
    owner = library.Queue if "." in path else library
    before = type(inspect.getattr_static(owner, name))
    patch(path)
    assert type(inspect.getattr_static(owner, name)) is before
    queue = library.FastQueue()
    if "." in path:
        assert getattr(queue, name) == getattr(queue, name)
        assert hash(getattr(queue, name)) == hash(getattr(queue, name))
        assert getattr(getattr(queue, name), "__self__", None) in (queue, library.FastQueue, None)


def copies(function):
    """All ways to copy it; the last goes through another process's memory, as it were."""
    return [
        copy.copy(function),
        copy.deepcopy(function),
        copy.deepcopy({"callback": [function]})["callback"][0],
        *(
            pickle.loads(pickle.dumps(function, protocol))  # noqa: S301 - our own
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
        ),
    ]


@pytest.mark.parametrize("path", PATHS)
def test_a_patched_function_is_copied_and_pickled(library, patch, path):
    name = path.rpartition(".")[2]
    patch(path)
    for holder in [library.Queue] if "." in path else [library]:
        function = getattr(holder, name)
        assert all(found == function for found in copies(function))


@pytest.mark.parametrize("name", ["push", "push_soon", "named", "limited"])
def test_a_method_of_an_instance_is_copied_and_pickled_with_it(library, patch, seen, name):
    patch(f"Queue.{name}")
    queue = library.FastQueue()
    queue.label = "mine"
    for found in copies(getattr(queue, name)):
        assert type(found) is type(getattr(queue, name))
        holder = getattr(found, "__self__", None)
        if isinstance(holder, library.Queue):
            assert holder.label == "mine"


def test_what_is_pickled_while_patched_is_read_after_undo(library, patch, patches):
    patch("Queue.push")
    queue = library.Queue()
    written = pickle.dumps([library.Queue.push, queue.push])
    patches.undo()
    function, method = pickle.loads(written)  # noqa: S301
    assert function is library.Queue.push
    assert method("x") == ("pushed", ("x",), {})


def test_a_partial_of_a_patched_function_works(library, patch, seen):
    patch("send")
    patch("Queue.push")
    queue = library.Queue()
    assert functools.partial(library.send, "a", b=2)("c") == ("sent", "a", ("c",), {"b": 2})
    assert functools.partial(queue.push, 1)(2) == ("pushed", (1, 2), {})
    assert functools.partial(library.Queue.push, queue, 1)() == ("pushed", (1,), {})
    assert seen == [(None, ("a", "c")), (queue, (1, 2)), (queue, (1,))]


def test_a_patched_method_may_be_assigned_elsewhere(library, patch, seen):
    """As a descriptor it binds to whatever class it is put into."""
    patch("Queue.push")

    class Other:
        push = library.Queue.push
        again = functools.partialmethod(library.Queue.push, "first")

    other = Other()
    assert other.push(1) == ("pushed", (1,), {})
    assert other.again(2) == ("pushed", ("first", 2), {})
    assert library.Queue.push.__get__(other)(3) == ("pushed", (3,), {})
    assert seen == [(other, (1,)), (other, ("first", 2)), (other, (3,))]


def test_what_a_function_has_as_attributes_stays(library, patch):
    library.send.retries = 3
    patch("send")
    assert library.send.retries == 3


# Held by an instance


def test_an_instance_with_a_patched_method_is_copied_and_pickled(library, patches, seen):
    def advice(call, recorder):
        seen.append(call.args)
        yield

    def push(self, *args):
        return self, args

    library.Queue.push = push
    queue = library.FastQueue()
    queue.label = "mine"
    patches.patch(queue, "push", advice)
    assert inspect.ismethod(queue.push)
    assert queue.push("own") == (queue, ("own",))
    for twin in (copy.deepcopy(queue), pickle.loads(pickle.dumps(queue))):  # noqa: S301
        assert twin.label == "mine"
        assert twin.push("twin") == (twin, ("twin",))
    assert seen[0] == ("own",)
    patches.undo()
    assert vars(queue) == {"label": "mine"}


# Somebody else's wrappers below ours


def others(wrapped, instance, args, kwargs):
    return ["other", instance, wrapped(*args, **kwargs)]


def test_another_tools_wrapper_below_ours_knows_who_is_called(library, patch, patches, seen):
    for path in ("send", "Queue.push", "Queue.named", "Queue.limited"):
        wrapt.wrap_function_wrapper(library, path, others)
    queue = library.Queue()

    def called():
        return [
            library.send("x"),
            queue.push("x"),
            library.Queue.push(queue, "x"),
            library.Queue.named("x"),
            queue.named("x"),
            library.Queue.limited("x"),
            queue.limited("x"),
        ]

    expected = called()
    held = {name: vars(library.Queue)[name] for name in ("push", "named", "limited")}
    for path in ("send", "Queue.push", "Queue.named", "Queue.limited"):
        patch(path)
    assert called() == expected
    assert len(seen) == 7
    assert seen[1] == seen[2] == (queue, ("x",))
    patches.undo()
    assert {name: vars(library.Queue)[name] for name in held} == held
    assert called() == expected


@pytest.mark.parametrize(
    ("callee", "expected"),
    [
        (functools.partial(lambda *args: args, "fixed"), ("fixed", "x")),
        (len, 1),
        (str.upper, "X"),
        ("-".join, "x"),
    ],
    ids=["partial", "C function", "method of C", "bound method of C"],
)
def test_what_is_no_python_function_is_called_as_before(
    library, patch, patches, seen, callee, expected
):
    library.callee = library.Queue.static = library.Queue.plain = callee
    library.Queue.static = staticmethod(callee)
    for path in ("callee", "Queue.static", "Queue.plain"):
        patch(path)
    queue = library.Queue()
    assert library.callee("x") == expected
    assert library.Queue.static("x") == queue.static("x") == expected
    assert library.Queue.plain("x") == expected
    if not hasattr(type(callee), "__get__"):
        assert queue.plain("x") == expected
    assert len(seen) >= 4
    patches.undo()
    assert library.callee is vars(library.Queue)["plain"] is callee


# What is refused


class Meta(type):
    def __call__(cls, *args, **kwargs):
        return super().__call__(*args, **kwargs)


async def soon():
    yield 1


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        (property(lambda self: 1), "a property"),
        (functools.cached_property(lambda self: 1), "a cached_property"),
        (functools.partialmethod(len), "a partialmethod"),
        (3, "a int"),
        (None, "a NoneType"),
        (fakelib.Queue, "a type"),
        (Meta("Made", (), {}), "a Meta"),
        (fakelib.count, "a generator function"),
        (soon, "a generator function"),
        (staticmethod(fakelib.count), "a generator function"),
        (functools.partial(fakelib.count, 1), "a generator function"),
    ],
)
@pytest.mark.parametrize("optional", [False, True])
def test_what_is_no_function_any_more_is_refused_and_reported(
    library, patch, caplog, there, reason, optional
):
    library.Queue.push = there
    for _ in range(2):
        patch("Queue.push", optional=optional)
    assert vars(library.Queue)["push"] is there
    (record,) = caplog.records
    assert f"{fakelib.NAME}:Queue.push" in record.getMessage()
    assert reason in record.getMessage()
    assert "it stays as it is" in record.getMessage()


def test_a_generator_function_of_a_module_stays_and_is_lazy(library, patch, caplog):
    count = library.count
    patch("count")
    assert library.count is count
    assert list(library.count(3)) == [0, 1, 2]
    assert "generator" in caplog.text


def test_a_factory_whose_product_is_a_generator_function_hands_it_out_untouched(
    library, patch, caplog
):
    library.make_runner = lambda name: library.count
    patch("make_runner", factory=True)
    assert library.make_runner("x") is library.count
    (record,) = caplog.records
    assert "make_runner" in record.getMessage()


def test_an_optional_target_that_is_missing_is_no_report(library, patch, caplog):
    for path in ("gone", "Gone.push", "Gone.deeper.push", "Queue.gone"):
        patch(path, optional=True)
    assert caplog.records == []


@pytest.mark.parametrize("path", ["send", "send_soon", "Queue.push"])
def test_stop_iteration_out_of_a_plain_advice_is_reported(library, patches, caplog, path):
    def advice(call, recorder):
        call.args = ("wrong",)
        next(iter(()))

    patches.install(Hook(f"{fakelib.NAME}:{path}", advice))
    holder = library.Queue() if "." in path else library
    result = getattr(holder, path.rpartition(".")[2])("x")
    if inspect.isawaitable(result):
        with pytest.raises(StopIteration) as stopped:
            result.send(None)
        result = stopped.value.value
    assert "x" in str(result)
    (record,) = caplog.records
    assert "StopIteration" in record.getMessage()
