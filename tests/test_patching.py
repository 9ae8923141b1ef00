"""Patching from outside: the host never notices, whatever our advice does, and it is all undone."""

import asyncio
import functools
import gc
import importlib
import inspect
import logging
import sys
import weakref
from contextvars import ContextVar
from types import ModuleType

import pytest
import wrapt
from opentelemetry import context as otel_context

from otel_queue_bridge import failures
from otel_queue_bridge.adapter import Hook
from otel_queue_bridge.failures import Reports
from otel_queue_bridge.patching import Patches
from tests import fakelib


class Switch:
    """The least of a recorder: on, off or broken."""

    on = True
    broken = False

    def active(self):
        if self.broken:
            raise RuntimeError("no provider")
        return self.on


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setitem(sys.modules, fakelib.NAME, None)
    return fakelib.fresh()


@pytest.fixture
def switch():
    return Switch()


@pytest.fixture
def patches(switch):
    patches = Patches(switch, Reports("made_up"))
    yield patches
    patches.undo()


@pytest.fixture
def later(tmp_path, monkeypatch):
    """Write a module to be imported in the test."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


def hook(path, advice, **more):
    return Hook(f"{fakelib.NAME}:{path}", advice, **more)


def finished(result):
    """Return what a call came to, if need be of a coroutine."""
    return asyncio.run(result) if inspect.isawaitable(result) else result


def held(attribute):
    return {"find": lambda module: [(module.app, attribute)]}


# shape: path, more of the hook, how to call it, what the advice sees as the instance
SHAPES = {
    "function": ("send", {}, lambda lib: lib.send, lambda _: None),
    "async function": ("send_soon", {}, lambda lib: lib.send_soon, lambda _: None),
    "method": ("Queue.push", {}, lambda lib: lib.app.queue.push, lambda lib: lib.app.queue),
    "async method": (
        "Queue.push_soon",
        {},
        lambda lib: lib.app.queue.push_soon,
        lambda lib: lib.app.queue,
    ),
    "inherited method": (
        "FastQueue.push",
        {},
        lambda lib: lib.app.queue.push,
        lambda lib: lib.app.queue,
    ),
    "method of the parent": (
        "Queue.push",
        {},
        lambda lib: lib.app.queue.push,
        lambda lib: lib.app.queue,
    ),
    "classmethod": ("Queue.named", {}, lambda lib: lib.Queue.named, lambda lib: lib.Queue),
    "async classmethod": (
        "Queue.named_soon",
        {},
        lambda lib: lib.Queue.named_soon,
        lambda lib: lib.Queue,
    ),
    "staticmethod": ("Queue.limited", {}, lambda lib: lib.Queue.limited, lambda _: None),
    "instance attribute": ("", held("sender"), lambda lib: lib.app.sender, lambda lib: lib.app),
    "product of a factory": (
        "make_runner",
        {"factory": True},
        lambda lib: lib.make_runner("x"),
        lambda _: None,
    ),
}


@pytest.fixture(params=SHAPES)
def shape(request, library):
    """A hook's making, a way to call its target, and the instance to be seen."""
    path, more, callee, instance = SHAPES[request.param]
    library.app.queue = library.FastQueue()
    return (
        lambda advice: hook(path, advice, **more),
        lambda *args, **options: finished(callee(library)(*args, **options)),
        instance(library),
    )


def silent(call, recorder):
    yield


# What an advice sees and may change


def test_an_advice_sees_the_call_before_and_its_result_after(shape, patches):
    make, call, instance = shape
    expected = call("a", b=2)
    seen = []

    def advice(call, recorder):
        seen.append((call.instance, call.args, call.kwargs, call.result))
        yield
        seen.append((call.result, call.error))

    patches.install(make(advice))
    assert call("a", b=2) == expected
    assert seen == [(instance, ("a",), {"b": 2}, None), (expected, None)]


def test_an_advice_may_replace_arguments_and_result(shape, patches):
    make, call, _ = shape
    expected = call("z", c=3)

    def advice(call, recorder):
        call.args, call.kwargs = ("z",), {"c": 3}
        yield
        call.result = ["replaced", call.result]

    patches.install(make(advice))
    assert call("a", b=2) == ["replaced", expected]


