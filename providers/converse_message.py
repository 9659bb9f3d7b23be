"""Messages and tools in the words of Bedrock's Converse, which are those of Nova's own API too.

A part that has no `type` is in these words already (`{"document": …}`, `{"guardContent": …}`).
Source: docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ContentBlock.html. Functions
raise `RequestError` (bad_request) naming the field at fault.
"""

from __future__ import annotations

import mimetypes
import re
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec

from ringcast.providers.bedrock_model import Family
from ringcast.providers.chat_form import (
    CalledTool,
    Source,
    call_arguments,
    file,
    offered_tool,
    picture,
    said_parts,
    sound,
    source,
    split,
    tool_calls,
    tool_choice,
    typed,
    unmarked,
)
from ringcast.providers.history import check_names, history
from ringcast.providers.request import ChatRequest, Json, given, refuse, without
from ringcast.providers.thoughts import Thought, thoughts
from ringcast.providers.tool_ids import LETTERS_64

_NAMES: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_PART: Final = "messages[].content[]"
_IMAGES: Final = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
}
_DOCUMENTS: Final = ("pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md")
# What the name of a document must not have; API_runtime_DocumentBlock.html.
_UNNAMEABLE: Final = re.compile(r"[^a-zA-Z0-9()\[\]-]+")


