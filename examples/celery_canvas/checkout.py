"""Submit a chain, a group and a chord, each below a span, and print their results."""

from celery import chain, chord, group
from opentelemetry import trace
from shop import pack, pick, price, ship, total

tracer = trace.get_tracer(__name__)
prices = [price.s("tea"), price.s("milk")]

with tracer.start_as_current_span("a chain"):
    shipped = chain(pick.s("order 7"), pack.s(), ship.s()).delay()
with tracer.start_as_current_span("a group"):
    priced = group(prices).delay()
with tracer.start_as_current_span("a chord"):
    summed = chord(prices)(total.s())

for result in (shipped, priced, summed):
    print(result.get(timeout=60))