def test_a_product_knows_the_call_that_made_it(library, patches):
    seen = []

    def advice(call, recorder):
        seen.append(call.maker.argument(0, "name"))
        yield

    patches.install(hook("make_runner", advice, factory=True))
    library.make_runner("first")()
    library.make_runner(name="second")()
    assert seen == ["first", "second"]


def test_nothing_happens_while_there_is_nothing_to_do(shape, patches, switch):
    make, call, _ = shape
    expected = call("a")

    def advice(call, recorder):
        call.args = ("wrong",)
        yield

    patches.install(make(advice))
    switch.on = False
    assert call("a") == expected
    switch.on = True
    assert call("a") != expected


def test_a_factory_used_before_the_sdk_came_still_makes_advised_products(library, patches, switch):
    seen = []

    def advice(call, recorder):
        seen.append(call.args)
        yield

    patches.install(hook("make_runner", advice, factory=True))
    switch.on = False
    runner = library.make_runner("x")
    runner("off")
    switch.on = True
    runner("on")
    assert seen == [("on",)]


# The host's exceptions


@pytest.mark.parametrize("path", ["fail", "fail_soon"])
@pytest.mark.parametrize("late_failure", [False, True])
@pytest.mark.parametrize("kind", [fakelib.Boom, KeyboardInterrupt, SystemExit])
def test_an_exception_of_the_host_passes_unchanged(library, patches, path, late_failure, kind):
    cause, about = ValueError("cause"), ValueError("context")
    error = kind("host")
    error.__cause__, error.__context__ = cause, about
    seen = []

    def advice(call, recorder):
        yield
        seen.append((call.error, call.result))
        if late_failure:
            raise RuntimeError("ours")

    patches.install(hook(path, advice))
    with pytest.raises(kind) as caught:
        finished(getattr(library, path)(error))
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (cause, about)
    assert seen == [(error, None)]


@pytest.mark.parametrize("path", ["fail", "fail_soon"])
def test_an_exception_without_a_context_gets_none_from_us(library, patches, path):
    def advice(call, recorder):
        yield
        raise RuntimeError("ours")

    patches.install(hook(path, advice))
    error = fakelib.Boom()
    with pytest.raises(fakelib.Boom):
        finished(getattr(library, path)(error))
    assert (error.__cause__, error.__context__) == (None, None)


# Our own failures


def fails_before(call, recorder):
    call.args, call.kwargs = ("wrong",), {}
    raise ValueError(f"cannot read {call.args} secret")
    yield


def fails_after(call, recorder):
    yield
    call.result = "wrong"
    raise ValueError("cannot read secret")


def is_no_generator(call, recorder):
    call.args = ("wrong",)
    return 1


def has_nothing_to_say(call, recorder):
    call.args = ("wrong",)
    return
    yield


def yields_twice(call, recorder):
    yield
    yield


@pytest.mark.parametrize(
    ("advice", "logged"),
    [
        (fails_before, 1),
        (fails_after, 1),
        (is_no_generator, 1),
        (has_nothing_to_say, 0),
        (yields_twice, 0),
    ],
)
def test_whatever_an_advice_does_wrong_the_call_goes_through(
    shape, patches, caplog, advice, logged
):
    make, call, _ = shape
    expected = call("secret", b=2)
    patches.install(make(advice))
    for _ in range(3):
        assert call("secret", b=2) == expected
    assert len(caplog.records) == logged
    assert "secret" not in caplog.text
    for record in caplog.records:
        assert (record.name, record.levelno) == ("otel_queue_bridge", logging.WARNING)
        assert "made_up" in record.getMessage()


@pytest.mark.parametrize("advice", [fails_before, fails_after, is_no_generator])
@pytest.mark.parametrize("path", ["send", "send_soon"])
def test_a_failing_advice_does_not_call_the_host_twice(library, patches, path, advice):
    calls = []

    async def send_soon(name):
        calls.append(name)

    library.send, library.send_soon = calls.append, send_soon
    patches.install(hook(path, advice))
    finished(getattr(library, path)("x"))
    assert calls == ["x"]


def test_each_place_is_logged_on_its_own(library, patches, caplog):
    patches.install(hook("send", fails_before))
    patches.install(hook("Queue.push", fails_after))
    for _ in range(2):
        library.send("x")
        library.Queue().push("x")
    assert len(caplog.records) == 2
    assert "send" in caplog.records[0].getMessage()
    assert "Queue.push" in caplog.records[1].getMessage()


