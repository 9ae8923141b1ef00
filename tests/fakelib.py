"""A made-up queue library, with every kind of function that we may have to patch in a real one.

Each test loads its own copy (`fresh`), so that it sees nothing that another test left behind.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

NAME = "made_up_queue"


class Boom(Exception):  # noqa: N818 - a host need not follow our rules
    """The host's own error."""


class Unprintable(Boom):
    """An error that cannot even be printed."""

    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def send(name, *args, **options):
    return "sent", name, args, options


async def send_soon(name, *args, **options):
    return "sent", name, args, options


def fail(error):
    raise error


async def fail_soon(error):
    raise error


def count(upto):
    yield from range(upto)


def make_runner(name):
    def run(*args, **options):
        return "ran", name, args, options

    return run


def make_runner_soon(name):
    async def run(*args, **options):
        return "ran", name, args, options

    return run


class Queue:
    def push(self, *args, **options):
        return "pushed", args, options

    async def push_soon(self, *args, **options):
        return "pushed", args, options

    @classmethod
    def named(cls, *args, **options):
        return "named", args, options

    @classmethod
    async def named_soon(cls, *args, **options):
        return "named", args, options

    @staticmethod
    def limited(*args, **options):
        return "limited", args, options


class FastQueue(Queue):
    """Inherits everything."""


class App:
    """Holds its functions itself, as Celery's AMQP does."""

    def __init__(self):
        self.sender = lambda *args, **options: ("sender", args, options)

        async def sender_soon(*args, **options):
            return "sender", args, options

        self.sender_soon = sender_soon


app = App()


def fresh(name: str = NAME) -> ModuleType:
    """Load a new copy of this library under this name, and return it."""
    spec = spec_from_file_location(name, __file__)
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
