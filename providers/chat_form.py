"""Messages and tools in the chat form, read for APIs that put them in other words.

Source: platform.openai.com/docs/api-reference/chat/create. Every function raises `RequestError`
(bad_request) naming the field that is at fault.
"""

from __future__ import annotations

import mimetypes
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from ringcast.providers.request import Json, refuse

_INSTRUCTING: Final = ("system", "developer")
_TALKING: Final = ("user", "assistant", "tool")
_MODES: Final = {"auto": "auto", "none": "none", "required": "any"}
T = TypeVar("T")


class Link(msgspec.Struct):
    """Where a picture is, and how closely to look at it."""

    url: str
    detail: str | None = None


class Image(msgspec.Struct):
    """A part with a picture; `image_url` is an object with the url, or the url itself."""

    image_url: Link | str


class Offered(msgspec.Struct):
    """What a tool is, in the chat form."""

    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class Called(msgspec.Struct):
    """What an assistant has called: the arguments are JSON in a string."""

    name: str
    arguments: str | None = None


class Signed(msgspec.Struct, frozen=True):
    """What Google's own chat completions put beside a call."""

    thought_signature: str | None = None


class Beside(msgspec.Struct, frozen=True):
    """What other providers than OpenAI put beside a call."""

    google: Signed = Signed()


class CalledTool(msgspec.Struct):
    """One call of an assistant's message, with the signature that Gemini 3 wants back."""

    function: Called
    id: str | None = None
    extra_content: Beside = Beside()


class Chosen(msgspec.Struct):
    """The tool that must be called."""

    name: str


def split(messages: list[Json]) -> tuple[list[Json], list[Json]]:
    """Return the instructions and the conversation, which must not be empty."""
    system = [m for m in messages if m["role"] in _INSTRUCTING]
    rest = [m for m in messages if m["role"] not in _INSTRUCTING]
    if not rest:
        raise refuse("messages", "needs a user message")
    for message in rest:
        if message["role"] not in _TALKING:
            known = ", ".join(_INSTRUCTING + _TALKING)
            raise refuse("messages[].role", f"{message['role']!r} is none of {known}")
    return system, rest


def tool_calls(message: Json, names: dict[str, str]) -> list[CalledTool]:
    """Return what a message calls; `names` collects what is called by which id."""
    calls = typed(message.get("tool_calls") or [], list[CalledTool], "messages[].tool_calls")
    names |= {call.id: call.function.name for call in calls if call.id}
    return calls


def answered(message: Json, names: dict[str, str]) -> tuple[str, str | None]:
    """Return the name of the tool whose result a message is, and the id of its call."""
    id = typed(message.get("tool_call_id") or "", str, "messages[].tool_call_id")
    name = names.get(id) or typed(message.get("name") or "", str, "messages[].name")
    if not name:
        raise refuse("messages[].tool_call_id", f"{id!r} answers no call, and there is no name")
    return name, id or None


def call_arguments(call: CalledTool) -> Json:
    """Return the arguments of a call as the object that they are."""
    try:
        return msgspec.json.decode(call.function.arguments or "{}", type=Json)
    except (msgspec.DecodeError, RecursionError):
        raise refuse("messages[].tool_calls[].function.arguments", "not a JSON object") from None


def result_text(content: Any) -> str:
    """Return a content that may be nothing but text, joined."""
    texts = [part.get("text") for part in content_parts(content)]
    if not all(isinstance(text, str) for text in texts):
        raise refuse("messages[].content", "instructions and tools' results must be text")
    return "".join(map(str, texts))


def content_parts(content: Any) -> list[Json]:
    """Return a message's content as parts of the chat form, without empty text."""
    if content is None or isinstance(content, str):
        content = [{"type": "text", "text": content or ""}]
    return [part for part in parts(content) if part != {"type": "text", "text": ""}]


def parts(content: Any) -> list[Json]:
    """Return a content that is no string."""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise refuse("messages[].content", "must be a string or a list of parts")
    return content


def link(part: Json) -> Link:
    """Return where the picture of a part is."""
    image = typed(part, Image, "messages[].content[]").image_url
    return image if isinstance(image, Link) else Link(image)


def picture(part: Json) -> tuple[str, str | None, str | None]:
    """Return a picture's url and media type, and its base64 if that is in the url."""
    url = link(part).url
    if not url.startswith("data:"):
        return url, mimetypes.guess_type(urlsplit(url).path)[0], None
    media_type, base64, data = url[5:].partition(";base64,")
    if not base64:
        raise refuse("messages[].content[]", "a data: url must be base64")
    return url, media_type, data


def offered_tool(tool: Json) -> Offered:
    """Return the function that a tool of the chat form is."""
    return typed(tool["function"], Offered, "tools[].function")


def tool_choice(choice: Json | str) -> tuple[str, str | None]:
    """Return the mode, and the name of the only tool that may be called."""
    if isinstance(choice, dict):
        return "any", chosen_tool(choice, "function")
    if choice not in _MODES:
        raise refuse("tool_choice", f"{choice!r} is none of auto, none, required")
    return _MODES[choice], None


def chosen_tool(choice: Json, kind: str) -> str:
    """Return the name of the tool that must be called, which is in the field named `kind`."""
    return typed(choice[kind], Chosen, f"tool_choice.{kind}").name


def typed(value: Any, shape: type[T], where: str) -> T:
    """Return `value` as `shape`, or refuse the field at `where`."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise refuse(where, str(error)) from None
