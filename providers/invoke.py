"""Request shaping for Bedrock's InvokeModel: to each model the body that its maker made for it.

Source: docs.aws.amazon.com/bedrock/latest/userguide/model-parameters.html.
"""

from __future__ import annotations

from typing import Final

from ringcast.config import Provider
from ringcast.providers import nova
from ringcast.providers.anthropic import complete_body, messages_body
from ringcast.providers.bedrock_model import Family, family
from ringcast.providers.mantle import Mantle
from ringcast.providers.prompt_template import (
    LLAMA2,
    LLAMA3,
    LLAMA4,
    MISTRAL,
    TITAN,
    Template,
    prompt,
)
from ringcast.providers.request import ChatRequest, Json, given, prompted, refuse, without
from ringcast.providers.vendor import AnyRequest

CLAUDE_VERSION: Final = "bedrock-2023-05-31"
_TEMPLATES: Final[dict[Family, Template]] = {
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "llama4": LLAMA4,
    "mistral": MISTRAL,
    "titan": TITAN,
}
# What a text's continuation can be asked for: our name of it, and the model's.
_FIELDS: Final[dict[Family, dict[str, str]]] = {
    "titan": {
        "max_tokens": "maxTokenCount",
        "temperature": "temperature",
        "top_p": "topP",
        "stop": "stopSequences",
    },
    "llama2": {"max_tokens": "max_gen_len", "temperature": "temperature", "top_p": "top_p"},
    "mistral": {
        "max_tokens": "max_tokens",
        "temperature": "temperature",
        "top_p": "top_p",
        "top_k": "top_k",
        "stop": "stop",
    },
    "command": {
        "max_tokens": "max_tokens",
        "temperature": "temperature",
        "top_p": "p",
        "top_k": "k",
        "stop": "stop_sequences",
        "n": "num_generations",
    },
}
_IN_PATH: Final = ("model", "stream", "stream_options")
_SAME: Final[dict[Family, Family]] = {"llama3": "llama2", "llama4": "llama2"}
_NEEDED: Final = (
    *("model", "api", "messages", "prompt", "stream"),
    *("drop_unsupported", "compat", "transforms", "extra"),
)


def body(model: str, request: AnyRequest, config: Provider) -> Json:
    """Return the body, without the request's `extra`.

    Raises `RequestError` (bad_request), also for a model whose own body is not known here.
    """
    match family(model):
        case "claude":
            said = messages_body(model, _talk(model, request), config.max_tokens, "bedrock")
            return {"anthropic_version": CLAUDE_VERSION} | said
        case "claude-text":
            return complete_body(model, request, config.max_tokens, "bedrock")
        case "nova":
            return nova.body(model, _talk(model, request))
        case "gpt-oss":
            return _chat(model, _talk(model, request), Mantle(config, ""))
        case "other":
            raise refuse("model", f"{model} has a body of its own: ask for api=converse")
        case made_by:
            return _continuation(made_by, model, request)


def _talk(model: str, request: AnyRequest) -> ChatRequest:
    if isinstance(request, ChatRequest):
        return request
    raise refuse("prompt", f"{model} takes messages")


def _chat(model: str, request: ChatRequest, openai: Mantle) -> Json:
    """Return the body of OpenAI's chat, but for what the path says."""
    said = openai.body("chat", model, openai.sendable("chat", model, request))
    return {name: value for name, value in said.items() if name not in _IN_PATH}


def _continuation(made_by: Family, model: str, request: AnyRequest) -> Json:
    text = _text(made_by, request)
    fields = _FIELDS[_SAME.get(made_by, made_by)]
    others = [f for f in request.__struct_fields__ if f not in fields and f not in _NEEDED]
    asked = without(request, others, model)
    options = given(**{name: getattr(asked, field) for field, name in fields.items()})
    if isinstance(asked.stop, str):
        options[fields["stop"]] = [asked.stop]
    if made_by == "titan":
        return given(inputText=text, textGenerationConfig=options or None)
    if made_by == "command":
        options["stream"] = asked.stream
    return {"prompt": text} | options


def _text(made_by: Family, request: AnyRequest) -> str:
    """Return what the model goes on with; a conversation is written as it was trained on."""
    if isinstance(request, ChatRequest) and (template := _TEMPLATES.get(made_by)):
        return prompt(request.messages, template)
    return prompted(request, "Cohere's command takes").prompt
