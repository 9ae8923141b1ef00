"""Runs Django's commands, as `manage.py` does; first it makes the tables."""

import os
import sys

import django
from django.core.management import call_command, execute_from_command_line

os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"

if __name__ == "__main__":
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    execute_from_command_line(sys.argv)
