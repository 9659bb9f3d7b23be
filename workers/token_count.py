"""`count_tokens`: the tokens of a text or a request, and how far to trust the number. Pure CPU.

`exact` is a text under its model's own encoding, or a chat of plain texts with a model whose
chat form OpenAI documents (Cookbook, "How to count tokens with tiktoken": gpt-3.5-turbo, gpt-4,
gpt-4o). All else is an `estimate`: on recorded answers of other vendors, within a sixth where rank
files are installed, within a third where not. `provider` is what a provider says itself.

Time is linear in the text. The encoder gets slices of some thousand characters: a run of 1 MB
without a place to cut takes tiktoken 0.9 minutes, and of white space it overflows the stack of
tiktoken 0.14. It releases the interpreter's lock, so a thread may count beside a loop.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ringcast.providers import request as requests
from ringcast.providers.count import TokenCount as TokenCount  # it is given on
from ringcast.providers.estimate import BYTES_A_TOKEN, LINKED_PICTURE_TOKENS, MESSAGE_TOKENS
from ringcast.providers.request import ChatRequest, CompletionRequest
from ringcast.workers import ranks

if TYPE_CHECKING:
    from tiktoken import Encoding

# By the beginning of a model's name; the longest counts.
ENCODINGS: Final = {
    "gpt-3.5": "cl100k_base",
    "gpt-35": "cl100k_base",  # Azure's spelling
    "gpt-4": "cl100k_base",
    "gpt-4o": "o200k_base",
    "chatgpt-4o": "o200k_base",
    "gpt-4.1": "o200k_base",
    "gpt-4.5": "o200k_base",
    "gpt-5": "o200k_base",
    "gpt-oss": "o200k_base",
    "o1": "o200k_base",
    "o3": "o200k_base",
    "o4": "o200k_base",
    "davinci-002": "cl100k_base",
    "babbage-002": "cl100k_base",
    "text-embedding-3": "cl100k_base",
    "text-embedding-ada-002": "cl100k_base",
}
_longest: Final = sorted(ENCODINGS, key=len, reverse=True)
_name = re.compile(f"({'|'.join(map(re.escape, _longest))})(?![a-z0-9])").match
_documented = re.compile(r"gpt-(3\.5|35)-turbo(?!-instruct)|gpt-4(?![.5])").match
_BORDERS: Final = 3  # of a message in that chat form; so many begin the answer
_PLAIN: Final = {"role", "content", "name"}

SLICE: Final = 4096  # characters; where a run has no place to cut, it is cut here
SEARCH: Final = 16384  # how far beyond a place is looked for
MAX_CHARACTERS: Final = 8 << 20  # 0.2 s of prose, 4 s of the worst
# Where a piece of the patterns in `ranks` begins whatever stands around, and a text that ends here
# is cut into the same pieces: behind a line's end, before one separator within words, between a
# number and ASCII. White space before a number is not: at a text's end it is one piece.
_place = re.compile(
    r"(?<=\n)(?=[^\s/])|(?<=[^\W_])(?=[ ,.，。、；：！？][^\W_])"
    r"|(?<=[!-/:-~])(?=[0-9])|(?<=[0-9])(?=[\x00-/:-\x7f])"
)


def _silent() -> None:
    """Nobody wants to know how far it is."""


def count_tokens(
    model: str, said: str | list[dict[str, Any]], *, tools: list[dict[str, Any]] | None = None
) -> TokenCount:
    """Return the tokens of a text, or of messages in the chat form, for `model`.

    A model may be named as `PROVIDER/model`. What looks like a special token is text. Raises
    `RequestError` for messages that are none.
    """
    if isinstance(said, str):
        meter = _Meter(model)
        return meter.result(meter.count(said), exact=True)
    return count_request(requests.of(model=model, messages=said, tools=tools))


def count_request(
    request: ChatRequest | CompletionRequest, *, beat: Callable[[], None] = _silent
) -> TokenCount:
    """Return the tokens of a common request. `beat` is called every few milliseconds."""
    meter = _Meter(request.model, beat)
    if isinstance(request, CompletionRequest):
        tokens = meter.count(request.prompt) + meter.count(request.suffix or "")
        return meter.result(tokens, exact=request.suffix is None)
    if _is_plain(request):
        return meter.result(_chat(request, meter), exact=True)
    return meter.result(_about(request, meter), exact=False)


def encoding_of(model: str) -> str | None:
    """Return the name of a model's encoding, None if it is not known to be OpenAI's."""
    known = _name(_bare(model))
    return ENCODINGS[known[1]] if known else None


def _bare(model: str) -> str:
    """Return the vendor's name of a model, without provider and fine-tuning."""
    return model.rpartition("/")[2].removeprefix("ft:")


