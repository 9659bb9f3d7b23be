"""AWS messages as Bedrock sends them, and how any API's events become a block."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

from ringcast.providers.wire.framing import framing

PAD = "abcdefghijklmnopqrstuvwxyz"


def message(headers: dict[str, str], payload: bytes = b"") -> bytes:
    """One message; all headers are strings."""
    head = b"".join(_header(name, value.encode()) for name, value in headers.items())
    lengths = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    body = lengths + struct.pack(">I", zlib.crc32(lengths)) + head + payload
    return body + struct.pack(">I", zlib.crc32(body))


def event(name: str, payload: Any, pad: str | None = PAD) -> bytes:
    """An event with its padding, which is ignored; a string is the payload's JSON itself."""
    if isinstance(payload, dict) and pad is not None:
        payload = {"p": pad} | payload
    said = payload if isinstance(payload, str) else json.dumps(payload)
    about = {
        ":event-type": name,
        ":content-type": "application/json",
        ":message-type": "event",
    }
    return message(about, said.encode(errors="surrogatepass"))


def chunk(inner: Any) -> bytes:
    """A model's own chunk; a string is its JSON itself."""
    said = inner if isinstance(inner, str) else json.dumps(inner)
    return event("chunk", {"bytes": base64.b64encode(said.encode()).decode()})


def exception(name: str, payload: Any) -> bytes:
    about = {
        ":exception-type": name,
        ":content-type": "application/json",
        ":message-type": "exception",
    }
    return message(about, json.dumps(payload).encode())


def error(code: str, text: str) -> bytes:
    return message({":message-type": "error", ":error-code": code, ":error-message": text})


def block(api: str, about: dict[str, Any], said: str) -> bytes:
    """An event whose JSON is `said`, framed for the API; `about` is what it was made from.

    Converse's events have their names in `"event"`.
    """
    if framing(api) == "ndjson":
        return said.encode() + b"\n"
    if api == "invoke":
        return chunk(said)
    if api == "converse":
        return event(str(about.get("event")), said)
    name = about.get("type", about.get("event_type"))
    return (f"event: {name}\n" if name else "").encode() + f"data: {said}\n\n".encode()


def _header(name: str, value: bytes) -> bytes:
    return bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value