def conversation(request: ChatRequest) -> tuple[list[Json], list[Json]]:
    """Return the blocks of the instructions, and the messages.

    Both roles take turns, the user first: neighbours of one role are joined.
    """
    check_names(request, _NAMES, "bedrock")
    system, rest = split(history(request, LETTERS_64))
    instructions = [block for message in system for block in _said(message)]
    turns: list[Json] = []
    for message in rest:
        role = "assistant" if message["role"] == "assistant" else "user"
        blocks = _blocks(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    if not turns or turns[0]["role"] != "user":
        raise refuse("messages", "the user must begin")
    return instructions, turns


def unmarked_for(made_by: Family, request: ChatRequest) -> ChatRequest:
    """Return a request without the prompt-cache marks that a maker's models refuse."""
    if made_by == "claude":
        return request
    tools = request.tools and [unmarked(tool) for tool in request.tools]
    bare = msgspec.structs.replace(request, tools=tools)
    if made_by == "nova":
        return bare
    messages = [unmarked(message) for message in request.messages]
    return msgspec.structs.replace(bare, messages=messages)


def tool_config(request: ChatRequest) -> Json | None:
    """Return the tools and which must be called.

    That none may be called cannot be said: then there are no tools, unless there were calls before,
    with which the API wants to see them.
    """
    tools = [block for tool in _offered(request) for block in _marked([_tool(tool)], tool)]
    if tools:
        return given(tools=tools, toolChoice=_choice(request.tool_choice))
    if request.tool_choice not in ("auto", "none"):
        without(request, ("tool_choice",), "", "goes with tools")
    return None


def _offered(request: ChatRequest) -> list[Json]:
    called = any(message.get("tool_calls") for message in request.messages)
    if called and not request.tools:
        raise refuse("tools", "must be given where messages call or answer some")
    if request.tool_choice == "none" and not called:
        return []
    return request.tools or []


def _blocks(message: Json) -> list[Json]:
    if message["role"] == "tool":
        return [{"toolResult": _result(message)}]
    calls = [_tool_use(call) for call in tool_calls(message, {})]
    return _recalled(thoughts(message)) + _said(message) + calls


def _said(message: Json) -> list[Json]:
    """Return the blocks of a message's content, with the marks that follow what they end."""
    parts = [part for part in said_parts(message) if not _blank(part)]
    return _marked([block for part in parts for block in _marked([_part(part)], part)], message)


def _blank(part: Json) -> bool:
    """Return whether a part is a text without a character, which the API refuses."""
    text = part.get("text")
    return part.get("type") == "text" and isinstance(text, str) and not text.strip()


def _marked(blocks: list[Json], marked: Json) -> list[Json]:
    """Return blocks with a cache point behind them, if what they come from is so marked."""
    mark = marked.get("cache_control")
    if mark is None or not blocks:
        return blocks
    ttl = typed(mark, dict[str, Any], "cache_control").get("ttl")
    return [*blocks, {"cachePoint": given(type="default", ttl=ttl)}]


def _part(part: Json) -> Json:
    match part.get("type"):
        case None:
            return unmarked(part)
        case "text":
            return {"text": typed(part.get("text"), str, f"{_PART}.text")}
        case "image_url":
            return {"image": _image(picture(part))}
        case "file":
            return {"document": _document(part)}
        case "input_audio":
            heard = sound(part)
            return {"audio": {"format": heard.format, "source": {"bytes": heard.data}}}
        case kind:
            known = "text, image_url, file, input_audio"
            raise refuse(f"{_PART}.type", f"{kind!r} is none of {known}")


def _image(image: Source) -> Json:
    format = _IMAGES.get(image.media_type or "")
    if format is None:
        raise refuse(_PART, f"a picture must be one of {', '.join(_IMAGES)}")
    return {"format": format, "source": _where(image)}


def _document(part: Json) -> Json:
    about = file(part)
    url = about.file_data or about.file_url
    if url is None:
        raise refuse(f"{_PART}.file", "bedrock keeps no files: give file_data")
    where = source(url)
    path = PurePosixPath(about.filename or (url if where.data is None else ""))
    name = _UNNAMEABLE.sub(" ", path.stem).strip() or "document"
    return {"format": _format(path, where), "name": name, "source": _where(where)}


def _format(path: PurePosixPath, where: Source) -> str:
    """Return what a document is, by the ending of its name, else by its media type."""
    guessed = mimetypes.guess_extension(where.media_type or "") or ""
    for format in (path.suffix, guessed):
        if format.lower().removeprefix(".") in _DOCUMENTS:
            return format.lower().removeprefix(".")
    raise refuse(f"{_PART}.file", f"a document must be one of {', '.join(_DOCUMENTS)}")


def _where(what: Source) -> Json:
    if what.data is not None:
        return {"bytes": what.data}
    if what.url.startswith("s3://"):
        return {"s3Location": {"uri": what.url}}
    raise refuse(_PART, "bedrock fetches nothing: give a data: or s3: url")


def _recalled(earlier: list[Thought]) -> list[Json]:
    """Return the thoughts with a proof of Bedrock's: others' have a `detail` with it, or none."""
    own = [thought for thought in earlier if thought.proven and thought.detail is None]
    return [{"reasoningContent": _thought(thought)} for thought in own]


def _thought(thought: Thought) -> Json:
    if thought.encrypted is not None:
        return {"redactedContent": thought.encrypted}
    return {"reasoningText": given(text=thought.text, signature=thought.signature)}


def _tool_use(call: CalledTool) -> Json:
    name, arguments = call.function.name, call_arguments(call)
    return {"toolUse": {"toolUseId": call.id, "name": name, "input": arguments}}


def _result(message: Json) -> Json:
    failed = typed(message.get("is_error") or False, bool, "messages[].is_error")
    return given(
        toolUseId=message["tool_call_id"],
        content=_said(message),
        status="error" if failed else None,
    )


def _tool(tool: Json) -> Json:
    if "function" not in tool:  # the provider's own, or already in its form
        return unmarked(tool)
    offered = offered_tool(tool)
    schema = offered.parameters or {"type": "object", "properties": {}}
    spec = given(
        name=offered.name,
        description=offered.description or None,  # which must not be empty
        inputSchema={"json": schema},
        strict=offered.strict,
    )
    return {"toolSpec": spec}


def _choice(choice: Json | str | None) -> Json | None:
    if choice is None or (isinstance(choice, dict) and "function" not in choice):
        return choice  # None, or Converse's own form
    mode, only = tool_choice(choice)
    if mode == "none":
        return None
    return {"tool": {"name": only}} if only is not None else {mode: {}}
