"""Messages and tools of the chat form as Claude's blocks, for every door to Claude.

Source: docs.anthropic.com/en/api/messages. Every function raises `RequestError` (bad_request)
naming the field that is at fault. What is in Anthropic's own form already stays as it is.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from typing import Any, Final

from ringcast.providers import claude_thoughts
from ringcast.providers.chat_form import (
    CalledTool,
    Source,
    call_arguments,
    file,
    offered_tool,
    picture,
    said_parts,
    source,
    tool_calls,
    tool_choice,
)
from ringcast.providers.request import ChatRequest, Json, given, refuse

_FOREIGN: Final = ("input_audio", "audio", "video_url")
# What Anthropic's tools have beside the function that they offer.
_BESIDE: Final = (
    "cache_control",
    "eager_input_streaming",
    "defer_loading",
    "allowed_callers",
    "input_examples",
)


def system(messages: list[Json]) -> str | list[Json] | None:
    """Return the instructions: a string if they are nothing else, so that it reads well."""
    contents = [message.get("content") for message in messages]
    marked = any("cache_control" in message for message in messages)
    if not marked and all(isinstance(content, str) for content in contents):
        return "\n\n".join(contents) or None  # type: ignore[arg-type]  # all are strings
    return [block for message in messages for block in _marked(message, _blocks(message))] or None


def turns(messages: list[Json]) -> list[Json]:
    """Translate roles and tool traffic, and join neighbours of one role (the API's rule).

    The user begins. Results of tools come first in their message, as the API wants them.
    """
    joined: list[Json] = []
    for message in messages:
        role = "assistant" if message["role"] == "assistant" else "user"
        blocks = _marked(message, _said(message))
        if joined and joined[-1]["role"] == role:
            joined[-1]["content"] += blocks
        elif blocks:
            joined.append({"role": role, "content": blocks})
    if not joined or joined[0]["role"] != "user":
        raise refuse("messages", "the user must begin")
    return [_plain(message) for message in joined]


def tools(request: ChatRequest) -> list[Json] | None:
    """Return the tools; Anthropic's own stay."""
    return None if request.tools is None else [_tool(tool) for tool in request.tools]


def choice(request: ChatRequest) -> Json | None:
    """Return which tools may be called, and whether several at once."""
    chosen = _choice(request.tool_choice)
    if request.parallel_tool_calls is not False:
        return chosen
    return (chosen or {"type": "auto"}) | {"disable_parallel_tool_use": True}


def free(choice: Json | str | None) -> bool:
    """Return whether a choice of tools forces none."""
    chosen = _choice(choice)
    return chosen is None or chosen.get("type") in ("auto", "none")


def _choice(choice: Json | str | None) -> Json | None:
    if choice is None or (isinstance(choice, dict) and "function" not in choice):
        return choice  # None, or Anthropic's own form
    mode, only = tool_choice(choice)
    return {"type": "tool", "name": only} if only is not None else {"type": mode}


def _plain(message: Json) -> Json:
    """Write a single text block as the string that it is."""
    content = message["content"]
    if len(content) == 1 and content[0].keys() == {"type", "text"}:
        return {"role": message["role"], "content": content[0]["text"]}
    return message


def _marked(message: Json, blocks: list[Json]) -> list[Json]:
    """Move a message's prompt-cache mark to its last block."""
    if (mark := message.get("cache_control")) and blocks:
        blocks[-1] = blocks[-1] | {"cache_control": mark}
    return blocks


def _said(message: Json) -> list[Json]:
    if message["role"] == "tool":
        return [_result(message)]
    calls = [_tool_use(call) for call in tool_calls(message, {})]
    return claude_thoughts.blocks(message) + _blocks(message) + calls


def _result(message: Json) -> Json:
    content = message.get("content")
    return given(
        type="tool_result",
        tool_use_id=message["tool_call_id"],
        content=content if isinstance(content, str) else _blocks(message),
        is_error=True if message.get("is_error") else None,
    )


def _blocks(message: Json) -> list[Json]:
    """Return a message's content as blocks; text without a character, which is refused, goes."""
    blocks = [_block(part) for part in said_parts(message)]
    return [block for block in blocks if block.get("type") != "text" or _visible(block)]


def _visible(block: Json) -> bool:
    text = block.get("text")
    return not isinstance(text, str) or bool(text.strip())


def _block(part: Json) -> Json:
    kind = part.get("type")
    if kind == "image_url":
        return _sourced(part, "image", _source(picture(part)))
    if kind == "file":
        about = file(part)
        return _sourced(part, "document", _document(part), title=about.filename)
    if kind in _FOREIGN:
        raise refuse("messages[].content[].type", f"anthropic has no {kind}")
    return part


def _sourced(part: Json, kind: str, source: Json, **more: Any) -> Json:
    return given(type=kind, source=source, cache_control=part.get("cache_control"), **more)


def _source(where: Source) -> Json:
    if where.data is None:
        return {"type": "url", "url": where.url}
    return {"type": "base64", "media_type": where.media_type, "data": where.data}


def _document(part: Json) -> Json:
    """Return where a document is; plain text is sent as the text that it is."""
    about = file(part)
    if about.file_id:
        return {"type": "file", "file_id": about.file_id}
    where = source(about.file_data or about.file_url or "")
    if where.data is None or where.media_type != "text/plain":
        return _source(where)
    try:
        text = b64decode(where.data, validate=True).decode()
    except (Base64Error, UnicodeDecodeError):
        raise refuse("messages[].content[].file", "not UTF-8 in base64") from None
    return {"type": "text", "media_type": "text/plain", "data": text}


def _tool_use(call: CalledTool) -> Json:
    name, arguments = call.function.name, call_arguments(call)
    return {"type": "tool_use", "id": call.id, "name": name, "input": arguments}


def _tool(tool: Json) -> Json:
    if "function" not in tool:  # already in Anthropic's form
        return tool
    offered = offered_tool(tool)
    return given(
        name=offered.name,
        description=offered.description,
        input_schema=offered.parameters or {"type": "object", "properties": {}},
        strict=offered.strict or None,
        **{name: tool.get(name) for name in _BESIDE},
    )
