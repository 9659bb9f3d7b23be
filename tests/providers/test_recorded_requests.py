"""Recorded requests of the official SDKs, asked in our words, are sent as they were recorded.

An inverse reads a recorded body as a common request. What it leaves over is asked for by `extra`,
and must be listed in `EXTRA`. Shaped again the body is the recorded one, order aside, but for
words that mean the same, which `Canonical` lists. The recordings are no part of this repository:
`RINGCAST_CORPUS` names their folder, else `../shared/corpus` beside it is tried.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
import pytest

from ringcast.config import Provider
from ringcast.providers import request
from ringcast.providers.anthropic import Anthropic, complete_body, messages_body
from ringcast.providers.gemini import Gemini, generation_body
from ringcast.providers.openai import OpenAI
from ringcast.providers.request import Api, Json, laid_over
from ringcast.providers.vendor import AnyRequest

CORPUS = Path(os.environ.get("RINGCAST_CORPUS") or Path(__file__).parents[3] / "shared" / "corpus")
FILES = sorted(str(f.relative_to(CORPUS / "requests")) for f in CORPUS.glob("requests/*/*.json"))

# Who asks for what only this provider knows.
EXTRA: Final[dict[str, set[str]]] = {
    "openai/chat-moderation.json": {"moderation"},
    "openai/err-400-responses.json": {"store"},
    "openai/resp-mcp.json": {"include"},
    "openai/resp-phase-msg-reason-tool.json": {"include"},
    "openai/resp-queued-background.json": {"background"},
    "openai/resp-reasoning-summary.json": {"store"},
    "gemini/server-tool-parts.json": {"generationConfig.responseModalities", "toolConfig"},
    # A schema in OpenAPI's words is Google's alone; ours is JSON Schema, which has another field.
    "gemini/thought-parts.json": {
        "generationConfig.responseMimeType",
        "generationConfig.responseSchema",
    },
    "azure/v1-responses.json": {"store"},
    "bedrock/invoke-claude-tool.json": {"anthropic_version"},
    "bedrock/mantle-responses.json": {"include"},
    "local/ollama-qwen3-tool.json": {"enable_thinking"},
    "local/vllm-completions.json": {"logit_bias"},
    "openrouter/chat-nocost.json": {"reasoning"},
    "openrouter/chat-reasoning-details-tool.json": {"reasoning"},
    "openrouter/chat-reasoning-details.json": {"reasoning"},
    "openrouter/resp-reasoning.json": {"store"},
    "xai/json-responses.json": {"store"},
    "xai/resp-grok3mini-thinking.json": {"store"},
    "xai/resp-text-reasoning.json": {"store"},
    "xai/resp-text-utf8.json": {"store"},
}
# What no common request says.
UNSAID: Final[dict[str, str]] = {
    "gemini/json-generate.json": "the result of a tool is an object, ours are text",
}


class Compatible(OpenAI):
    """A server that speaks OpenAI's API, and of which nothing else is known."""

    lacks: ClassVar[dict[Api, tuple[str, ...]]] = {}

    def __init__(self, limit: str) -> None:
        """`limit` is its name for `max_tokens`."""
        super().__init__(Provider("openai-compatible"))
        self.limit = limit  # type: ignore[misc]  # a constant of the others' classes

    def model_lacks(self, model: str, request: AnyRequest) -> tuple[str, ...]:
        """Return no field: models of the same name may be served by anyone."""
        return ()


def form(url: str, body: Json) -> str:
    """Return the API that a recorded request is for; empty if it is none of those here."""
    if "bedrock-runtime" in url:
        claude = "invoke" in url and "anthropic_version" in body
        legacy = "invoke" in url and "max_tokens_to_sample" in body
        return "messages" if claude else "complete" if legacy else ""
    for end, api in (
        ("/chat/completions", "chat"),
        ("/completions", "completions"),
        ("/responses", "responses"),
        ("/messages", "messages"),
        ("/complete", "complete"),
    ):
        if url.partition("?")[0].endswith(end):
            return api
    return "generate" if re.search(r":(streamG|g)enerateContent", url) else ""


def model(url: str, body: Json) -> str:
    """Return the model, which is in the body or in the path."""
    found = re.search(r"/models?/([^:/]+)", url)
    return str(body.get("model") or (found and found[1]))


