"""Request shaping for OpenAI, and what every server that speaks its API does alike.

Sources: platform.openai.com/docs/api-reference/chat, /completions, /models and
/docs/guides/reasoning. `responses` shapes the third API.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Final

import msgspec

from ringcast.providers import openai_family, responses
from ringcast.providers.chat_form import instructing, plain, result_text, unmarked
from ringcast.providers.history import check_names, history
from ringcast.providers.request import (
    Api,
    Call,
    ChatRequest,
    CompletionRequest,
    Json,
    accept,
    chatted,
    given,
    laid_over,
    prompted,
    without,
)
from ringcast.providers.thoughts import Thought, thoughts
from ringcast.providers.tool_ids import ANY_40, IdRule, id_rule
from ringcast.providers.vendor import AnyRequest, Capabilities, Model, Page, Vendor
from ringcast.shm.records import Cursor

NAMES: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class Listed(msgspec.Struct):
    """A model as OpenAI lists it."""

    id: str
    created: int | float | None = None
    owned_by: str | None = None


class Models(msgspec.Struct):
    """All models: the list has one page."""

    data: list[Listed]


class Counted(msgspec.Struct):
    """The answer to a question for the size of an input."""

    input_tokens: int


class OpenAI(Vendor):
    """OpenAI. Servers that speak its API derive from this and say what they have otherwise.

    `lacks` has the fields that an API does not know at all, `limit` the name of `max_tokens` in
    chat. `asks_for_usage` says whether streams must be asked for it, `has_developer` whether
    instructions may come from the role of that name, `has_marks` whether prompt-cache marks are
    known, `names` and `ids` what tools and their calls may be called.
    """

    apis: ClassVar[tuple[Api, ...]] = ("chat", "completions", "responses")
    lacks: ClassVar[Mapping[Api, tuple[str, ...]]] = {
        "chat": ("top_k", "reasoning.budget_tokens", "reasoning.summary"),
        "completions": ("top_k", "metadata", "cache_key"),
        "responses": responses.LACKS,
    }
    limit: ClassVar[str] = "max_completion_tokens"
    asks_for_usage: ClassVar[bool] = True
    has_developer: ClassVar[bool] = True
    has_marks: ClassVar[bool] = False
    names: ClassVar[re.Pattern[str]] = NAMES
    ids: ClassVar[IdRule] = ANY_40

    def generate(self, model: str, request: AnyRequest) -> Call:
        """Return the call for chat completions, or for Responses or legacy completions."""
        api = self.api(request)
        asked = self.sendable(api, model, request)
        body = laid_over(self.body(api, model, asked), request.extra)
        return Call(self.path(api, model), body, accept(request))

    def path(self, api: Api, model: str) -> str:
        """Return where an API is."""
        paths: dict[Api, str] = {"responses": "/responses", "completions": "/completions"}
        return paths.get(api, "/chat/completions")

    def sendable(self, api: Api, model: str, request: AnyRequest) -> AnyRequest:
        """Return a request without what the API or the model does not know, or refuse it."""
        kind = self.config.kind
        asked = without(request, self.lacks.get(api, ()), f"{kind}'s {api} API")
        return without(asked, self.model_lacks(model, asked), f"{kind}'s {model}")

    def model_lacks(self, model: str, request: AnyRequest) -> tuple[str, ...]:
        """Return the fields that a model does not know, as far as its name tells."""
        return openai_family.lacks(model, request)

    def body(self, api: Api, model: str, request: AnyRequest) -> Json:
        """Return the body for a request that is `sendable`, without its `extra`."""
        if isinstance(request, ChatRequest):
            check_names(request, self.names, self.config.kind)
        match api:
            case "responses":
                return responses.body(model, request)
            case "completions":
                return self.completion_body(model, prompted(request, "legacy completions take"))
            case _:
                return self.chat_body(model, chatted(request, "chat", "completions"))

    def chat_body(self, model: str, request: ChatRequest) -> Json:
        """Return the body for chat completions."""
        messages = history(request, id_rule(model, self.ids))
        return given(
            model=model,
            messages=[self.message(model, message) for message in messages],
            stream=request.stream,
            stream_options=self.stream_options(request),
            temperature=request.temperature,
            top_p=request.top_p,
            frequency_penalty=request.frequency_penalty,
            presence_penalty=request.presence_penalty,
            stop=request.stop,
            seed=request.seed,
            n=request.n,
            logprobs=request.logprobs,
            top_logprobs=request.top_logprobs,
            metadata=request.metadata,
            user=request.user,
            prompt_cache_key=request.cache_key,
            tools=self.tools(request),
            tool_choice=request.tool_choice,
            parallel_tool_calls=request.parallel_tool_calls,
            response_format=request.response_format,
            **{self.limit: request.max_tokens},
        ) | self.reasoning(model, request)

    def completion_body(self, model: str, request: CompletionRequest) -> Json:
        """Return the body for legacy completions, whose `logprobs` counts alternatives."""
        return given(
            model=model,
            prompt=request.prompt,
            suffix=request.suffix,
            stream=request.stream,
            stream_options=self.stream_options(request),
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            frequency_penalty=request.frequency_penalty,
            presence_penalty=request.presence_penalty,
            stop=request.stop,
            seed=request.seed,
            n=request.n,
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            user=request.user,
        )

    def stream_options(self, request: AnyRequest) -> Json | None:
        """Return what a stream must be asked for in particular."""
        return {"include_usage": True} if request.stream and self.asks_for_usage else None

    def tools(self, request: ChatRequest) -> list[Json] | None:
        """Return the tools, marked only where marks are known."""
        if request.tools is None or self.has_marks:
            return request.tools
        return [unmarked(tool) for tool in request.tools]

    def reasoning(self, model: str, request: ChatRequest) -> Json:
        """Return the fields of a chat that say how much to think."""
        return given(reasoning_effort=request.reasoning and request.reasoning.effort)

    def message(self, model: str, message: Json) -> Json:
        """Return a message of the history in the words of the provider's chat."""
        said = plain(message) if self.has_marks else unmarked(plain(message))
        if message["role"] == "tool":
            result_text(message.get("content"))  # the API takes nothing but text
            return said | {"content": said.get("content") or ""}
        if instructing(message):
            return said | {"role": self.instructor(model, message["role"])}
        return said | self.recalled(thoughts(message))

    def instructor(self, model: str, role: str) -> str:
        """Return the role that gives instructions."""
        return openai_family.instructor(model, role) if self.has_developer else "system"

    def recalled(self, earlier: list[Thought]) -> Json:
        """Return the fields of an assistant's message that give its thoughts back."""
        return {}

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for."""
        lacks = openai_family.lacks(model, ChatRequest(model=model, messages=[]))
        return Capabilities(
            list(self.apis),
            tools="tools" not in lacks,
            parallel_tool_calls="parallel_tool_calls" not in lacks,
            images=True,
            json_schema=True,
            reasoning="reasoning" not in lacks,
            logprobs="logprobs" not in lacks,
            several=True,
            seed=True,
            prompt_cache=True,
            reattach=True,
            count="provider",
        )

    def models(self, page: str = "") -> Call | None:
        """Return the GET of all models."""
        return Call("/models", method="GET")

    def read_models(self, body: bytes) -> Page:
        """Read the list. Raises `msgspec.MsgspecError` if it is none."""
        listed = msgspec.json.decode(body, type=Models).data
        return Page([Model(m.id, owner=m.owned_by, created=whole(m.created)) for m in listed])

    def count(self, model: str, request: AnyRequest) -> Call | None:
        """Return the call that counts an input; legacy completions have none."""
        if self.api(request) == "completions":
            return None
        return Call("/responses/input_tokens", responses.prompt(model, request))

    def read_count(self, body: bytes) -> int:
        """Read the answer to it. Raises `msgspec.MsgspecError` if it is none."""
        return msgspec.json.decode(body, type=Counted).input_tokens

    def reattach(self, api: str, cursor: Cursor) -> Call:
        """Return the GET that goes on with a background response."""
        return Call(responses.reattach(cursor), method="GET")

    def recall(self, api: str, cursor: Cursor) -> Call:
        """Return the call that cancels a background response."""
        return Call(responses.cancel_path(cursor))


def whole(value: float | None) -> int | None:
    """Return a number of seconds without its fraction."""
    return None if value is None else int(value)