class _Meter:
    """Counts texts for one model; `_sure` is lost with the first that had to be guessed."""

    def __init__(self, model: str, beat: Callable[[], None] = _silent) -> None:
        self._beat = beat
        own = encoding_of(model)
        self._encoding = next(_encodings(own), None)
        self._sure = self._encoding is not None and self._encoding.name == own
        self._left = MAX_CHARACTERS

    def count(self, text: str) -> int:
        encoding = self._encoding
        if encoding is None:
            return _guess(text)
        counted, rest = text[: self._left], text[self._left :]
        self._left -= len(counted)
        if rest:
            self._sure = False
        tokens = _guess(rest)
        for piece in self._slices(counted):
            self._beat()
            tokens += len(encoding.encode_ordinary(piece))
        return tokens

    def result(self, tokens: int, *, exact: bool) -> TokenCount:
        return TokenCount(tokens, "exact" if exact and self._sure else "estimate")

    def _slices(self, text: str) -> Iterator[str]:
        start = 0
        while len(text) - start > SLICE + SEARCH:
            place = _place.search(text, start + SLICE, start + SLICE + SEARCH)
            if place is None:
                self._sure = False
            end = place.start() if place else start + SLICE
            yield text[start:end]
            start = end
        yield text[start:]


def _encodings(own: str | None) -> Iterator[Encoding]:
    """Those whose ranks are installed, the fittest first."""
    for name in dict.fromkeys((own or "o200k_base", "o200k_base", "cl100k_base")):
        if (found := ranks.encoding(name)) is not None:
            yield found


def _guess(text: str) -> int:
    return math.ceil(len(text.encode(errors="replace")) / BYTES_A_TOKEN)


def _is_plain(request: ChatRequest) -> bool:
    return (
        _documented(_bare(request.model)) is not None
        and request.tools is None
        and request.response_format is None
        and all(message.keys() <= _PLAIN for message in request.messages)
        and all(isinstance(v, str) for message in request.messages for v in message.values())
    )


def _chat(request: ChatRequest, meter: _Meter) -> int:
    tokens = _BORDERS
    for message in request.messages:
        tokens += _BORDERS + sum(map(meter.count, message.values())) + ("name" in message)
    return tokens


def _about(request: ChatRequest, meter: _Meter) -> int:
    """Count the texts of messages, wherever they are. No recursion: a client chooses the depth."""
    tokens = MESSAGE_TOKENS * len(request.messages)
    if request.tools:
        tokens += meter.count(msgspec.json.encode(request.tools).decode())
    left: list[Any] = list(request.messages)
    while left:
        value = left.pop()
        if isinstance(value, str):
            tokens += _picture(value) if value.startswith("data:") else meter.count(value)
        elif isinstance(value, list):
            left += value
        elif isinstance(value, dict) and _is_linked(value):
            tokens += LINKED_PICTURE_TOKENS
        elif isinstance(value, dict):
            left += [inner for key, inner in value.items() if key not in ("role", "type")]
    return tokens


def _is_linked(part: dict[Any, Any]) -> bool:
    """Whether a part is a picture that is not in the request itself."""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    inline = isinstance(url, str) and url.startswith("data:")
    return part.get("type") == "image_url" and not inline


def _picture(url: str) -> int:
    return math.ceil(math.sqrt(len(url)))
