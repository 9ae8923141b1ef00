"""Patch a host library from outside: deferred, contained, and undone exactly.

The only place where a failure of ours meets a call of the host. Whatever an advice does
wrong is logged once for its hook; the call itself goes through untouched.
"""

from __future__ import annotations

import inspect
import logging
import sys
from typing import TYPE_CHECKING, Any, Protocol

import wrapt

from otel_queue_bridge.adapter import Call, Recorder
from otel_queue_bridge.interrupts import expect, pass_on

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import ModuleType

    from otel_queue_bridge.adapter import Advice, Hook

_logger = logging.getLogger("otel_queue_bridge")


class _Recorder(Recorder, Protocol):
    def active(self) -> bool:
        """Tell whether there is anything to do in this context."""


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


def _being_imported(module: ModuleType) -> bool:
    return bool(getattr(module.__spec__, "_initializing", False))


class Patches:
    """All that one adapter has patched; `undo` takes every bit of it back."""

    def __init__(self, name: str, recorder: _Recorder, interrupts: tuple[str, ...] = ()) -> None:
        self._name = name
        self._recorder = recorder
        self._patches: list[_Patch] = []
        self._aliases: list[tuple[str, str, object, object]] = []
        expect(interrupts)
        self._reported: set[str] = set()
        self.on = True

    def install(self, hook: Hook) -> None:
        """Patch the hook's places now if their modules are imported, else when they are."""
        module, _, path = hook.target.partition(":")
        self._when_imported(
            module, hook.target, lambda imported: self._install(hook, imported, path)
        )

    def replace(self, target: str, replacement: Callable[..., Any]) -> None:
        """Have another function called (`module:name`), now or when its module is imported."""
        module, _, attribute = target.partition(":")

        def replace(found: ModuleType) -> None:
            original = getattr(found, attribute)

            def replaced(*args: Any, **kwargs: Any) -> Any:
                return (replacement if self.on else original)(*args, **kwargs)

            self._patches.append(_Patch(found, attribute, original, replaced))

        self._when_imported(module, target, replace)

    def patch(self, owner: object, attribute: str, advice: Advice, *, always: bool = False) -> None:
        """Advise one attribute of an object that appeared at run time; a second time is nothing."""
        if not self.on or any(
            patch.owner is owner and patch.attribute == attribute for patch in self._patches
        ):
            return
        where = f"{getattr(owner, '__qualname__', type(owner).__qualname__)}.{attribute}"
        original: Any
        if isinstance(owner, type) or inspect.ismodule(owner):
            original, maker = inspect.getattr_static(owner, attribute), None
        else:  # what stands on an instance is not bound to it when called
            original, maker = getattr(owner, attribute), Call(owner, (), {})
        replacement = self._wrapped(where, original, advice, always=always, maker=maker)
        self._patches.append(_Patch(owner, attribute, original, replacement))

    def undo(self) -> None:
        """Restore everything, the latest first."""
        self.on = False
        for module, attribute, original, replacement in self._aliases:
            found = sys.modules.get(module)
            if found is not None and vars(found).get(attribute) is replacement:
                setattr(found, attribute, original)
        while self._patches:
            self._patches.pop().undo()

    def _when_imported(
        self, module: str, where: str, install: Callable[[ModuleType], None]
    ) -> None:
        def imported(found: ModuleType) -> None:
            if not self.on:  # uninstrumented before the library was imported
                return
            try:
                install(found)
            except Exception as error:  # noqa: BLE001 - a library that moved its parts runs on
                self._report(where, error)

        if module in sys.modules:
            imported(sys.modules[module])
        else:
            wrapt.register_post_import_hook(imported, module)

    def _install(self, hook: Hook, module: ModuleType, path: str) -> None:
        if hook.find is not None:
            for owner, attribute in hook.find(module):
                self.patch(owner, attribute, hook.advice, always=hook.always)
            return
        parent, _, attribute = path.rpartition(".")
        holder: Any = module
        for name in parent.split(".") if parent else ():
            holder = getattr(holder, name)
        original = inspect.getattr_static(holder, attribute)
        advice = self._factory(hook) if hook.factory else hook.advice
        always = hook.factory or hook.always
        replacement = self._wrapped(hook.target, original, advice, always=always)
        self._patches.append(_Patch(holder, attribute, original, replacement))
        for alias in hook.aliases:
            self._alias(alias, original, replacement)

    def _alias(self, alias: str, original: object, replacement: object) -> None:
        module, _, attribute = alias.partition(":")
        self._aliases.append((module, attribute, original, replacement))

        def rebind(found: ModuleType) -> None:
            # Imported after the patch, or still being imported, it takes the replacement by itself.
            if vars(found).get(attribute) is original:
                setattr(found, attribute, replacement)
            elif attribute not in vars(found) and not _being_imported(found):
                raise AttributeError(attribute)

        self._when_imported(module, alias, rebind)

    def _factory(self, hook: Hook) -> Advice:
        def advice(call: Call, _: Recorder) -> Generator[None, None, None]:
            yield
            call.result = self._wrapped(hook.target, call.result, hook.advice, maker=call)

        return advice

    def advised(
        self, where: str, function: Callable[..., Any], advice: Advice
    ) -> Callable[..., Any]:
        """Return a function that runs this one, a callback for one call, inside the advice."""

        def advised(*args: Any, **kwargs: Any) -> Any:  # a wrapt wrapper costs more than it runs
            if not (self.on and self._active(where)):
                return function(*args, **kwargs)
            return self._run(where, function, advice, Call(None, args, kwargs))

        return advised

    def _wrapped(
        self,
        where: str,
        original: Any,
        advice: Advice,
        *,
        always: bool = False,
        maker: Call | None = None,
    ) -> Any:
        """Wrap a function of either kind: the one place where sync and async part."""

        def call_of(instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
            return Call(instance if maker is None else maker.instance, args, kwargs, maker)

        def around_async(
            wrapped: Any, instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            # Called now and run when awaited, as ever: arguments that do not fit are refused here.
            pending = wrapped(*args, **kwargs)
            if not (self.on and (always or self._active(where))):
                return pending
            call = call_of(instance, args, kwargs)
            return self._run_async(where, wrapped, pending, advice, call)

        def around(
            wrapped: Any, instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            if not (self.on and (always or self._active(where))):
                return wrapped(*args, **kwargs)
            return self._run(where, wrapped, advice, call_of(instance, args, kwargs))

        function = getattr(original, "__func__", original)
        is_async = inspect.iscoroutinefunction(function)
        return wrapt.FunctionWrapper(original, around_async if is_async else around)

    def _active(self, where: str) -> bool:
        try:
            return self._recorder.active()
        except Exception as error:  # noqa: BLE001 - containment
            self._contain(where, error)
            return False

    def _run(self, where: str, function: Any, advice: Advice, call: Call) -> Any:
        running = self._begin(where, advice, call)
        if running is None:
            return function(*call.args, **call.kwargs)
        try:
            result = call.result = function(*call.args, **call.kwargs)
        except BaseException as error:
            call.error = error
            self._finish(where, running)
            call.error = None  # else the error's own traceback would keep it alive, and its frames
            raise
        return call.result if self._finish(where, running) else result

    async def _run_async(
        self, where: str, function: Any, pending: Any, advice: Advice, call: Call
    ) -> Any:
        args, kwargs = call.args, call.kwargs
        running = self._begin(where, advice, call)
        if call.args is not args or call.kwargs is not kwargs:
            pending.close()
            pending = function(*call.args, **call.kwargs)
        if running is None:
            return await pending
        try:
            result = call.result = await pending
        except BaseException as error:
            call.error = error
            self._finish(where, running)
            call.error = None  # else the error's own traceback would keep it alive, and its frames
            raise
        return call.result if self._finish(where, running) else result

    def _begin(self, where: str, advice: Advice, call: Call) -> Generator[None, None, None] | None:
        """Run the advice up to its yield; None if there is nothing to come after the call."""
        args, kwargs = call.args, call.kwargs
        try:
            running = advice(call, self._recorder)
            if running is not None:
                next(running)
                return running
        except StopIteration:
            call.args, call.kwargs = args, kwargs
        except Exception as error:  # noqa: BLE001 - containment
            self._contain(where, error)
            call.args, call.kwargs = args, kwargs
        return None

    def _finish(self, where: str, running: Generator[None, None, None]) -> bool:
        """Run the rest of the advice; False if it failed."""
        try:
            next(running)
            running.close()
        except StopIteration:
            return True
        except Exception as error:  # noqa: BLE001 - containment
            self._contain(where, error)
            return False
        return True

    def _contain(self, where: str, error: Exception) -> None:
        pass_on(error)
        self._report(where, error)

    def _report(self, where: str, error: Exception) -> None:
        if where not in self._reported:
            self._reported.add(where)
            # The error's text may quote a task's arguments; its type and place do not.
            _logger.warning(
                "%s: %s at %s; the call went through without telemetry, and this is logged once",
                self._name,
                type(error).__name__,
                where,
            )
