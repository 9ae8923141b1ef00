"""The jobs, one of which fails; the worker runs each in a process that it forks."""

from opentelemetry import trace

tracer = trace.get_tracer(__name__)


def resize(picture):
    with tracer.start_as_current_span("open picture"):  # a span of the app itself
        return f"small {picture}"


def publish(picture):
    print(f"{picture} is public")


def check(picture):
    raise ValueError(f"{picture} is blurred")
