"""Keep credentials out of reports, because reports end up in tickets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MASK = "***"
_HEADERS = re.compile(r"OTEL_EXPORTER_OTLP_(\w+_)?HEADERS")
_IN_URLS = (
    (re.compile(r"://\S*@"), f"://{MASK}@"),
    (re.compile(r"(://[^\s?]*\?)\S+"), rf"\g<1>{MASK}"),
)


def header_values(environment: Mapping[str, str]) -> set[str]:
    """Return the values of the exporters' headers, in every spelling that an error may use."""
    values = set()
    for variable, headers in environment.items():
        for header in headers.split(",") if _HEADERS.fullmatch(variable) else ():
            value = header.partition("=")[2].strip() or header.strip()
            for spelling in (value, unquote(value)):
                values |= {spelling, *spelling.split()}
    return values - {""}


def masked(text: str, secrets: Iterable[str] = ()) -> str:
    """Hide these secrets, and the user, password and query of every URL."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    for pattern, shown in _IN_URLS:
        text = pattern.sub(shown, text)
    return text
