"""Request shaping for Anthropic: Messages, and the legacy text completions.

Sources: docs.anthropic.com/en/api/messages, /complete, /models-list and /messages-count-tokens.
`messages_body` and `complete_body` serve every door to Claude.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

import msgspec

from ringcast.providers import claude_blocks, claude_thinking
from ringcast.providers.chat_form import response_format, split
from ringcast.providers.history import check_names, history
from ringcast.providers.request import (
    Call,
    ChatRequest,
    CompletionRequest,
    Json,
    Request,
    accept,
    chatted,
    given,
    laid_over,
    prompted,
    refuse,
    stops,
    without,
)
from ringcast.providers.tool_ids import LETTERS_64
from ringcast.providers.vendor import AnyRequest, Capabilities, Model, Page, Vendor

VERSION: Final = "2023-06-01"
NAMES: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")
MODELS_A_PAGE: Final = 1000  # the most that can be asked for
LACKS: Final = (
    "seed",
    "n",
    "frequency_penalty",
    "presence_penalty",
    "logprobs",
    "top_logprobs",
    "cache_key",
    "suffix",
)
# Claude 4.1 and later take one of the two.
_EITHER: Final = (4, 1)
_LEAST_TOP_P: Final = 0.95  # with thinking
# What makes a prompt; the call that counts refuses all else.
_COUNTED: Final = ("messages", "system", "tools", "tool_choice", "thinking", "output_config")


class Listed(msgspec.Struct):
    """A model as Anthropic lists it."""

    id: str
    display_name: str | None = None
    created_at: datetime | None = None
    max_input_tokens: int | None = None
    max_tokens: int | None = None


class Models(msgspec.Struct):
    """A page of models."""

    data: list[Listed]
    has_more: bool = False
    last_id: str | None = None


class Counted(msgspec.Struct):
    """The answer to a question for the size of a prompt."""

    input_tokens: int


class Anthropic(Vendor):
    """Anthropic. Its APIs insist on `max_tokens`: where a request has none, the configured one."""

    apis = ("messages", "complete")

    def generate(self, model: str, request: AnyRequest) -> Call:
        """Return the call for Messages, or for legacy completions."""
        if self.api(request) == "messages":
            path, shape = "/messages", messages_body
        else:
            path, shape = "/complete", complete_body
        body = {"model": model} | shape(model, request, self.config.max_tokens)
        body = laid_over(body | {"stream": request.stream}, request.extra)
        return Call(path, body, self._headers() | accept(request))

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for."""
        return Capabilities(
            list(self.apis),
            tools=True,
            parallel_tool_calls=True,
            images=True,
            json_schema=True,
            reasoning=claude_thinking.version(model) >= (3, 7),
            prompt_cache=True,
            count="provider",
        )

    def models(self, page: str = "") -> Call | None:
        """Return the GET of the models after the one with the id `page`."""
        after = f"&after_id={quote(page, safe='')}" if page else ""
        path = f"/models?limit={MODELS_A_PAGE}{after}"
        return Call(path, headers=self._headers(), method="GET")

    def read_models(self, body: bytes) -> Page:
        """Read a page of them. Raises `msgspec.MsgspecError` if it is none."""
        listed = msgspec.json.decode(body, type=Models)
        models = [_model(model) for model in listed.data]
        return Page(models, (listed.last_id or "") if listed.has_more else "")

    def health(self) -> Call | None:
        """Return the GET of one model."""
        return Call("/models?limit=1", headers=self._headers(), method="GET")

    def count(self, model: str, request: AnyRequest) -> Call | None:
        """Return the call that counts a prompt; legacy completions have none."""
        if self.api(request) == "complete":
            return None
        lenient = msgspec.structs.replace(request, drop_unsupported=True)
        body = messages_body(model, lenient, self.config.max_tokens)
        counted = {name: value for name, value in body.items() if name in _COUNTED}
        return Call("/messages/count_tokens", {"model": model} | counted, self._headers())

    def read_count(self, body: bytes) -> int:
        """Read the answer to it. Raises `msgspec.MsgspecError` if it is none."""
        return msgspec.json.decode(body, type=Counted).input_tokens

    def _headers(self) -> dict[str, str]:
        return {"anthropic-version": VERSION}


