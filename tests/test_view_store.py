"""What `view` holds of the traces that arrive, and what it says of each."""

import pytest

from otel_queue_bridge.otlp import read_spans
from otel_queue_bridge.view import Queues, Store
from tests.otlp_spans import Made, log, span_id, spans, task, trace_id


def rows(store: Store) -> list[dict]:
    return store.rows(lambda *_: True, limit=1000)[0]


def row(*made: Made) -> dict:
    store = Store(Queues())
    store.add(spans(*made))
    (found,) = rows(store)
    return found


CHAIN = (
    Made("POST /x", span=1),
    task("submit", 2, 1),
    task("dispatch", 3, 2),
    task("execute", 4, 3, status="success", attempt=1, wait=0.25, start=300, end=500),
)


def test_a_row_says_what_a_trace_is_about() -> None:
    found = row(*CHAIN)
    assert found["name"] == "POST /x"
    assert (found["service"], found["services"]) == ("web", ["web", "worker"])
    assert (found["spans"], found["tasks"], found["errors"], found["pending"]) == (4, 1, 0, 0)
    assert (found["wait_ms"], found["duration_ms"]) == (250, 500)
    assert (found["systems"], found["queues"], found["task_names"]) == (
        ["celery"],
        ["default"],
        ["send"],
    )
    assert found["statuses"] == ["success"]
    assert not found["orphan"]


def test_the_root_names_the_trace_whenever_it_arrives() -> None:
    store = Store(Queues())
    store.add(spans(*CHAIN[1:]))
    assert rows(store)[0]["name"] == "submit send"
    assert rows(store)[0]["orphan"]
    store.add(spans(CHAIN[0]))
    assert rows(store)[0]["name"] == "POST /x"
    assert not rows(store)[0]["orphan"]


def test_a_retry_is_seen_and_the_error_is_named() -> None:
    found = row(
        *CHAIN[:3],
        task("execute", 4, 3, status="retry", attempt=1, error=True),
        task("submit", 5, 4, attempt=2),
        task("dispatch", 6, 5, attempt=2),
        Made("execute send", span=7, parent=6, error=True, attributes={"error.type": "a.b.Boom"}),
    )
    assert (found["retries"], found["attempts"], found["errors"]) == (1, 2, 2)
    assert found["error"] == "ERROR"


def test_what_nobody_has_taken_is_pending() -> None:
    assert row(*CHAIN[:2])["pending"] == 1
    assert row(*CHAIN[:3])["pending"] == 0


def test_what_goes_on_in_a_linked_trace_is_not_pending() -> None:
    store = Store(Queues())
    store.add(spans(*CHAIN[:2]))
    store.add(spans(task("dispatch", 3, trace=2, links=((1, 2),))))
    first = next(row for row in rows(store) if row["trace_id"] == trace_id(1))
    assert (first["pending"], first["links"]) == (0, 1)


def test_links_lead_both_ways() -> None:
    store = Store(Queues())
    store.add(spans(*CHAIN[:2]))
    store.add(spans(task("execute", 9, trace=2, links=((1, 2), (7, 7)))))
    (back,) = store.context(trace_id(1))["linked_from"]
    assert (back["trace_id"], back["span_id"], back["to_span_id"]) == (
        trace_id(2),
        span_id(9),
        span_id(2),
    )
    there = store.context(trace_id(2))["linked_to"]
    assert there == {trace_id(1): {"name": "POST /x"}, trace_id(7): None}


def test_a_new_link_changes_the_row_that_it_leads_to() -> None:
    store = Store(Queues())
    store.add(spans(*CHAIN))
    seen = store.sequence
    store.add(spans(Made("later", trace=2, links=((1, 4),))))
    changed, sequence = store.rows_since(seen, lambda *_: True)
    assert {one["trace_id"] for one in changed} == {trace_id(1), trace_id(2)}
    assert store.rows_since(sequence, lambda *_: True)[0] == []


def test_a_span_that_arrives_twice_is_one() -> None:
    store = Store(Queues())
    for _ in range(2):
        store.add(spans(*CHAIN))
    assert rows(store)[0]["spans"] == 4