@pytest.mark.parametrize("path", ["send", "send_soon"])
def test_a_recorder_that_fails_does_not_reach_the_host(library, patches, switch, path):
    patches.install(hook(path, silent))
    switch.broken = True
    assert finished(getattr(library, path)("x")) == ("sent", "x", (), {})


def test_an_advice_that_fails_when_it_is_closed_does_not_reach_the_host(library, patches):
    def advice(call, recorder):
        yield
        try:
            yield
        finally:
            raise ValueError("ours")

    patches.install(hook("send", advice))
    assert library.send("x")[1] == "x"


def test_a_target_that_does_not_exist_is_logged_and_the_rest_is_patched(library, patches, caplog):
    seen = []

    def advice(call, recorder):
        seen.append(call.args)
        yield

    patches.install(hook("Queue.no_such_thing", advice))
    patches.install(hook("send", advice))
    library.send("x")
    assert seen == [("x",)]
    (record,) = caplog.records
    assert fakelib.NAME in record.getMessage()


def test_every_target_that_does_not_exist_is_named(library, patches, caplog):
    for path in ("gone", "Queue.lost"):
        patches.install(hook(path, silent))
    assert "gone" in caplog.text
    assert "Queue.lost" in caplog.text


# Async


def test_what_an_advice_makes_current_is_current_in_the_coroutine_only(library, patches):
    key = otel_context.create_key("ours")
    seen = []

    async def look(*_):
        await asyncio.sleep(0)
        seen.append(otel_context.get_value(key))

    library.Queue.push_soon = look

    def advice(call, recorder):
        token = otel_context.attach(otel_context.set_value(key, call.args))
        yield
        otel_context.detach(token)

    patches.install(hook("Queue.push_soon", advice))

    async def main():
        queue = library.Queue()
        await asyncio.gather(queue.push_soon(1), queue.push_soon(2))
        await queue.push_soon(3)
        seen.append(otel_context.get_value(key))

    asyncio.run(main())
    assert seen == [(1,), (2,), (3,), None]


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="only an `async def` is a coroutine function, and it waits"
)
def test_arguments_that_do_not_fit_are_refused_by_the_call_itself(library, patches):
    patches.install(hook("send_soon", lambda call, recorder: None))
    with pytest.raises(TypeError, match=r"send_soon\(\) missing 1 required positional argument"):
        library.send_soon()


def test_a_coroutine_gets_what_its_advice_replaced(library, patches):
    def advice(call, recorder):
        call.args = (*call.args, "more")
        yield

    patches.install(hook("send_soon", advice))
    assert asyncio.run(library.send_soon("a")) == asyncio.run(fakelib.send_soon("a", "more"))


def test_a_cancellation_passes_and_is_seen(library, patches):
    seen = []

    async def wait_for_ever():
        await asyncio.Event().wait()

    library.send_soon = wait_for_ever

    def advice(call, recorder):
        yield
        seen.append(type(call.error))
        raise RuntimeError("ours")

    patches.install(hook("send_soon", advice))

    async def main():
        task = asyncio.create_task(library.send_soon())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelled()

    assert asyncio.run(main())
    assert seen == [asyncio.CancelledError]


@pytest.mark.parametrize(
    ("path", "more", "callee", "kind"),
    [
        ("send", {}, lambda lib: lib.send, "plain"),
        ("send_soon", {}, lambda lib: lib.send_soon, "coroutine"),
        ("Queue.push_soon", {}, lambda lib: lib.Queue().push_soon, "coroutine"),
        ("Queue.named_soon", {}, lambda lib: lib.Queue.named_soon, "coroutine"),
        ("", held("sender_soon"), lambda lib: lib.app.sender_soon, "coroutine"),
        ("make_runner_soon", {"factory": True}, lambda lib: lib.make_runner_soon("x"), "coroutine"),
    ],
)
def test_a_function_stays_of_its_kind_and_its_signature(library, patches, path, more, callee, kind):
    signature = inspect.signature(callee(library))
    patches.install(hook(path, silent, **more))
    function = callee(library)
    assert inspect.iscoroutinefunction(function) == (kind == "coroutine")
    assert inspect.signature(function) == signature


