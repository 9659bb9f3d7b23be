"""Request shaping for Anthropic: Messages, and the legacy text completions.

Source: docs.anthropic.com/en/api/messages and /complete.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from ringcast.providers.request import Call, Json, Request, given, refuse, stops

VERSION: Final = "2023-06-01"
T = TypeVar("T")


class _Link(msgspec.Struct):
    """Where a picture is."""

    url: str


class _Image(msgspec.Struct):
    """A part with a picture; `image_url` is an object with the url, or the url itself."""

    image_url: _Link | str


class _Offered(msgspec.Struct):
    """What a tool is, in the chat form."""

    name: str
    description: str | None = None
    parameters: Json | None = None


class _Called(msgspec.Struct):
    """What an assistant has called: the arguments are JSON in a string."""

    name: str
    arguments: str | None = None


class _Call(msgspec.Struct):
    """One call of an assistant's message."""

    id: str
    function: _Called


class _Chosen(msgspec.Struct):
    """The tool that must be called."""

    name: str


def _typed(value: Any, shape: type[T], where: str) -> T:
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise refuse(where, str(error)) from None


def shape(model: str, request: Request, max_tokens: int) -> Call:
    """Return the call for Messages, or for legacy completions when asked.

    `max_tokens` is used where the request has none, since the API insists on one.
    Raises `RequestError` (bad_request) naming a field that the API does not have.
    """
    for field in ("seed", "n"):
        if getattr(request, field) not in (None, 1 if field == "n" else None):
            raise refuse(field, "anthropic has no such parameter")
    headers = {"anthropic-version": VERSION}
    if (request.api or "messages") == "messages":
        return Call("/messages", _messages(model, request, max_tokens), headers)
    if request.api == "complete":
        return Call("/complete", _complete(model, request, max_tokens), headers)
    raise refuse("api", f"anthropic has messages and complete, not {request.api}")


def _messages(model: str, request: Request, max_tokens: int) -> Json:
    if request.messages is None:
        raise refuse("prompt", "messages takes messages; ask for api=complete to send a prompt")
    system = [m for m in request.messages if m["role"] in ("system", "developer")]
    rest = [m for m in request.messages if m["role"] not in ("system", "developer")]
    if not rest:
        raise refuse("messages", "needs a user message")
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


def _complete(model: str, request: Request, max_tokens: int) -> Json:
    if request.prompt is None:
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
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise refuse("messages[].content", "must be a string or a list of parts")
    return [_part(part) for part in content if part != {"type": "text", "text": ""}]


def _part(part: Json) -> Json:
    if part.get("type") != "image_url":
        return part
    image = _typed(part, _Image, "messages[].content[]").image_url
    url = image.url if isinstance(image, _Link) else image
    if url.startswith("data:"):
        media_type, base64, data = url[5:].partition(";base64,")
        if not base64:
            raise refuse("messages[].content[]", "a data: url must be base64")
        source = {"type": "base64", "media_type": media_type, "data": data}
    else:
        source = {"type": "url", "url": url}
    return {"type": "image", "source": source}


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
    calls = _typed(message.get("tool_calls") or [], list[_Call], "messages[].tool_calls")
    return message["role"], blocks + [_tool_use(call) for call in calls]


def _result(content: Any) -> str | list[Json]:
    return content if isinstance(content, str) else _blocks(content)


def _tool_use(call: _Call) -> Json:
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=Json)
    except (msgspec.DecodeError, RecursionError):
        raise refuse("messages[].tool_calls[].function.arguments", "not a JSON object") from None
    return {"type": "tool_use", "id": call.id, "name": call.function.name, "input": arguments}


def _tool(tool: Json) -> Json:
    if "function" not in tool:  # already in Anthropic's form
        return tool
    offered = _typed(tool["function"], _Offered, "tools[].function")
    schema = offered.parameters or {"type": "object", "properties": {}}
    return given(name=offered.name, description=offered.description, input_schema=schema)


def _tool_choice(choice: Json | str | None) -> Json | None:
    if choice is None or (isinstance(choice, dict) and "function" not in choice):
        return choice  # None, or Anthropic's own form
    if isinstance(choice, dict):
        chosen = _typed(choice["function"], _Chosen, "tool_choice.function")
        return {"type": "tool", "name": chosen.name}
    kinds = {"auto": "auto", "none": "none", "required": "any"}
    if choice not in kinds:
        raise refuse("tool_choice", f"{choice!r} is none of auto, none, required")
    return {"type": kinds[choice]}
