from shop import pack


def test_an_order_is_shipped(eager, queue_spans):
    with queue_spans.span("checkout"):
        pack.delay(7)
    queue_spans.assert_traced(parent="checkout", task="shop.ship", timeout=0)


def test_what_is_no_order_fails(eager, queue_spans):
    pack.delay(0)
    [run] = queue_spans.wait(task="shop.pack", status="failure")
    assert run.attributes["error.type"] == "ValueError"


def test_a_worker_ships_an_order(worker, queue_collector):
    with queue_collector.span("checkout"):
        pack.delay(7)
    queue_collector.wait(task="shop.ship")
    assert queue_collector.tree() == TREE


TREE = """\
checkout
└─ submit shop.pack
   └─ dispatch shop.pack
      └─ execute shop.pack
         └─ submit shop.ship
            └─ dispatch shop.ship
               └─ execute shop.ship"""
