"""The tokens: what every provider's stream becomes, and what crosses process boundaries.

Each token is a frozen msgspec Struct, encoded as a msgpack array whose first item is the
tag: `Text("hi")` is `["text", "hi"]`. The order of the fields is the protocol; new fields
are only ever added at the end and carry a default, so that old and new ends understand
each other. `StreamToken` is the union of them all.

A stream is any number of tokens and then exactly one terminal one, `Done` or `Error`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, cast

import msgspec

FinishReason: TypeAlias = Literal[
    "stop", "length", "tool_calls", "content_filter", "error", "pause", "other"
]


class Token(msgspec.Struct, frozen=True):
    """What every token can do."""

    def merge(self, other: StreamToken) -> StreamToken | None:
        """Return the one token that stands for this and the next, or None if none does."""
        from ringcast.shm.merge import merge  # it knows every kind of token

        return merge(cast("StreamToken", self), other)


class Text(Token, frozen=True, gc=False, array_like=True, tag_field="tag", tag="text"):
    """Visible text of choice 0 without log-probabilities: by far the commonest token."""

    content: str


class Logprob(msgspec.Struct, frozen=True, array_like=True):
    """One model token with its log-probability; `raw` may be half a UTF-8 character."""

    token: str
    logprob: float
    raw: bytes | None = None
    top: list[tuple[str, float]] = []


class Delta(Token, frozen=True, array_like=True, tag_field="tag", tag="delta"):
    """Visible text of any choice; `logprob` has one entry for each model token it covers.

    So has `token_ids` where a server was asked for ids; the prompt's come with the first.
    """

    content: str
    index: int = 0
    logprob: list[Logprob] | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class Reasoning(Token, frozen=True, array_like=True, tag_field="tag", tag="reasoning"):
    """Thinking text, or the provider's opaque proof of it, to be sent back unchanged.

    `content` may be empty when only `signature` or `encrypted` (a redacted or encrypted
    block) is carried. `block` tells the provider's blocks apart; `detail` keeps what else
    the provider needs back (OpenRouter's type, id and format).
    """

    content: str
    index: int = 0
    block: int = 0
    signature: str | None = None
    encrypted: str | None = None
    detail: dict[str, Any] | None = None


class Refusal(Token, frozen=True, array_like=True, tag_field="tag", tag="refusal"):
    """Text with which the model declines."""

    content: str
    index: int = 0
    logprob: list[Logprob] | None = None


class ToolCall(Token, frozen=True, gc=False, array_like=True, tag_field="tag", tag="tool_call"):
    """A fragment of a tool call; join `arguments` of one (`choice`, `index`).

    `index` counts calls within the choice and is ours: contiguous whatever the provider
    sent. `id` and `name` come with the fragment that first carries them, else null. `preview`
    is what the arguments up to this fragment say already, where a request asks for it
    (`json_preview`): a JSON value to which later ones only add, null where it is not a new one.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    choice: int = 0
    preview: Any | None = None


class FunctionCall(
    Token, frozen=True, gc=False, array_like=True, tag_field="tag", tag="function_call"
):
    """A fragment of a legacy OpenAI function call; join `arguments` of one `index`."""

    name: str | None = None
    arguments: str = ""
    index: int = 0


class Citation(Token, frozen=True, array_like=True, tag_field="tag", tag="citation"):
    """A source for what was said; `start` and `end` are the provider's, `raw` is all it sent."""

    url: str | None = None
    title: str | None = None
    text: str | None = None
    start: int | None = None
    end: int | None = None
    index: int = 0
    raw: dict[str, Any] | None = None


class Usage(Token, frozen=True, gc=False, array_like=True, tag_field="tag", tag="usage"):
    """Token counts as the provider counts them; null where it sent none.

    Emitted when the provider first reports usage; `Done` and `Error` carry the merged one
    (field by field, the last value that is not null wins). `cost` is in US dollars.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost: float | None = None


class Summary(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a stream took, measured by the worker.

    `tokens` counts tokens before the terminal one; `first_token_ms` and `total_ms` run from
    when the request came, also while it waits. `oddities` counts tolerated irregularities of
    the provider. `decode_ms` and `transform_ms` are the worker's own time. `served_by` is
    PROVIDER/model, `attempts` counts sendings, and `waited_ms` is what passed before the last.
    """

    tokens: int = 0
    first_token_ms: float | None = None
    total_ms: float | None = None
    tokens_per_s: float | None = None
    oddities: int = 0
    decode_ms: float | None = None
    transform_ms: float | None = None
    served_by: str | None = None
    attempts: int = 1
    waited_ms: float | None = None


class Done(Token, frozen=True, array_like=True, tag_field="tag", tag="done"):
    """The stream ended as the provider meant it to.

    `finish_reason` is one of a closed set; `provider_reason` keeps the provider's own word,
    `choices` those of all choices when there are several (index = choice). `sources` are
    search results that belong to the whole answer (Perplexity). `arguments_valid` says whether
    those of every tool call are JSON (or empty, or a custom tool's free text); null without
    calls, and where they are too long to be checked.
    """

    finish_reason: FinishReason = "other"
    provider_reason: str | None = None
    usage: Usage | None = None
    summary: Summary | None = None
    id: str | None = None
    model: str | None = None
    stop_sequence: str | None = None
    choices: list[str | None] | None = None
    sources: list[Any] | None = None
    arguments_valid: bool | None = None


class Error(Token, frozen=True, array_like=True, tag_field="tag", tag="error"):
    """The stream ended otherwise; what came before stays valid.

    `code` is one of `ringcast.errors.Code`. `type`, `provider_code` and `status` are the
    provider's own words; `provider_reason` the finish reason seen before the error, if any.
    `retryable` says whether the same request may succeed later.
    """

    code: str
    message: str
    retryable: bool = False
    status: int | None = None
    type: str | None = None
    provider_code: str | int | float | None = None
    usage: Usage | None = None
    summary: Summary | None = None
    provider_reason: str | None = None
    retry_after_s: float | None = None


class Waiting(Token, frozen=True, array_like=True, tag_field="tag", tag="waiting"):
    """The request is not sent for about `seconds`, because of `reason`; only who asks is told.

    It has no number within the stream. `seconds` 0 says that it is sent now.
    """

    reason: str
    seconds: float


StreamToken: TypeAlias = (
    Text
    | Delta
    | Reasoning
    | Refusal
    | ToolCall
    | FunctionCall
    | Citation
    | Usage
    | Waiting
    | Done
    | Error
)

encoder = msgspec.msgpack.Encoder()
decoder: msgspec.msgpack.Decoder[list[StreamToken]] = msgspec.msgpack.Decoder(list[StreamToken])
decode_error = msgspec.msgpack.Decoder(Error).decode


def describe(token: StreamToken) -> dict[str, Any]:
    """Return a token as a plain map for JSON: `{"token": "text", "content": "hi"}`.

    Fields that hold their default are left out.
    """
    plain: dict[str, Any] = {"token": token.__struct_config__.tag}
    for field in msgspec.structs.fields(token):
        value = getattr(token, field.name)
        if field.required or value != field.default:
            plain[field.name] = _plain(value)
    return plain


def _plain(value: Any) -> Any:
    """Return a value for JSON, structs by the names of their fields."""
    if isinstance(value, msgspec.Struct):
        return {name: _plain(inner) for name, inner in msgspec.structs.asdict(value).items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return msgspec.to_builtins(value)
