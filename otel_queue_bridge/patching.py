"""Patch a host library from outside: deferred, contained, and undone exactly.

The only place where a failure of ours meets a call of the host. Whatever an advice does
wrong is logged once for its place; the call itself goes through untouched.

A patched function is a plain function again, and a patched method a plain method: they are
bound, pickled, copied and inspected as before.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import threading
import time
import weakref
from contextlib import suppress
from functools import partial, update_wrapper, wraps
from importlib.machinery import ModuleSpec
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import wrapt
import wrapt.importer

from otel_queue_bridge.adapter import Call, Recorder, poll

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator
    from contextlib import AbstractContextManager
    from contextvars import ContextVar
    from types import ModuleType

    from otel_queue_bridge.adapter import Advice, Hook
    from otel_queue_bridge.failures import Reports
    from otel_queue_bridge.versions import Gaps


_LISTENERS = "_otel_queue_bridge"
"""Where a module's spec holds whom to tell that its import has ended."""
_ADVISED = "_otel_queue_bridge"
"""Where a function that stands for another one holds who has made it."""
_PATCH = "_otel_queue_bridge_patch"
"""Where a function that stands in an object of the run time holds what puts it back."""
_ANSWERS = 100
"""Answers kept for one method and its overrides: whether a class calls its parent's."""
_BEGINNING_LIMIT = 0.1
"""Seconds to wait for an import that has begun and cannot be seen yet."""


class _Recorder(Recorder, Protocol):
    def active(self) -> bool:
        """Tell whether there is anything to do in this context."""

    def start_polling(self) -> AbstractContextManager[object] | None:
        """Return what makes this context one of polling; None if it is, or need not be."""


class UnsuitableTargetError(TypeError):
    """What stands at a hook's place is nothing that could be advised."""


class _Patch:
    """One attribute of one owner, replaced; `undo` restores what was there."""

    def __init__(
        self, owner: object, attribute: str, original: object, replacement: object
    ) -> None:
        self.owner = owner
        self.attribute = attribute
        self._original = original
        self._replacement = replacement
        self._inherited = attribute not in vars(owner)
        setattr(owner, attribute, replacement)

    def undo(self) -> None:
        # Where somebody wrapped us since, theirs stays, and ours below it is switched off.
        if vars(self.owner).get(self.attribute) is self._replacement:
            if self._inherited:
                delattr(self.owner, self.attribute)
            else:
                setattr(self.owner, self.attribute, self._original)


