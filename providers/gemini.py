"""Request shaping for Gemini: streamed content generation, and interactions.

Sources: ai.google.dev/api/generate-content and ai.google.dev/api/interactions-api.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from ringcast.providers import interactions
from ringcast.providers.chat_form import (
    CalledTool,
    answered,
    call_arguments,
    content_parts,
    offered_tool,
    picture,
    result_text,
    split,
    tool_calls,
    tool_choice,
    typed,
)
from ringcast.providers.request import Call, CompletionRequest, Json, given, refuse, stops
from ringcast.providers.vendor import AnyRequest, Capabilities, Vendor
from ringcast.shm.records import Cursor

# The schema of interactions that is spoken here: steps. A GET of one needs the header as well.
HEADERS: Final = {"api-revision": "2026-05-20"}

_COLLECTIONS: Final = ("models", "tunedModels")
_ROLES: Final = {"user": "user", "tool": "user", "assistant": "model"}


class Gemini(Vendor):
    """Google's Gemini API.

    `extra` is merged last, object into object, so that `{"generationConfig": {"thinkingConfig":
    …}}` adds to what is there.
    """

    apis = ("generate", "interactions")

    def generate(self, model: str, request: AnyRequest) -> Call:
        """Return the call for streamed generation, or for an interaction."""
        if self.api(request) == "generate":
            return Call(_generate_path(model), _laid_over(_generation(request), request.extra))
        body = _laid_over(interactions.shape(model, request), request.extra)
        return Call("/interactions", body, dict(HEADERS))

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for."""
        return Capabilities(list(self.apis))

    def reattach(self, api: str, cursor: Cursor) -> Call:
        """Return the GET that goes on with an interaction after the cursor's event."""
        resumed = f"&last_event_id={quote(cursor.after, safe='')}" if cursor.after else ""
        path = f"/interactions/{quote(cursor.id, safe='')}?stream=true{resumed}"
        return Call(path, headers=dict(HEADERS), method="GET")

    def recall(self, api: str, cursor: Cursor) -> Call:
        """Return the call that stops an interaction which runs in the background."""
        return Call(f"/interactions/{quote(cursor.id, safe='')}/cancel", headers=dict(HEADERS))


def _generate_path(model: str) -> str:
    collection, slash, name = model.partition("/")
    if not slash or collection not in _COLLECTIONS:
        collection, name = "models", model
    return f"/{collection}/{quote(name, safe='')}:streamGenerateContent?alt=sse"


def _generation(request: AnyRequest) -> Json:
    if isinstance(request, CompletionRequest):
        raise refuse("prompt", "generate takes messages; ask for api=interactions to send a prompt")
    system, rest = split(request.messages)
    config = given(
        temperature=request.temperature,
        topP=request.top_p,
        maxOutputTokens=request.max_tokens,
        stopSequences=stops(request),
        seed=request.seed,
        candidateCount=request.n,
    )
    instructions = [part for m in system for part in _parts(m.get("content"))]
    return given(
        contents=_contents(rest),
        systemInstruction={"parts": instructions} if instructions else None,
        tools=_tools(request.tools),
        toolConfig=_tool_config(request.tool_choice),
        generationConfig=config or None,
    )


def _contents(messages: list[Json]) -> list[Json]:
    """Translate roles and tool traffic, and join neighbours of one role."""
    contents: list[Json] = []
    names: dict[str, str] = {}
    for message in messages:
        role, parts = _ROLES[message["role"]], _message(message, names)
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        elif parts:
            contents.append({"role": role, "parts": parts})
    return contents


def _message(message: Json, names: dict[str, str]) -> list[Json]:
    """Return the parts of a message; `names` collects what is called by which id."""
    if message["role"] == "tool":
        name, id = answered(message, names)
        response = {"output": result_text(message.get("content"))}
        return [{"functionResponse": given(id=id, name=name, response=response)}]
    calls = tool_calls(message, names)
    return _parts(message.get("content")) + [_function_call(call) for call in calls]


def _function_call(call: CalledTool) -> Json:
    called = given(id=call.id, name=call.function.name, args=call_arguments(call))
    return given(functionCall=called, thoughtSignature=call.extra_content.google.thought_signature)


def _parts(content: Any) -> list[Json]:
    return [_part(part) for part in content_parts(content)]


def _part(part: Json) -> Json:
    """Return a part in Gemini's form; what has no type is in that form already."""
    kind = part.get("type")
    if kind is None:
        return part
    if kind == "text":
        return {"text": typed(part.get("text"), str, "messages[].content[].text")}
    if kind != "image_url":
        raise refuse("messages[].content[].type", f"{kind!r} is none of text, image_url")
    url, media_type, data = picture(part)
    if data is not None:
        return {"inlineData": {"mimeType": media_type, "data": data}}
    return {"fileData": given(mimeType=media_type, fileUri=url)}


def _tools(tools: list[Json] | None) -> list[Json] | None:
    """Return tools of the chat form as one declaration of them all; Google's own stay."""
    if tools is None:
        return None
    offered = [offered_tool(tool) for tool in tools if "function" in tool]
    own = [tool for tool in tools if "function" not in tool]
    functions = [
        given(name=o.name, description=o.description, parametersJsonSchema=o.parameters)
        for o in offered
    ]
    return own + ([{"functionDeclarations": functions}] if functions else [])


def _tool_config(choice: Json | str | None) -> Json | None:
    if choice is None or (isinstance(choice, dict) and "function" not in choice):
        return choice  # None, or Gemini's own form
    mode, only = tool_choice(choice)
    calling = given(mode=mode.upper(), allowedFunctionNames=[only] if only else None)
    return {"functionCallingConfig": calling}


def _laid_over(body: Json, extra: Json) -> Json:
    """Return `body` with `extra` on top, objects merged, all else replaced."""
    merged = body | extra
    for name in body.keys() & extra.keys():
        if isinstance(body[name], dict) and isinstance(extra[name], dict):
            merged[name] = _laid_over(body[name], extra[name])
    return merged
