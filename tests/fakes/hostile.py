"""JSON that a browser accepts and others choke on, put anywhere; and what must come of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ringcast.providers.wire.body import Body, Ending, open_body
from ringcast.shm.tokens import Done, Error, StreamToken, decoder, encoder

Path = tuple[str | int, ...]

SLOT = "the hostile value"
HOSTILE = {
    "high": '"\\ud83d"',
    "low": '"\\ude00"',
    "reversed": '"a\\ude00\\ud83d"',
    "escaped path": "\"$['\\\\ud83d']\"",
    "key": '{"\\ud83d": "\\ud83d"}',
    "parts": '[{"type": "text", "text": "\\ud83d", "id": "\\ud83d"}]',
    "+400 digits": "1" + "0" * 400,
    "+5000 digits": "1" + "0" * 5000,
    "-2**70": str(-(2**70)),
    "2**63": str(2**63),
    "nested number": f'{{"n": {2**70}, "s": "\\ude00"}}',
    "1e400": "1e400",
    "1e300": "1e300",
    "fraction": "-1.5",
    "NaN": "NaN",
    "empty": '""',
    "null": "null",
    "deep arrays": "[" * 2000 + "]" * 2000,
    "deep objects": '{"a":' * 900 + "1" + "}" * 900,
    "deeper than is carried": "[" * 300 + "1" + "]" * 300,
    "long": json.dumps("x" * (1 << 20)),
    "number": "7",
    "text": '"text"',
    "list": '["text"]',
    "object": '{"type": "text"}',
    "true": "true",
    "false": "false",
}


def paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """Every place in a JSON value, itself included."""
    yield at
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(item, (*at, key))


def put(value: Any, path: Path, hostile: str) -> str:
    """The JSON text of `value` with the text `hostile` at `path`."""
    return json.dumps(_with_slot(value, path)).replace(json.dumps(SLOT), hostile)


def _with_slot(value: Any, path: Path) -> Any:
    if not path:
        return SLOT
    copy = value.copy()
    copy[path[0]] = _with_slot(value[path[0]], path[1:])
    return copy


def check(found: list[StreamToken]) -> None:
    """All of them can be said, and exactly one is terminal, the last."""
    assert len(decoder.decode(encoder.encode(found))) == len(found)
    assert [isinstance(t, Done | Error) for t in found] == [False] * (len(found) - 1) + [True]


def fed(api: str, blocks: list[bytes], rest: bytes = b"") -> list[StreamToken]:
    """The tokens of a stream that another worker takes over before every block and at the end."""
    body, found = open_body(api), []
    for said in blocks:
        found += body.feed(said)
        encoder.encode(body.cursor)
        body = Body.restore(api, body.state())
    found += body.tail(rest)
    return found + Body.restore(api, body.state()).end(Ending())
