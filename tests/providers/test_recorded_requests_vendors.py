"""Recorded requests to all other vendors, asked in our words, are sent as they were recorded.

An inverse reads a recorded body as a common request, which its vendor shapes again: path, body and
the headers that matter are the recorded ones, order aside. What only one vendor knows is asked for
by `extra` and listed in `EXTRA`; where we write otherwise on purpose, `OTHERWISE` says why;
`UNSAID` has what cannot be asked. The recordings are no part of this repository: `RINGCAST_CORPUS`
names their folder, else `../shared/corpus` beside it is tried.
"""

from __future__ import annotations

import json
import os
import re
from ast import literal_eval
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from ringcast.config import BASE_URLS, Provider
from ringcast.providers import request
from ringcast.providers.kinds import vendor
from ringcast.providers.request import Call, Json
from ringcast.providers.vendor import AnyRequest

CORPUS = Path(os.environ.get("RINGCAST_CORPUS") or Path(__file__).parents[3] / "shared" / "corpus")
VENDORS = ("bedrock", "azure", "vertex", "xai", "openrouter", "groq", "perplexity", "local")
FILES = sorted(
    str(file.relative_to(CORPUS / "requests"))
    for name in VENDORS
    for file in CORPUS.glob(f"requests/{name}/*.json")
)

_STORED: Final = {"store"}
EXTRA: Final[dict[str, set[str]]] = {
    "azure/v1-responses.json": _STORED,
    "bedrock/converse-claude-thinking-long.json": {"additionalModelRequestFields"},
    "bedrock/invoke-cohere.json": {"k"},  # 0 switches it off; ours are positive
    "bedrock/invoke-titan.json": {"guardrailIdentifier", "guardrailVersion", "trace"},
    "bedrock/json-count-tokens.json": {"additionalModelRequestFields"},
    "bedrock/mantle-responses.json": {"include"},
    "local/ollama-qwen3-tool.json": {"enable_thinking"},
    "openrouter/resp-reasoning.json": _STORED,
    "xai/json-responses.json": _STORED,
    "xai/resp-grok3mini-thinking.json": _STORED,
    "xai/resp-text-reasoning.json": _STORED,
    "xai/resp-text-utf8.json": _STORED,
}
UNSAID: Final[dict[str, str]] = {
    "bedrock/err-400-count.json": "no model of this name; only for Claude there is a count",
}
# Fields at the top of a body, and why ours differ.
OTHERWISE: Final[dict[str, dict[str, str]]] = {
    "azure/chat-text-filters.json": {"model": "unread: the path names the deployment"},
    "bedrock/json-converse-thinking.json": {"messages": "a result says status only if it failed"},
    "openrouter/chat-error-mid-stream.json": {
        "max_completion_tokens": "OpenRouter's own name of it is max_tokens",
        "max_tokens": "the same",
    },
}

GUARDED: Final = {
    "x-amzn-bedrock-guardrailidentifier": "guardrailIdentifier",
    "x-amzn-bedrock-guardrailversion": "guardrailVersion",
    "x-amzn-bedrock-trace": "trace",
}
SAME: Final = (
    *("messages", "prompt", "tools", "tool_choice", "temperature", "top_p", "n", "user", "stop"),
    *("response_format", "seed", "frequency_penalty", "presence_penalty", "max_tokens"),
)


class Recording(msgspec.Struct):
    """What was sent."""

    url: str
    request_headers: dict[str, str]
    request_body: Json

    def header(self, name: str) -> str | None:
        """A header, which the recorder wrote as a Python list of strings or bytes."""
        if name not in self.request_headers:
            return None
        [value] = literal_eval(self.request_headers[name])
        return value.decode() if isinstance(value, bytes) else str(value)


def recording(file: str) -> Recording:
    return msgspec.json.decode((CORPUS / "requests" / file).read_bytes(), type=Recording)


