"""What Bedrock is asked: its own SDK is the judge of places and of Converse's bodies."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.config import Provider
from ringcast.errors import Code, RequestError
from ringcast.providers import request
from ringcast.providers.bedrock import Bedrock
from ringcast.providers.request import Call, Json
from ringcast.providers.vendor import AnyRequest, Model

AMAZON: Final = "https://bedrock-runtime.us-east-1.amazonaws.com"
BEDROCK: Final = Bedrock(Provider("bedrock", AMAZON))
USER: Final[Json] = {"role": "user", "content": "hi"}
CLAUDE: Final = "anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA: Final = "amazon.nova-pro-v1:0"
MARK: Final = {"cache_control": {"type": "ephemeral"}}
TOOL: Final[Json] = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
}


def asked(model: str = CLAUDE, **fields: Any) -> AnyRequest:
    said = {} if "prompt" in fields else {"messages": [USER]}
    return request.decode(msgspec.msgpack.encode({"model": f"bedrock/{model}"} | said | fields))


def shaped(model: str = CLAUDE, **fields: Any) -> Call:
    return BEDROCK.generate(model, asked(model, **fields))


def body(model: str = CLAUDE, **fields: Any) -> Json:
    """The body of a Converse, which its SDK would send just so."""
    call = shaped(model, **fields)
    assert sent_by_sdk(call, model) == call.body
    return call.body


def invoked(model: str, **fields: Any) -> Json:
    return shaped(model, api="invoke", **fields).body


def refusal(model: str = CLAUDE, **fields: Any) -> str:
    with pytest.raises(RequestError) as caught:
        shaped(model, **fields)
    assert caught.value.code == Code.BAD_REQUEST
    return caught.value.message


@cache
def sdk() -> Any:
    """Amazon's own description of the API, as its Python SDK has it."""
    session = pytest.importorskip("botocore.session").Session()
    return session.get_service_model("bedrock-runtime")


def sent_by_sdk(call: Call, model: str) -> Json:
    """The body that the SDK sends for the same parameters, which it checks first."""
    validate = pytest.importorskip("botocore.validate")
    serialize = pytest.importorskip("botocore.serialize")
    operation = sdk().operation_model("ConverseStream")
    parameters = unpacked(operation.input_shape, call.body) | {"modelId": model}
    report = validate.ParamValidator().validate(parameters, operation.input_shape)
    assert not report.has_errors(), report.generate_report()
    sent = serialize.create_serializer("rest-json").serialize_to_request(parameters, operation)
    assert sent["url_path"] == call.path
    said: Json = json.loads(sent["body"])
    return said


def unpacked(shape: Any, value: Any) -> Any:
    """A body with bytes where its JSON has base64."""
    if shape.type_name == "blob":
        return base64.b64decode(value, validate=True)
    if shape.type_name == "list":
        return [unpacked(shape.member, one) for one in value]
    if shape.type_name == "structure" and not shape.is_document_type:
        members = shape.members
        return {n: unpacked(members[n], v) if n in members else v for n, v in value.items()}
    return value


def called(id: str, name: str = "f", arguments: str = "{}") -> Json:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def answered(id: str, content: Any = "r", **beside: Any) -> Json:
    return {"role": "tool", "tool_call_id": id, "content": content} | beside


# Converse: messages


def test_instructions_are_apart_and_neighbours_are_joined() -> None:
    said = body(
        messages=[
            {"role": "system", "content": "s"},
            USER,
            {"role": "developer", "content": [{"type": "text", "text": "d"}]},
            {"role": "user", "content": "more"},
            {"role": "assistant", "content": "a"},
            {"role": "assistant", "content": "  "},
            {"role": "user", "content": ""},
        ]
    )
    assert said == {
        "system": [{"text": "s"}, {"text": "d"}],
        "messages": [
            {"role": "user", "content": [{"text": "hi"}, {"text": "more"}]},
            {"role": "assistant", "content": [{"text": "a"}]},
        ],
    }


