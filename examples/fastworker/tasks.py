"""What the subworker runs: one mail, sent inside a span of the user's own."""

import os
import smtplib

from fastworker import task
from opentelemetry import trace

tracer = trace.get_tracer(__name__)


@task
def send_welcome_email(user_id: int) -> None:
    port = int(os.environ["SMTP_PORT"])
    # With the name left out, smtplib asks DNS for it.
    with (
        smtplib.SMTP("127.0.0.1", port, local_hostname="localhost") as provider,
        tracer.start_as_current_span("smtp.sendmail"),
    ):
        provider.sendmail("shop@example.com", f"user{user_id}@example.com", "Subject: Welcome")
