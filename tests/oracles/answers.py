"""What an answer amounts to, in words that every reader has: we, and the official SDKs.

An answer is a plain object: `choices`, `usage` and `error`. The recordings are the corpus that
`RINGCAST_CORPUS` names, else `../shared/corpus` beside this repository, else the bundled ones.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.summary import decode, summarize
from ringcast.replay.recording import Recording, bundled, corpus
from ringcast.shm.tokens import StreamToken

Json: TypeAlias = dict[str, Any]

_CORPUS: Final = Path(
    os.environ.get("RINGCAST_CORPUS") or Path(__file__).parents[3] / "shared" / "corpus"
)
FOLDER: Final = _CORPUS if (_CORPUS / "INDEX.tsv").is_file() else None
RECORDINGS: Final = corpus(FOLDER) if FOLDER else bundled()

_CHOICE: Final = ("text", "reasoning", "refusal", "tool_calls", "finish_reason")
_COUNTS: Final = ("input", "output", "total", "cache_read", "cache_write", "reasoning")
_ERROR: Final = ("status", "type", "code", "message")


def recordings(*apis: str) -> list[Recording]:
    """The recordings of answers by one of `apis`, whoever gave them."""
    return [recording for recording in RECORDINGS if recording.api in apis]


def unknown(*tables: Mapping[str, object]) -> set[str]:
    """The names in tables of what is read otherwise that no recording bears."""
    there = {recording.name for recording in [*RECORDINGS, *bundled()]}
    return set().union(*tables) - there if FOLDER else set()


def name(recording: Recording) -> str:
    """What a test about a recording is called."""
    return recording.name


class Draft:
    """One choice of an answer under way, as an SDK gives it piece by piece."""

    def __init__(self) -> None:
        self.text = ""
        self.reasoning = ""
        self.refusal: str | None = None
        self.calls: dict[Any, Json] = {}
        self.reason: str | None = None

    def refuse(self, text: str | None) -> None:
        """Add to the refusal."""
        if text is not None:
            self.refusal = (self.refusal or "") + text

    def call(
        self, key: Any, id: str | None = None, name: str | None = None, arguments: str | None = ""
    ) -> None:
        """Add to the call that `key` tells from the others."""
        call = self.calls.setdefault(key, {"id": None, "name": None, "arguments": ""})
        call["id"], call["name"] = id or call["id"], name or call["name"]
        call["arguments"] += arguments or ""

    def choice(self) -> Json:
        """The choice in our words."""
        return {
            "text": self.text,
            "reasoning": self.reasoning,
            "refusal": self.refusal,
            "tool_calls": list(self.calls.values()),
            "finish_reason": self.reason,
        }


def answer(drafts: Iterable[Draft], usage: Json | None = None, error: Json | None = None) -> Json:
    """An answer of those choices."""
    return {"choices": [draft.choice() for draft in drafts], "usage": usage, "error": error}


def counts(*values: int | None) -> Json:
    """Token counts: of input, output, both, cache reads, cache writes and reasoning."""
    return dict(zip((f"{name}_tokens" for name in _COUNTS), values, strict=True))


def later(before: Json | None, said: Json) -> Json:
    """Counts after a stream has told some again: what is told last holds."""
    return said | (before or {}) | {name: n for name, n in said.items() if n is not None}


def failure(
    status: int | None = None, type: str | None = None, code: Any = None, message: str = ""
) -> Json:
    """An error in the provider's words; a code that is a number is written out."""
    code = None if code is None else str(code)
    return dict(zip(_ERROR, (status, type, code, message), strict=True))


def ours(recording: Recording) -> Json:
    """What our decoders make of a recording."""
    kind: Any = "eof" if recording.status == 200 else "http"
    body = recording.body
    end = Ending(kind, status=recording.status, content_type=recording.content_type, body=body)
    return of_tokens(decode(recording.api, [body] if kind == "eof" else [], end))


def of_tokens(tokens: Iterable[StreamToken]) -> Json:
    """What our tokens amount to."""
    summary = summarize(tokens)
    choices = summary.get("choices") or [summary]
    error = summary["error"]
    return {
        "choices": [{key: choice[key] for key in _CHOICE} for choice in choices],
        "usage": summary["usage"],
        "error": error and failure(*(error[key] for key in _ERROR)),
    }


def parsed(answer: Json) -> Json:
    """An answer with the arguments of its calls as objects, for SDKs that give them so."""
    for choice in answer["choices"]:
        for call in choice["tool_calls"]:
            with contextlib.suppress(json.JSONDecodeError):  # a call that is cut off stays text
                call["arguments"] = json.loads(call["arguments"] or "{}")
    return answer


def differing(theirs: Json, ours: Json) -> set[str]:
    """The names of what two answers say otherwise."""
    names = {name for name in ("usage", "error") if theirs[name] != ours[name]}
    if len(theirs["choices"]) != len(ours["choices"]):
        return names | {"choices"}
    for one, other in zip(theirs["choices"], ours["choices"], strict=True):
        names |= {key for key in _CHOICE if one[key] != other[key]}
    return names