class Patches:
    """All that one adapter has patched; `undo` takes every bit of it back."""

    def __init__(self, recorder: _Recorder, reports: Reports) -> None:
        self.recorder = recorder
        self.reports = reports
        self._lock = threading.Lock()
        self._patches: list[_Patch] = []
        self._at_run_time: weakref.WeakValueDictionary[int, _Patch] = weakref.WeakValueDictionary()
        """Each as long as the object that it has patched."""
        self._aliases: list[tuple[str, str, object, object]] = []
        self._awaited: list[_Awaited] = []
        self._below: dict[type, _Subclasses] = {}
        self._gaps: Gaps | None = None
        self.on = True

    def expect(self, gaps: Gaps) -> None:
        """Let this name what the hooks do not find: nobody has tested the library's version."""
        self._gaps = gaps

    def install(self, hook: Hook) -> None:
        """Patch the hook's places now if their modules are imported, else when they are."""
        module, _, path = hook.target.partition(":")
        self.when_imported(
            module, hook.target, lambda imported: self._install(hook, imported, path)
        )

    def replace(self, target: str, replacement: Callable[..., Any]) -> None:
        """Have another function called (`module:name`), now or when its module is imported."""
        module, _, attribute = target.partition(":")

        def replace(found: ModuleType) -> None:
            original = getattr(found, attribute)

            @wraps(original)
            def replaced(*args: Any, **kwargs: Any) -> Any:
                return (replacement if self.on else original)(*args, **kwargs)

            self.put(found, attribute, original, replaced)

        self.when_imported(module, target, replace)

    def patch(self, owner: object, attribute: str, advice: Advice) -> None:
        """Advise one attribute of an object that appeared at run time, unless it is advised."""
        if getattr(getattr(owner, attribute), _ADVISED, None) is self:
            return
        where = f"{getattr(owner, '__qualname__', type(owner).__qualname__)}.{attribute}"
        original, replacement = self.advise(_Advised(self, where, advice), owner, attribute)
        with self._lock:
            if self.on:
                patch = _Patch(owner, attribute, original, replacement)
                setattr(getattr(replacement, "__func__", replacement), _PATCH, patch)
                self._at_run_time[id(patch)] = patch

    def advised(self, function: Callable[..., Any], advice: Advice) -> Callable[..., Any]:
        """Return a function that runs this one, a callback for one call, inside the advice."""

        def called(*args: Any, **kwargs: Any) -> Any:  # many are made, and few are called
            return _Advised(self, advice.__qualname__, advice).call(function, args, kwargs)

        return called

    def enter_child(self) -> None:
        """In a forked child: free what another thread may have held at the fork."""
        self._lock = threading.Lock()

    def undo(self) -> None:
        """Restore everything, the latest first."""
        with self._lock:
            self.on = False
            while self._awaited:
                self._awaited.pop().forget()
            for module, attribute, original, replacement in self._aliases:
                found = sys.modules.get(module)
                if found is not None and vars(found).get(attribute) is replacement:
                    setattr(found, attribute, original)
            self._aliases.clear()
            for patch in reversed([*self._at_run_time.values()]):
                patch.undo()
            self._at_run_time.clear()
            while self._patches:
                self._patches.pop().undo()
            self._below.clear()

    def put(self, owner: object, attribute: str, original: object, replacement: object) -> bool:
        """Replace it; False if all was undone meanwhile."""
        # Under the lock nothing of the host runs, so that no import can wait for it.
        with self._lock:
            if self.on:
                self._patches.append(_Patch(owner, attribute, original, replacement))
            return self.on

    def when_imported(self, module: str, where: str, install: Callable[[ModuleType], None]) -> None:
        """Call back now or when the module is imported, unless all is undone before."""

        def imported(found: ModuleType) -> None:
            try:
                install(found)
            except Exception as error:  # noqa: BLE001 - a library that moved its parts runs on
                self.refuse(where, error)

        awaited = _Awaited(module, imported)
        with self._lock:
            if not self.on:
                return
            self._awaited.append(awaited)
        awaited.begin()
        if not self.on:  # undone meanwhile
            awaited.forget()

    def refuse(self, where: str, error: Exception) -> None:
        """Report what cannot be patched."""
        if self._gaps is not None and self._gaps.add(where):
            return
        why = f" ({error})" if isinstance(error, UnsuitableTargetError) else ""
        self.reports.report(where, error, f"it stays as it is{why}")

    def _install(self, hook: Hook, module: ModuleType, path: str) -> None:
        if hook.find is not None:
            for found, name in hook.find(module):
                self.patch(found, name, hook.advice)
            return
        parent, _, attribute = path.rpartition(".")
        owner: Any = module
        for name in parent.split(".") if parent else ():
            owner = getattr(owner, name, None) if hook.optional else getattr(owner, name)
        if hook.optional and (owner is None or not (hook.overrides or hasattr(owner, attribute))):
            return
        if hook.overrides:
            self._cover(_Family(self, hook, owner, attribute))
            return
        if hook.factory:
            advised = _Advised(self, hook.target, self._factory(hook), always=True)
        else:
            advised = _Advised(self, hook.target, hook.advice, within=hook.within)
        original, replacement = self.advise(advised, owner, attribute)
        if self.put(owner, attribute, original, replacement):
            for alias in hook.aliases:
                self._alias(alias, original, replacement)

    def _alias(self, alias: str, original: object, replacement: object) -> None:
        module, _, attribute = alias.partition(":")
        self._aliases.append((module, attribute, original, replacement))

        def rebind(found: ModuleType) -> None:
            # Imported after the patch, it has taken the replacement by itself.
            held = getattr(found, attribute)
            if held is original:
                setattr(found, attribute, replacement)

        self.when_imported(module, alias, rebind)

    def _factory(self, hook: Hook) -> Advice:
        def advice(call: Call, _: Recorder) -> Generator[None, None, None]:
            yield
            if call.error is None:
                advised = _Advised(self, hook.target, hook.advice, within=hook.within, maker=call)
                call.result = advised.around(call.result)

        return advice

    def _cover(self, family: _Family) -> None:
        """Patch a method wherever it is defined below its class, now and in time to come."""
        below = self._below.setdefault(family.base, _Subclasses(self, family.base))
        below.families.append(family)
        classes = [family.base]
        for one in classes:
            below.found(one)
            classes.extend(one.__subclasses__())
        family.check()

    def advise(self, advised: _Advised, owner: object, attribute: str) -> tuple[Any, Any]:
        """Return what stands there, and what is to stand in its place."""
        if not (isinstance(owner, type) or inspect.ismodule(owner)):
            held = getattr(owner, attribute)
            return held, advised.around_held(held, owner)
        original: Any = inspect.getattr_static(owner, attribute)
        # Somebody else's wrapper may pass for what it wraps: it is bound as it is.
        if isinstance(original, staticmethod):
            is_plain = type(original) is staticmethod
            function: Any = original.__func__ if is_plain else original.__get__(None, type(owner))
            return original, staticmethod(advised.around(function))
        if isinstance(original, classmethod):
            bind = None if type(original) is classmethod else partial(original.__get__, None)
            return original, classmethod(advised.around_method(original.__func__, bind))
        if not isinstance(owner, type):
            return original, advised.around(original)
        if not _is_bound(original):
            return original, staticmethod(advised.around(original))
        return original, advised.around_method(original)


