"""Request shaping for Gemini's interactions, a conversation in steps.

Source: ai.google.dev/api/interactions-api#CreateInteraction.
"""

from __future__ import annotations

from typing import Any, Final

from ringcast.providers.chat_form import (
    CalledTool,
    Source,
    answered,
    call_arguments,
    file,
    link,
    offered_tool,
    picture,
    response_format,
    result_text,
    said_parts,
    sound,
    source,
    split,
    tool_calls,
    tool_choice,
    unmarked,
)
from ringcast.providers.gemini_thinking import thinking_level
from ringcast.providers.history import history
from ringcast.providers.request import ChatRequest, Json, given, stops, without
from ringcast.providers.thoughts import Thought, thoughts
from ringcast.providers.tool_ids import ANY_64
from ringcast.providers.vendor import AnyRequest

LACKS: Final = (
    "n",
    "top_k",
    "frequency_penalty",
    "presence_penalty",
    "logprobs",
    "top_logprobs",
    "parallel_tool_calls",
    "metadata",
    "user",
    "cache_key",
    "suffix",
    "reasoning.budget_tokens",
)


def body(model: str, request: AnyRequest) -> Json:
    """Return the body of an interaction. Raises `RequestError` (bad_request) naming a field."""
    request = without(request, LACKS, "gemini's interactions API")
    config = given(
        temperature=request.temperature,
        top_p=request.top_p,
        max_output_tokens=request.max_tokens,
        stop_sequences=stops(request),
        seed=request.seed,
    )
    common = given(
        model=None if "agent" in request.extra else model,
        stream=request.stream,
    )
    if not isinstance(request, ChatRequest):
        return common | given(input=request.prompt, generation_config=config or None)
    remembered = "previous_interaction_id" in request.extra
    system, rest = split(history(request, ANY_64, remembered=remembered))
    return common | given(
        input=_steps(rest),
        system_instruction="\n\n".join(result_text(m.get("content")) for m in system) or None,
        tools=None if request.tools is None else [_tool(tool) for tool in request.tools],
        response_format=_format(request.response_format),
        generation_config=(config | _chat_config(model, request)) or None,
    )


def _chat_config(model: str, request: ChatRequest) -> Json:
    level = thinking_level(model, request)
    summary = request.reasoning and request.reasoning.summary
    return given(
        tool_choice=_choice(request.tool_choice),
        thinking_level=level.lower() if level else None,
        thinking_summaries="auto" if summary else None,
    )


def _format(wanted: Json | None) -> Json | None:
    if wanted is None:
        return None
    kind, schema = response_format(wanted)
    if kind == "text":
        return {"type": "text", "mime_type": "text/plain"}
    return given(
        type="text", mime_type="application/json", schema=schema.schema if schema else None
    )


def _steps(messages: list[Json]) -> list[Json]:
    """Return the conversation as steps: what was thought, said, called and found."""
    steps: list[Json] = []
    names: dict[str, str] = {}
    for message in messages:
        if message["role"] == "tool":
            steps.append(_function_result(message, names))
            continue
        steps += [_thought(thought) for thought in thoughts(message) if _ours(thought)]
        kind = "user_input" if message["role"] == "user" else "model_output"
        if content := _contents(message):
            steps.append({"type": kind, "content": content})
        steps += [_function_call(call) for call in tool_calls(message, names)]
    return steps


def _ours(thought: Thought) -> bool:
    """Return whether a thought is of this API: signed, or a step of one of Google's tools."""
    kind = (thought.detail or {}).get("type", "")
    return str(kind).endswith(("_call", "_result")) if thought.detail else bool(thought.signature)


def _thought(thought: Thought) -> Json:
    """Return a thought, or a step of one of Google's tools, which came beside the thoughts."""
    if thought.detail:
        return thought.detail | given(signature=thought.signature)
    summary = [{"type": "text", "text": thought.text}] if thought.text else None
    return given(type="thought", summary=summary, signature=thought.signature)


def _function_call(call: CalledTool) -> Json:
    name, arguments = call.function.name, call_arguments(call)
    return {"type": "function_call", "id": call.id, "name": name, "arguments": arguments}


def _function_result(message: Json, names: dict[str, str]) -> Json:
    name, id = answered(message, names)
    contents = _contents(message)
    texts = [content.get("text") for content in contents if content.get("type") == "text"]
    only_text = len(texts) == len(contents)
    return given(
        type="function_result",
        call_id=id,
        name=name,
        result="".join(map(str, texts)) if only_text else contents,
        is_error=True if message.get("is_error") else None,
    )


def _contents(message: Json) -> list[Json]:
    return [_content(part) for part in said_parts(message)]


def _content(part: Json) -> Json:
    """Return a part as a content; what is none of the chat form's is the API's already."""
    match part.get("type"):
        case "image_url":
            detail = link(part).detail
            return _media("image", picture(part), resolution=None if detail == "auto" else detail)
        case "file":
            about = file(part)
            where = about.file_data or about.file_url or about.file_id or ""
            return _media("document", source(where))
        case "input_audio":
            heard = sound(part)
            return _media("audio", Source("", f"audio/{heard.format}", heard.data))
        case _:
            return unmarked(part)


def _media(kind: str, where: Source, **more: Any) -> Json:
    held: Json = {"uri": where.url} if where.data is None else {"data": where.data}
    return given(type=kind, mime_type=where.media_type, **held, **more)


def _tool(tool: Json) -> Json:
    if "function" not in tool:  # one of Google's, or in the API's form already
        return unmarked(tool)
    offered = offered_tool(tool)
    return given(
        type="function",
        name=offered.name,
        description=offered.description,
        parameters=offered.parameters,
    )


def _choice(choice: Json | str | None) -> Json | str | None:
    if choice is None or (isinstance(choice, dict) and "function" not in choice):
        return choice
    mode, only = tool_choice(choice)
    return {"allowed_tools": {"mode": mode, "tools": [only]}} if only else mode
