from soak import tasks

SECRET_KEY = "of no importance"  # noqa: S105 - and nobody signs with it
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": tasks.BROKER,
        # Readers and a writer do not wait for each other; two writers do, and long enough.
        "OPTIONS": {"timeout": 60, "init_command": "PRAGMA journal_mode=WAL"},
    }
}
INSTALLED_APPS = ["django_tasks_db"]
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