class _Subclasses:
    """All classes below one, those to come included, for the families of its methods."""

    def __init__(self, patches: Patches, base: type) -> None:
        self.families: list[_Family] = []
        self._patches = patches
        self._base = base
        self._watched: set[type] = set()

    def found(self, cls: type) -> None:
        for family in tuple(self.families):
            family.appear(cls)
        # One that has an `__init_subclass__` itself need not call its parent's.
        if cls not in self._watched and (cls is self._base or "__init_subclass__" in vars(cls)):
            self._watched.add(cls)
            try:
                self._watch(cls)
            except Exception as error:  # noqa: BLE001 - the host's class is made all the same
                self._patches.refuse(f"{cls.__qualname__}.__init_subclass__", error)

    def _watch(self, parent: Any) -> None:
        own = vars(parent).get("__init_subclass__")

        def init_subclass(cls: Any, /, **kwargs: Any) -> None:
            if own is None:
                super(parent, cls).__init_subclass__(**kwargs)
            else:
                own.__get__(None, cls)(**kwargs)
            if self._patches.on:
                self.found(cls)

        original = inspect.getattr_static(parent, "__init_subclass__")
        self._patches.put(parent, "__init_subclass__", original, classmethod(init_subclass))


class _Family:
    """One method and its overrides: a call of one that calls its parent's is one call."""

    def __init__(self, patches: Patches, hook: Hook, base: type, attribute: str) -> None:
        self.base = base
        self._patches = patches
        self._hook = hook
        self._attribute = attribute
        self._members: dict[type, object] = {}
        self._answers: dict[tuple[type | None, type], bool] = {}

    def appear(self, cls: type) -> None:
        """Patch what defines the method for this class: itself, or what it is mixed with."""
        above = self.base.__mro__[1:]
        for kind in cls.__mro__:
            if kind in above or kind in self._members or self._attribute not in vars(kind):
                continue
            try:
                self._join(kind)
            except Exception as error:  # noqa: BLE001 - one class that is odd, of many
                self._patches.refuse(f"{kind.__qualname__}.{self._attribute}", error)

    def _join(self, kind: type) -> None:
        hook = self._hook
        advised = _Advised(self._patches, hook.target, hook.advice, within=hook.within, family=self)
        advised.owner = kind
        found = self._patches.advise(advised, kind, self._attribute)
        if self._members.setdefault(kind, advised) is advised:  # and no other thread's
            self._answers = {}
            self._patches.put(kind, self._attribute, *found)

    def check(self) -> None:
        """Complain of a library that has moved its method: no class has it so far."""
        if not (self._hook.optional or hasattr(self.base, self._attribute) or self._members):
            raise AttributeError(self._attribute)

    def is_parents(self, owner: type | None, instance: object) -> bool:
        """Tell whether a call comes from the override of a subclass, which has been advised."""
        if instance is None:  # a static method tells nothing of who calls
            return False
        kind = instance if isinstance(instance, type) else type(instance)
        if kind is owner:
            return False
        answers = self._answers  # a class that joins replaces it
        answer = answers.get((owner, kind))
        if answer is None:
            if len(answers) >= _ANSWERS:  # as with classes that are made at run time
                answers.clear()
            answer = answers[owner, kind] = self._is_parents(owner, kind)
        return answer

    def _is_parents(self, owner: type | None, kind: type) -> bool:
        if not issubclass(kind, self.base):  # of a class that is mixed in elsewhere, too
            return True
        return next((one for one in kind.__mro__ if one in self._members), owner) is not owner


