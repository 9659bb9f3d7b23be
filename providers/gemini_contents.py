"""Messages and tools of the chat form as Gemini's contents, for every door to Gemini.

Source: ai.google.dev/api/caching#Content and ai.google.dev/gemini-api/docs/thought-signatures.
Every function raises `RequestError` (bad_request) naming the field that is at fault. Parts and
tools in Google's own form, which have no type, stay as they are.
"""

from __future__ import annotations

from typing import Any, Final

from ringcast.providers.chat_form import (
    CalledTool,
    Source,
    answered,
    call_arguments,
    file,
    offered_tool,
    picture,
    said_parts,
    sound,
    source,
    tool_calls,
    tool_choice,
    typed,
    unmarked,
)
from ringcast.providers.gemini_thinking import version
from ringcast.providers.request import Json, given, refuse
from ringcast.providers.thoughts import Thought, thoughts

_ROLES: Final = {"user": "user", "tool": "user", "assistant": "model"}
_KINDS: Final = "text, image_url, file, input_audio"
# What Gemini 3 takes for the signature of a call that it has not made.
STAND_IN: Final = "skip_thought_signature_validator"
_SIGNED: Final = (3, 0)


class Contents:
    """Translates a conversation: roles, content, calls and their results."""

    def __init__(self, model: str, ids: bool) -> None:
        """With `ids` calls and results carry them; without, they meet by name and order."""
        self._version = version(model)
        self._ids = ids
        # What is called by which id: results are keyed by name.
        self._names: dict[str, str] = {}

    def turns(self, messages: list[Json]) -> list[Json]:
        """Return the contents, neighbours of one role joined; the user begins."""
        contents: list[Json] = []
        for message in messages:
            role, parts = _ROLES[message["role"]], self._parts(message)
            if contents and contents[-1]["role"] == role:
                contents[-1]["parts"] += parts
            elif parts:
                contents.append({"role": role, "parts": parts})
        if not contents or contents[0]["role"] != "user":
            raise refuse("messages", "the user must begin")
        return contents

    def _parts(self, message: Json) -> list[Json]:
        if message["role"] == "tool":
            return [self._result(message)]
        said = content(message)
        signatures: dict[int, str] = {}
        for thought in thoughts(message):
            if thought.proven:
                _give_back(thought, said, signatures)
        calls = tool_calls(message, self._names)
        return said + [self._call(c, signatures.get(i), i) for i, c in enumerate(calls)]

    def _call(self, call: CalledTool, signature: str | None, number: int) -> Json:
        """Return a call with its signature: in Gemini 3 the first of a message must have one."""
        signature = signature or call.extra_content.google.thought_signature
        if signature is None and number == 0 and self._version >= _SIGNED:
            signature = STAND_IN
        id = call.id if self._ids else None
        called = given(id=id, name=call.function.name, args=call_arguments(call))
        return given(functionCall=called, thoughtSignature=signature)

    def _result(self, message: Json) -> Json:
        """Return what a tool gave: its text, and in Gemini 3 what there is to look at."""
        name, id = answered(message, self._names)
        found = content(message)
        text = "".join(part["text"] for part in found if _is_text(part))
        shown = [part for part in found if not _is_text(part)]
        if shown and self._version < _SIGNED:
            raise refuse("messages[].content", "before Gemini 3 tools' results must be text")
        response = {"error" if message.get("is_error") else "output": text}
        id = id if self._ids else None
        return {"functionResponse": given(id=id, name=name, response=response, parts=shown or None)}


def instructions(messages: list[Json]) -> Json | None:
    """Return the instructions."""
    parts = [part for message in messages for part in content(message)]
    return {"parts": parts} if parts else None


def tools(offered: list[Json] | None) -> list[Json] | None:
    """Return tools of the chat form as one declaration of them all; Google's own stay."""
    if offered is None:
        return None
    functions = [_declared(tool) for tool in offered if "function" in tool]
    own = [unmarked(tool) for tool in offered if "function" not in tool]
    return own + ([{"functionDeclarations": functions}] if functions else [])


def tool_config(choice: Json | str | None) -> Json | None:
    """Return which tools may be called; Google's own form stays."""
    if choice is None or (isinstance(choice, dict) and "function" not in choice):
        return choice
    mode, only = tool_choice(choice)
    calling = given(mode=mode.upper(), allowedFunctionNames=[only] if only else None)
    return {"functionCallingConfig": calling}


def content(message: Json) -> list[Json]:
    """Return what a message says, as parts."""
    return [_part(part) for part in said_parts(message)]


def _is_text(part: Json) -> bool:
    return part.keys() == {"text"} and isinstance(part["text"], str)


def _give_back(thought: Thought, said: list[Json], signatures: dict[int, str]) -> None:
    """Put a signature on the part that it came with: a call, another part, or the last text."""
    signature, detail = thought.signature, thought.detail or {}
    if signature and isinstance(number := detail.get("tool_call"), int):
        signatures[number] = signature
    elif detail and "type" not in detail:  # a part: those have none
        said.append(detail | given(thoughtSignature=signature))
    elif signature and not detail and said and _is_text(said[-1]):
        said[-1] = said[-1] | {"thoughtSignature": signature}
    elif signature and not detail:
        said.append({"text": "", "thoughtSignature": signature})


def _part(part: Json) -> Json:
    match part.get("type"):
        case None:
            return unmarked(part)
        case "text":
            return {"text": typed(part.get("text"), str, "messages[].content[].text")}
        case "image_url":
            return _media(picture(part))
        case "file":
            about = file(part)
            return _media(source(about.file_data or about.file_url or about.file_id or ""))
        case "input_audio":
            heard = sound(part)
            return _media(Source("", f"audio/{heard.format}", heard.data))
        case kind:
            raise refuse("messages[].content[].type", f"{kind!r} is none of {_KINDS}")


def _media(where: Source) -> Json:
    if where.data is not None:
        return {"inlineData": {"mimeType": where.media_type, "data": where.data}}
    return {"fileData": given(mimeType=where.media_type, fileUri=where.url)}


def _declared(tool: Json) -> dict[str, Any]:
    offered = offered_tool(tool)
    return given(
        name=offered.name,
        description=offered.description,
        parametersJsonSchema=offered.parameters,
    )
