"""Request shaping for Bedrock's Converse, which is one form for the models of all makers.

What only some makers' models know goes into `additionalModelRequestFields`, in the maker's words.
Sources: docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html, and of the
makers /userguide/model-parameters-anthropic-claude-messages.html, -mistral-chat-completion.html,
-openai.html and docs.aws.amazon.com/nova/latest/nova2-userguide/request-response-schema.html.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ringcast.providers import claude_thinking, nova
from ringcast.providers.bedrock_model import Family, family
from ringcast.providers.chat_form import response_format
from ringcast.providers.converse_message import conversation, tool_config, unmarked_for
from ringcast.providers.request import ChatRequest, Json, given, stops, without

# What no model can be asked for.
_LACKS: Final = (
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "n",
    "logprobs",
    "top_logprobs",
    "user",
    "cache_key",
    "parallel_tool_calls",
)
# What these can be asked for besides.
_BESIDES: Final[dict[Family, tuple[str, ...]]] = {
    "claude": ("top_k", "reasoning", "reasoning.budget_tokens", "reasoning.summary"),
    "nova": ("top_k", "reasoning"),
    "mistral": ("top_k",),
    "gpt-oss": ("reasoning",),
}
_BESIDE: Final = ("top_k", "reasoning.summary", "reasoning.budget_tokens", "reasoning")
# The fields whose tokens are counted.
COUNTED: Final = ("messages", "system", "toolConfig", "additionalModelRequestFields")


def body(model: str, request: ChatRequest, max_tokens: int) -> Json:
    """Return the body, without the request's `extra`.

    `max_tokens` is what the answer of a model with a budget for thoughts is reckoned with where
    the request has no limit. Raises `RequestError` (bad_request).
    """
    made_by = family(model)
    lacks = [*_LACKS, *(field for field in _BESIDE if field not in _BESIDES.get(made_by, ()))]
    request = without(request, lacks, f"{model} through converse")
    request = unmarked_for(made_by, request)
    system, messages = conversation(request)
    return given(
        messages=messages,
        system=system or None,
        inferenceConfig=_inference(request) or None,
        toolConfig=tool_config(request),
        outputConfig=_output(request),
        requestMetadata=request.metadata,
        additionalModelRequestFields=_additional(made_by, model, request, max_tokens) or None,
    )


def _inference(request: ChatRequest) -> Json:
    return given(
        maxTokens=request.max_tokens,
        temperature=request.temperature,
        topP=request.top_p,
        stopSequences=stops(request),
    )


def _output(request: ChatRequest) -> Json | None:
    """Return the schema of the answer, which goes as text."""
    if request.response_format is None:
        return None
    kind, wanted = response_format(request.response_format)
    if wanted is None:
        if kind != "text":
            without(request, ("response_format",), "converse has json_schema, and")
        return None
    schema = msgspec.json.encode(wanted.schema).decode()
    described = given(schema=schema, name=wanted.name, description=wanted.description)
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": described}}}


def _additional(made_by: Family, model: str, request: ChatRequest, max_tokens: int) -> Json:
    match made_by:
        case "claude":
            plan = claude_thinking.plan(model, request, max_tokens)
            effort = given(effort=plan.effort)
            return given(top_k=request.top_k, thinking=plan.thinking, output_config=effort or None)
        case "nova":
            top_k = given(topK=request.top_k)
            return given(inferenceConfig=top_k or None, reasoningConfig=nova.reasoning(request))
        case "gpt-oss":
            return given(reasoning_effort=request.reasoning and request.reasoning.effort)
        case _:  # only Mistral's still have one
            return given(top_k=request.top_k)