def test_calls_and_results_have_ids_that_fit() -> None:
    long = "call.with dots and " + "x" * 60
    calls = [called(long, arguments='{"a": 1}'), called("ok", "g")]
    said = body(
        tools=[TOOL],
        messages=[
            USER,
            {"role": "assistant", "content": None, "tool_calls": calls},
            answered(long, "one"),
            answered("ok", [{"json": {"n": 1}}], is_error=True),
            {"role": "user", "content": "go on"},
        ],
    )
    _, calling, results = said["messages"]
    first, second = (block["toolUse"] for block in calling["content"])
    assert (first["name"], first["input"]) == ("f", {"a": 1})
    assert (second["toolUseId"], second["name"], second["input"]) == ("ok", "g", {})
    assert results["content"] == [
        {"toolResult": {"toolUseId": first["toolUseId"], "content": [{"text": "one"}]}},
        {"toolResult": {"toolUseId": "ok", "content": [{"json": {"n": 1}}], "status": "error"}},
        {"text": "go on"},
    ]


def test_thoughts_go_back_first_and_unchanged_if_they_are_proven() -> None:
    reasoning = [
        {"content": "I think", "block": 0},
        {"content": "", "block": 0, "signature": "sig"},
        {"encrypted": "c2VjcmV0", "block": 1},
        {"content": "loose", "block": 2},
        {"signature": "another's", "block": 3, "detail": {"type": "reasoning.text"}},
    ]
    said = body(messages=[USER, {"role": "assistant", "content": "a", "reasoning": reasoning}])
    assert said["messages"][1]["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "I think", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": "c2VjcmV0"}},
        {"text": "a"},
    ]


def test_pictures_documents_and_sounds() -> None:
    pdf = "data:application/pdf;base64,cGRm"
    said = body(
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,aW1n"}},
                    {"type": "image_url", "image_url": "s3://bucket-1/a.webp"},
                    {"type": "file", "file": {"filename": "My_file (1).v2.PDF", "file_data": pdf}},
                    {"type": "file", "file": {"file_data": "data:text/csv;base64,YSxi"}},
                    {"type": "input_audio", "input_audio": {"data": "d2F2", "format": "wav"}},
                    {"guardContent": {"text": {"text": "guarded"}}},
                ],
            }
        ]
    )
    assert said["messages"][0]["content"] == [
        {"image": {"format": "jpeg", "source": {"bytes": "aW1n"}}},
        {"image": {"format": "webp", "source": {"s3Location": {"uri": "s3://bucket-1/a.webp"}}}},
        {"document": {"format": "pdf", "name": "My file (1) v2", "source": {"bytes": "cGRm"}}},
        {"document": {"format": "csv", "name": "document", "source": {"bytes": "YSxi"}}},
        {"audio": {"format": "wav", "source": {"bytes": "d2F2"}}},
        {"guardContent": {"text": {"text": "guarded"}}},
    ]


def test_marks_become_cache_points_behind_what_they_end() -> None:
    said = body(
        tools=[TOOL | {"cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        messages=[
            {"role": "system", "content": "s", **MARK},
            {"role": "user", "content": [{"type": "text", "text": "a", **MARK}, USER_PART]},
        ],
    )
    point = {"cachePoint": {"type": "default"}}
    assert said["system"] == [{"text": "s"}, point]
    assert said["messages"][0]["content"] == [{"text": "a"}, point, {"text": "b"}]
    assert said["toolConfig"]["tools"][1] == {"cachePoint": {"type": "default", "ttl": "1h"}}


USER_PART: Final = {"type": "text", "text": "b"}


def test_marks_are_left_out_where_models_refuse_them() -> None:
    marked = [{"role": "user", "content": [{"type": "text", "text": "a", **MARK}, USER_PART]}]

    def points(said: Json) -> tuple[bool, bool]:
        blocks = said["messages"][0]["content"], said["toolConfig"]["tools"]
        messages, tools = (any("cachePoint" in block for block in some) for some in blocks)
        return messages, tools

    fields: Json = {"messages": marked, "tools": [TOOL | MARK]}
    assert points(body(**fields)) == (True, True)
    assert points(body(NOVA, **fields)) == points(invoked(NOVA, **fields)) == (True, False)
    assert points(body("meta.llama3-1-70b-instruct-v1:0", **fields)) == (False, False)


# Converse: tools and settings


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, None),
        ("auto", {"auto": {}}),
        ("required", {"any": {}}),
        ({"type": "function", "function": {"name": "f"}}, {"tool": {"name": "f"}}),
        ({"any": {}}, {"any": {}}),
    ],
)
def test_tools_and_their_choice(choice: Any, sent: Any) -> None:
    own = {"systemTool": {"name": "nova_grounding"}}
    config = body(NOVA, tools=[TOOL, own], tool_choice=choice)["toolConfig"]
    spec = {"name": "f", "description": "d", "inputSchema": {"json": {"type": "object"}}}
    assert config["tools"] == [{"toolSpec": spec}, own]
    assert config.get("toolChoice") == sent


