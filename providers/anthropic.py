"""Request shaping for Anthropic: Messages, and the legacy text completions.

Source: docs.anthropic.com/en/api/messages and /complete.
"""

from __future__ import annotations

from typing import Any, Final

from ringcast.providers.chat_form import (
    CalledTool,
    call_arguments,
    content_parts,
    offered_tool,
    picture,
    split,
    tool_calls,
    tool_choice,
)
from ringcast.providers.request import (
    Call,
    ChatRequest,
    CompletionRequest,
    Json,
    given,
    refuse,
    refuse_given,
    stops,
)
from ringcast.providers.vendor import AnyRequest, Capabilities, Vendor

VERSION: Final = "2023-06-01"


class Anthropic(Vendor):
    """Anthropic. Its APIs insist on `max_tokens`: where a request has none, the configured one."""

    apis = ("messages", "complete")

    def generate(self, model: str, request: AnyRequest) -> Call:
        """Return the call for Messages, or for legacy completions."""
        refuse_given(request, ("seed", "n"), "anthropic")
        headers = {"anthropic-version": VERSION}
        if self.api(request) == "messages":
            return Call("/messages", _messages(model, request, self.config.max_tokens), headers)
        return Call("/complete", _complete(model, request, self.config.max_tokens), headers)

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for."""
        return Capabilities(list(self.apis))


def _messages(model: str, request: AnyRequest, max_tokens: int) -> Json:
    if isinstance(request, CompletionRequest):
        raise refuse("prompt", "messages takes messages; ask for api=complete to send a prompt")
    system, rest = split(request.messages)
    return (
        given(
            model=model,
            max_tokens=request.max_tokens or max_tokens,
            system=_system(system),
            messages=_merged(rest),
            stream=True,
            temperature=request.temperature,
            top_p=request.top_p,
            stop_sequences=stops(request),
            tools=[_tool(tool) for tool in request.tools] if request.tools is not None else None,
            tool_choice=_tool_choice(request.tool_choice),
        )
        | request.extra
    )


def _complete(model: str, request: AnyRequest, max_tokens: int) -> Json:
    if isinstance(request, ChatRequest):
        raise refuse("messages", "the legacy API takes a prompt")
    return (
        given(
            model=model,
            prompt=request.prompt,
            max_tokens_to_sample=request.max_tokens or max_tokens,
            stream=True,
            temperature=request.temperature,
            top_p=request.top_p,
            stop_sequences=stops(request),
        )
        | request.extra
    )


def _blocks(content: Any) -> list[Json]:
    """Return a message's content as blocks; empty text blocks, which the API refuses, go."""
    return [_part(part) for part in content_parts(content)]


def _part(part: Json) -> Json:
    if part.get("type") != "image_url":
        return part
    url, media_type, data = picture(part)
    if data is None:
        return {"type": "image", "source": {"type": "url", "url": url}}
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def _system(messages: list[Json]) -> str | list[Json] | None:
    if all(isinstance(m.get("content"), str) for m in messages):
        return "\n\n".join(m["content"] for m in messages) or None
    return [block for m in messages for block in _blocks(m.get("content"))]


def _merged(messages: list[Json]) -> list[Json]:
    """Translate roles and tool traffic, and join neighbours of one role (the API's rule)."""
    merged: list[Json] = []
    for message in messages:
        role, blocks = _translated(message)
        if merged and merged[-1]["role"] == role:
            merged[-1]["content"] += blocks
        else:
            merged.append({"role": role, "content": blocks})
    return [_plain(message) for message in merged if message["content"]]


def _plain(message: Json) -> Json:
    """Write a single text block as the string that it is."""
    content = message["content"]
    if len(content) == 1 and content[0].keys() == {"type", "text"}:
        return {"role": message["role"], "content": content[0]["text"]}
    return message


def _translated(message: Json) -> tuple[str, list[Json]]:
    if message["role"] == "tool":
        result = {
            "type": "tool_result",
            "tool_use_id": message.get("tool_call_id"),
            "content": _result(message.get("content")),
        }
        return "user", [result]
    blocks = _blocks(message.get("content"))
    return message["role"], blocks + [_tool_use(call) for call in tool_calls(message, {})]


def _result(content: Any) -> str | list[Json]:
    return content if isinstance(content, str) else _blocks(content)


def _tool_use(call: CalledTool) -> Json:
    if call.id is None:
        raise refuse("messages[].tool_calls", "needs an id")
    name, arguments = call.function.name, call_arguments(call)
    return {"type": "tool_use", "id": call.id, "name": name, "input": arguments}


def _tool(tool: Json) -> Json:
    if "function" not in tool:  # already in Anthropic's form
        return tool
    offered = offered_tool(tool)
    schema = offered.parameters or {"type": "object", "properties": {}}
    return given(name=offered.name, description=offered.description, input_schema=schema)


def _tool_choice(choice: Json | str | None) -> Json | None:
    if choice is None or (isinstance(choice, dict) and "function" not in choice):
        return choice  # None, or Anthropic's own form
    mode, only = tool_choice(choice)
    return {"type": "tool", "name": only} if only is not None else {"type": mode}
