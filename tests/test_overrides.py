"""Overrides: a method is recorded once per call, whichever class defines it, and until undo."""

import asyncio
import sys
import threading

import pytest

from otel_queue_bridge.adapter import Hook
from otel_queue_bridge.failures import Reports
from otel_queue_bridge.patching import Patches

NAME = "made_up_overrides"


class On:
    """The least of a recorder."""

    def active(self):
        return True


@pytest.fixture
def patches():
    patches = Patches(On(), Reports("made_up"))
    yield patches
    patches.undo()


@pytest.fixture
def library(monkeypatch):
    """A library with a queue, that others derive from."""
    module = type(sys)(NAME)

    class Queue:
        def push(self, *args):
            return ["pushed", *args]

        async def push_soon(self, *args):
            return ["pushed", *args]

        @classmethod
        def named(cls, *args):
            return ["named", *args]

        @staticmethod
        def limited(*args):
            return ["limited", *args]

    module.Queue = Queue
    monkeypatch.setitem(sys.modules, NAME, module)
    return module


@pytest.fixture
def seen(patches, library):
    """Advise `push`; return its calls."""
    return watch(patches)


def watch(patches, method="push", **more):
    calls = []

    def advice(call, recorder):
        calls.append(call.args)
        yield

    patches.install(Hook(f"{NAME}:Queue.{method}", advice, overrides=True, **more))
    return calls


def test_the_method_itself_is_one_call(library, seen):
    assert library.Queue().push(1) == ["pushed", 1]
    assert seen == [(1,)]


@pytest.mark.parametrize("late", [False, True], ids=["made before", "made later"])
def test_a_chain_of_three_that_call_their_parents_is_one_call_with_the_first_arguments(
    library, patches, late
):
    def make():
        class One(library.Queue):
            def push(self, *args):
                return ["one", *super().push(*args, 1)]

        class Two(One):
            def push(self, *args):
                return ["two", *super().push(*args, 2)]

        class Three(Two):
            """Inherits."""

        class Four(Three):
            def push(self, *args):
                return ["four", *super().push(*args, 4)]

        return One, Two, Three, Four

    kinds = () if late else make()
    calls = watch(patches)
    kinds = kinds or make()
    assert [len(kind().push("x")) for kind in kinds] == [4, 6, 6, 8]
    assert calls == [("x",)] * 4


@pytest.mark.parametrize("late", [False, True], ids=["made before", "made later"])
def test_an_override_that_never_calls_its_parent_is_a_call(library, patches, late):
    def make():
        return type("Quiet", (library.Queue,), {"push": lambda self, *args: "quiet"})

    kind = None if late else make()
    calls = watch(patches)
    assert (kind or make())().push(1) == "quiet"
    assert calls == [(1,)]


@pytest.mark.parametrize("late", [False, True], ids=["made before", "made later"])
def test_a_mixin_counts_once_with_the_queue_and_not_at_all_elsewhere(library, patches, late):
    class Mixin:
        def push(self, *args):
            return ["mixed", *super().push(*args)]

    class Unrelated:
        def push(self, *args):
            return ["unrelated", *args]

    def make():
        class Mixed(Mixin, library.Queue):
            pass

        class Further(Mixed):
            def push(self, *args):
                return ["further", *super().push(*args)]

        return Mixed, Further

    kinds = () if late else make()
    calls = watch(patches)
    mixed, further = kinds or make()
    elsewhere = type("Elsewhere", (Mixin, Unrelated), {})
    assert elsewhere().push(0) == ["mixed", "unrelated", 0]
    assert calls == []
    assert mixed().push(1) == ["mixed", "pushed", 1]
    assert further().push(2) == ["further", "mixed", "pushed", 2]
    assert calls == [(1,), (2,)]
    original = vars(Mixin)["push"]
    patches.undo()
    assert vars(Mixin)["push"] is not original, "the mixin's is restored, too"


def test_a_diamond_is_one_call(library, seen):
    class Left(library.Queue):
        def push(self, *args):
            return ["left", *super().push(*args)]

    class Right(library.Queue):
        def push(self, *args):
            return ["right", *super().push(*args)]

    class Both(Left, Right):
        pass

    assert Both().push(1) == ["left", "right", "pushed", 1]
    assert seen == [(1,)]