def test_no_tool_may_be_called_means_no_tools_unless_there_were_calls() -> None:
    assert "toolConfig" not in body(tools=[TOOL], tool_choice="none")
    talk = [USER, {"role": "assistant", "tool_calls": [called("a")]}, answered("a")]
    config = body(tools=[TOOL], tool_choice="none", messages=talk)["toolConfig"]
    assert config.keys() == {"tools"}


def test_settings() -> None:
    said = body(
        max_tokens=9,
        temperature=0.5,
        top_p=0.9,
        stop="x",
        metadata={"k": "v"},
        extra={"guardrailConfig": {"guardrailIdentifier": "g", "guardrailVersion": "1"}},
    )
    settings = {"maxTokens": 9, "temperature": 0.5, "topP": 0.9, "stopSequences": ["x"]}
    assert said["inferenceConfig"] == settings
    assert said["requestMetadata"] == {"k": "v"}
    assert said["guardrailConfig"] == {"guardrailIdentifier": "g", "guardrailVersion": "1"}


def test_a_schema_goes_as_text() -> None:
    schema = {"name": "n", "schema": {"type": "object"}, "strict": True}
    said = body(response_format={"type": "json_schema", "json_schema": schema})
    told = {"schema": '{"type":"object"}', "name": "n"}
    wanted = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": told}}}
    assert said["outputConfig"] == wanted
    assert "outputConfig" not in body(response_format={"type": "text"})
    assert "json_schema" in refusal(response_format={"type": "json_object"})


@pytest.mark.parametrize(
    ("model", "fields", "sent"),
    [
        (
            CLAUDE,
            {"reasoning": {"budget_tokens": 2048}, "max_tokens": 4096},
            {"thinking": {"type": "enabled", "budget_tokens": 2048}},
        ),
        (
            "eu.anthropic.claude-opus-4-6-v1",
            {"reasoning": {"effort": "max"}, "top_k": 5},
            {"top_k": 5, "thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
        ),
        (CLAUDE, {"reasoning": {"effort": "none"}}, {"thinking": {"type": "disabled"}}),
        (
            NOVA,
            {"reasoning": {"effort": "low"}, "top_k": 5},
            {
                "inferenceConfig": {"topK": 5},
                "reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"},
            },
        ),
        (NOVA, {"reasoning": {"effort": "none"}}, {"reasoningConfig": {"type": "disabled"}}),
        ("mistral.mixtral-8x7b-instruct-v0:1", {"top_k": 5}, {"top_k": 5}),
        (
            "openai.gpt-oss-120b-1:0",
            {"reasoning": {"effort": "high"}},
            {"reasoning_effort": "high"},
        ),
    ],
)
def test_what_only_some_makers_know(model: str, fields: Json, sent: Json) -> None:
    assert body(model, **fields)["additionalModelRequestFields"] == sent


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"prompt": "p", "api": "converse"},
            "prompt: converse takes messages; ask for api=invoke to send a prompt",
        ),
        ({"prompt": "p"}, f"prompt: {CLAUDE} takes messages"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages: the user must begin"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages: the user must begin"),
        ({"seed": 1}, f"seed: {CLAUDE} through converse has no such parameter"),
        ({"tool_choice": "required"}, "tool_choice: goes with tools"),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [called("a")]}, answered("a")]},
            "tools: must be given where messages call or answer some",
        ),
    ],
)
def test_refusals(fields: Json, message: str) -> None:
    assert refusal(**fields) == message


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "image_url", "image_url": "https://x/a.png"}, "bedrock fetches nothing"),
        ({"type": "image_url", "image_url": "data:image/bmp;base64,eA=="}, "a picture must be one"),
        ({"type": "file", "file": {"file_id": "f"}}, "bedrock keeps no files"),
        ({"type": "file", "file": {"file_data": "data:x/y;base64,eA=="}}, "a document must be one"),
        ({"type": "video_url"}, "'video_url' is none of text"),
    ],
)
def test_what_a_part_cannot_be(part: Json, message: str) -> None:
    refused = refusal(messages=[{"role": "user", "content": [part]}])
    assert refused.startswith("messages[].content[]")
    assert message in refused


