"""Runs Django's commands, as `manage.py` does; first it makes the tables."""

import sys

from django.core.management import execute_from_command_line

from .loyalty import make_tables

if __name__ == "__main__":
    make_tables()
    execute_from_command_line(sys.argv)
