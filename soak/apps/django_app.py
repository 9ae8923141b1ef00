from __future__ import annotations

import os
from typing import Any

import django

from soak import tasks

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "soak.apps.django_settings")
django.setup()

if django.VERSION >= (6,):
    from django.tasks import task
else:
    from django_tasks import task


def submit(name: str, key: str) -> str:
    return str(globals()[name].enqueue(key).id)


def submit_hostile(name: str, key: str, junk: Any) -> str:
    from django_tasks_db import backend

    normalize = backend.normalize_json
    backend.normalize_json = lambda found: {**normalize(found), "otel": junk}
    try:
        return submit(name, key)
    finally:
        backend.normalize_json = normalize


for function in tasks.functions(submit):
    function.__module__ = __name__
    globals()[function.__name__] = task(function)
