"""Request shaping for OpenAI's Responses API, and the ways back to a background response.

Sources: platform.openai.com/docs/api-reference/responses and /docs/guides/background.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import msgspec

from ringcast.providers.chat_form import Called, chosen_tool, link, offered_tool, parts, typed
from ringcast.providers.request import Call, ChatRequest, Json, given, refuse, refuse_given
from ringcast.providers.vendor import AnyRequest
from ringcast.shm.records import Cursor

PATH: Final = "/responses"

_CHOICES: Final = ("auto", "none", "required")
_NESTED: Final = ("function", "custom")  # the chat form wraps what Responses has flat


class _File(msgspec.Struct):
    """A part with a file: its id, or its data and name."""

    file: Json


class _Asked(msgspec.Struct):
    """The tool of free text that an assistant has called."""

    name: str
    input: str = ""


class _Call(msgspec.Struct):
    """One call of an assistant's message: one of the two."""

    id: str
    function: Called | None = None
    custom: _Asked | None = None


class _Result(msgspec.Struct):
    """What a tool gave."""

    tool_call_id: str
    content: Any = None


def shape(kind: str, model: str, request: AnyRequest) -> Call:
    """Return the call. The provider's own default decides whether it stores the response.

    Raises `RequestError` (bad_request) naming a field that the API does not have.
    """
    refuse_given(request, ("stop", "seed", "n"), f"{kind}'s responses API")
    chat = request if isinstance(request, ChatRequest) else None
    tools, choice = (chat.tools, chat.tool_choice) if chat else (None, None)
    body = given(
        model=model,
        input=_items(request.messages) if isinstance(request, ChatRequest) else request.prompt,
        stream=True,
        max_output_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        tools=None if tools is None else [_tool(tool) for tool in tools],
        tool_choice=_tool_choice(choice),
    )
    return Call(PATH, body | request.extra)


def reattach(cursor: Cursor) -> str:
    """Return the path, with its query, of the GET that goes on with a background response."""
    after = f"&starting_after={quote(cursor.after, safe='')}" if cursor.after else ""
    return f"{PATH}/{quote(cursor.id, safe='')}?stream=true{after}"


def cancel_path(cursor: Cursor) -> str:
    """Return the path of the POST that cancels a background response; closing a stream does not."""
    return f"{PATH}/{quote(cursor.id, safe='')}/cancel"


def _items(messages: list[Json]) -> list[Json]:
    """Return messages as input items: what was said, calls and results each become one."""
    items: list[Json] = []
    for message in messages:
        if message["role"] == "tool":
            items.append(_result(message, items))
            continue
        if content := _content(message.get("content"), message["role"]):
            items.append({"type": "message", "role": message["role"], "content": content})
        calls = typed(message.get("tool_calls") or [], list[_Call], "messages[].tool_calls")
        items += [_call(call) for call in calls]
    return items


def _result(message: Json, before: list[Json]) -> Json:
    """Return a tool's result, of the kind of its call, which is among the items before it."""
    result = typed(message, _Result, "messages[].tool_call_id")
    called = (item for item in before if item.get("call_id") == result.tool_call_id)
    custom = any(item["type"] == "custom_tool_call" for item in called)
    return {
        "type": "custom_tool_call_output" if custom else "function_call_output",
        "call_id": result.tool_call_id,
        "output": _content(result.content, "tool"),
    }


def _content(content: Any, role: str) -> str | list[Json]:
    """Return a message's content as a string or as parts; nothing at all as an empty string."""
    if content is None or isinstance(content, str):
        return content or ""
    return [_part(part, role) for part in parts(content)]


def _part(part: Json, role: str) -> Json:
    match part.get("type"):
        case "text":
            return part | {"type": "output_text" if role == "assistant" else "input_text"}
        case "image_url":
            image = link(part)
            return given(type="input_image", image_url=image.url, detail=image.detail)
        case "file":
            return {"type": "input_file"} | typed(part, _File, "messages[].content[]").file
        case _:  # a refusal, or already in this API's own form
            return part


def _call(call: _Call) -> Json:
    if call.function is not None:
        said = {"name": call.function.name, "arguments": call.function.arguments or "{}"}
        return {"type": "function_call", "call_id": call.id} | said
    if call.custom is not None:
        said = {"name": call.custom.name, "input": call.custom.input}
        return {"type": "custom_tool_call", "call_id": call.id} | said
    raise refuse("messages[].tool_calls", "needs a function")


def _tool(tool: Json) -> Json:
    if "function" not in tool:  # the provider's own, or already flat
        return tool
    offered = offered_tool(tool)
    return given(
        type="function",
        name=offered.name,
        description=offered.description,
        parameters=offered.parameters or {"type": "object", "properties": {}},
        strict=bool(offered.strict),  # left out it would be true, in chat it would be false
    )


def _tool_choice(choice: Json | str | None) -> Json | str | None:
    if isinstance(choice, dict) and (kind := choice.get("type")) in _NESTED and kind in choice:
        return {"type": kind, "name": chosen_tool(choice, kind)}
    if isinstance(choice, str) and choice not in _CHOICES:
        raise refuse("tool_choice", f"{choice!r} is none of {', '.join(_CHOICES)}")
    return choice
