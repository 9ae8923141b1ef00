"""A user's task for django-tasks-rq, which knows the backport alone."""

from django_tasks import task


@task(backend="rq")
def in_rq() -> None:
    pass