@pytest.mark.parametrize(
    ("more", "path", "callee"),
    [
        (held("sender_soon"), "", lambda lib: lib.app.sender_soon),
        ({"factory": True}, "make_runner_soon", lambda lib: lib.make_runner_soon("x")),
    ],
)
def test_an_advice_spans_a_coroutine_held_by_an_instance_or_made(
    library, patches, more, path, callee
):
    results = []

    def advice(call, recorder):
        yield
        results.append(call.result)

    patches.install(hook(path, advice, **more))
    expected = asyncio.run(callee(library)("a"))
    assert results == [expected]


def test_a_sync_function_that_wraps_a_coroutine_function_stays_sync(library, patches):
    """As `dramatiq.asyncio.async_to_sync` makes them."""
    wanted = library.send_soon

    @functools.wraps(wanted)
    def send(*args, **options):
        return asyncio.run(wanted(*args, **options))

    library.send = send
    patches.install(hook("send", silent))
    result = library.send("x")
    if inspect.iscoroutine(result):
        result.close()
    assert result == ("sent", "x", (), {})


# Aliases, and things that exist already


def test_a_function_imported_by_name_elsewhere_is_patched_there_too(library, patches, later):
    later("made_up_worker", f"from {fakelib.NAME} import send")
    worker = importlib.import_module("made_up_worker")
    original = library.send
    patches.install(hook("send", replacing, aliases=("made_up_worker:send",)))
    assert (library.send("x"), worker.send("x")) == ("ours", "ours")
    patches.undo()
    assert library.send is original
    assert worker.send is original


def test_an_alias_imported_later_is_restored_too(library, patches, later):
    later("made_up_worker", f"from {fakelib.NAME} import send")
    original = library.send
    patches.install(hook("send", replacing, aliases=("made_up_worker:send",)))
    worker = importlib.import_module("made_up_worker")
    assert worker.send("x") == "ours"
    patches.undo()
    assert worker.send is original


def test_an_alias_that_is_another_function_is_left_alone(library, patches, later):
    later("made_up_worker", "def send(name): return 'its own'")
    worker = importlib.import_module("made_up_worker")
    patches.install(hook("send", replacing, aliases=("made_up_worker:send",)))
    assert worker.send("x") == "its own"


def test_what_appeared_at_run_time_is_advised_once_and_restored(library, patches):
    app = library.App()
    original = app.sender
    seen = []

    def advice(call, recorder):
        seen.append(call.instance)
        yield

    patches.patch(app, "sender", advice)
    patches.patch(app, "sender", advice)
    assert app.sender("x") == ("sender", ("x",), {})
    assert seen == [app]
    patches.undo()
    assert vars(app)["sender"] is original


@pytest.mark.parametrize(("kind", "attribute"), [("App", "sender"), ("Queue", "push")])
def test_what_appeared_at_run_time_is_not_kept(library, patches, kind, attribute):
    gone, kept = getattr(library, kind)(), getattr(library, kind)()
    before = dict(vars(kept))
    for owner in (gone, kept):
        patches.patch(owner, attribute, silent)
    seen = weakref.ref(gone)
    del gone
    gc.collect()
    assert seen() is None
    patches.undo()
    assert vars(kept) == before


def test_a_method_of_one_instance_can_be_advised(library, patches):
    queue = library.Queue()
    patches.patch(queue, "push", silent)
    assert queue.push("x") == ("pushed", ("x",), {})


def test_an_advice_may_patch_through_its_recorder_while_it_runs(library, patches):
    def advice(call, recorder):
        yield
        patches.patch(library.app, "sender", replacing)

    patches.install(hook("send", advice))
    assert library.app.sender("x") != "ours"
    library.send("x")
    assert library.app.sender("x") == "ours"


def replacing(call, recorder):
    yield
    call.result = "ours"


# Deferred until import


def test_a_library_is_not_imported_by_us_and_patched_once_it_is(patches, later):
    later("made_up_later", "def send(name): return name")
    patches.install(Hook("made_up_later:send", replacing))
    assert "made_up_later" not in sys.modules
    module = importlib.import_module("made_up_later")
    assert module.send("x") == "ours"