def chat(body: Json) -> Json:
    fields = {name: body.pop(name) for name in SAME if body.get(name) is not None}
    if limit := body.pop("max_completion_tokens", None):
        fields["max_tokens"] = limit
    if effort := body.pop("reasoning_effort", None):
        fields["reasoning"] = {"effort": effort}
    if thinking := body.pop("reasoning", None):
        budget = -1 if thinking.get("enabled") else thinking.get("max_tokens")
        fields["reasoning"] = {"effort": thinking.get("effort"), "budget_tokens": budget}
    body.pop("stream_options", None)  # see `canonical`
    return fields


def responses(body: Json) -> Json:
    names = {
        "max_output_tokens": "max_tokens",
        "reasoning": "reasoning",
        "tool_choice": "tool_choice",
    }
    fields = {ours: body.pop(name) for name, ours in names.items() if name in body}
    if body.get("store") is False:
        del body["include"]  # thoughts that nobody keeps are always asked for
    system = [
        {"role": "system", "content": text} for text in [body.pop("instructions", "")] if text
    ]
    tools = [
        {"type": "function", "function": {n: v for n, v in tool.items() if n != "type"}}
        for tool in body.pop("tools", [])
    ]
    return fields | {"messages": system + items(body.pop("input")), "tools": tools or None}


def items(said: list[Json]) -> list[Json]:
    """Items of the Responses API as messages: what the assistant gave in a row is one of them."""
    messages: list[Json] = []
    for item in said:
        kind, role = item.get("type", "message"), item.get("role")
        ours = kind in ("reasoning", "function_call") or role == "assistant"
        if ours and (not messages or messages[-1]["role"] != "assistant"):
            messages.append({"role": "assistant"})
        if kind == "reasoning":
            proof = {"encrypted": item["encrypted_content"], "detail": {"type": "reasoning"}}
            text = "".join(part["text"] for part in item["summary"])
            messages[-1]["reasoning"] = [{"content": text}, proof]
        elif kind == "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            messages[-1]["tool_calls"] = [{"id": item["call_id"], "function": function}]
        elif kind == "function_call_output":
            result = {"tool_call_id": item["call_id"], "content": item["output"]}
            messages.append({"role": "tool"} | result)
        elif ours:
            messages[-1]["content"] = "".join(part["text"] for part in item["content"])
        else:
            messages.append({"role": role, "content": item["content"]})
    return messages


def generate(body: Json) -> Json:
    roles = {"user": "user", "model": "assistant"}
    messages = [
        {"role": roles[content["role"]], "content": content["parts"]}
        for content in body.pop("contents")
    ]
    fields = {"messages": messages, "tools": body.pop("tools", None)}
    if thinking := body.pop("generationConfig", {}).get("thinkingConfig"):
        fields["reasoning"] = {"effort": thinking["thinkingLevel"]}
    return fields


def converse(body: Json) -> Json:
    """Also Nova's own body, which has the same messages and tools."""
    config = body.pop("inferenceConfig", {})
    names = {
        "temperature": "temperature",
        "maxTokens": "max_tokens",
        "max_new_tokens": "max_tokens",
    }
    fields: Json = {names[name]: value for name, value in config.items()}
    tools = body.pop("toolConfig", {})
    if tools:
        fields["tools"] = [specified(tool) for tool in tools["tools"]]
    if choice := tools.get("toolChoice"):
        fields["tool_choice"] = {"any": "required"}[next(iter(choice))]
    if thinking := body.get("additionalModelRequestFields", {}).pop("thinking", None):
        fields["reasoning"] = {"budget_tokens": thinking["budget_tokens"]}
    system = [{"role": "system", "content": [block]} for block in body.pop("system", [])]
    body.pop("schemaVersion", None)  # there is only one
    return fields | {"messages": system + spoken(body.pop("messages"))}