text = st.text(min_size=1, max_size=6).filter(str.strip)
ids = st.sampled_from(["a", "b.c", "tooluse_x", "ü" * 70])


@st.composite
def talks(draw: st.DrawFn) -> list[Json]:
    """A conversation with calls that are answered."""
    messages: list[Json] = [{"role": "user", "content": draw(text)}]
    for turn in range(draw(st.integers(0, 3))):
        id = f"{draw(ids)}{turn}"
        calls = [called(id, "f", json.dumps({"x": draw(text)}))]
        messages.append({"role": "assistant", "content": draw(text), "tool_calls": calls})
        messages.append(answered(id, draw(text)))
        messages += draw(st.just([]) | st.just([{"role": "user", "content": "next"}]))
    return draw(st.just([]) | st.just([{"role": "system", "content": "s"}])) + messages


@settings(max_examples=60, deadline=None)
@given(messages=talks())
def test_every_conversation_is_one_that_the_sdk_sends(messages: list[Json]) -> None:
    turns = body(messages=messages, tools=[TOOL])["messages"]
    roles = [turn["role"] for turn in turns]
    assert roles == ["user" if number % 2 == 0 else "assistant" for number in range(len(roles))]
    blocks = [block for turn in turns for block in turn["content"]]
    used = [block["toolUse"]["toolUseId"] for block in blocks if "toolUse" in block]
    answers = [block["toolResult"]["toolUseId"] for block in blocks if "toolResult" in block]
    assert used == answers
    assert len(set(used)) == len(used)


# Places


@pytest.mark.parametrize(
    ("model", "place"),
    [
        (CLAUDE, "anthropic.claude-sonnet-4-5-20250929-v1%3A0"),
        (
            "arn:aws:bedrock:us-east-1:1:inference-profile/us.amazon.nova-pro-v1:0",
            "arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.amazon.nova-pro-v1%3A0",
        ),
        ("../../x?y#z", "..%2F..%2Fx%3Fy%23z"),
    ],
)
def test_a_model_is_one_part_of_the_path(model: str, place: str) -> None:
    assert shaped(model).path == f"/model/{place}/converse-stream"
    assert shaped(model, stream=False).path == f"/model/{place}/converse"


def test_what_is_accepted() -> None:
    assert shaped().headers == {"accept": "application/vnd.amazon.eventstream"}
    assert shaped(stream=False).headers == {"accept": "application/json"}
    assert shaped(NOVA, api="invoke").headers == {"accept": "application/vnd.amazon.eventstream"}
    assert shaped(NOVA, api="invoke").path.endswith("/invoke-with-response-stream")
    assert shaped(NOVA, api="invoke", stream=False).path.endswith("/invoke")


@pytest.mark.parametrize(
    ("base_url", "control", "mantle"),
    [
        (
            AMAZON,
            "https://bedrock.us-east-1.amazonaws.com",
            "https://bedrock-mantle.us-east-1.api.aws",
        ),
        (
            "https://bedrock-runtime-fips.us-gov-west-1.amazonaws.com",
            "https://bedrock-fips.us-gov-west-1.amazonaws.com",
            "https://bedrock-mantle.us-gov-west-1.api.aws",
        ),
        ("http://127.0.0.1:8000", "", ""),
        ("https://bedrock-runtime.us-east-1.amazonaws.com.evil.example", "", ""),
    ],
)
def test_amazons_other_hosts(base_url: str, control: str, mantle: str) -> None:
    bedrock = Bedrock(Provider("bedrock", base_url))
    assert bedrock.models().path == f"{control}/foundation-models"
    for api, end in (("chat", "/chat/completions"), ("responses", "/responses")):
        call = bedrock.generate("openai.gpt-5", asked("openai.gpt-5", api=api))
        assert call.path == f"{mantle}/openai/v1{end}"
        assert call.body["model"] == "openai.gpt-5"
        assert call.headers == {}


def test_mantle_knows_openais_models() -> None:
    refused = refusal("openai.gpt-5", api="chat", temperature=0.5)
    assert refused.startswith("temperature: ")


# Models and counts


