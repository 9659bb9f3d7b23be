"""The messages of a conversation as every provider wants them, which otherwise refuses them.

A tool's result follows the message that calls the tool, every call has one result, ids are there,
fit the provider's rule and are told apart, and thoughts go back to nobody but who had them.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from typing import Any, Final

from ringcast.providers.chat_form import INSTRUCTING, offered_tool, typed
from ringcast.providers.request import ChatRequest, Json, refuse
from ringcast.providers.tool_ids import IdRule

_CALLS: Final = "messages[].tool_calls"
_ANSWERS: Final = "messages[].tool_call_id"


def history(request: ChatRequest, ids: IdRule, *, remembered: bool = False) -> list[Json]:
    """Return a request's messages, checked and with ids that `ids` allows.

    An assistant's message may say by `model` ("PROVIDER/model") who wrote it: what another
    provider gave to be sent back is left out. With `remembered` the provider keeps what was said
    before, so that results may answer what is not here. Raises `RequestError` (bad_request).
    """
    turns = Turns(ids, remembered)
    provider = request.model.partition("/")[0]
    messages = [turns.take(_own(message, provider)) for message in request.messages]
    turns.close()
    return messages


def check_names(request: ChatRequest, rule: re.Pattern[str], who: str) -> None:
    """Refuse functions whose names `who` does not take: they are how a client knows its tool."""
    for tool in request.tools or []:
        if "function" in tool and not rule.fullmatch(name := offered_tool(tool).name):
            raise refuse("tools[].function.name", f"{who} wants {rule.pattern}, not {name!r}")


class Turns:
    """Follows who calls what, and who answers it."""

    def __init__(self, ids: IdRule, remembered: bool) -> None:
        """`ids` says what an id may be; `remembered` lets unknown calls be answered."""
        self._ids = ids
        self._remembered = remembered
        # How often each id was there, so that the next one is found at once.
        self._times: Counter[str] = Counter()
        # Of the newest message with calls: the ids as they came, and as they are sent.
        self._sent: dict[str, str] = {}
        # The calls among them that wait for their result, by the ids that are sent: their names.
        self._waiting: dict[str, str] = {}
        # The same the other way round, also those that do not wait any more.
        self._by_name: dict[str, deque[str]] = {}

    def take(self, message: Json) -> Json:
        """Return the next message with its ids as they must be."""
        if message["role"] == "tool":
            return message | {"tool_call_id": self._answer(message)}
        if message["role"] in INSTRUCTING:
            return message
        self.close()
        calls = message.get("tool_calls")
        if message["role"] != "assistant" or not calls:
            return message
        self._sent, self._by_name = {}, {}
        calls = typed(calls, list[Json], _CALLS)
        return message | {"tool_calls": [self._call(call) for call in calls]}

    def close(self) -> None:
        """Refuse calls that have no result where nothing can answer them any more."""
        for name in self._waiting.values():
            raise refuse(_CALLS, f"the call of {name!r} has no result")

    def _call(self, call: Json) -> Json:
        given = typed(call.get("id") or "", str, f"{_CALLS}[].id")
        if given and given in self._sent:
            raise refuse(f"{_CALLS}[].id", f"{given!r} is there twice")
        id = self._fresh(self._ids.fit(given or "call_0"))
        self._sent[given or id] = id
        self._waiting[id] = name = _called(call)
        self._by_name.setdefault(name, deque()).append(id)
        return call | {"id": id}

    def _fresh(self, id: str) -> str:
        """Return an id that no call before has: some servers begin anew with every answer."""
        fresh = id
        while fresh in self._times:
            fresh = self._ids.fit(f"{id}_{self._times[id]}")
            self._times[id] += 1
        self._times[fresh] += 1
        return fresh

    def _answer(self, message: Json) -> str:
        given = typed(message.get("tool_call_id") or "", str, _ANSWERS)
        id = self._sent.get(given) if given else self._unnamed(message)
        if id is not None and self._waiting.pop(id, None) is not None:
            return id
        if given and self._remembered and id is None:
            return given
        raise refuse(_ANSWERS, f"{given!r} answers no call of the message before")

    def _unnamed(self, message: Json) -> str | None:
        """Return the call that a result without an id answers: the first of its name."""
        name = typed(message.get("name") or "", str, "messages[].name")
        ids = self._by_name.get(name, deque())
        while ids and ids[0] not in self._waiting:
            ids.popleft()
        return ids[0] if ids else None


def _called(call: Json) -> str:
    """Return what a call calls, as far as that is readable; shaping it refuses what is not."""
    about: Any = call.get(str(call.get("type") or "function"), {})
    return str(about.get("name")) if isinstance(about, dict) else ""


def _own(message: Json, provider: str) -> Json:
    """Return a message without its `model`, and without another provider's secrets."""
    writer = typed(message.get("model") or "", str, "messages[].model").partition("/")[0]
    kept = {name: value for name, value in message.items() if name != "model"}
    if not writer or writer == provider:
        return kept
    kept.pop("reasoning", None)
    if isinstance(calls := kept.get("tool_calls"), list):
        kept["tool_calls"] = [_unsigned(call) for call in calls]
    return kept


def _unsigned(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    return {name: value for name, value in call.items() if name != "extra_content"}
