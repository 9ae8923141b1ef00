"""The subworker's task: it sends one mail, inside a span of the app itself."""

import os
import smtplib

from fastworker import task
from opentelemetry import trace

tracer = trace.get_tracer(__name__)


@task
def send_welcome_email(user_id: int) -> None:
    port = int(os.environ["SMTP_PORT"])
    # Without this host name, smtplib would ask DNS for one.
    with (
        smtplib.SMTP("127.0.0.1", port, local_hostname="localhost") as provider,
        tracer.start_as_current_span("smtp.sendmail"),
    ):
        provider.sendmail("shop@example.com", f"user{user_id}@example.com", "Subject: Welcome")