def test_a_library_imported_before_is_patched_at_once(patches, later):
    later("made_up_later", "def send(name): return name")
    module = importlib.import_module("made_up_later")
    patches.install(Hook("made_up_later:send", replacing))
    assert module.send("x") == "ours"


def test_uninstrumented_before_the_import_it_stays_as_it_is(patches, later):
    later("made_up_later", "def send(name): return name")
    patches.install(Hook("made_up_later:send", replacing))
    patches.undo()
    module = importlib.import_module("made_up_later")
    assert type(module.send) is type(lambda: 0)


def test_a_library_that_lost_the_target_is_imported_all_the_same(patches, later, caplog):
    later("made_up_later", "answer = 42")
    patches.install(Hook("made_up_later:Gone.send", replacing))
    assert importlib.import_module("made_up_later").answer == 42
    assert len(caplog.records) == 1


# Put in the place of


def nothing(*_, **__):
    return "nothing"


def test_a_function_is_replaced_where_it_is_looked_up_and_restored(library, patches):
    original = library.send
    patches.replace(f"{fakelib.NAME}:send", nothing)
    assert library.send("x") == "nothing"
    patches.undo()
    assert library.send is original


def test_a_function_is_replaced_in_a_module_that_is_imported_later(patches, later):
    later("made_up_later", "def send(name): return name\noriginal = send")
    patches.replace("made_up_later:send", nothing)
    assert "made_up_later" not in sys.modules
    module = importlib.import_module("made_up_later")
    assert module.send("x") == "nothing"
    patches.undo()
    assert module.send is module.original


def test_a_name_that_a_module_imported_is_replaced_there_alone(library, patches, later):
    later("made_up_worker", f"from {fakelib.NAME} import send")
    worker = importlib.import_module("made_up_worker")
    original = library.send
    patches.replace("made_up_worker:send", nothing)
    assert worker.send("x") == "nothing"
    assert library.send is original
    patches.undo()
    assert worker.send is original


def test_what_is_undone_before_the_import_replaces_nothing(patches, later):
    later("made_up_later", "def send(name): return name\noriginal = send")
    patches.replace("made_up_later:send", nothing)
    patches.undo()
    module = importlib.import_module("made_up_later")
    assert module.send is module.original


def test_what_somebody_wrapped_since_it_was_replaced_stays(library, patches):
    patches.replace(f"{fakelib.NAME}:send", nothing)

    def theirs(wrapped, instance, args, kwargs):
        return "theirs"

    wrapt.wrap_function_wrapper(library, "send", theirs)
    wrapper = library.send
    patches.undo()
    assert library.send is wrapper
    assert library.send("x") == "theirs"


def test_what_is_not_there_to_be_replaced_is_logged_and_not_made(library, patches, caplog):
    patches.replace(f"{fakelib.NAME}:gone", nothing)
    patches.replace(f"{fakelib.NAME}:send", nothing)
    assert library.send("x") == "nothing"
    assert "gone" not in vars(library)
    (record,) = caplog.records
    assert f"{fakelib.NAME}:gone" in record.getMessage()


# Undo


def anatomy(library: ModuleType) -> dict[str, object]:
    """Every attribute that there is, by owner: the objects themselves."""
    owners = {"module": library, "app": library.app}
    owners |= {kind.__name__: kind for kind in (library.Queue, library.FastQueue, library.App)}
    return {
        f"{name}.{attribute}": value
        for name, owner in owners.items()
        for attribute, value in vars(owner).items()
    }


@pytest.mark.parametrize("times", [1, 2])
def test_undo_restores_the_very_objects_and_leaves_nothing_inherited(library, switch, times):
    library.app.queue = library.FastQueue()
    before = anatomy(library)
    patches = Patches(switch, Reports("made_up"))
    for _ in range(times):
        for path, more, _, _ in SHAPES.values():
            patches.install(hook(path, replacing, **more))
    changed = {name for name, value in anatomy(library).items() if before.get(name) is not value}
    assert {"module.send", "Queue.push", "FastQueue.push", "Queue.named", "app.sender"} <= changed
    for _ in range(times):
        patches.undo()
    after = anatomy(library)
    assert after.keys() == before.keys()
    assert [name for name in before if before[name] is not after[name]] == []


