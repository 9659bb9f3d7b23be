"""Request shaping for Gemini's interactions, a conversation in steps.

Source: ai.google.dev/api/interactions-api#CreateInteraction.
"""

from __future__ import annotations

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
)
from ringcast.providers.request import ChatRequest, Json, given, refuse, stops
from ringcast.providers.vendor import AnyRequest


def shape(model: str, request: AnyRequest) -> Json:
    """Return the body of an interaction. Raises `RequestError` (bad_request) naming a field."""
    if request.n not in (None, 1):
        raise refuse("n", "interactions have one answer")
    chat = request if isinstance(request, ChatRequest) else None
    system, rest = split(chat.messages) if chat else ([], [])
    config = given(
        temperature=request.temperature,
        top_p=request.top_p,
        max_output_tokens=request.max_tokens,
        stop_sequences=stops(request),
        seed=request.seed,
        tool_choice=_choice(chat.tool_choice) if chat else None,
    )
    return given(
        model=None if "agent" in request.extra else model,
        input=_steps(rest) if isinstance(request, ChatRequest) else request.prompt,
        system_instruction="\n\n".join(result_text(m.get("content")) for m in system) or None,
        tools=[_tool(t) for t in chat.tools] if chat and chat.tools is not None else None,
        generation_config=config or None,
        stream=True,
    )


def _steps(messages: list[Json]) -> list[Json]:
    """Return the conversation as steps: what was said, called and found."""
    steps: list[Json] = []
    names: dict[str, str] = {}
    for message in messages:
        if message["role"] == "tool":
            steps.append(_function_result(message, names))
            continue
        kind = "user_input" if message["role"] == "user" else "model_output"
        if content := [_content(part) for part in content_parts(message.get("content"))]:
            steps.append({"type": kind, "content": content})
        steps += [_function_call_step(call) for call in tool_calls(message, names)]
    return steps


def _function_call_step(call: CalledTool) -> Json:
    if not call.id:
        raise refuse("messages[].tool_calls[].id", "interactions need one")
    name, arguments = call.function.name, call_arguments(call)
    return {"type": "function_call", "id": call.id, "name": name, "arguments": arguments}


def _function_result(message: Json, names: dict[str, str]) -> Json:
    name, id = answered(message, names)
    if not id:
        raise refuse("messages[].tool_call_id", "interactions need one")
    result = result_text(message.get("content"))
    return {"type": "function_result", "call_id": id, "name": name, "result": result}


def _content(part: Json) -> Json:
    """Return a part as a content, of which all but pictures are in the API's form already."""
    if part.get("type") != "image_url":
        return part
    url, media_type, data = picture(part)
    where = {"uri": url} if data is None else {"data": data}
    return given(type="image", mime_type=media_type, **where)


def _tool(tool: Json) -> Json:
    if "function" not in tool:  # one of Google's, or in the API's form already
        return tool
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
