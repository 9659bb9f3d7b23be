"""What a decoder of one API's events is to `body.Body`, and what all of them have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

import msgspec
from msgspec.structs import replace

from ringcast.providers.wire.answer import provider_error
from ringcast.providers.wire.json_text import JsonText
from ringcast.providers.wire.payload import loose
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.surrogates import Halves
from ringcast.providers.wire.usage import merged
from ringcast.shm.records import Cursor
from ringcast.shm.tokens import Delta, Done, Error, Logprob, StreamToken, Text, ToolCall, Usage

# At 0.7 us a JSON token, of which hostile text has one a character, 0.2 s a stream.
MAX_CHECKED_CHARS: Final = 256 << 10

# The tokens of a block of whole events, cut or not, null for what is none that is known.
Recall: TypeAlias = Callable[[bytes], list[StreamToken] | None]


class Decoder(Protocol):
    """A decoder of one API's events, as `body.Body` sees it; `Dialect` says what these are."""

    @property
    def changed(self) -> bool: ...
    @property
    def oddities(self) -> int: ...
    @property
    def cursor(self) -> Cursor | None: ...
    @property
    def recall(self) -> Recall | None: ...
    @property
    def complete(self) -> bool: ...
    def feed(self, event: SseEvent) -> list[StreamToken]: ...
    def feed_block(self, block: bytes) -> list[StreamToken] | None: ...
    def whole(self, answer: bytes) -> list[StreamToken] | None: ...
    def close(self, error: Error | None) -> list[StreamToken]: ...
    def state(self) -> bytes: ...
    def restore(self, state: bytes) -> None: ...


class Memory(msgspec.Struct, array_like=True):
    """What must survive a hand-over, whatever the API: next to nothing while text streams."""

    id: str | None = None
    model: str | None = None
    usage: Usage | None = None
    halves: Halves = msgspec.field(default_factory=Halves)
    arguments: dict[str, JsonText] = {}  # of tool calls, by choice and index (`0.1`)
    checked: int = 0  # characters of all of them


M = TypeVar("M", bound=Memory)