class _Advised:
    """One function, and the advice that runs around it."""

    def __init__(  # noqa: PLR0913 - made in this module only
        self,
        patches: Patches,
        where: str,
        advice: Advice,
        *,
        always: bool = False,
        within: ContextVar[Any] | None = None,
        maker: Call | None = None,
        family: _Family | None = None,
    ) -> None:
        self._patches = patches
        self._where = where
        self._advice = advice
        self._family = family
        self._active = _always if always else _active(patches.recorder, within)
        self.maker = maker
        """Of a factory's product, the factory's call; of an instance's attribute, the instance."""
        self.owner: type | None = None
        self._is_method = False
        """Whether the first argument is the instance, or the class."""

    def around(self, function: Any) -> Any:
        """Return a function that stands for this one."""
        _check(function)
        return self._in_place_of(function, self._calling(function))

    def around_held(self, function: Any, owner: object) -> Any:
        """Return what stands for a function that an instance holds."""
        if isinstance(function, MethodType) and function.__self__ is owner:
            # A method again: a copy of the instance, also one out of a pickle, has its own.
            return MethodType(self.around_method(function.__func__), owner)
        self.maker = Call(owner, (), {})
        return self.around(function)

    def around_method(self, function: Any, bind: Callable[[Any], Any] | None = None) -> Any:
        """Return a function that is bound like this one, to an instance or a class."""
        _check(function)
        self._is_method = True
        if bind is None and type(function) is FunctionType:
            return self._in_place_of(function, self._calling(function))

        def unbound(instance: Any, /, *args: Any, **kwargs: Any) -> Any:
            # Somebody else's wrapper may tell by being bound who is called.
            bound = bind(instance) if bind else function.__get__(instance, type(instance))
            return bound(*args, **kwargs)

        return self._in_place_of(function, self._calling(unbound, like=function))

    def _calling(self, function: Callable[..., Any], like: Any = None) -> Callable[..., Any]:
        """Return a function that calls this one, inside the advice if there is anything to do."""
        if inspect.iscoroutinefunction(like or function):

            def called_soon(*args: Any, **kwargs: Any) -> Any:
                # Called now and run when awaited: arguments that do not fit are refused here.
                pending = function(*args, **kwargs)
                return self._awaited(function, pending, args, kwargs) if self._live() else pending

            return _coroutine_function(called_soon)
        if self._advice is poll:
            return self._polling(function)
        patches, active = self._patches, self._active

        def called(*args: Any, **kwargs: Any) -> Any:
            try:  # as `_live`, which would be one call more, also where there is no SDK
                live = patches.on and active()
            except Exception as error:  # noqa: BLE001 - containment
                live = self._contain(error)
            return self._run(function, args, kwargs) if live else function(*args, **kwargs)

        return called

    def _polling(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that polls, for a third of what `poll` itself would take."""
        patches, active, start = self._patches, self._active, self._patches.recorder.start_polling

        def called(*args: Any, **kwargs: Any) -> Any:
            try:
                polling = start() if patches.on and active() else None
            except Exception as error:  # noqa: BLE001 - containment
                polling = self._contain(error) or None
            if polling is None:
                return function(*args, **kwargs)
            with polling:
                return function(*args, **kwargs)

        return called

    def _in_place_of(self, function: Any, replacement: Any) -> Any:
        """Make the replacement look like the function, and known as advised."""
        update_wrapper(replacement, function)
        with suppress(TypeError, ValueError):  # not every callable has one
            replacement.__signature__ = inspect.signature(function)  # for `inspect.getfullargspec`
        setattr(replacement, _ADVISED, self._patches)
        return replacement

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a callback, inside the advice if there is anything to do."""
        return self._run(function, args, kwargs) if self._live() else function(*args, **kwargs)

    def _live(self) -> bool:
        try:
            return self._patches.on and self._active()
        except Exception as error:  # noqa: BLE001 - containment
            return self._contain(error)

    def _run(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound, call = self._call(args, kwargs)
        running = self._begin(call)
        if running is None:
            return function(*bound, *call.args, **call.kwargs)
        try:
            result = call.result = function(*bound, *call.args, **call.kwargs)
        except BaseException as error:
            call.error = error
            self._finish(running)
            call.error = None  # else the error's own traceback would keep it alive, and its frames
            raise
        return call.result if self._finish(running) else result

    async def _awaited(
        self, function: Any, pending: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        bound, call = self._call(args, kwargs)
        given = call.args
        running = self._begin(call)
        if call.args is not given or call.kwargs is not kwargs:
            pending.close()
            pending = function(*bound, *call.args, **call.kwargs)
        if running is None:
            return await pending
        try:
            result = call.result = await pending
        except BaseException as error:
            call.error = error
            self._finish(running)
            call.error = None  # else the error's own traceback would keep it alive, and its frames
            raise
        return call.result if self._finish(running) else result

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Call]:
        """Return what is bound, and the call with the rest."""
        if self._is_method and args:
            return args[:1], Call(args[0], args[1:], kwargs)
        instance = None if self.maker is None else self.maker.instance
        return (), Call(instance, args, kwargs, self.maker)

    def _begin(self, call: Call) -> Generator[None, None, None] | None:
        """Run the advice up to its yield; None if there is nothing to come after the call."""
        args, kwargs = call.args, call.kwargs
        try:
            if self._family is not None and self._family.is_parents(self.owner, call.instance):
                return None
            running = self._advice(call, self._patches.recorder)
            if running is None:
                return None
            for _ in running:
                return running
        except Exception as error:  # noqa: BLE001 - containment
            self._contain(error)
        call.args, call.kwargs = args, kwargs
        return None

    def _finish(self, running: Generator[None, None, None]) -> bool:
        """Run the rest of the advice; False if it failed."""
        try:
            for _ in running:
                running.close()
        except Exception as error:  # noqa: BLE001 - containment
            self._contain(error)
            return False
        return True

    def _contain(self, error: Exception) -> Literal[False]:
        self._patches.reports.report(self._where, error, "the call went through without telemetry")
        return False


def _always() -> bool:
    return True


def _active(recorder: _Recorder, within: ContextVar[Any] | None) -> Callable[[], bool]:
    """Return what tells whether there is anything to do in this context."""
    if within is None:
        return recorder.active

    def active() -> bool:
        return within.get(None) is not None and recorder.active()

    return active


def _check(function: Any) -> None:
    """Refuse what only looks like a function."""
    if not callable(function) or isinstance(function, type):
        raise UnsuitableTargetError(f"a {type(function).__name__} and no function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UnsuitableTargetError("a generator function, whose body runs after the call")


def _is_bound(found: object) -> bool:
    """Tell whether a class binds this to its instances: a C function is not bound, say."""
    # `functools.partial` of 3.13 has a `__get__` that only warns of the one that 3.14 has.
    unbound = isinstance(found, partial) and sys.version_info < (3, 14)
    return hasattr(type(found), "__get__") and not unbound


def _coroutine_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a function that returns a coroutine taken for what an `async def` makes."""
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)

    @wraps(function)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return awaited


class _Awaited:
    """A module that is still to be imported, and what is to be done then, once."""

    def __init__(self, module: str, imported: Callable[[ModuleType], None]) -> None:
        self._module = module
        self._waiting = [imported]

    def begin(self) -> None:
        """Do it now if the module is there, else when its import has ended."""
        self._wait()
        # wrapt sees an import when it begins. One that began a moment ago is in nobody's list
        # yet, but soon in `sys.modules`.
        deadline = time.monotonic() + _BEGINNING_LIMIT
        while (found := sys.modules.get(self._module)) is None:
            if self._module not in _imports_under_way() or time.monotonic() > deadline:
                found = sys.modules.get(self._module)
                break
            time.sleep(0.001)
        if found is not None:
            self._look(found)

    def forget(self) -> None:
        """Do nothing any more; wrapt (2.5) offers no way to take a callback back."""
        self._waiting.clear()
        hooks: dict[str, list[Any]] = getattr(wrapt.importer, "_post_import_hooks", {})
        with suppress(KeyError, ValueError):
            hooks[self._module].remove(self._look)
            if not hooks[self._module]:
                del hooks[self._module]

    def _wait(self) -> None:
        wrapt.register_post_import_hook(self._look, self._module)

    def _look(self, module: ModuleType) -> None:
        if not (self._waiting and _at_the_end_of_import(module, self._try_again)):
            with suppress(IndexError):  # another thread was faster, or all was undone
                self._waiting.pop()(module)

    def _try_again(self) -> None:
        """Look again after an import has ended: it may have failed, and be tried again."""
        if self._waiting:
            self._wait()


def _imports_under_way() -> Collection[str]:
    return getattr(importlib._bootstrap, "_module_locks", ())  # noqa: SLF001


def _at_the_end_of_import(module: ModuleType, ended: Callable[[], None]) -> bool:
    """Call back when an import that is under way has ended; False if none is.

    The import system notes the end in the module's spec (`importlib._bootstrap._load_unlocked`),
    so that is where we hear of it, in the thread that imports.
    """
    spec: Any = getattr(module, "__spec__", None)
    if not isinstance(spec, ModuleSpec) or not getattr(spec, "_initializing", False):
        return False
    plain = getattr(type(spec), "plain", type(spec))

    class Reporting(plain):  # type: ignore[misc, valid-type]
        @property
        def _initializing(self: Any) -> bool:
            return True

        @_initializing.setter
        def _initializing(self: Any, value: bool) -> None:
            self.__class__ = plain
            self._initializing = value
            for listener in vars(self).pop(_LISTENERS, ()):
                listener()

    Reporting.plain = plain
    vars(spec).setdefault(_LISTENERS, []).append(ended)
    spec.__class__ = Reporting
    if vars(spec)["_initializing"]:
        return True
    spec.__class__ = plain  # it ended just now, in another thread
    vars(spec).pop(_LISTENERS, None)
    return False
