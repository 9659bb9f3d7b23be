"""Request shaping for Ollama: its own API, and the two of OpenAI's that it speaks under `/v1`.

Sources: docs.ollama.com/api/chat, /api/generate, /api/tags and docs.ollama.com/openai.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec

from ringcast.providers.chat_form import (
    CalledTool,
    answered,
    call_arguments,
    content_parts,
    picture,
    response_format,
    tool_calls,
    typed,
)
from ringcast.providers.history import history
from ringcast.providers.openai import OpenAI
from ringcast.providers.request import (
    Api,
    Call,
    ChatRequest,
    CompletionRequest,
    Json,
    R,
    Reasoning,
    given,
    refuse,
    stops,
)
from ringcast.providers.thoughts import thoughts
from ringcast.providers.tool_ids import ANY_64
from ringcast.providers.vendor import AnyRequest, Capabilities, Model, Page

_NATIVE: Final[Api] = "native"
_EFFORTS: Final = (None, "none", "low", "medium", "high", "max")
_BUDGETS: Final = (None, 0, -1)  # off and on; there is no number
# What asks for nothing: tools are offered and may be called, or they are not offered.
_CHOICES: Final = (None, "auto", "none")


class _Named(msgspec.Struct):
    """A model that is on the server's disk."""

    name: str


class _Tags(msgspec.Struct):
    """All of them."""

    models: list[_Named]


class Ollama(OpenAI):
    """Ollama. Where a request has no `num_ctx` in `extra.options`, its small default holds."""

    apis: ClassVar[tuple[Api, ...]] = (_NATIVE, "chat", "completions")
    lacks: ClassVar = {
        _NATIVE: ("n", "metadata", "user", "cache_key", "parallel_tool_calls", "reasoning.summary"),
        "chat": (
            *("top_k", "n", "metadata", "user", "cache_key", "parallel_tool_calls"),
            *("reasoning.budget_tokens", "reasoning.summary"),
        ),
        "completions": ("top_k", "n", "metadata", "user", "cache_key"),
    }
    limit = "max_tokens"
    has_developer = False

    def path(self, api: Api, model: str) -> str:
        """Return where an API is; what takes a prompt has its own path."""
        return "/v1" + super().path(api, model)

    def model_lacks(self, model: str, request: R) -> tuple[str, ...]:
        """Return what the server, whatever the model, cannot be told of what is asked.

        There is no `tool_choice`; what asks for nothing is granted, and `none` by offering none.
        """
        if not isinstance(request, ChatRequest):
            return ()
        lacks: tuple[str, ...] = () if request.tool_choice in _CHOICES else ("tool_choice",)
        wanted = request.reasoning or Reasoning()
        if wanted.effort not in _EFFORTS:
            lacks += ("reasoning.effort",)
        if wanted.budget_tokens not in _BUDGETS:
            lacks += ("reasoning.budget_tokens",)
        return lacks

    def generate(self, model: str, request: AnyRequest) -> Call:
        """Return the call for a chat, or for the continuation of a text."""
        call = super().generate(model, request)
        if self.api(request) != _NATIVE:
            return call
        path = "/api/chat" if isinstance(request, ChatRequest) else "/api/generate"
        accept = "application/x-ndjson" if request.stream else "application/json"
        return Call(path, call.body, {"accept": accept})

    def tools(self, request: ChatRequest) -> list[Json] | None:
        """Return the tools that may be called."""
        return None if request.tool_choice == "none" else super().tools(request)

    def body(self, api: Api, model: str, request: AnyRequest) -> Json:
        """Return the body for a request that is `sendable`, without its `extra`."""
        return super().body(api, model, request) if api != _NATIVE else self._native(model, request)

    def _native(self, model: str, request: AnyRequest) -> Json:
        about = given(
            model=model,
            stream=request.stream,
            options=_options(request) or None,
            logprobs=request.logprobs,
            top_logprobs=request.top_logprobs,
        )
        if isinstance(request, CompletionRequest):
            return about | given(prompt=request.prompt, suffix=request.suffix)
        return about | given(
            messages=_messages(request),
            tools=self.tools(request),
            format=_format(request.response_format),
            think=_think(request.reasoning),
        )

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for."""
        return Capabilities(
            list(self.apis),
            tools=True,
            images=True,
            json_schema=True,
            reasoning=True,
            logprobs=True,
            seed=True,
        )

    def models(self, page: str = "") -> Call:
        """Return the GET of the models on the server's disk."""
        return Call("/api/tags", method="GET")

    def read_models(self, body: bytes) -> Page:
        """Read the list. Raises `msgspec.MsgspecError` if it is none."""
        return Page([Model(model.name) for model in msgspec.json.decode(body, type=_Tags).models])

    def count(self, model: str, request: AnyRequest) -> None:
        """Return None: only an answer tells how long its prompt was."""


def _options(request: AnyRequest) -> Json:
    return given(
        num_predict=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        stop=stops(request),
        seed=request.seed,
    )


def _messages(request: ChatRequest) -> list[Json]:
    names: dict[str, str] = {}
    return [_message(message, names) for message in history(request, ANY_64)]


def _message(message: Json, names: dict[str, str]) -> Json:
    """Return a message; `names` collects what is called by which id, for the ids are not sent."""
    role = "system" if message["role"] == "developer" else message["role"]
    content, images = _content(message.get("content"))
    said = given(role=role, content=content, images=images or None)
    if role == "tool":
        return said | {"tool_name": answered(message, names)[0]}
    calls = [_call(call) for call in tool_calls(message, names)]
    thinking = "\n\n".join(thought.text for thought in thoughts(message) if thought.text)
    return said | given(thinking=thinking or None, tool_calls=calls or None)


def _content(content: Any) -> tuple[str, list[str]]:
    """Return the text and the pictures of a message; these must be in it, as base64."""
    texts: list[str] = []
    images: list[str] = []
    for part in content_parts(content):
        match part.get("type"):
            case "text":
                texts.append(typed(part.get("text"), str, "messages[].content[].text"))
            case "image_url":
                images.append(_image(part))
            case kind:
                raise refuse("messages[].content[].type", f"{kind!r} is none of text, image_url")
    return "\n".join(texts), images


def _image(part: Json) -> str:
    data = picture(part).data
    if data is None:
        raise refuse("messages[].content[].image_url", "ollama fetches nothing: give a data: url")
    return data


def _call(call: CalledTool) -> Json:
    return {"function": {"name": call.function.name, "arguments": call_arguments(call)}}


def _format(wanted: Json | None) -> str | Json | None:
    if wanted is None:
        return None
    kind, schema = response_format(wanted)
    return schema.schema if schema else "json" if kind == "json_object" else None


def _think(wanted: Reasoning | None) -> bool | str | None:
    """Return whether to think, or how much."""
    if wanted is None:
        return None
    if wanted.effort is not None:
        return False if wanted.effort == "none" else wanted.effort
    return None if wanted.budget_tokens is None else wanted.budget_tokens == -1
