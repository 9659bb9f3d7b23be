"""Request shaping for any other server that speaks OpenAI's API: vLLM, llama.cpp, LM Studio, …

Nothing is refused that one of them knows, for they pass over what they do not. What only one of
them has (`return_token_ids`, `return_progress`, `chat_template_kwargs`, …) goes into `extra`.
Sources: docs.vllm.ai/en/latest/serving/openai_compatible_server.html,
github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md, lmstudio.ai/docs/app/api.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from ringcast.providers import responses
from ringcast.providers.openai import OpenAI, whole
from ringcast.providers.request import (
    Call,
    ChatRequest,
    CompletionRequest,
    Json,
    R,
    given,
)
from ringcast.providers.thoughts import Thought, thoughts
from ringcast.providers.vendor import AnyRequest, Capabilities, Model, Page
from ringcast.providers.wording import wording


class _Meta(msgspec.Struct):
    """What llama.cpp tells of a model's file."""

    n_ctx_train: int | None = None


class _Listed(msgspec.Struct):
    """A model, as one or another server lists it."""

    id: str
    created: int | float | None = None
    owned_by: str | None = None
    max_model_len: int | None = None
    meta: _Meta | None = None


class _Models(msgspec.Struct):
    """All models."""

    data: list[_Listed]


class _Tokenized(msgspec.Struct):
    """A prompt's tokens, as vLLM counts them and as both list them."""

    tokens: list[msgspec.Raw]
    count: int | None = None


class Compatible(OpenAI):
    """A server that speaks OpenAI's API; which one it is, only its administrator knows."""

    lacks: ClassVar = {
        "chat": ("reasoning.budget_tokens", "reasoning.summary"),
        "completions": ("metadata", "cache_key"),
        "responses": responses.LACKS,
    }
    limit = "max_tokens"
    has_developer = False
    may_not_count = True

    def model_lacks(self, model: str, request: R) -> tuple[str, ...]:
        """Return nothing: a model is called what its owner likes."""
        return ()

    def chat_body(self, model: str, request: ChatRequest) -> Json:
        """Return the body for chat completions."""
        return super().chat_body(model, request) | given(top_k=request.top_k)

    def completion_body(self, model: str, request: CompletionRequest) -> Json:
        """Return the body for legacy completions."""
        return super().completion_body(model, request) | given(top_k=request.top_k)

    def message(self, model: str, message: Json) -> Json:
        """Return a message, its calls with the signatures that Google's servers want back."""
        said = super().message(model, message)
        for thought in thoughts(message):
            _sign(thought, said.get("tool_calls") or [])
        return said

    def recalled(self, earlier: list[Thought]) -> Json:
        """Return Claude's thoughts as LiteLLM gives them; those of others have another proof."""
        blocks = [_block(thought) for thought in earlier if thought.proven and not thought.detail]
        return given(thinking_blocks=blocks or None)

    def read_models(self, body: bytes) -> Page:
        """Read the list. Raises `msgspec.MsgspecError` if it is none."""
        return Page([_model(model) for model in msgspec.json.decode(body, type=_Models).data])

    def count(self, model: str, request: AnyRequest) -> Call:
        """Return one question that vLLM reads as messages or prompt, llama.cpp as `content`."""
        if isinstance(request, CompletionRequest):
            asked: Json = {"prompt": request.prompt, "content": request.prompt}
        else:
            said = self.chat_body(model, request)
            asked = given(
                messages=said["messages"], tools=said.get("tools"), content=wording(request)
            )
        path = self.config.base_url.removesuffix("/v1") + "/tokenize"
        return Call(path, {"model": model} | asked)

    def read_count(self, body: bytes) -> int:
        """Read the answer to it. Raises `msgspec.MsgspecError` if it is none."""
        tokenized = msgspec.json.decode(body, type=_Tokenized)
        return len(tokenized.tokens) if tokenized.count is None else tokenized.count

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what the best of these servers can be asked for."""
        return Capabilities(
            list(self.apis),
            tools=True,
            parallel_tool_calls=True,
            images=True,
            json_schema=True,
            reasoning=True,
            logprobs=True,
            several=True,
            seed=True,
            count="provider",
        )


def _block(thought: Thought) -> Json:
    """Return one of `thinking_blocks`. https://docs.litellm.ai/docs/reasoning_content."""
    if thought.encrypted is not None:
        return {"type": "redacted_thinking", "data": thought.encrypted}
    return {"type": "thinking", "thinking": thought.text, "signature": thought.signature}


def _sign(thought: Thought, calls: list[Json]) -> None:
    """Put a signature beside its call, unless there is one.

    https://ai.google.dev/gemini-api/docs/thought-signatures
    """
    number = (thought.detail or {}).get("tool_call")
    if thought.signature and isinstance(number, int) and 0 <= number < len(calls):
        signed = {"google": {"thought_signature": thought.signature}}
        calls[number] = {"extra_content": signed} | calls[number]


def _model(listed: _Listed) -> Model:
    trained = listed.meta.n_ctx_train if listed.meta else None
    return Model(
        listed.id,
        owner=listed.owned_by,
        created=whole(listed.created),
        context_tokens=listed.max_model_len or trained,
    )