def messages_body(model: str, request: AnyRequest, max_tokens: int, who: str = "anthropic") -> Json:
    """Return the body of a message without `model`, `stream` and the request's `extra`.

    `max_tokens` is the limit of requests that have none, `who` is named in refusals. Raises
    `RequestError` (bad_request).
    """
    request = without(chatted(request, "messages", "complete"), LACKS, who)
    check_names(request, NAMES, who)
    plan = claude_thinking.plan(model, request, max_tokens)
    request = _sampled(model, request, plan.thinks)
    if plan.thinks and not claude_blocks.free(request.tool_choice):
        request = without(request, ("tool_choice",), f"{model} with thinking")
    system, rest = split(history(request, LETTERS_64))
    return given(
        max_tokens=plan.max_tokens,
        system=claude_blocks.system(system),
        messages=claude_blocks.turns(rest),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop_sequences=stops(request),
        tools=claude_blocks.tools(request),
        tool_choice=claude_blocks.choice(request),
        thinking=plan.thinking,
        output_config=given(effort=plan.effort, format=_format(request, who)) or None,
        metadata=_metadata(request, who),
    )


def complete_body(model: str, request: AnyRequest, max_tokens: int, who: str = "anthropic") -> Json:
    """Return the body of a legacy completion without `model`, `stream` and `extra`.

    `model` decides nothing here; it is taken so that both bodies are asked for alike.
    """
    asked: CompletionRequest = without(prompted(request, "the legacy API takes"), LACKS, who)
    return given(
        prompt=asked.prompt,
        max_tokens_to_sample=asked.max_tokens or max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        stop_sequences=stops(asked),
        metadata=_metadata(asked, who),
    )


def _sampled(model: str, request: ChatRequest, thinks: bool) -> ChatRequest:
    """Refuse sampling that the model does not take, or leave it out."""
    if (request.temperature or 0) > 1:
        raise refuse("temperature", f"{request.temperature} is not in 0.0..1.0")
    if thinks:
        with_thoughts = f"{model} with thinking"
        if request.temperature != 1:
            request = without(request, ("temperature",), with_thoughts)
        if (request.top_p or 0) < _LEAST_TOP_P:
            request = without(request, ("top_p",), with_thoughts)
        request = without(request, ("top_k",), with_thoughts)
    if request.temperature is not None and claude_thinking.version(model) >= _EITHER:
        request = without(request, ("top_p",), f"{model} with a temperature")
    return request


def _format(request: ChatRequest, who: str) -> Json | None:
    """Return the schema of the answer; it needs no name here, and is always strict."""
    if request.response_format is None:
        return None
    kind, wanted = response_format(request.response_format)
    if wanted is not None:
        return {"type": "json_schema", "schema": wanted.schema}
    if kind != "text":
        without(request, ("response_format",), who, why=f"{who} has no {kind}, only json_schema")
    return None


def _metadata(request: Request, who: str) -> Json | None:
    """Return who the user is, which is all that can be told about a request."""
    told = given(user_id=request.user) | (request.metadata or {})
    if request.user not in (None, told.get("user_id")):
        without(request, ("user",), who, why="metadata has another user_id")
    if told.keys() - {"user_id"}:
        without(request, ("metadata",), who, why=f"{who} has only user_id")
        told = given(user_id=told.get("user_id"))
    return told or None


def _model(listed: Listed) -> Model:
    return Model(
        listed.id,
        name=listed.display_name,
        owner="anthropic",
        created=_seconds(listed.created_at) if listed.created_at else None,
        context_tokens=listed.max_input_tokens,
        output_tokens=listed.max_tokens,
    )


def _seconds(moment: datetime) -> int:
    """Return a moment in seconds since 1970; without a zone it is taken for UTC."""
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
