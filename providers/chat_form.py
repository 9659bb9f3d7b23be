"""Messages and tools in the chat form, read for APIs that put them in other words.

Source: platform.openai.com/docs/api-reference/chat/create. Every function raises `RequestError`
(bad_request) naming the field that is at fault.
"""

from __future__ import annotations

import mimetypes
import re
from typing import Any, Final, TypeVar

import msgspec

from ringcast.providers.request import Json, refuse

INSTRUCTING: Final = ("system", "developer")
_TALKING: Final = ("user", "assistant", "tool")
_FORMATS: Final = ("text", "json_object", "json_schema")
# Fields of a message that no provider knows by these names.
_OURS: Final = ("reasoning", "is_error")
_MODES: Final = {"auto": "auto", "none": "none", "required": "any"}
T = TypeVar("T")


class Link(msgspec.Struct):
    """Where a picture is, and how closely to look at it."""

    url: str
    detail: str | None = None


class Image(msgspec.Struct):
    """A part with a picture; `image_url` is an object with the url, or the url itself."""

    image_url: Link | str


class Source(msgspec.Struct, frozen=True):
    """Where something is, its media type as far as that is known, and its base64 if it is here."""

    url: str
    media_type: str | None = None
    data: str | None = None


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


class Schema(msgspec.Struct, omit_defaults=True):
    """What an answer must be like, in the chat form of a response format."""

    name: str
    schema: Json
    strict: bool | None = None
    description: str | None = None


class File(msgspec.Struct):
    """A file in a part: its id with the provider, or where it is, or its data in a `data:` url."""

    file_data: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    filename: str | None = None


class Attached(msgspec.Struct):
    """A part with a file."""

    file: File


class Sound(msgspec.Struct):
    """Base64 of a sound, and its format (wav, mp3)."""

    data: str
    format: str


class Heard(msgspec.Struct):
    """A part with a sound."""

    input_audio: Sound


def split(messages: list[Json]) -> tuple[list[Json], list[Json]]:
    """Return the instructions and the conversation, which must not be empty."""
    system = [m for m in messages if m["role"] in INSTRUCTING]
    rest = [m for m in messages if m["role"] not in INSTRUCTING]
    if not rest:
        raise refuse("messages", "needs a user message")
    for message in rest:
        if message["role"] not in _TALKING:
            known = ", ".join(INSTRUCTING + _TALKING)
            raise refuse("messages[].role", f"{message['role']!r} is none of {known}")
    return system, rest


def tool_calls(message: Json, names: dict[str, str]) -> list[CalledTool]:
    """Return what a message calls; `names` collects what is called by which id."""
    calls = typed(called(message), list[CalledTool], "messages[].tool_calls")
    names |= {call.id: call.function.name for call in calls if call.id}
    return calls


def called(message: Json) -> Any:
    """Return a message's calls as they are there; refuse the one of the time before tools."""
    if message.get("function_call"):
        raise refuse("messages[].function_call", "only OpenAI's chat has it; make it a tool call")
    return message.get("tool_calls") or []


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


def said_parts(message: Json) -> list[Json]:
    """Return what a message says as parts of the chat form: its content, and how it declined."""
    declined = typed(message.get("refusal") or "", str, "messages[].refusal")
    said = [_declined(part) for part in content_parts(message.get("content"))]
    return [*said, {"type": "text", "text": declined}] if declined else said


def _declined(part: Json) -> Json:
    text = part.get("refusal")
    return {"type": "text", "text": text} if part.get("type") == "refusal" else part


def parts(content: Any) -> list[Json]:
    """Return a content that is no string."""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise refuse("messages[].content", "must be a string or a list of parts")
    return content


def link(part: Json) -> Link:
    """Return where the picture of a part is."""
    image = typed(part, Image, "messages[].content[]").image_url
    where = image if isinstance(image, Link) else Link(image)
    if not where.url:
        raise refuse("messages[].content[].image_url", "must not be empty")
    return where


def picture(part: Json) -> Source:
    """Return where the picture of a part is, or its data."""
    url = link(part).url
    name = (
        "" if url.startswith("data:") else re.split("[?#]", url, maxsplit=1)[0].rpartition("/")[2]
    )
    return source(url, mimetypes.guess_type(f"/{name}")[0])


def file(part: Json) -> File:
    """Return the file of a part, which says in one way or another what is in it."""
    held = typed(part, Attached, "messages[].content[]").file
    if not (held.file_data or held.file_url or held.file_id):
        raise refuse("messages[].content[].file", "needs file_data, file_url or file_id")
    return held


def sound(part: Json) -> Sound:
    """Return the sound of a part."""
    return typed(part, Heard, "messages[].content[]").input_audio


def source(url: str, media_type: str | None = None) -> Source:
    """Return what a url says; one with data says its media type itself."""
    if not url.startswith("data:"):
        return Source(url, media_type)
    said, base64, data = url[5:].partition(";base64,")
    if not base64:
        raise refuse("messages[].content[]", "a data: url must be base64")
    return Source(url, said.partition(";")[0] or None, data)


def response_format(wanted: Json) -> tuple[str, Schema | None]:
    """Return the type of a response format (text, json_object, json_schema), and its schema."""
    kind = typed(wanted.get("type"), str, "response_format.type")
    if kind not in _FORMATS:
        raise refuse("response_format.type", f"{kind!r} is none of {', '.join(_FORMATS)}")
    if kind != "json_schema":
        return kind, None
    return kind, typed(wanted.get("json_schema"), Schema, "response_format.json_schema")


def instructing(message: Json) -> bool:
    """Return whether a message instructs the model."""
    return message["role"] in INSTRUCTING


def plain(message: Json) -> Json:
    """Return a message without what only our chat form has."""
    return {name: value for name, value in message.items() if name not in _OURS}


def unmarked(value: Json) -> Json:
    """Return a message, part or tool without its prompt-cache marks, and those of its parts."""
    bare = _unmarked(value)
    if isinstance(content := bare.get("content"), list):
        bare["content"] = [_unmarked(part) if isinstance(part, dict) else part for part in content]
    return bare


def _unmarked(value: Json) -> Json:
    return {name: inner for name, inner in value.items() if name != "cache_control"}


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
    except RecursionError:
        raise refuse(where, "nested too deeply") from None