class Inverse:
    """Reads a recorded body as the fields of a common request; `left` is what it leaves over."""

    def __init__(self, api: str, body: Json) -> None:
        self.left = {name: value for name, value in body.items() if value is not None}
        self.fields: Json = {"api": api, "stream": bool(self.left.pop("stream", False))}
        self.left.pop("model", None)
        getattr(self, api)()

    def take(self, name: str, field: str = "") -> Any:
        """Move a field, under its own name or ours."""
        value = self.left.pop(name, None)
        if value is not None and field:
            self.fields[field] = value
        return value

    def same(self, *names: str) -> None:
        for name in names:
            self.take(name, name)

    def chat(self) -> None:
        self.same("messages", "tools", "tool_choice", "temperature", "top_p", "n", "user", "stop")
        self.same("response_format", "seed", "frequency_penalty", "presence_penalty")
        self.take("max_tokens", "max_tokens")
        self.take("max_completion_tokens", "max_tokens")
        self.left.pop("stream_options", None)  # always asked for
        if effort := self.take("reasoning_effort"):
            self.fields["reasoning"] = {"effort": effort}

    def completions(self) -> None:
        self.same("prompt", "max_tokens", "temperature", "top_p", "n", "seed", "stop")
        self.same("frequency_penalty", "presence_penalty")

    def responses(self) -> None:
        self.same("temperature", "top_p", "user", "reasoning", "tool_choice")
        self.take("max_output_tokens", "max_tokens")
        if self.left.get("store") is False:
            assert self.left.pop("include") == ["reasoning.encrypted_content"]
        if tools := self.take("tools"):
            self.fields["tools"] = [nested(tool) for tool in tools]
        said = self.take("input")
        items = [{"role": "user", "content": said}] if isinstance(said, str) else said
        system = self.take("instructions")
        first = [{"role": "system", "content": system}] if system else []
        self.fields["messages"] = first + conversation(items)

    def messages(self) -> None:
        self.same("max_tokens", "temperature", "top_p", "top_k", "messages")
        self.take("stop_sequences", "stop")
        if system := self.take("system"):
            said = {"role": "system", "content": system}
            self.fields["messages"] = [said, *self.fields["messages"]]
        if tools := self.take("tools"):
            self.fields["tools"] = [offered(tool) for tool in tools]
        if choice := self.take("tool_choice"):
            self.fields["tool_choice"] = choice["type"]
        if thinking := self.take("thinking"):
            assert thinking.pop("type") == "enabled"
            self.fields["reasoning"] = thinking
        if wanted := self.take("output_format"):
            schema = {"name": "x", "schema": wanted["schema"]}
            self.fields["response_format"] = {"type": wanted["type"], "json_schema": schema}

    def complete(self) -> None:
        self.same("prompt", "temperature", "top_p", "top_k")
        self.take("max_tokens_to_sample", "max_tokens")
        self.take("stop_sequences", "stop")

    def generate(self) -> None:
        self.same("tools")
        contents = self.take("contents")
        if system := self.take("systemInstruction"):
            contents = [system | {"role": "system"}, *contents]
        self.fields["messages"] = [said(content) for content in contents]
        if calling := self.left.get("toolConfig", {}).get("functionCallingConfig"):
            assert calling["mode"] == "ANY"
            [name] = calling["allowedFunctionNames"]
            self.fields["tool_choice"] = {"type": "function", "function": {"name": name}}
            del self.left["toolConfig"]
        config = self.left.pop("generationConfig", {})
        self.fields |= taken(config, maxOutputTokens="max_tokens")
        if thinking := camel(config.pop("thinkingConfig", {})):
            assert thinking.pop("includeThoughts") is True
            names = {"thinkingBudget": "budget_tokens", "thinkingLevel": "effort"}
            thought = taken(thinking, **names)
            self.fields["reasoning"] = {n: lower(value) for n, value in thought.items()}
        if config:
            self.left["generationConfig"] = config


def taken(fields: Json, **names: str) -> Json:
    return {names[name]: fields.pop(name) for name in list(fields) if name in names}


def lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def nested(tool: Json) -> Json:
    """A tool of the Responses API in the chat form."""
    if tool["type"] != "function":
        return tool
    return {"type": "function", "function": {n: v for n, v in tool.items() if n != "type"}}


def offered(tool: Json) -> Json:
    """A tool of Anthropic's in the chat form; those which it runs itself stay."""
    if "input_schema" not in tool:
        return {name: value for name, value in tool.items() if value is not None}
    about = {n: v for n, v in tool.items() if n not in ("input_schema", "cache_control")}
    function = about | {"parameters": tool["input_schema"]}
    return {"type": "function", "function": function, "cache_control": tool.get("cache_control")}


def said(content: Json) -> Json:
    """A content of Gemini's in the chat form."""
    roles = {"user": "user", "model": "assistant", "system": "system"}
    text = [{"type": "text", "text": part["text"]} for part in content["parts"]]
    return {"role": roles[content["role"]], "content": text}


def conversation(items: list[Json]) -> list[Json]:
    """Items of the Responses API in the chat form."""
    messages: list[Json] = []
    for item in items:
        match item.get("type", "message"):
            case "message":
                message = {"role": item["role"], "content": parts(item["content"])}
                if item["role"] == "assistant" and messages[-1:] and "reasoning" in messages[-1]:
                    messages[-1] |= message
                else:
                    messages.append(message)
            case "reasoning":
                [text] = [part["text"] for part in item["summary"]]
                proof = {"encrypted": item["encrypted_content"], "detail": {"type": "reasoning"}}
                messages.append({"role": "assistant", "reasoning": [{"content": text}, proof]})
            case "function_call":
                function = {name: item[name] for name in ("name", "arguments")}
                if messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant"})
                messages[-1]["tool_calls"] = [{"id": item["call_id"], "function": function}]
            case _:
                result = {"tool_call_id": item["call_id"], "content": item["output"]}
                messages.append({"role": "tool"} | result)
    return messages


