from celery import shared_task

from shop.models import Order


@shared_task(ignore_result=True)
def pack(order):
    print("packing", Order.objects.get(pk=order))  # it is there, since the view has committed
