"""A user's Django project, with a backend of each kind; two variables say where things are."""

import os
import sqlite3

from huey import MemoryHuey

import otel_queue_bridge
from tests.brokers import sdk

if "APP_IN_CODE" in os.environ:
    sdk.set_up()
    otel_queue_bridge.instrument()
if "APP_TRACES_SQL" in os.environ:  # as opentelemetry-instrumentation-sqlite3 does
    from opentelemetry.instrumentation.dbapi import wrap_connect

    wrap_connect(__name__, sqlite3.dbapi2, "connect", "sqlite")

NOW = "django.tasks.backends.immediate.ImmediateBackend"
DUMMY = "django.tasks.backends.dummy.DummyBackend"
DATABASE = "django_tasks_db.DatabaseBackend"

SECRET_KEY = "of no importance"  # noqa: S105 - and nobody signs with it
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["APP_DATABASE"],
        "OPTIONS": {"timeout": 60, "init_command": "PRAGMA journal_mode=WAL"},
    }
}
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django_tasks_db",
    "django_rq",
]
MIGRATION_MODULES = dict.fromkeys(  # the tables are made at once
    ("admin", "auth", "contenttypes", "sessions", "django_tasks_database", "django_rq")
)
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "tests.brokers.django_urls"
STATIC_URL = "/static/"
ALLOWED_HOSTS = ["testserver"]
RQ_QUEUES = {"default": {"URL": os.environ.get("APP_REDIS", "redis://127.0.0.1:1")}}
HUEY = MemoryHuey("app")
TASKS = {
    "default": {"BACKEND": DATABASE, "QUEUES": []},
    "other": {"BACKEND": DATABASE},
    "audited": {"BACKEND": "tests.brokers.django_backends.Audited"},
    "routed": {"BACKEND": "tests.brokers.django_backends.Routed"},
    "own": {"BACKEND": "tests.brokers.django_backends.Own"},
    "now": {"BACKEND": NOW},
    "dummy": {"BACKEND": DUMMY},
    "rq": {"BACKEND": "django_tasks_rq.RQBackend"},
    "huey": {"BACKEND": "huey.contrib.djhuey.tasks_backend.HueyBackend"},
}