def test_what_somebody_wrapped_since_stays_and_ours_below_is_off(library, patches):
    patches.install(hook("send", replacing))
    patches.install(hook("Queue.push", replacing))

    def theirs(wrapped, instance, args, kwargs):
        return ["theirs", wrapped(*args, **kwargs)]

    wrapt.wrap_function_wrapper(library, "send", theirs)
    wrapt.wrap_function_wrapper(library, "Queue.push", theirs)
    wrappers = library.send, vars(library.Queue)["push"]
    assert library.send("x") == ["theirs", "ours"]
    patches.undo()
    assert (library.send, vars(library.Queue)["push"]) == wrappers
    assert library.send("x") == ["theirs", ("sent", "x", (), {})]
    assert library.Queue().push("x") == ["theirs", ("pushed", ("x",), {})]


def test_a_product_made_before_undo_is_off_after_it(library, patches):
    patches.install(hook("make_runner", replacing, factory=True))
    runner = library.make_runner("x")
    assert runner() == "ours"
    patches.undo()
    assert runner() == ("ran", "x", (), {})


def test_a_new_patching_after_an_undo_is_on(library, switch, patches):
    patches.install(hook("send", replacing))
    patches.undo()
    again = Patches(switch, Reports("made_up"))
    again.install(hook("send", replacing))
    assert library.send("x") == "ours"
    again.undo()
    assert library.send("x") == ("sent", "x", (), {})


# Only within something


_variable = ContextVar("_variable", default=None)


@pytest.mark.parametrize(
    ("more", "call", "plain"),
    [
        (
            hook("send", replacing, within=_variable),
            lambda library: library.send("x"),
            ("sent", "x", (), {}),
        ),
        (
            hook("Queue.push", replacing, within=_variable),
            lambda library: library.Queue().push("x"),
            ("pushed", ("x",), {}),
        ),
        (
            hook("Queue.push", replacing, within=_variable, overrides=True),
            lambda library: library.Queue().push("x"),
            ("pushed", ("x",), {}),
        ),
        (
            hook("make_runner", replacing, within=_variable, factory=True),
            lambda library: library.make_runner("x")(),
            ("ran", "x", (), {}),
        ),
    ],
    ids=["function", "method", "override", "product"],
)
def test_an_advice_for_a_certain_context_is_off_in_any_other(library, patches, more, call, plain):
    patches.install(more)
    assert call(library) == plain
    token = _variable.set("held")
    assert call(library) == "ours"
    _variable.reset(token)
    assert call(library) == plain


class SoftTimeLimitExceeded(Exception):  # noqa: N818 - the host's names are the host's
    pass


@pytest.fixture
def time_limits():
    """Have the host's time limits pass."""
    failures.expect(time_limits, [f"{__name__}:SoftTimeLimitExceeded"])
    yield
    failures.forget(time_limits)


@pytest.mark.usefixtures("time_limits")
def test_a_time_limit_that_strikes_before_our_code_knows_what_to_do_is_the_tasks(
    library, switch, patches
):
    def struck():
        raise SoftTimeLimitExceeded

    switch.active = struck
    patches.install(hook("send", lambda call, recorder: None))
    with pytest.raises(SoftTimeLimitExceeded):
        library.send("a")


@pytest.mark.usefixtures("time_limits")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_time_limit_that_strikes_in_our_code_is_the_tasks(library, patches, when, caplog):
    def advice(call, recorder):
        if when == "before":
            raise SoftTimeLimitExceeded
        yield
        raise SoftTimeLimitExceeded

    patches.install(hook("send", advice))
    with pytest.raises(SoftTimeLimitExceeded):
        library.send("a")
    assert caplog.records == []


def test_a_plain_function_may_replace_the_arguments(library, patches):
    def advice(call, recorder):
        call.args, call.kwargs = (*call.args, "more"), {**call.kwargs, "c": 3}

    patches.install(hook("send", advice))
    assert library.send("a", b=2) == fakelib.send("a", "more", b=2, c=3)


def test_a_callback_is_advised_and_contained(patches):
    seen = []

    def advice(call, recorder):
        seen.append(call.args)
        raise ValueError

    advised = patches.advised(lambda value: value + 1, advice)
    assert [advised(1), advised(2)] == [2, 3]
    assert seen == [(1,), (2,)]
