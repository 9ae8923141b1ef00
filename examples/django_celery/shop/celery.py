import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
app = Celery("shop", broker=os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
app.autodiscover_tasks()
