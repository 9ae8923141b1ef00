"""Settings of the shop's Django project, as far as its tasks need one."""

USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3"}}
INSTALLED_APPS = ["django_tasks_db"]
MIGRATION_MODULES = {"django_tasks_database": None}  # a new table needs no history
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