def test_models_are_those_of_the_makers_and_then_profiles() -> None:
    listed = {
        "modelSummaries": [
            {
                "modelId": "amazon.nova-pro-v1:0",
                "modelName": "Nova Pro",
                "providerName": "Amazon",
                "inputModalities": ["TEXT", "IMAGE"],
                "outputModalities": ["TEXT"],
                "modelLifecycle": {"status": "ACTIVE"},
            },
            {"modelId": "x.y"},
        ]
    }
    first = BEDROCK.read_models(json.dumps(listed).encode())
    assert first.models == [
        Model(
            "amazon.nova-pro-v1:0",
            name="Nova Pro",
            owner="Amazon",
            inputs=["text", "image"],
            outputs=["text"],
        ),
        Model("x.y"),
    ]
    profiles = BEDROCK.models(first.next)
    base_url = "https://bedrock.us-east-1.amazonaws.com"
    assert profiles.path == f"{base_url}/inference-profiles?maxResults=1000"
    summaries = [{"inferenceProfileId": "us.x.y", "inferenceProfileName": "US X Y"}]
    page: Json = {"inferenceProfileSummaries": summaries, "nextToken": "a/b="}
    second = BEDROCK.read_models(json.dumps(page).encode())
    assert second.models == [Model("us.x.y", name="US X Y")]
    assert BEDROCK.models(second.next).path == f"{profiles.path}&nextToken=a%2Fb%3D"
    assert BEDROCK.read_models(json.dumps(page | {"nextToken": None}).encode()).next == ""


def test_a_prompt_is_counted_under_the_models_own_id() -> None:
    wanted = asked(f"us.{CLAUDE}", max_tokens=5, temperature=1.0, tools=[TOOL])
    call = BEDROCK.count(f"us.{CLAUDE}", wanted)
    assert call is not None
    assert call.path == "/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0/count-tokens"
    counted = call.body["input"]["converse"]
    assert counted.keys() == {"messages", "toolConfig"}
    members = sdk().operation_model("CountTokens").input_shape.members["input"].members
    assert counted.keys() <= members["converse"].members.keys()
    assert BEDROCK.read_count(b'{"inputTokens": 7}') == 7


def test_a_body_is_counted_as_it_is() -> None:
    call = BEDROCK.count(CLAUDE, asked(api="invoke"))
    assert call is not None
    encoded = call.body["input"]["invokeModel"]["body"]
    assert json.loads(base64.b64decode(encoded)) == invoked(CLAUDE)


# InvokeModel


def test_claudes_body() -> None:
    said = invoked(CLAUDE, max_tokens=9, top_k=3, extra={"anthropic_beta": ["b"]})
    assert said == {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 9,
        "messages": [USER],
        "top_k": 3,
        "anthropic_beta": ["b"],
    }


def test_novas_body() -> None:
    said = invoked(NOVA, max_tokens=9, top_k=3, tools=[TOOL], reasoning={"effort": "high"})
    assert said.pop("toolConfig")["tools"][0]["toolSpec"]["name"] == "f"
    assert said == {
        "schemaVersion": "messages-v1",
        "messages": [{"role": "user", "content": [{"text": "hi"}]}],
        "inferenceConfig": {"max_new_tokens": 9, "topK": 3},
        "reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"},
    }


def test_gpt_oss_has_openais_body() -> None:
    said = invoked("openai.gpt-oss-20b-1:0", max_tokens=9, reasoning={"effort": "low"})
    assert said == {"messages": [USER], "max_completion_tokens": 9, "reasoning_effort": "low"}


LIMITS: Final[Json] = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9}


