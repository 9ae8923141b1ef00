"""The code in docs/adapters.md is that of the example, or runs as it stands."""

import re
from pathlib import Path

import pytest

from otel_queue_bridge.adapter import SUCCESS, Outcome, failed
from otel_queue_bridge.testing.contract import AdapterContract
from tests.own_queue import EXAMPLE

PAGE = (Path(__file__).parents[1] / "docs" / "adapters.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FILES = [path.read_text() for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".toml")]
WHOLE = [block for _, block in BLOCKS if block in FILES]


def lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


PARTS = [block for _, block in BLOCKS if any(lines(block) in lines(file) for file in FILES)]
OTHERS = [block for _, block in BLOCKS if block not in PARTS]


def test_the_page_shows_the_example_and_little_else() -> None:
    assert len(WHOLE) == 4  # adapter, package, app and test
    assert len(PARTS) == 5  # and the queue
    assert len(OTHERS) == 2


def test_what_is_no_file_runs() -> None:
    outcomes, contract = [run(block) for block in OTHERS]
    error = ValueError()
    assert outcomes["outcome"](None, again=False) == SUCCESS
    assert outcomes["outcome"](error, again=True) == Outcome("retry", error)
    assert outcomes["outcome"](error, again=False) == failed(error)
    assert issubclass(contract["TestOther"], AdapterContract)


def test_a_row_that_does_not_exist_cannot_be_lacking() -> None:
    block = OTHERS[1].replace('"retry"', '"retries"')
    with pytest.raises(ValueError, match=r"TestOther lacks \['retries'\]: rows are"):
        run(block)


def run(block: str) -> dict[str, object]:
    names: dict[str, object] = {}
    exec(block, names)  # noqa: S102 - our own page
    return names
