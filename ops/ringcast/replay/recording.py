"""Recordings: response bodies of providers, and the library that finds one for a request.

A folder of recordings holds body files and an `INDEX.tsv` with at least the columns `file`,
`provider`, `api`, `http_status`, `content_type` and `recorded_url`; a file's suffix says how
its body is framed. Files are called `provider/stem.suffix` or `provider-stem.suffix`. The package
ships such a folder (`bundled`); `corpus` reads any other.
"""

from __future__ import annotations

import csv
import importlib.resources
import re
from collections.abc import Iterable
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from ringcast.errors import ConfigError

Framing: TypeAlias = Literal["sse", "eventstream", "ndjson", "json"]

_CONTENT_TYPE: Final[dict[Framing, str]] = {
    "sse": "text/event-stream; charset=utf-8",
    "eventstream": "application/vnd.amazon.eventstream",
    "ndjson": "application/x-ndjson",
    "json": "application/json",
}
_FRAMING: Final[dict[str, Framing]] = {f".{framing}": framing for framing in _CONTENT_TYPE}

# The provider's own name of an API, as an index may spell it, and ours.
_API: Final = {
    "chat.completions": "chat",
    "complete (legacy)": "complete",
    "streamGenerateContent": "generate",
    "generateContent": "generate",
    "streamRawPredict": "messages",
    "rawPredict": "messages",
    "ConverseStream": "converse",
    "Converse": "converse",
    "InvokeModelWithResponseStream": "invoke",
    "api/chat (NDJSON)": "native",
    "models.list": "models",
    "CountTokens": "count",
}
_PATH: Final = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "complete": "/v1/complete",
    "generate": "/v1beta/models/gemini:streamGenerateContent",
    "converse": "/model/recorded/converse-stream",
    "invoke": "/model/recorded/invoke-with-response-stream",
    "native": "/api/chat",
    "models": "/v1/models",
    "count": "/v1/messages/count_tokens",
}

# A blank line ends an event: WHATWG HTML, section 9.2.6 (three ways to end a line).
_BLANK_LINE: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class Recording(msgspec.Struct, frozen=True):
    """One response of a provider. `name` is `provider/stem`, `path` where its provider has it."""

    name: str
    provider: str
    api: str
    path: str
    content_type: str
    status: int
    framing: Framing
    body: bytes

    @property
    def streamed(self) -> bool:
        """Whether this answers a request for a stream (an error may answer either kind)."""
        return self.framing != "json"


class Library:
    """Recordings by name and by API; the order given is the order of preference."""

    def __init__(self, recordings: Iterable[Recording]) -> None:
        self.recordings = tuple(recordings)

    def find(self, name: str, api: str, *, stream: bool) -> Recording | None:
        """The recording called `name` (with or without its provider) if it speaks `api`.

        A name that no recording bears, as a real model's, gets the first successful answer
        of the API that is a stream or not as asked. None where nothing fits: also for a
        recording of another API, whose bytes the caller could not read.
        """
        named = [r for r in self.recordings if name in (r.name, r.name.partition("/")[2])]
        if named:
            fitting = [r for r in named if r.api == api]
            if not fitting or stream or not fitting[0].streamed:
                return next(iter(fitting), None)
        return next((r for r in self.recordings if _answers(r, api, stream=stream)), None)


def _answers(recording: Recording, api: str, *, stream: bool) -> bool:
    return recording.api == api and recording.status == 200 and recording.streamed == stream


def bundled() -> list[Recording]:
    """The recordings that the package ships: hand-written bodies in the providers' formats."""
    return _read(importlib.resources.files("ringcast.replay") / "bodies")


def corpus(directory: Path) -> list[Recording]:
    """The recordings of a folder with an INDEX.tsv, in its order. Raises ConfigError."""
    return _read(directory)


def _read(folder: Traversable) -> list[Recording]:
    try:
        index = (folder / "INDEX.tsv").read_text(encoding="utf-8")
        rows = csv.DictReader(index.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
        return [_recording(row, folder) for row in rows]
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"no recordings in {folder}: {error!r}") from error


def _recording(row: dict[str, str], folder: Traversable) -> Recording:
    file, provider = row["file"], row["provider"]
    stem, dot, suffix = file.rpartition(".")
    framing = _FRAMING[dot + suffix]
    api = _API.get(row["api"], row["api"])
    return Recording(
        name=f"{provider}/{stem.removeprefix(provider)[1:]}",
        provider=provider,
        api=api,
        path=_path_of(row["recorded_url"]) or _PATH[api],
        content_type=row["content_type"] or _CONTENT_TYPE[framing],
        status=int(row["http_status"]),
        framing=framing,
        body=folder.joinpath(*file.split("/")).read_bytes(),
    )


def _path_of(url: str) -> str:
    _, slash, path = url.partition("?")[0].partition("/")
    return slash + path


def events(body: bytes, framing: Framing) -> list[bytes]:
    """The body cut after each whole event, so that joined they are the body again.

    SSE: after the blank line; NDJSON: after the line feed; AWS event stream: by its length
    prefix (the first four bytes, big-endian); JSON: one piece. What is left over comes last.
    """
    ends = {"sse": _sse_ends, "ndjson": _line_ends, "eventstream": _message_ends}
    cuts = [0, *ends[framing](body)] if framing in ends else [0]
    if cuts[-1] < len(body):
        cuts.append(len(body))
    return [body[a:b] for a, b in pairwise(cuts)]


def _sse_ends(body: bytes) -> list[int]:
    return [match.end() for match in _BLANK_LINE.finditer(body)]


def _line_ends(body: bytes) -> list[int]:
    return [match.end() for match in re.finditer(b"\n", body)]


def _message_ends(body: bytes) -> list[int]:
    ends, at = [], 0
    while at + 4 <= len(body) and (size := int.from_bytes(body[at : at + 4], "big")) >= 16:
        at += size
        if at > len(body):
            break
        ends.append(at)
    return ends