def test_a_queue_that_runs_its_job_at_once_counts_what_that_pushes_onto_the_same_queue(
    library, seen
):
    class AtOnce(library.Queue):
        def push(self, job):
            super().push(job)
            return job(self)

    AtOnce().push(lambda queue: queue.push(lambda _: "done"))
    assert len(seen) == 2


def test_two_threads_with_one_queue_count_each_for_itself(library, seen):
    inside = threading.Barrier(2)

    class Slow(library.Queue):
        def push(self, *args):
            inside.wait(20)
            return super().push(*args)

    queue = Slow()
    threads = [threading.Thread(target=queue.push, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [(0,), (1,)]


def test_async_overrides_are_one_call(library, patches):
    calls = watch(patches, "push_soon")

    class Soon(library.Queue):
        async def push_soon(self, *args):
            await asyncio.sleep(0)
            return ["soon", *await super().push_soon(*args)]

    async def main():
        queue = Soon()
        return await asyncio.gather(queue.push_soon(1), queue.push_soon(2))

    assert asyncio.run(main()) == [["soon", "pushed", 1], ["soon", "pushed", 2]]
    assert sorted(calls) == [(1,), (2,)]


def test_class_methods_are_one_call(library, patches):
    calls = watch(patches, "named")

    class Other(library.Queue):
        @classmethod
        def named(cls, *args):
            return [cls.__name__, *super().named(*args)]

    assert Other.named(1) == Other().named(1) == ["Other", "named", 1]
    assert library.Queue.named(2) == ["named", 2]
    assert calls == [(1,), (1,), (2,)]


def test_static_methods_are_recorded(library, patches):
    calls = watch(patches, "limited")

    class Other(library.Queue):
        @staticmethod
        def limited(*args):
            return ["other", *args]

    assert Other.limited(1) == Other().limited(1) == ["other", 1]
    assert library.Queue.limited(2) == ["limited", 2]
    assert calls == [(1,), (1,), (2,)]


# __init_subclass__ of the user's


def test_a_users_own_init_subclass_gets_its_arguments_and_need_not_call_its_parents(library, seen):
    got = []

    class Registered(library.Queue):
        def __init_subclass__(cls, /, tag=None, **kwargs):
            got.append((cls.__name__, tag))  # and no super()

    class One(Registered, tag="one"):
        def push(self, *args):
            return ["one"]

    class Two(One, tag="two"):
        def push(self, *args):
            return ["two", *super().push(*args)]

    class Three(Two):
        def __init_subclass__(cls, /, **kwargs):
            super().__init_subclass__(**kwargs)

    class Four(Three, tag="four"):
        def push(self, *args):
            return ["four", *super().push(*args)]

    assert got == [("One", "one"), ("Two", "two"), ("Three", None), ("Four", "four")]
    for kind in (One, Two, Three, Four):
        kind().push(kind)
    assert seen == [(One,), (Two,), (Three,), (Four,)]


def test_the_librarys_own_init_subclass_gets_its_arguments(library, patches):
    got = []

    def init_subclass(cls, /, tag, **kwargs):
        got.append((cls.__name__, tag, kwargs))

    library.Queue.__init_subclass__ = classmethod(init_subclass)
    before = vars(library.Queue)["__init_subclass__"]
    calls = watch(patches)

    class One(library.Queue, tag=1, more=2):
        def push(self, *args):
            return "one"

    assert got == [("One", 1, {"more": 2})]
    One().push(1)
    assert calls == [(1,)]
    with pytest.raises(TypeError, match="tag"):
        type("Two", (library.Queue,), {})
    patches.undo()
    assert vars(library.Queue)["__init_subclass__"] is before


def test_arguments_that_nobody_takes_are_refused_as_before(library, seen):
    with pytest.raises(TypeError, match="takes no keyword arguments"):
        type("Odd", (library.Queue,), {}, odd=True)


# What cannot be patched


def test_one_odd_override_is_reported_and_the_others_are_recorded(library, patches, caplog):
    class Odd(library.Queue):
        def push(self, *args):
            yield from args

    class Plain(library.Queue):
        def push(self, *args):
            return "plain"

    calls = watch(patches)

    class Late(library.Queue):
        push = property(lambda self: lambda *args: ["late", *library.Queue.push(self, *args)])

    assert list(Odd().push(1, 2)) == [1, 2]
    assert Plain().push(3) == "plain"
    assert Late().push(4) == ["late", "pushed", 4]
    assert calls == [(3,), (4,)]
    odd, late = (record.getMessage() for record in caplog.records)
    assert "Odd.push" in odd
    assert "a generator function" in odd
    assert "Late.push" in late
    assert "a property" in late


def test_a_method_that_only_subclasses_have_is_recorded_there(library, patches, caplog):
    class Sub(library.Queue):
        def flush_all(self):
            return "flushed"

    calls = watch(patches, "flush_all")
    assert Sub().flush_all() == "flushed"
    assert calls == [()]
    assert caplog.records == []


@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("path", ["Queue.gone", "Gone.push"])
def test_a_method_that_nobody_has_is_reported_unless_it_is_optional(
    library, patches, caplog, path, optional
):
    hook = Hook(f"{NAME}:{path}", lambda *_: None, overrides=True, optional=optional)
    patches.install(hook)
    assert [path in record.getMessage() for record in caplog.records] == [True] * (not optional)


# Undo


def test_undo_restores_every_class_and_what_is_made_later_is_left_alone(library):
    class Mixin:
        def push(self, *args):
            return ["mixed", *super().push(*args)]

    class One(Mixin, library.Queue):
        def __init_subclass__(cls, /, **kwargs):
            super().__init_subclass__(**kwargs)

    class Two(One):
        def push(self, *args):
            return ["two", *super().push(*args)]

    kinds = (library.Queue, Mixin, One, Two)
    before = [dict(vars(kind)) for kind in kinds]
    patches = Patches(On(), Reports("made_up"))
    calls = watch(patches), watch(patches), watch(patches, "named")

    class Late(Two):
        def push(self, *args):
            return ["late", *super().push(*args)]

    assert Late().push(1) == ["late", "two", "mixed", "pushed", 1]
    assert calls == ([(1,)], [(1,)], [])
    patches.undo()
    for kind, attributes in zip(kinds, before, strict=True):
        assert vars(kind).keys() == attributes.keys()
        assert all(vars(kind)[name] is attributes[name] for name in attributes if name[:2] != "__")
        found, then = vars(kind).get("__init_subclass__"), attributes.get("__init_subclass__")
        assert found is then
    assert not hasattr(vars(Late)["push"], "__wrapped__")
    after = type("After", (Two,), {"push": lambda self: "after"})
    assert not hasattr(vars(after)["push"], "__wrapped__")
    assert calls == ([(1,)], [(1,)], [])


def test_what_others_put_over_ours_since_stays_and_ours_is_off(library, patches):
    calls = watch(patches)
    ours, our_init = library.Queue.push, library.Queue.__init_subclass__
    seen = []

    def push(self, *args):
        return ["theirs", *ours(self, *args)]

    def init_subclass(cls, /, **kwargs):
        seen.append(cls.__name__)
        our_init.__func__(cls, **kwargs)

    library.Queue.push = push
    library.Queue.__init_subclass__ = classmethod(init_subclass)

    class One(library.Queue):
        def push(self, *args):
            return ["one", *super().push(*args)]

    assert library.Queue().push(1) == ["theirs", "pushed", 1]
    assert One().push(2) == ["one", "theirs", "pushed", 2]
    assert calls == [(1,), (2,)]
    patches.undo()
    assert library.Queue.push is push
    assert One().push(3) == ["one", "theirs", "pushed", 3]
    two = type("Two", (library.Queue,), {"push": lambda self: "two"})
    assert two().push() == "two"
    assert calls == [(1,), (2,)]
    assert seen == ["One", "Two"]


def test_classes_made_while_others_install_and_undo_are_whole(library):
    """Nothing of ours stays, and no class fails to be made."""
    made = []

    def making():
        for _ in range(100):
            kind = type("Made", (library.Queue,), {"push": lambda self, *args: "made"})
            made.append(kind().push(1))

    threads = [threading.Thread(target=making) for _ in range(3)]
    before = vars(library.Queue).get("__init_subclass__"), vars(library.Queue)["push"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        patches = Patches(On(), Reports("made_up"))
        watch(patches)
        patches.undo()
    assert made == ["made"] * 300
    assert (vars(library.Queue).get("__init_subclass__"), vars(library.Queue)["push"]) == before