def spoken(turns: list[Json]) -> list[Json]:
    """Converse's messages in the chat form; parts that are only in its own form stay in it."""
    messages: list[Json] = []
    for turn in turns:
        message: Json = {"role": turn["role"], "content": []}
        for block in turn["content"]:
            if result := block.get("toolResult"):
                answer = {"tool_call_id": result["toolUseId"], "content": result["content"]}
                messages.append({"role": "tool"} | answer)
            elif use := block.get("toolUse"):
                function = {"name": use["name"], "arguments": json.dumps(use["input"])}
                message["tool_calls"] = [{"id": use["toolUseId"], "function": function}]
            elif thought := block.get("reasoningContent", {}).get("reasoningText"):
                proven = {"content": thought["text"], "signature": thought["signature"]}
                message["reasoning"] = [proven]
            else:
                message["content"].append(block)
        if len(message) > 2 or message["content"]:
            messages.append(message)
    return messages


def specified(tool: Json) -> Json:
    if "toolSpec" not in tool:
        return tool
    spec = tool["toolSpec"]
    described = {name: spec[name] for name in ("name", "description") if name in spec}
    return {"type": "function", "function": described | {"parameters": spec["inputSchema"]["json"]}}


def invoke(body: Json) -> Json:
    if "anthropic_version" in body:
        del body["anthropic_version"]
        tools = [
            {"type": "function", "function": {"parameters": tool.pop("input_schema")} | tool}
            for tool in body.pop("tools")
        ]
        return {name: body.pop(name) for name in ("messages", "max_tokens")} | {"tools": tools}
    if "messages" in body:
        return converse(body)
    names = {
        "prompt": "prompt",
        "inputText": "prompt",
        "temperature": "temperature",
        "top_p": "top_p",
        "p": "top_p",
        "top_k": "top_k",
        "max_tokens": "max_tokens",
        "max_tokens_to_sample": "max_tokens",
        "max_gen_len": "max_tokens",
        "maxTokenCount": "max_tokens",
        "stop_sequences": "stop",
        "num_generations": "n",
    }
    body |= body.pop("textGenerationConfig", {})
    return {ours: body.pop(name) for name, ours in names.items() if name in body}


INVERSES: Final = {
    "chat": chat,
    "completions": chat,
    "responses": responses,
    "generate": generate,
    "converse": converse,
    "invoke": invoke,
}


def spoken_to(file: str, recorded: Recording) -> tuple[Provider, str, str]:
    """The provider that a recording is of, the API and the model."""
    folder, url = file.partition("/")[0], recorded.url
    in_path = re.search(r"/models?/([^:/]+(?:%3A|:)?[^:/]*)[:/]", url)
    model = str(recorded.request_body.get("model") or (in_path and in_path[1]))
    path = url.partition("?")[0]
    if folder == "bedrock":
        api = "responses" if "mantle" in url else "invoke" if "/invoke" in url else "converse"
        base_url = "https://bedrock-runtime.us-east-1.amazonaws.com"
        return Provider("bedrock", base_url), api, model.replace("%3A", ":")
    if folder == "vertex":
        found = re.search(r"projects/([^/]+)/locations/([^/]+)", url)
        assert found is not None
        return Provider("vertex", project=found[1], location=found[2]), "generate", model
    ends = {"/chat/completions": "chat", "/completions": "completions", "/responses": "responses"}
    api = next(api for end, api in ends.items() if path.endswith(end))
    if folder == "azure":
        version = url.partition("api-version=")[2]
        base_url = "https://RESOURCE.services.ai.azure.com/models" if "/models/" in url else ""
        deployment = re.search(r"/deployments/([^/]+)", url)
        name = deployment[1] if deployment else model
        return Provider("azure", base_url, api_version=version), api, name
    kinds = {"local/deepseek-tool": "deepseek", "local/err-deepseek-401": "deepseek"}
    local = kinds.get(file.removesuffix(".json"), "ollama" if "ollama" in file else "")
    kind: Any = folder if folder != "local" else local or "openai-compatible"
    return Provider(kind), api, model