def test_a_trace_comes_out_as_it_went_in() -> None:
    store = Store(Queues())
    sent = spans(*CHAIN)
    store.add(sent)
    assert list(read_spans(store.request(trace_id(1)))) == list(read_spans(sent))
    assert store.request(trace_id(2)) is None
    assert store.context(trace_id(2)) is None


def test_logs_find_their_trace_also_if_they_come_first() -> None:
    store = Store(Queues())
    store.add(log("early"))
    store.add(log("of others", trace=5))
    store.add(spans(*CHAIN))
    store.add(log("late"))
    assert [one["body"] for one in store.context(trace_id(1))["logs"]] == ["early", "late"]


def test_a_noisy_service_evicts_its_own_traces() -> None:
    store = Store(Queues(), traces=10)
    for number in range(1, 4):
        store.add(spans(Made("rare", trace=number, service="quiet")))
    for number in range(100, 150):
        store.add(spans(Made("often", trace=number, service="noisy")))
    held = {row["trace_id"] for row in rows(store)}
    assert held == {trace_id(number) for number in (1, 2, 3, *range(143, 150))}
    assert dict(store.dropped) == {"noisy": 43}


def test_spans_are_bounded_too() -> None:
    store = Store(Queues(), spans=20)
    for number in range(1, 30):
        store.add(spans(*(Made("x", trace=number, span=one) for one in range(1, 6))))
    assert store.held == 4
    assert store.dropped.total() == 25


@pytest.mark.parametrize("trace", [1, 2])
def test_a_dropped_trace_leaves_no_link_behind(trace: int) -> None:
    store = Store(Queues(), traces=2)
    store.add(spans(Made("to", trace=1)))
    store.add(spans(Made("from", trace=2, links=((1, 1),))))
    for number in range(5, 7 if trace == 2 else 6):
        store.add(spans(Made("new", trace=number)))
    if trace == 1:
        assert store.context(trace_id(2))["linked_to"] == {trace_id(1): None}
    else:
        store.add(spans(Made("to", trace=1)))
        assert store.context(trace_id(1))["linked_from"] == []


def test_a_service_with_large_traces_evicts_its_own() -> None:
    store = Store(Queues(), spans=100)
    for number in range(1, 11):
        store.add(spans(Made("rare", trace=number, service="quiet")))
    for number in range(100, 130):
        made = (Made("often", trace=number, span=one, service="noisy") for one in range(1, 31))
        store.add(spans(*made))
    assert store.dropped["noisy"] == 27
    assert store.dropped["quiet"] == 0


def test_bytes_are_bounded_also_those_of_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_queue_bridge.view.store.BYTES", 1_000_000)
    store = Store(Queues())
    for number in range(1, 50):
        store.add(spans(Made("x", trace=number)))
        for _ in range(10):
            store.add(log("y" * 10_000, trace=number))
    assert 5 < store.held < 12
    assert store.dropped.total() == 49 - store.held


def test_a_request_that_is_sent_twice_is_counted_once() -> None:
    store = Store(Queues())
    for _ in range(2):
        store.add(spans(*CHAIN))
    (found,) = store.queues.table()
    assert (found["submitted"], found["completed"]) == (1, 1)


def test_a_submit_that_failed_is_not_pending() -> None:
    assert row(CHAIN[0], task("submit", 2, 1, error=True))["pending"] == 0


def test_services_that_come_and_go_leave_nothing_behind() -> None:
    store = Store(Queues(), traces=10)
    for number in range(1, 400):
        store.add(spans(Made("child", trace=number, span=2, parent=1, service=f"w{number}")))
        store.add(spans(Made("root", trace=number, span=1)))
    assert store.services() == sorted(["web", *(f"w{number}" for number in range(390, 400))])
    assert len(store.dropped) == 1
    for number in range(1000, 1300):
        store.add(spans(Made("root", trace=number, service=f"s{number}")))
    assert len(store.dropped) <= 101


def test_logs_of_no_trace_push_no_others_out() -> None:
    store = Store(Queues())
    store.add(log("early"))
    for _ in range(1_200):
        unrelated = log("none")
        unrelated.resource_logs[0].scope_logs[0].log_records[0].trace_id = b""
        store.add(unrelated)
    store.add(spans(*CHAIN))
    assert [one["body"] for one in store.context(trace_id(1))["logs"]] == ["early"]
