"""How failures are reported: what may pass, what is masked, and what the log holds."""

import logging

import pytest

from otel_queue_bridge import failures
from otel_queue_bridge.adapter import Adapter
from otel_queue_bridge.bridge import Bridge
from otel_queue_bridge.config import Config
from otel_queue_bridge.failures import Reports, masked, message, pass_on
from tests.fakelib import Boom, Unprintable

HERE = __name__


class TimeLimit(Exception):  # noqa: N818 - the host's names are the host's
    """Raised by a library into running code."""


class SoftTimeLimit(TimeLimit):
    """A library's, or a user's, more special one."""


class Elsewhere:
    class TimeLimit(Exception):  # noqa: N818 - likewise
        """Has the same name, and is another one."""


# What may pass


@pytest.fixture
def queue():
    """Instrument a made-up queue that raises these; return how."""
    bridges = []

    def make(*interrupts, system="fake"):
        bridges.append(Bridge(Adapter(system, (), (), interrupts=interrupts), Config()))
        return bridges[-1]

    yield make
    for bridge in bridges:
        bridge.undo()


def passes(error):
    try:
        pass_on(error)
    except Exception as raised:  # noqa: BLE001 - whatever it was
        return raised is error
    return False


@pytest.mark.parametrize("error", [TimeLimit(), SoftTimeLimit()])
def test_an_interrupt_of_the_library_passes_and_what_derives_from_it(queue, error):
    assert not passes(error)
    queue(f"{HERE}:TimeLimit")
    assert passes(error)


@pytest.mark.parametrize("error", [Elsewhere.TimeLimit(), Boom(), TimeoutError()])
def test_what_only_has_the_name_of_an_interrupt_is_contained(queue, error):
    queue(f"{HERE}:TimeLimit", "elsewhere:Boom", f"{HERE}:TimeoutError")
    assert not passes(error)


def test_an_interrupt_is_named_with_the_class_that_it_is_in(queue):
    queue(f"{HERE}:Elsewhere.TimeLimit")
    assert passes(Elsewhere.TimeLimit())
    assert not passes(TimeLimit())


def test_the_interrupts_of_a_queue_are_forgotten_with_it(queue):
    one, other = queue(f"{HERE}:TimeLimit"), queue("tests.fakelib:Boom", system="other")
    both = queue(f"{HERE}:TimeLimit", system="third")
    assert passes(TimeLimit())
    assert passes(Boom())
    other.undo()
    assert not passes(Boom())
    one.undo()
    assert passes(TimeLimit()), "another queue's"
    both.undo()
    assert not passes(TimeLimit())
    assert failures._interrupts == {}  # noqa: SLF001 - nothing is kept of what was switched off


# What is masked


@pytest.mark.parametrize(
    "text",
    [
        "redis://:{}@host:6379/0",
        "amqps://user:{}@host//",
        "no answer from https://{}@collector/v1/traces, again",
        "two: redis://:{}@a and redis://:{}@b",
        "password={}",
        "Password = '{}', user=ann",
        "db_password: {}",
        "connect(host='a', passwd=\"{}\", port=1)",
        "pwd={};host=a",
        '{{"secret": "{}", "name": "ann"}}',
        "?token={}&page=2",
        "API_KEY={}",
        "api-key: {}",
        "apikey={}",
    ],
)
@pytest.mark.parametrize("secret", ["hunter2", "hunter2@home", "hunter2/home"])
def test_a_secret_is_masked(text, secret):
    shown = masked(text.format(secret, secret))
    assert "hunter2" not in shown
    assert "home" not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "password", ["p@hunter2", "p@@hunter2", "p hunter2", "two blanks hunter2", "p hunter2@x"]
)
def test_a_password_in_a_url_is_masked_with_signs_and_blanks(password):
    shown = masked(f"cannot reach amqp://user:{password}@host:5672/vhost: timed out")
    assert "hunter2" not in shown
    assert shown.endswith("@host:5672/vhost: timed out")


@pytest.mark.parametrize(
    "text",
    [
        "http://host:4318/v1 is fine; is it?",
        "mail to ann@example.org failed",
        "the password is wrong",
        "no token left",
        "keyboard=us",
        "see https://example.org/a and mail ann@example.org",
    ],
)
def test_what_is_no_secret_is_left_alone(text):
    assert masked(text) == text


def test_the_text_of_an_exception_is_masked_and_may_be_missing():
    assert message(Boom("password=hunter2")) == "password=***"
    assert message(Unprintable()) == ""


# What the log holds


def failed(text):
    try:
        raise Boom(text) from ValueError("cause 4111-1111")
    except Boom as error:
        return error


def test_a_contained_failure_is_a_warning_once_and_a_traceback_at_debug_each_time(caplog):
    caplog.set_level(logging.DEBUG, "otel_queue_bridge")
    reports = Reports("fake")
    for _ in range(2):
        reports.report("here", failed("call 4111-1111"), "the span goes without it")
    warning, *traces = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert warning == (
        "WARNING",
        "fake: Boom at here; the span goes without it, and this is logged once",
    )
    assert [level for level, _ in traces] == ["DEBUG", "DEBUG"]
    for _, trace in traces:
        assert trace.startswith("fake: Boom at here\n")
        assert f'File "{__file__}", line ' in trace
        assert trace.rstrip().endswith("in failed")
    for secret in ("4111", "raise Boom", "text"):
        assert secret not in caplog.text, "neither a message nor a line of the source"


def test_without_debug_there_is_the_warning_alone(caplog):
    reports = Reports("fake")
    for place in ("here", "there", "here"):
        reports.report(place, failed("x"), "nothing happens")
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_places_without_end_are_not_all_remembered(caplog):
    reports = Reports("fake")
    for number in range(1500):
        reports.report(number, Boom(), "nothing happens")
    assert len(caplog.records) == len(reports._places) == 1000  # noqa: SLF001 - kept nowhere else


def test_an_interrupt_is_not_reported_but_passed_on(queue, caplog):
    queue(f"{HERE}:TimeLimit")
    with pytest.raises(SoftTimeLimit):
        Reports("fake").report("here", SoftTimeLimit(), "nothing happens")
    assert caplog.records == []
