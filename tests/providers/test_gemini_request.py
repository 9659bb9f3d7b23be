"""What Gemini is sent, for streamed generation and for interactions."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.config import Provider
from ringcast.errors import Code, RequestError
from ringcast.providers import request
from ringcast.providers.gemini import Gemini, generation_body
from ringcast.providers.request import Call, Json
from ringcast.providers.vendor import Model, Page
from ringcast.shm.records import Cursor

USER: Json = {"role": "user", "content": "hi"}
GEMINI = Gemini(Provider("gemini"))
TOOL: Json = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
}


def asked(**fields: Any) -> request.ChatRequest | request.CompletionRequest:
    given = {"model": "m"} if "prompt" in fields else {"model": "m", "messages": [USER]}
    return request.decode(msgspec.msgpack.encode(given | fields))


def shaped(model: str = "gemini-3", **fields: Any) -> Call:
    return GEMINI.generate(model, asked(**fields))


def generated(model: str = "gemini-3", **fields: Any) -> Json:
    return shaped(model, **fields).body


def interacted(**fields: Any) -> Json:
    return shaped(api="interactions", **fields).body


def refusal(model: str = "gemini-3", **fields: Any) -> str:
    with pytest.raises(RequestError) as caught:
        shaped(model, **fields)
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
        top_k=5,
        stop="x",
        presence_penalty=1,
        frequency_penalty=-1,
        seed=7,
        n=2,
        logprobs=True,
        top_logprobs=3,
    )
    assert call == Call(
        "/models/gemini-3:streamGenerateContent?alt=sse",
        {
            "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
            "systemInstruction": {"parts": [{"text": "be brief"}]},
            "generationConfig": {
                "temperature": 0.5,
                "topP": 0.9,
                "topK": 5,
                "maxOutputTokens": 9,
                "stopSequences": ["x"],
                "presencePenalty": 1.0,
                "frequencyPenalty": -1.0,
                "seed": 7,
                "candidateCount": 2,
                "responseLogprobs": True,
                "logprobs": 3,
            },
        },
    )
    assert generated() == {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


def test_an_answer_in_one_piece_has_another_path() -> None:
    call = shaped(stream=False)
    assert call.path == "/models/gemini-3:generateContent"
    assert call.headers == {"accept": "application/json"}
    assert call.body == generated()


@pytest.mark.parametrize(
    ("wanted", "config"),
    [
        ({"type": "text"}, {"responseMimeType": "text/plain"}),
        ({"type": "json_object"}, {"responseMimeType": "application/json"}),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
            {"responseMimeType": "application/json", "responseJsonSchema": {"type": "object"}},
        ),
    ],
)
def test_the_form_of_an_answer(wanted: Json, config: Json) -> None:
    assert generated(response_format=wanted)["generationConfig"] == config


@pytest.mark.parametrize(
    ("model", "fields", "config"),
    [
        ("gemini-2.5-pro", {"effort": "none"}, {"includeThoughts": False, "thinkingBudget": 0}),
        ("gemini-2.5-pro", {"effort": "low"}, {"includeThoughts": True, "thinkingBudget": 1024}),
        ("gemini-2.5-pro", {"effort": "max"}, {"includeThoughts": True, "thinkingBudget": 24_576}),
        ("gemini-2.5-pro", {"budget_tokens": -1}, {"includeThoughts": True, "thinkingBudget": -1}),
        ("gemini-3-pro", {"budget_tokens": 9}, {"includeThoughts": True, "thinkingBudget": 9}),
        (
            "gemini-3-pro",
            {"effort": "minimal"},
            {"includeThoughts": True, "thinkingLevel": "MINIMAL"},
        ),
        (
            "gemini-pro-latest",
            {"effort": "xhigh"},
            {"includeThoughts": True, "thinkingLevel": "HIGH"},
        ),
        ("gemini-3-pro", {"summary": "auto"}, {"includeThoughts": True}),
    ],
)
def test_how_much_to_think(model: str, fields: Json, config: Json) -> None:
    assert generated(model, reasoning=fields)["generationConfig"] == {"thinkingConfig": config}


def test_what_does_not_think_can_be_told_not_to() -> None:
    assert generated("gemini-2.0-flash", reasoning={"effort": "none"}) == generated()


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
    assert shaped(model).path == path


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
        answer("", [{"type": "text", "text": "two"}], name="g"),
        answer("a", "one", is_error=True),
    ]
    assert generated("gemini-2.5", messages=messages)["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"text": "see"},
                {
                    "functionCall": {"id": "a", "name": "f", "args": {"n": 1}},
                    "thoughtSignature": "S",
                },
                {"functionCall": {"id": "call_0", "name": "g", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {
                    "functionResponse": {
                        "id": "call_0",
                        "name": "g",
                        "response": {"output": "two"},
                    }
                },
                {"functionResponse": {"id": "a", "name": "f", "response": {"error": "one"}}},
            ],
        },
    ]


def test_a_door_that_refuses_ids_gets_none() -> None:
    given = asked(messages=[USER, calling(called("a", "f")), answer("a", "one")])
    assert generation_body("gemini-2.5", given, ids=False)["contents"][1:] == [
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]},
        {
            "role": "user",
            "parts": [{"functionResponse": {"name": "f", "response": {"output": "one"}}}],
        },
    ]


def signatures(model: str, reasoning: list[Json], **beside: Any) -> list[str | None]:
    """Those of two calls."""
    calls = calling(called("a", "f", **beside), called("b", "f"))
    messages = [USER, calls | {"reasoning": reasoning}, answer("a", "1"), answer("b", "2")]
    parts = generated(model, messages=messages)["contents"][1]["parts"]
    return [part.get("thoughtSignature") for part in parts]


def test_signatures_go_back_to_their_calls_and_calls_of_others_have_a_stand_in() -> None:
    ours = [{"content": "hm"}] + [
        {"signature": sign, "detail": {"tool_call": n}} for n, sign in enumerate(["S", "T"])
    ]
    beside = {"extra_content": {"google": {"thought_signature": "G"}}}
    assert signatures("gemini-3", ours) == ["S", "T"]
    assert signatures("gemini-3", ours[:2], **beside) == ["S", None]
    assert signatures("gemini-3", [], **beside) == ["G", None]
    assert signatures("gemini-3", []) == ["skip_thought_signature_validator", None]
    assert signatures("gemini-2.5", []) == [None, None]


def test_signatures_go_back_to_texts_and_other_parts_too() -> None:
    code = {"executableCode": {"language": "PYTHON", "code": "1"}}
    pieces = [
        {"content": "thought"},
        {"signature": "S", "detail": code},
        {"signature": "T", "detail": {"type": "reasoning.text"}},  # of another provider
    ]
    said = {"role": "assistant", "content": "yes"}

    def parts(**message: Any) -> Any:
        return generated(messages=[USER, said | message])["contents"][1]["parts"]

    assert parts(reasoning=pieces) == [{"text": "yes"}, code | {"thoughtSignature": "S"}]
    bare = [{"content": "thought"}, {"signature": "S"}]
    assert parts(reasoning=bare) == [{"text": "yes", "thoughtSignature": "S"}]
    assert parts(reasoning=bare, content="") == [{"text": "", "thoughtSignature": "S"}]


def test_what_tools_show() -> None:
    shown = picture("data:image/png;base64,AA==")[0]["content"]
    found = [{"type": "text", "text": "see"}, *shown]
    messages = [USER, calling(called("a", "f")), answer("a", found)]
    [response] = generated(messages=messages)["contents"][2]["parts"]
    assert response["functionResponse"] == {
        "id": "a",
        "name": "f",
        "response": {"output": "see"},
        "parts": [{"inlineData": {"mimeType": "image/png", "data": "AA=="}}],
    }
    text = refusal("gemini-2.5-pro", messages=messages)
    assert text == "messages[].content: before Gemini 3 tools' results must be text"


@pytest.mark.parametrize(
    ("part", "expected", "content"),
    [
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA=="}},
            {"inlineData": {"mimeType": "application/pdf", "data": "AA=="}},
            {"type": "document", "mime_type": "application/pdf", "data": "AA=="},
        ),
        (
            {"type": "file", "file": {"file_id": "files/x"}},
            {"fileData": {"fileUri": "files/x"}},
            {"type": "document", "uri": "files/x"},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            {"inlineData": {"mimeType": "audio/wav", "data": "AA=="}},
            {"type": "audio", "mime_type": "audio/wav", "data": "AA=="},
        ),
    ],
)
def test_files_and_sounds(part: Json, expected: Json, content: Json) -> None:
    messages = [{"role": "user", "content": [part]}]
    assert generated(messages=messages)["contents"][0]["parts"] == [expected]
    assert interacted(messages=messages)["input"][0]["content"] == [content]


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
    for url in ("https://x/y", "https://[x", "https://x//[/#.png"):
        assert part(url) == {"fileData": {"fileUri": url}}


def test_parts_in_geminis_own_form_stay() -> None:
    own = {"text": "", "thoughtSignature": "S"}
    marked = own | {"cache_control": {"type": "ephemeral"}}
    messages = [USER, {"role": "assistant", "content": [marked]}]
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
        (
            {"prompt": "x", "api": "generate"},
            "prompt: generate takes messages; ask for api=interactions to send a prompt",
        ),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages: needs a user message"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[].role: 'robot' is none of"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[].content: must be a string"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[].content: must be a string"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
            "messages[].content[].type: 'video' is none of",
        ),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages: the user must begin"),
        *(
            ({name: value}, f"{name}: gemini has no such parameter")
            for name, value in {
                "metadata": {"a": "b"},
                "user": "u",
                "cache_key": "k",
                "parallel_tool_calls": False,
            }.items()
        ),
        (
            {"reasoning": {"effort": "low", "budget_tokens": 9}},
            "reasoning: gemini takes either an effort or budget_tokens",
        ),
        (
            {"reasoning": {"effort": "none"}},
            "reasoning.effort: gemini-3 cannot stop thinking",
        ),
        ({"tools": [{"function": {"name": "1"}}]}, "tools[].function.name: gemini wants"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "messages[].content[].text: ",
        ),
        ({"messages": picture("data:image/png,x")}, "messages[].content[]: a data: url must be"),
        ({"messages": picture(5)}, "messages[].content[]: "),
        ({"messages": picture("")}, "messages[].content[].image_url: must not be empty"),
        ({"messages": [answer("a", "x")]}, "messages[].tool_call_id: 'a' answers no call"),
        (
            {
                "api": "interactions",
                "messages": [{"role": "system", "content": picture("u")[0]["content"]}, USER],
            },
            "messages[].content: instructions and tools' results must be text",
        ),
        ({"messages": [calling({"id": "a"}), answer("a", "")]}, "messages[].tool_calls: "),
        (
            {"messages": [calling(called("a", "f", "[1]")), answer("a", "")]},
            "messages[].tool_calls[].function.arguments: not a JSON object",
        ),
        ({"tools": [{"function": {}}]}, "tools[].function: "),
        ({"tool_choice": "maybe"}, "tool_choice: 'maybe' is none of auto, none, required"),
        ({"tool_choice": {"function": {}}}, "tool_choice.function: "),
        ({"api": "interactions", "n": 2}, "n: gemini's interactions API has no such parameter"),
        (
            {"api": "interactions", "messages": [answer("a", "x", name="f")]},
            "messages[].tool_call_id: 'a' answers no call",
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


def test_an_interaction_that_is_remembered_takes_a_result_alone() -> None:
    body = interacted(
        messages=[answer("a", "one", name="f", is_error=True)],
        extra={"previous_interaction_id": "v1_i"},
    )
    result = {"type": "function_result", "call_id": "a", "name": "f", "result": "one"}
    assert body["input"] == [result | {"is_error": True}]


def test_an_interactions_thoughts_form_and_level() -> None:
    search = {"type": "google_search_call", "arguments": {"queries": ["q"]}}
    pieces = [
        {"content": "hm"},
        {"signature": "S"},
        {"signature": "T", "detail": search, "block": 1},
        {"signature": "U", "detail": {"type": "reasoning.text"}, "block": 2},
        {"content": "without a proof", "block": 3},
    ]
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    body = interacted(
        messages=[USER, {"role": "assistant", "content": "yes", "reasoning": pieces}],
        reasoning={"effort": "low", "summary": "auto"},
        response_format=wanted,
        stream=False,
    )
    assert body == {
        "model": "gemini-3",
        "input": [
            {"type": "user_input", "content": [{"type": "text", "text": "hi"}]},
            {"type": "thought", "summary": [{"type": "text", "text": "hm"}], "signature": "S"},
            search | {"signature": "T"},
            {"type": "model_output", "content": [{"type": "text", "text": "yes"}]},
        ],
        "generation_config": {"thinking_level": "low", "thinking_summaries": "auto"},
        "response_format": {
            "type": "text",
            "mime_type": "application/json",
            "schema": {"type": "object"},
        },
        "stream": False,
    }
    assert interacted(response_format={"type": "text"})["response_format"] == {
        "type": "text",
        "mime_type": "text/plain",
    }


def test_what_an_interactions_tools_show() -> None:
    shown = picture("https://x/y.png")[0]["content"]
    messages = [calling(called("a", "f")), answer("a", shown)]
    [_, result] = interacted(messages=messages)["input"]
    image = {"type": "image", "mime_type": "image/png", "uri": "https://x/y.png"}
    assert result["result"] == [image]


def test_an_interactions_pictures() -> None:
    content = interacted(messages=picture("data:image/png;base64,AA=="))["input"][0]["content"]
    assert content == [{"type": "image", "mime_type": "image/png", "data": "AA=="}]
    closely = {"url": "u", "detail": "high"}
    content = interacted(messages=picture(closely))["input"][0]["content"]
    assert content == [{"type": "image", "uri": "u", "resolution": "high"}]
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


# Short answers


def test_models_come_in_pages() -> None:
    assert GEMINI.models() == Call("/models?pageSize=1000", method="GET")
    assert GEMINI.health() == Call("/models?pageSize=1", method="GET")
    call = GEMINI.models("a&b")
    assert call is not None
    assert call.path == "/models?pageSize=1000&pageToken=a%26b"
    listed = {
        "name": "models/gemini-x",
        "displayName": "Gemini X",
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
    }
    answer = {"models": [listed, {"name": "tunedModels/y"}], "nextPageToken": "p"}
    models = [
        Model("gemini-x", "Gemini X", "google", None, 1_048_576, 65_536),
        Model("tunedModels/y", owner="google"),
    ]
    assert GEMINI.read_models(json.dumps(answer).encode()) == Page(models, "p")
    assert GEMINI.read_models(b"{}") == Page([])


def test_a_count_is_of_what_makes_the_prompt() -> None:
    call = GEMINI.count("gemini-3", asked(user="u"))
    contents = [{"role": "user", "parts": [{"text": "hi"}]}]
    counted = {"model": "models/gemini-3", "contents": contents}
    body = {"generateContentRequest": counted}
    assert call == Call("/models/gemini-3:countTokens", body)
    prompt = GEMINI.count("gemini-3", asked(prompt="hi", api="interactions"))
    assert prompt == Call("/models/gemini-3:countTokens", {"contents": contents})
    assert GEMINI.read_count(b'{"totalTokens":11}') == 11


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"models":5}', b'{"models":[{}]}'])
def test_what_is_no_answer(answer: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        GEMINI.read_models(answer)
    with pytest.raises(msgspec.MsgspecError):
        GEMINI.read_count(answer)


def test_capabilities_know_the_model() -> None:
    assert not GEMINI.capabilities("gemini-2.0-flash").reasoning
    assert GEMINI.capabilities("gemini-2.5-flash").reasoning
