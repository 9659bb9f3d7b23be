"""Answers that a provider keeps: numbered streams that can be asked for again from any event on.

OpenAI's Responses with `background: true` (platform.openai.com/docs/guides/background) and
Gemini's Interactions (ai.google.dev/gemini-api/docs/background-execution). Nothing is kept in
truth: the name of an answer is the model that was asked for, knobs included, in hex.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import count
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from ringcast.replay.numbered import numbered_tokens

_APIS: Final = ("responses", "interactions")
_NAME: Final = re.compile(rf"/({'|'.join(_APIS)})/kept_([0-9a-f]+)(/cancel)?")


class Kept(msgspec.Struct, frozen=True):
    """A request about a kept answer: what was once asked for, and behind which event to go on."""

    api: str
    model: str
    after: int
    cancels: bool


def kept(path: str, query: str) -> Kept | None:
    """What is asked about a kept answer, None if it is something else. Raises ValueError."""
    found = _NAME.search(path)
    if found is None:
        return None
    asked = parse_qs(query)
    after = (asked.get("starting_after") or asked.get("last_event_id") or ["-1"])[0]
    model = bytes.fromhex(found[2]).decode()
    return Kept(found[1], model, int(after), found[3] is not None)


def speaks(api: str) -> bool:
    """Whether numbered streams of `api` are kept."""
    return api in _APIS


def kept_events(api: str, model: str, n: int, seed: int, *, background: bool) -> Iterator[bytes]:
    """The events of a numbered stream, the position of each being its sequence number."""
    name = "kept_" + model.encode().hex()
    shape = _response if api == "responses" else _interaction
    for number, (kind, fields) in zip(count(), shape(name, n, seed, background), strict=False):
        at = {"sequence_number": number} if api == "responses" else {"event_id": str(number)}
        word = "type" if api == "responses" else "event_type"
        data = json.dumps({word: kind} | at | fields, separators=(",", ":"))
        yield f"event: {kind}\ndata: {data}\n\n".encode()


def _response(name: str, n: int, seed: int, background: bool) -> Iterator[tuple[str, Any]]:
    about = {"id": name, "object": "response", "model": "numbered", "background": background}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    yield "response.created", {"response": about | {"status": "in_progress", "output": []}}
    yield "response.output_item.added", {"output_index": 0, "item": item}
    for text in numbered_tokens(n, seed):
        yield "response.output_text.delta", where | {"delta": text, "logprobs": []}
    usage = {"input_tokens": 1, "output_tokens": n, "total_tokens": n + 1}
    last = about | {"status": "completed", "output": [], "usage": usage}
    yield "response.completed", {"response": last}


def _interaction(name: str, n: int, seed: int, background: bool) -> Iterator[tuple[str, Any]]:
    about = {"id": name, "model": "numbered", "background": background}
    yield "interaction.created", {"interaction": about | {"status": "in_progress"}}
    yield "step.start", {"index": 0, "step": {"type": "model_output"}}
    for text in numbered_tokens(n, seed):
        yield "step.delta", {"index": 0, "delta": {"type": "text", "text": text}}
    yield "step.stop", {"index": 0}
    usage = {"total_input_tokens": 1, "total_output_tokens": n, "total_tokens": n + 1}
    yield "interaction.completed", {"interaction": about | {"status": "completed", "usage": usage}}