def parts(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": part["text"]} for part in content]


class Canonical:
    """Writes in one way what the recording SDKs write otherwise than we, and means the same."""

    def __init__(self, api: str, body: Json) -> None:
        self.body = {name: value for name, value in body.items() if value is not None}
        self.body.setdefault("stream", False)  # what not to say means
        getattr(self, api)()

    def chat(self) -> None:
        self.body.pop("stream_options", None)  # we always ask for usage, where it can be asked for

    def completions(self) -> None:
        self.chat()

    def responses(self) -> None:
        if isinstance(self.body["input"], str):  # the documented short form of this
            self.body["input"] = [{"role": "user", "content": self.body["input"]}]
        # An item of the server's with its own id, which it cannot find if it stores nothing.
        self.body["input"] = [
            {n: v for n, v in item.items() if n != "id"} for item in self.body["input"]
        ]
        for tool in self.body.get("tools", []):
            if tool["type"] == "function":
                tool.setdefault("strict", False)  # left out it would be true, which nobody wants
                if tool.get("description", "") is None:
                    del tool["description"]

    def messages(self) -> None:
        for message in self.body["messages"]:
            content = message["content"]
            if isinstance(content, list) and [part["type"] for part in content] == ["text"]:
                message["content"] = content[0]["text"]  # the documented short form
        if wanted := self.body.pop("output_format", None):  # its name while it was a beta
            self.body["output_config"] = {"format": wanted}
        for tool in self.body.get("tools", []):
            for name in [name for name, value in tool.items() if value is None]:
                del tool[name]

    def complete(self) -> None:
        """Nothing is written otherwise."""

    def generate(self) -> None:
        del self.body["stream"]  # the path says it
        self.body.get("systemInstruction", {}).pop("role", None)  # there is only one
        config = self.body.setdefault("generationConfig", {})
        if "thinkingConfig" in config:
            thinking = camel(config["thinkingConfig"])
            names = {name: str(v).upper() for name, v in thinking.items() if "Level" in name}
            config["thinkingConfig"] = thinking | names
        if not config:
            del self.body["generationConfig"]


def camel(fields: Json) -> Json:
    """Names in the other spelling that Google's JSON has."""
    return {re.sub("_([a-z])", lambda m: m[1].upper(), n): value for n, value in fields.items()}


def paths(fields: Json) -> set[str]:
    """Names of fields, those of a generation's configuration one by one."""
    config = fields.get("generationConfig", {})
    return fields.keys() - {"generationConfig"} | {f"generationConfig.{name}" for name in config}


def shaped(provider: str, api: str, name: str, asked: AnyRequest, recorded: Json) -> Json:
    """The body that is sent, by whom the recording is of or by what others derive from."""
    match provider, api:
        case "openai", _:
            call = OpenAI(Provider("openai")).generate(name, asked)
        case "anthropic", _:
            call = Anthropic(Provider("anthropic")).generate(name, asked)
        case "gemini", _:
            call = Gemini(Provider("gemini")).generate(name, asked)
        case _, "messages":
            body = messages_body(name, asked, 0) | {"stream": asked.stream}
            return laid_over(body, asked.extra)
        case _, "complete":
            body = complete_body(name, asked, 0) | {"stream": asked.stream}
            return laid_over(body, asked.extra)
        case _, "generate":
            return laid_over(generation_body(name, asked), asked.extra)
        case _:
            limit = "max_tokens" if "max_tokens" in recorded else "max_completion_tokens"
            return Compatible(limit).generate(name, asked).body
    return call.body | {"path": call.path}


@pytest.mark.parametrize("file", FILES)
def test_a_recorded_request(file: str) -> None:
    recording = json.loads((CORPUS / "requests" / file).read_bytes())
    url, body = recording["url"], recording["request_body"]
    provider, api = file.partition("/")[0], form(url, body)
    if not api:
        assert provider == "bedrock", "a form that nobody reads"
        return
    if file in UNSAID:
        assert file not in EXTRA
        return
    inverse = Inverse(api, json.loads(json.dumps(body)))
    assert paths(inverse.left) == EXTRA.get(file, set())
    if api == "generate":
        inverse.fields["stream"] = "streamGenerate" in url
    name = model(url, body)
    fields = inverse.fields | {"model": f"{provider}/{name}", "extra": inverse.left}
    given = {field: value for field, value in fields.items() if value not in ({}, None)}
    asked = request.decode(msgspec.msgpack.encode(given))
    sent = shaped(provider, api, name, asked, body)
    if path := sent.pop("path", ""):
        assert url.replace("?beta=true", "").endswith(path)
    assert Canonical(api, sent).body == Canonical(api, body).body


def test_what_is_listed_is_there() -> None:
    assert not (EXTRA.keys() | UNSAID.keys()) - set(FILES)
