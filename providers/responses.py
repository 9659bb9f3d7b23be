"""Request shaping for OpenAI's Responses API, and the ways back to a background response.

Sources: platform.openai.com/docs/api-reference/responses and /docs/guides/background.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Any, Final
from urllib.parse import quote

import msgspec

from ringcast.providers import openai_family
from ringcast.providers.chat_form import (
    Called,
    called,
    chosen_tool,
    file,
    link,
    offered_tool,
    parts,
    response_format,
    result_text,
    typed,
    unmarked,
)
from ringcast.providers.history import history
from ringcast.providers.request import CompletionRequest, Json, Reasoning, given, refuse
from ringcast.providers.thoughts import Thought, thoughts
from ringcast.providers.tool_ids import ANY_64
from ringcast.providers.vendor import AnyRequest
from ringcast.shm.records import Cursor

PATH: Final = "/responses"
# What the API does not know.
LACKS: Final = (
    "stop",
    "seed",
    "n",
    "top_k",
    "frequency_penalty",
    "presence_penalty",
    "suffix",
    "reasoning.budget_tokens",
)
# Fields of `extra` by which the provider adds what was said before.
_MEMORIES: Final = ("previous_response_id", "conversation")

_CHOICES: Final = ("auto", "none", "required")
_NESTED: Final = ("function", "custom")  # the chat form wraps what Responses has flat


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


def body(model: str, request: AnyRequest) -> Json:
    """Return the body of a request that has nothing of `LACKS`.

    The provider's own default decides whether it stores the response. One that is not stored, by
    `"store": false` in `extra`, must give its thoughts sealed, or they are lost to the next turn.
    """
    sealed = request.extra.get("store") is False and openai_family.reasons(model) is not False
    included = ["reasoning.encrypted_content"] if sealed else []
    if request.logprobs:
        included.append("message.output_text.logprobs")
    return prompt(model, request) | given(
        stream=request.stream,
        max_output_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_logprobs=request.top_logprobs,
        include=included or None,
        metadata=request.metadata,
        user=request.user,
        prompt_cache_key=request.cache_key,
    )


def prompt(model: str, request: AnyRequest) -> Json:
    """Return the fields that make the prompt, which are those that tokens are counted of."""
    if isinstance(request, CompletionRequest):
        return {"model": model, "input": request.prompt}
    remembered = any(request.extra.get(name) for name in _MEMORIES)
    instructions, messages = _instructed(history(request, ANY_64, remembered=remembered))
    return given(
        model=model,
        instructions=instructions,
        input=_items(messages),
        tools=None if request.tools is None else [_tool(tool) for tool in request.tools],
        tool_choice=_tool_choice(request.tool_choice),
        parallel_tool_calls=request.parallel_tool_calls,
        text=_text(request.response_format),
        reasoning=_reasoning(request.reasoning),
    )


def reattach(cursor: Cursor) -> str:
    """Return the path, with its query, of the GET that goes on with a background response."""
    after = f"&starting_after={quote(cursor.after, safe='')}" if cursor.after else ""
    return f"{PATH}/{quote(cursor.id, safe='')}?stream=true{after}"


def cancel_path(cursor: Cursor) -> str:
    """Return the path of the POST that cancels a background response; closing a stream does not."""
    return f"{PATH}/{quote(cursor.id, safe='')}/cancel"


def _instructed(messages: list[Json]) -> tuple[str | None, list[Json]]:
    """Return the instructions, which are what the system says first, and the rest."""
    system = list(takewhile(lambda message: message["role"] == "system", messages))
    said = [result_text(message.get("content")) for message in system]
    return "\n\n".join(said) or None, messages[len(system) :]


def _items(messages: list[Json]) -> list[Json]:
    """Return messages as input items: what was said, calls and results each become one."""
    items: list[Json] = []
    custom: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            items.append(_result(message, custom))
            continue
        items += [_thought(thought) for thought in thoughts(message) if thought.is_a("reasoning")]
        if content := _said(message):
            items.append({"role": message["role"], "content": content})
        calls = typed(called(message), list[_Call], "messages[].tool_calls")
        items += [_call(call) for call in calls]
        custom |= {call.id for call in calls if call.custom is not None}
    return items


def _said(message: Json) -> str | list[Json]:
    """Return what a message says, and how it declined where that is told beside."""
    content = _content(message.get("content"), message["role"])
    if not (declined := message.get("refusal")):
        return content
    said = [{"type": "output_text", "text": content}] if isinstance(content, str) else content
    return [*(said if content else []), {"type": "refusal", "refusal": declined}]


def _thought(thought: Thought) -> Json:
    """Return a sealed thought without its id, which a server that stores nothing cannot find."""
    summary = [{"type": "summary_text", "text": text} for text in thought.texts if text]
    about = {"format": (thought.detail or {}).get("format")}
    return given(type="reasoning", summary=summary, encrypted_content=thought.encrypted, **about)


def _result(message: Json, custom: set[str]) -> Json:
    """Return a tool's result, of the kind of its call; `custom` has the ids of those."""
    result = typed(message, _Result, "messages[].tool_call_id")
    return {
        "type": f"{'custom_tool' if result.tool_call_id in custom else 'function'}_call_output",
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
            kind = "output_text" if role == "assistant" else "input_text"
            return unmarked(part) | {"type": kind}
        case "image_url":
            image = link(part)
            return given(type="input_image", image_url=image.url, detail=image.detail)
        case "file":
            return given(type="input_file", **msgspec.structs.asdict(file(part)))
        case _:  # a refusal, or already in this API's own form
            return unmarked(part)


def _call(call: _Call) -> Json:
    if call.function is not None:
        said = {"name": call.function.name, "arguments": call.function.arguments or "{}"}
        return {"type": "function_call", "call_id": call.id} | said
    if call.custom is not None:
        said = {"name": call.custom.name, "input": call.custom.input}
        return {"type": "custom_tool_call", "call_id": call.id} | said
    raise refuse("messages[].tool_calls", "needs a function")


def _tool(tool: Json) -> Json:
    if tool.get("type") == "custom" and "custom" in tool:
        return _free_tool(typed(tool["custom"], Json, "tools[].custom"))
    if "function" not in tool:  # the provider's own, or already flat
        return unmarked(tool)
    offered = offered_tool(tool)
    return given(
        type="function",
        name=offered.name,
        description=offered.description,
        parameters=offered.parameters or {"type": "object", "properties": {}},
        strict=bool(offered.strict),  # left out it would be true, in chat it would be false
    )


def _free_tool(said: Json) -> Json:
    """Return a tool that takes free text; its grammar is flat as well."""
    wanted = said.get("format")
    if isinstance(wanted, dict) and isinstance(wanted.get("grammar"), dict):
        said = said | {"format": {"type": "grammar", **wanted["grammar"]}}
    return {"type": "custom", **said}


def _tool_choice(choice: Json | str | None) -> Json | str | None:
    if isinstance(choice, dict) and (kind := choice.get("type")) in _NESTED and kind in choice:
        return {"type": kind, "name": chosen_tool(choice, kind)}
    if isinstance(choice, str) and choice not in _CHOICES:
        raise refuse("tool_choice", f"{choice!r} is none of {', '.join(_CHOICES)}")
    return choice


def _text(wanted: Json | None) -> Json | None:
    """Return a response format, which this API has flat."""
    if wanted is None:
        return None
    kind, schema = response_format(wanted)
    if schema is None:
        return {"format": {"type": kind}}
    return {"format": {"type": kind} | given(**msgspec.structs.asdict(schema))}


def _reasoning(asked: Reasoning | None) -> Json | None:
    return (given(effort=asked.effort, summary=asked.summary) or None) if asked else None