@pytest.mark.parametrize(
    ("model", "fields", "sent"),
    [
        (
            "amazon.titan-text-express-v1",
            LIMITS | {"stop": "x"},
            {
                "inputText": "p",
                "textGenerationConfig": {
                    "maxTokenCount": 9,
                    "temperature": 0.5,
                    "topP": 0.9,
                    "stopSequences": ["x"],
                },
            },
        ),
        (
            "us.meta.llama3-2-1b-instruct-v1:0",
            LIMITS,
            {"prompt": "p", "max_gen_len": 9, "temperature": 0.5, "top_p": 0.9},
        ),
        (
            "mistral.mistral-7b-instruct-v0:2",
            LIMITS | {"top_k": 5, "stop": ["x"]},
            {"prompt": "p", "stop": ["x"], "top_k": 5} | LIMITS,
        ),
        (
            "cohere.command-text-v14",
            {"max_tokens": 9, "top_k": 5, "n": 2, "stream": False},
            {"prompt": "p", "max_tokens": 9, "k": 5, "num_generations": 2, "stream": False},
        ),
        (
            "anthropic.claude-v2:1",
            {"max_tokens": 9, "stop": "x"},
            {"prompt": "p", "max_tokens_to_sample": 9, "stop_sequences": ["x"]},
        ),
    ],
)
def test_bodies_of_those_that_go_on_with_a_text(model: str, fields: Json, sent: Json) -> None:
    assert invoked(model, prompt="p", **fields) == sent


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (CLAUDE, {"prompt": "p"}, f"prompt: {CLAUDE} takes messages"),
        (NOVA, {"prompt": "p"}, f"prompt: {NOVA} takes messages"),
        ("ai21.jamba-1-5-mini-v1:0", {}, "model: ai21.jamba-1-5-mini-v1:0 has a body of its own"),
        ("cohere.command-text-v14", {}, "messages: Cohere's command takes a prompt"),
        ("meta.llama2-13b-chat-v1", {"stop": "x"}, "stop: meta.llama2-13b-chat-v1 has no such"),
        ("meta.llama3-8b-instruct-v1:0", {"tools": [TOOL]}, "tools: meta.llama3"),
        (CLAUDE, {"extra": {"trace": 1}}, "extra.trace: "),
    ],
)
def test_what_a_body_cannot_say(model: str, fields: Json, message: str) -> None:
    assert refusal(model, api="invoke", **fields).startswith(message)


TALK: Final[list[Json]] = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "V"},
]


@pytest.mark.parametrize(
    ("model", "prompt"),
    [
        (
            "meta.llama2-13b-chat-v1",
            "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s><s>[INST] V [/INST]",
        ),
        (
            "meta.llama3-8b-instruct-v1:0",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "us.meta.llama4-scout-17b-instruct-v1:0",
            "<|begin_of_text|><|header_start|>system<|header_end|>\n\nS<|eot|>"
            "<|header_start|>user<|header_end|>\n\nU<|eot|>"
            "<|header_start|>assistant<|header_end|>\n\nA<|eot|>"
            "<|header_start|>user<|header_end|>\n\nV<|eot|>"
            "<|header_start|>assistant<|header_end|>\n\n",
        ),
        ("mistral.mistral-7b-instruct-v0:2", "<s>[INST] S\n\nU [/INST] A</s>[INST] V [/INST]"),
        ("amazon.titan-text-lite-v1", "User: S\n\nU\nBot: A\nUser: V\nBot:"),
    ],
)
def test_a_conversation_is_written_as_the_model_knows_it(model: str, prompt: str) -> None:
    said = invoked(model, messages=TALK)
    assert said.get("prompt", said.get("inputText")) == prompt


@pytest.mark.parametrize(
    ("message", "part"),
    [
        (
            {"role": "user", "content": "a<|eot_id|>b"},
            "messages[].content: the model would take <|",
        ),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[].content"),
    ],
)
def test_what_a_prompt_must_not_hold(message: Json, part: str) -> None:
    model = "meta.llama3-8b-instruct-v1:0"
    assert refusal(model, api="invoke", messages=[message]).startswith(part)


def test_what_a_prompt_cannot_say() -> None:
    llama = "meta.llama2-13b-chat-v1"
    calling = {"role": "assistant", "content": "a", "tool_calls": [called("c")]}
    assert refusal(llama, api="invoke", messages=[USER, calling, answered("c")]).startswith(
        "messages[].tool_calls: a prompt has no tools"
    )
    first = [{"role": "system", "content": "s"}, {"role": "assistant", "content": "a"}]
    assert refusal(llama, api="invoke", messages=first).startswith("messages: must begin with")


def test_novas_efforts() -> None:
    assert refusal(NOVA, reasoning={"effort": "max"}) == (
        "reasoning.effort: nova has none, low, medium, high"
    )
    dropped = body(NOVA, reasoning={"effort": "max"}, drop_unsupported=True)
    assert "additionalModelRequestFields" not in dropped


def test_braces_stay_what_they_are() -> None:
    said = invoked(
        "meta.llama2-13b-chat-v1",
        messages=[
            {"role": "system", "content": "{user}"},
            {"role": "user", "content": "{text} {0}"},
        ],
    )
    assert said["prompt"] == "<s>[INST] <<SYS>>\n{user}\n<</SYS>>\n\n{text} {0} [/INST]"
