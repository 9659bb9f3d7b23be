"""What Gemini is sent, for streamed generation and for interactions."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.config import Provider
from ringcast.errors import Code, RequestError
from ringcast.providers import request
from ringcast.providers.gemini import Gemini
from ringcast.providers.request import Call, Json
from ringcast.shm.records import Cursor

USER: Json = {"role": "user", "content": "hi"}
GEMINI = Gemini(Provider("gemini"))
TOOL: Json = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
}


def shaped(**fields: Any) -> Call:
    asked = {"model": "m"} if "prompt" in fields else {"model": "m", "messages": [USER]}
    return GEMINI.generate("gemini-3", request.decode(msgspec.msgpack.encode(asked | fields)))


def generated(**fields: Any) -> Json:
    return shaped(**fields).body


def interacted(**fields: Any) -> Json:
    return shaped(api="interactions", **fields).body


def refusal(**fields: Any) -> str:
    with pytest.raises(RequestError) as caught:
        shaped(**fields)
    assert caught.value.code == Code.BAD_REQUEST
    return caught.value.message


def calling(*calls: Json, content: Any = None) -> Json:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def called(id: str | None, name: str, arguments: str = "{}", **beside: Any) -> Json:
    return {"id": id, "function": {"name": name, "arguments": arguments}} | beside


def answer(id: str, content: Any, **beside: Any) -> Json:
    return {"role": "tool", "tool_call_id": id, "content": content} | beside


def picture(url: Any) -> list[Json]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]


def test_generation() -> None:
    call = shaped(
        messages=[{"role": "system", "content": "be brief"}, USER],
        max_tokens=9,
        temperature=0.5,
        top_p=0.9,
        stop="x",
        seed=7,
        n=2,
    )
    assert call == Call(
        "/models/gemini-3:streamGenerateContent?alt=sse",
        {
            "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
            "systemInstruction": {"parts": [{"text": "be brief"}]},
            "generationConfig": {
                "temperature": 0.5,
                "topP": 0.9,
                "maxOutputTokens": 9,
                "stopSequences": ["x"],
                "seed": 7,
                "candidateCount": 2,
            },
        },
    )
    assert generated() == {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-3", "/models/gemini-3:streamGenerateContent?alt=sse"),
        ("models/gemini-3", "/models/gemini-3:streamGenerateContent?alt=sse"),
        ("tunedModels/mine", "/tunedModels/mine:streamGenerateContent?alt=sse"),
        ("../x?y#z", "/models/..%2Fx%3Fy%23z:streamGenerateContent?alt=sse"),
    ],
)
def test_the_model_is_in_the_path(model: str, path: str) -> None:
    asked = request.ChatRequest(model="m", messages=[USER])
    assert GEMINI.generate(model, asked).path == path


def test_neighbours_of_one_role_are_joined_and_empty_ones_go() -> None:
    messages = [
        USER,
        {
            "role": "user",
            "content": [{"type": "text", "text": "and"}, {"type": "text", "text": ""}],
        },
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "yes"},
    ]
    assert generated(messages=messages)["contents"] == [
        {"role": "user", "parts": [{"text": "hi"}, {"text": "and"}]},
        {"role": "model", "parts": [{"text": "yes"}]},
    ]


def test_calls_and_their_results() -> None:
    signed = {"extra_content": {"google": {"thought_signature": "S"}}}
    messages = [
        USER,
        calling(called("a", "f", '{"n": 1}', **signed), called(None, "g"), content="see"),
        answer("a", "one"),
        answer("", [{"type": "text", "text": "two"}], name="g"),
    ]
    assert generated(messages=messages)["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"text": "see"},
                {
                    "functionCall": {"id": "a", "name": "f", "args": {"n": 1}},
                    "thoughtSignature": "S",
                },
                {"functionCall": {"name": "g", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "a", "name": "f", "response": {"output": "one"}}},
                {"functionResponse": {"name": "g", "response": {"output": "two"}}},
            ],
        },
    ]


def test_pictures() -> None:
    def part(url: Any) -> Json:
        found: Json = generated(messages=picture(url))["contents"][0]["parts"][0]
        return found

    assert part({"url": "data:image/png;base64,AA=="}) == {
        "inlineData": {"mimeType": "image/png", "data": "AA=="}
    }
    assert part("https://x/y.jpg?z=1") == {
        "fileData": {"mimeType": "image/jpeg", "fileUri": "https://x/y.jpg?z=1"}
    }
    assert part("https://x/y") == {"fileData": {"fileUri": "https://x/y"}}


def test_parts_in_geminis_own_form_stay() -> None:
    own = {"text": "", "thoughtSignature": "S"}
    messages = [USER, {"role": "assistant", "content": [own]}]
    assert generated(messages=messages)["contents"][1] == {"role": "model", "parts": [own]}


def test_tools() -> None:
    declared = {"name": "f", "description": "d", "parametersJsonSchema": {"type": "object"}}
    assert generated(tools=[TOOL, {"googleSearch": {}}])["tools"] == [
        {"googleSearch": {}},
        {"functionDeclarations": [declared]},
    ]


@pytest.mark.parametrize(
    ("choice", "config", "interaction"),
    [
        ("auto", {"mode": "AUTO"}, "auto"),
        ("none", {"mode": "NONE"}, "none"),
        ("required", {"mode": "ANY"}, "any"),
        (
            {"type": "function", "function": {"name": "f"}},
            {"mode": "ANY", "allowedFunctionNames": ["f"]},
            {"allowed_tools": {"mode": "any", "tools": ["f"]}},
        ),
    ],
)
def test_tool_choice(choice: Any, config: Json, interaction: Any) -> None:
    assert generated(tool_choice=choice)["toolConfig"] == {"functionCallingConfig": config}
    assert interacted(tool_choice=choice)["generation_config"] == {"tool_choice": interaction}


def test_extra_comes_last_and_adds_to_objects() -> None:
    extra = {"generationConfig": {"thinkingConfig": {"includeThoughts": True}, "seed": 2}, "x": 1}
    body = generated(temperature=0.5, seed=1, extra=extra)
    assert body["generationConfig"] == {
        "temperature": 0.5,
        "seed": 2,
        "thinkingConfig": {"includeThoughts": True},
    }
    assert body["x"] == 1
    assert generated(extra={"contents": []})["contents"] == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"api": "chat"}, "api: gemini has generate and interactions, not chat"),
        ({"prompt": "x"}, "prompt: generate takes messages; ask for api=interactions"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages: needs a user message"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[].role: 'robot' is none of"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[].content: must be a string"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[].content: must be a string"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[].content[].type: 'input_audio' is none of",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "messages[].content[].text: ",
        ),
        ({"messages": picture("data:image/png,x")}, "messages[].content[]: a data: url must be"),
        ({"messages": picture(5)}, "messages[].content[]: "),
        ({"messages": [answer("a", "x")]}, "messages[].tool_call_id: 'a' answers no call"),
        (
            {"messages": [calling(called("a", "f")), answer("a", picture("u")[0]["content"])]},
            "messages[].content: instructions and tools' results must be text",
        ),
        ({"messages": [calling({})]}, "messages[].tool_calls: "),
        (
            {"messages": [calling(called("a", "f", "[1]"))]},
            "messages[].tool_calls[].function.arguments: not a JSON object",
        ),
        ({"tools": [{"function": {}}]}, "tools[].function: "),
        ({"tool_choice": "maybe"}, "tool_choice: 'maybe' is none of auto, none, required"),
        ({"tool_choice": {"function": {}}}, "tool_choice.function: "),
        ({"api": "interactions", "n": 2}, "n: interactions have one answer"),
        (
            {"api": "interactions", "messages": [calling(called(None, "f"))]},
            "messages[].tool_calls[].id: interactions need one",
        ),
        (
            {"api": "interactions", "messages": [answer("", "x", name="f")]},
            "messages[].tool_call_id: interactions need one",
        ),
    ],
)
def test_refusals_name_the_field(fields: Json, message: str) -> None:
    assert refusal(**fields).startswith(message)


def test_an_interaction() -> None:
    call = shaped(
        api="interactions",
        messages=[
            {"role": "system", "content": "be brief"},
            USER,
            calling(called("a", "f", '{"n": 1}'), content="see"),
            answer("a", "one"),
        ],
        tools=[TOOL, {"type": "google_search"}],
        max_tokens=9,
        top_p=0.5,
        stop=["x"],
        extra={"background": True, "generation_config": {"thinking_level": "low"}},
    )
    assert call == Call(
        "/interactions",
        {
            "model": "gemini-3",
            "input": [
                {"type": "user_input", "content": [{"type": "text", "text": "hi"}]},
                {"type": "model_output", "content": [{"type": "text", "text": "see"}]},
                {"type": "function_call", "id": "a", "name": "f", "arguments": {"n": 1}},
                {"type": "function_result", "call_id": "a", "name": "f", "result": "one"},
            ],
            "system_instruction": "be brief",
            "tools": [
                {"type": "function"} | TOOL["function"],
                {"type": "google_search"},
            ],
            "generation_config": {
                "top_p": 0.5,
                "max_output_tokens": 9,
                "stop_sequences": ["x"],
                "thinking_level": "low",
            },
            "stream": True,
            "background": True,
        },
        {"api-revision": "2026-05-20"},
    )


def test_an_interaction_from_a_prompt_and_with_an_agent() -> None:
    assert interacted(prompt="p") == {"model": "gemini-3", "input": "p", "stream": True}
    agent = interacted(prompt="p", extra={"agent": "deep-research"})
    assert agent == {"agent": "deep-research", "input": "p", "stream": True}


def test_an_interactions_pictures() -> None:
    content = interacted(messages=picture("data:image/png;base64,AA=="))["input"][0]["content"]
    assert content == [{"type": "image", "mime_type": "image/png", "data": "AA=="}]
    content = interacted(messages=picture("https://x/y.webp"))["input"][0]["content"]
    assert content == [{"type": "image", "mime_type": "image/webp", "uri": "https://x/y.webp"}]


def test_reattaching_and_cancelling() -> None:
    assert (
        GEMINI.reattach("interactions", Cursor("v1_i", "")).path == "/interactions/v1_i?stream=true"
    )
    assert GEMINI.recall("interactions", Cursor("v1_i", "e")).path == "/interactions/v1_i/cancel"


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.text("+/=&?#% a", min_size=1)
)
def test_ids_are_quoted(id: str, after: str) -> None:
    cursor = Cursor(id, after)
    parts = urlsplit(GEMINI.reattach("interactions", cursor).path)
    assert unquote(parts.path) == f"/interactions/{id}"
    assert parts.path.count("/") == 2
    assert parse_qs(parts.query) == {"stream": ["true"], "last_event_id": [after]}
    assert unquote(GEMINI.recall("interactions", cursor).path) == f"/interactions/{id}/cancel"