def canonical(body: Json) -> Json:
    """Write in one way what means the same."""
    body = {name: value for name, value in body.items() if value not in (None, [], {})}
    if not body.get("stream"):
        body.pop("stream", None)
    body.pop("stream_options", None)  # we ask for usage wherever it must be asked for
    if body.get("n") == 1:
        del body["n"]
    if "input" in body:
        body["input"] = [bare(item) for item in body["input"]] if "model" in body else body["input"]
    for tool in body.get("tools", []):
        if tool.get("description", "") is None:
            del tool["description"]
    for message in body.get("messages", []):
        content = message.get("content")
        if isinstance(content, list) and [part.get("type") for part in content] == ["text"]:
            message["content"] = content[0]["text"]
    if thinking := body.get("generationConfig", {}).get("thinkingConfig"):
        thinking["thinkingLevel"] = thinking["thinkingLevel"].upper()
    return body


def bare(item: Json) -> Json:
    """An item of Responses without the id of a call that the server has not kept."""
    content = item.get("content")
    if isinstance(content, list) and len(content) == 1:
        item = item | {"content": content[0]["text"]}
    return {name: value for name, value in item.items() if name != "id"}


def placed(url: str) -> str:
    """A recorded URL as we write it, from its host on."""
    host, _, path = url.partition("/")
    path = path.lstrip("/").replace("v1beta1/", "v1/")  # the stable version
    if "bedrock-runtime" in host:
        path = path.replace(":", "%3A")
    return f"{host}/{path}".replace("<OLLAMA_API_BASE>", "/v1")


def test_every_recording_is_read() -> None:
    listed = EXTRA.keys() | UNSAID.keys() | OTHERWISE.keys()
    assert not CORPUS.is_dir() or (FILES and not listed - set(FILES))


def asked(api: str, model: str, recorded: Recording, extra: set[str]) -> AnyRequest:
    """The common request that a recording is of; what it leaves over are these fields."""
    body = json.loads(json.dumps(recorded.request_body))
    if "count-tokens" in recorded.url:
        body = body["input"]["converse"]
    stream = bool(body.pop("stream", "stream" in recorded.url))
    body.pop("model", None)
    fields = INVERSES[api](body) | {"model": f"p/{model}", "api": api, "stream": stream}
    left = {name: value for name, value in body.items() if value not in (None, {}, [])}
    for header, name in GUARDED.items():
        if value := recorded.header(header):
            left[name] = value
    assert left.keys() == extra
    fields = {name: value for name, value in fields.items() if value is not None}
    return request.decode(msgspec.msgpack.encode(fields | {"extra": left}))


@pytest.mark.parametrize("file", [file for file in FILES if file not in UNSAID])
def test_a_recorded_request(file: str) -> None:
    recorded = recording(file)
    config, api, model = spoken_to(file, recorded)
    spoken = vendor(config)
    wanted = asked(api, model, recorded, EXTRA.get(file, set()))
    counting = "count-tokens" in recorded.url
    call = spoken.count(model, wanted) if counting else spoken.generate(model, wanted)
    assert call is not None
    base_url = config.base_url if "amazonaws" not in config.base_url else ""
    where = base_url or BASE_URLS.get(config.kind, "")
    sent_to = call.path if "://" in call.path else where + call.path
    assert placed(recorded.url).endswith(sent_to.removeprefix("https://"))
    check_headers(recorded, call)
    ours, theirs = canonical(call.body), canonical(recorded.request_body)
    if counting:
        ours, theirs = (canonical(body["input"]["converse"]) for body in (ours, theirs))
    for field in OTHERWISE.get(file, {}):
        assert ours.pop(field, None) != theirs.pop(field, None)
    assert ours == theirs


def check_headers(recorded: Recording, call: Call) -> None:
    """Compare those that ask for a certain answer; for all else the recorder's client stands."""
    accept = recorded.header("accept") or ""
    if "eventstream" in accept:
        assert call.headers["accept"] == accept
    for header in GUARDED:
        assert call.headers.get(header) == recorded.header(header)


@pytest.mark.parametrize("file", [file for file in FILES if file in UNSAID])
def test_what_cannot_be_asked(file: str) -> None:
    recorded = recording(file)
    config, api, model = spoken_to(file, recorded)
    assert vendor(config).count(model, asked(api, model, recorded, set())) is None
