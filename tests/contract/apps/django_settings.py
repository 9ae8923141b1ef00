"""Settings of the contract's Django project; its database is the broker."""

from urllib.parse import urlsplit

from otel_queue_bridge.testing import tasks

url = urlsplit(tasks.BROKER)
if url.scheme == "postgresql":
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.path.removeprefix("/"),
        "USER": url.username,
        "HOST": url.hostname,
        "PORT": url.port,
    }
else:
    database = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": url.path,
        # Readers and a writer do not wait for each other; two writers do, and long enough.
        "OPTIONS": {"timeout": 60, "init_command": "PRAGMA journal_mode=WAL"},
    }

SECRET_KEY = "of no importance"  # noqa: S105 - and nobody signs with it
USE_TZ = True
DATABASES = {"default": database}
INSTALLED_APPS = ["django_tasks_db"]
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