class Dialect(ABC, Generic[M]):
    """Events of one API in, tokens out; pure and total: what is bad becomes an `Error` token.

    `changed` says whether `state` has other things to say than when it was last asked, `oddities`
    how many irregularities were tolerated.
    """

    def __init__(self, memory: type[M]) -> None:
        self.changed = True
        self.oddities = 0
        self._seen = memory()

    @property
    def cursor(self) -> Cursor | None:
        """Where the provider can be asked to go on; null if it keeps nothing, or all was said."""
        return None

    @property
    def recall(self) -> Recall | None:
        """The way to the tokens of events like the last ones, as long as nothing else is fed."""
        return None

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether the provider has said how the answer ended, so that the body may end."""

    @property
    @abstractmethod
    def reason(self) -> str | None:
        """The finish reason in the provider's word, as far as one was seen."""

    def feed(self, event: SseEvent) -> list[StreamToken]:
        """The tokens of one event. A terminal token, if any, is the last one."""
        if event.event == "error":
            return self.close(provider_error(loose(event.data)))
        try:
            return self._tokens(self._read(event))
        except WireError as error:
            return self.close(Error(error.code, error.message))

    @abstractmethod
    def feed_block(self, block: bytes) -> list[StreamToken] | None:
        """The tokens of a block of whole events in the plain form, else null, nothing changed.

        In framings other than SSE every block is plain.
        """

    @abstractmethod
    def whole(self, answer: bytes) -> list[StreamToken] | None:
        """The tokens of an answer that came in one piece of JSON, null if it is none."""

    def close(self, error: Error | None) -> list[StreamToken]:
        """The last tokens: what was held back, then `Done`, or `error` with usage and reason."""
        try:
            held = self._held_back(error)
        except WireError as limit:  # the rest of a call that is too long
            return self.close(Error(limit.code, limit.message))
        self.changed = True
        usage, reason = self._seen.usage, self.reason
        if error is None:
            done, valid = self._done(), self._arguments_valid()
            return [*held, done if valid is None else replace(done, arguments_valid=valid)]
        return [*held, replace(error, usage=usage, provider_reason=reason)]

    def state(self) -> bytes:
        """All that a successor needs to go on at the next block, as msgpack."""
        self.changed = False
        return msgspec.msgpack.encode(self._seen)

    def restore(self, state: bytes) -> None:
        """Take over from `state`. Raises `msgspec.MsgspecError` if it is none."""
        self._seen = msgspec.msgpack.decode(state, type=type(self._seen))
        self.changed = False

    @abstractmethod
    def _read(self, event: SseEvent) -> Iterable[Any]:
        """What is in one event, for `_apply`. Raises `WireError` if it is not to be understood."""

    @abstractmethod
    def _apply(self, said: Any, tokens: list[StreamToken]) -> list[StreamToken] | None:
        """Add what is said to `tokens`; the last ones, from `close`, if that ends the stream.

        Raises `WireError` if it is not to be understood.
        """

    @abstractmethod
    def _done(self) -> Done:
        """The terminal token of a stream that ended well."""

    def _held_back(self, error: Error | None) -> list[StreamToken]:
        """What comes before the terminal token."""
        return self._seen.halves.flush()

    def _tokens(self, found: Iterable[Any]) -> list[StreamToken]:
        """The tokens of all that was found, up to the first that ends the stream or is bad."""
        tokens: list[StreamToken] = []
        try:
            for said in found:
                if (last := self._apply(said, tokens)) is not None:
                    return tokens + last
        except WireError as error:
            tokens += self.close(Error(error.code, error.message))
        return tokens

    def _ended(self, tokens: list[StreamToken]) -> list[StreamToken]:
        """`tokens`, and the last ones unless they are there already."""
        ended = bool(tokens) and isinstance(tokens[-1], Done | Error)
        return tokens if ended else tokens + self.close(None)

    def _joined(self, kind: str, text: Any, index: int = 0) -> str:
        """`text`, if it is some, with the half that waited for it; see `surrogates.Halves`."""
        if not isinstance(text, str):
            return ""
        if text.isascii() and not self._seen.halves.held:
            return text
        before = self._seen.halves.held.copy()
        joined = self._seen.halves.join(kind, index, text)
        self.changed |= before != self._seen.halves.held
        return joined

    def _content(
        self, text: Any, index: int, scores: list[Logprob] | None, tokens: list[StreamToken]
    ) -> None:
        """A piece of visible text."""
        content = self._joined("text", text, index)
        if index == 0 and scores is None:
            if content:
                tokens.append(Text(content))
        elif content or scores:
            tokens.append(Delta(content, index, scores))

    def _called(
        self, call: ToolCall | None, tokens: list[StreamToken], *, free: bool = False
    ) -> None:
        """A fragment of a tool call, if it says anything; what is `free` text need not be JSON."""
        if call is None:
            return
        arguments = self._joined(f"tool.{call.index}", call.arguments, call.choice)
        if arguments != call.arguments:
            call = replace(call, arguments=arguments)
        tokens.append(call)
        if not free:
            self._check(call)

    def _check(self, call: ToolCall) -> None:
        """Follow whether the arguments are JSON; inside of their strings nothing changes."""
        seen, key = self._seen, f"{call.choice}.{call.index}"
        self.changed |= key not in seen.arguments
        text = seen.arguments.setdefault(key, JsonText())
        before = seen.checked
        seen.checked += len(call.arguments)  # a lost count only loosens the limit
        if seen.checked <= MAX_CHECKED_CHARS:
            self.changed |= text.feed(call.arguments)
        else:
            self.changed |= before <= MAX_CHECKED_CHARS

    def _arguments_valid(self) -> bool | None:
        seen = self._seen
        if not seen.arguments or seen.checked > MAX_CHECKED_CHARS:
            return None
        return all(text.whole for text in seen.arguments.values())

    def _account(self, usage: Usage, tokens: list[StreamToken]) -> None:
        """Take over counts; the first ones are a token."""
        before = self._seen.usage
        after = merged(before or Usage(), usage)
        if after == (before or Usage()):
            return
        self._seen.usage = after
        self.changed = True
        if before is None:
            tokens.append(after)
