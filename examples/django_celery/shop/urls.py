"""The view: it saves an order, and has it packed if that is committed."""

from django.db import transaction
from django.http import HttpResponse
from django.urls import path
from opentelemetry import trace

from shop.models import Order
from shop.tasks import pack

tracer = trace.get_tracer(__name__)


class SoldOutError(Exception):
    pass


def save(item):
    with transaction.atomic(), tracer.start_as_current_span("save order"):
        order = Order.objects.create(item=item)
        pack.delay_on_commit(order.pk)
        if item == "gold":
            raise SoldOutError


def order(request):
    try:
        save(request.GET["item"])
    except SoldOutError:
        return HttpResponse("sold out\n", status=409)
    return HttpResponse("thank you\n")


urlpatterns = [path("order", order)]
