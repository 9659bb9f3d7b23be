"""Chat and legacy completions: what untidy servers send, and the fast paths against the slow."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.providers.wire.body import open_body
from ringcast.providers.wire.openai import Chat
from ringcast.providers.wire.sse import SseEvent, SseParser
from ringcast.providers.wire.summary import decode, summarize
from ringcast.shm.tokens import (
    Citation,
    Delta,
    Done,
    Error,
    FunctionCall,
    Logprob,
    Reasoning,
    Refusal,
    StreamToken,
    Text,
    ToolCall,
    Usage,
)

STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def chunk(**delta: Any) -> dict[str, Any]:
    return {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta}]}


def choice(**fields: Any) -> dict[str, Any]:
    return {"choices": [fields]}


def stream(*payloads: Any) -> bytes:
    texts = (p if isinstance(p, str) else json.dumps(p) for p in payloads)
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def tokens(*payloads: Any, api: str = "chat") -> list[StreamToken]:
    return decode(api, [stream(*payloads)])


def ended(*payloads: Any) -> Error:
    last = tokens(*payloads)[-1]
    assert isinstance(last, Error)
    return last


def tool(**fields: Any) -> dict[str, Any]:
    return chunk(tool_calls=[fields])


def calls(*payloads: Any) -> list[tuple[Any, ...]]:
    summary = summarize(tokens(*payloads, STOP, "[DONE]"))
    return [tuple(call.values()) for call in summary["tool_calls"]]


def test_text_then_done() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    counted = Usage(3, 2)
    assert tokens(chunk(content="Hel"), chunk(content="lo"), STOP, usage, "[DONE]") == [
        Text("Hel"),
        Text("lo"),
        counted,
        Done("stop", "stop", usage=counted, id="c1", model="m"),
    ]


def test_other_choices_and_logprobs_are_deltas() -> None:
    entry = {
        "token": "a",
        "logprob": -1,
        "bytes": [97],
        "top_logprobs": [{"token": "b", "logprob": -2.5}],
    }
    scored = {"delta": {"content": "a"}, "logprobs": {"content": [entry]}}
    assert tokens(choice(index=1, delta={"content": "x"}), choice(index=0, **scored))[:2] == [
        Delta("x", 1),
        Delta("a", 0, [Logprob("a", -1.0, b"a", [("b", -2.5)])]),
    ]


@pytest.mark.parametrize(
    "entries",
    [
        [{"token": 1}],
        [{"token": "a", "logprob": "x"}],
        5,
        "x",
        [None],
        [{"token": "a", "logprob": 0, "bytes": [999]}],
    ],
)
def test_unreadable_logprobs_are_dropped_and_counted(entries: Any) -> None:
    body = open_body("chat")
    found = body.feed(
        stream({"choices": [{"delta": {"content": "a"}, "logprobs": {"content": entries}}]})
    )
    assert found == [Text("a")]
    assert body.oddities == 1


def test_ids_of_tokens_where_they_were_asked_for() -> None:
    first = {"prompt_token_ids": [1, 2]} | choice(delta={"role": "assistant"}, token_ids=None)
    pieces = [
        choice(index=0, delta={"content": "Hel"}, token_ids=[5]),
        choice(index=0, delta={"content": "lo"}, token_ids=[6, 200_000]),
        choice(index=0, delta={"reasoning": "hm"}, token_ids=[7]),
        choice(index=0, delta={"content": "!"}, token_ids=[]),
    ]
    assert tokens(first, *pieces, STOP)[:-1] == [
        Delta("", prompt_token_ids=[1, 2]),
        Delta("Hel", token_ids=[5]),
        Delta("lo", token_ids=[6, 200_000]),
        Reasoning("hm"),
        Delta("", token_ids=[7]),
        Text("!"),
    ]
    legacy = choice(index=0, text="a", token_ids=[8], prompt_token_ids=[1])
    assert tokens(legacy, api="completions")[0] == Delta("a", 0, None, [8], [1])


@pytest.mark.parametrize("ids", [5, "x", [None], [-1], [2**32], [1.5], [True], {"a": 1}])
def test_ids_that_are_none_are_dropped_and_counted(ids: Any) -> None:
    body = open_body("chat")
    assert body.feed(stream(choice(index=0, delta={"content": "a"}, token_ids=ids))) == [Text("a")]
    assert body.oddities == 1


def test_refusal_function_call_and_annotation() -> None:
    about = {"url": "https://a", "title": "t", "start_index": 1, "end_index": 2}
    annotation = {"type": "url_citation", "url_citation": about}
    found = tokens(
        chunk(refusal="no"),
        chunk(function_call={"name": "f", "arguments": "{"}),
        chunk(function_call={"arguments": "}"}),
        chunk(annotations=[annotation]),
    )
    assert found[:-1] == [
        Refusal("no"),
        FunctionCall("f", "{"),
        FunctionCall(None, "}"),
        Citation("https://a", "t", None, 1, 2, 0, annotation),
    ]


def test_reasoning_is_told_once() -> None:
    detail = {"type": "reasoning.text", "text": "hm", "index": 0}
    signed = {"type": "reasoning.text", "signature": "S", "format": "f", "index": 0}
    sealed = {"type": "reasoning.encrypted", "data": "E", "id": "r1", "index": 1}
    found = tokens(
        chunk(reasoning_content="a", reasoning="b"),
        chunk(reasoning="hm", reasoning_details=[detail]),
        chunk(reasoning_details=[detail]),
        chunk(reasoning_details=[signed, sealed]),
    )
    about = {"type": "reasoning.text", "format": "f", "index": 0}
    sealed_about = {"type": "reasoning.encrypted", "id": "r1", "index": 1}
    assert found[:-1] == [
        Reasoning("a"),
        Reasoning("hm"),
        Reasoning("hm"),
        Reasoning("", 0, 0, "S", None, about),
        Reasoning("", 0, 1, None, "E", sealed_about),
    ]


def test_perplexity_repeats_its_message_and_sources() -> None:
    first = {
        "citations": ["u"],
        "choices": [{"delta": {"content": "a"}, "message": {"content": "a"}}],
    }
    last = {"citations": ["u"], "search_results": [{"url": "u"}]} | {
        "choices": [
            {"delta": {"content": "b"}, "message": {"content": "ab"}, "finish_reason": "stop"}
        ]
    }
    found = tokens(first, last)
    assert found == [Text("a"), Text("b"), Done("stop", "stop", sources=[{"url": "u"}])]


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 1.0, "completion_tokens": "2", "total_tokens": None}, Usage(1, 2)),
        ({"prompt_tokens": -5, "completion_tokens": 10**18}, Usage(0, 10**18)),
        ({"prompt_tokens": 10**400, "completion_tokens": 1}, Usage(None, 1)),
        (
            {"prompt_cache_hit_tokens": 7, "reasoning_tokens": 2},
            Usage(None, None, None, 7, None, 2),
        ),
        ({"prompt_tokens": 1, "cost": {"total_cost": 0.5}}, Usage(1, cost=0.5)),
        ({"prompt_tokens": 1, "cost_in_usd_ticks": 1_330_500}, Usage(1, cost=0.00013305)),
        ({"cost": 0.5, "cost_in_usd_ticks": 1_330_500}, Usage(cost=0.5)),
        ({"prompt_tokens": 1, "cost_in_usd_ticks": 0}, Usage(1)),  # Azure's Grok
        ({"prompt_tokens": True, "cost": "x", "cost_in_usd_ticks": "x"}, None),
        ({}, None),
        ("many", None),
    ],
)
def test_usage_is_read_leniently(usage: Any, expected: Usage | None) -> None:
    last = tokens(STOP, {"choices": [], "usage": usage}, "[DONE]")[-1]
    assert isinstance(last, Done)
    assert last.usage == expected


def test_usage_with_thousands_of_digits_leaves_the_stream_alone() -> None:
    raw = '{"choices":[],"usage":{"prompt_tokens":%s,"completion_tokens":3}}' % ("9" * 5000)
    last = tokens(chunk(content="x"), STOP, raw, "[DONE]")[-1]
    assert isinstance(last, Done)
    assert last.usage == Usage(None, 3)


def test_usage_is_merged_and_told_at_once() -> None:
    one = chunk(content="a") | {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    two = chunk(content="b") | {"usage": {"completion_tokens": 2, "total_tokens": 3}}
    groq = STOP | {"x_groq": {"usage": {"total_tokens": 4}}}
    found = tokens(one, two, groq, "[DONE]")
    assert found[:3] == [Text("a"), Usage(1, 1), Text("b")]
    assert found[3:] == [Done("stop", "stop", usage=Usage(1, 2, 4), id="c1", model="m")]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        pytest.param(
            [
                {"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}},
                {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{"}},
                {"index": 0, "function": {"arguments": "{}"}},
                {"index": 1, "function": {"arguments": "}"}},
            ],
            [("a", "f", "{}"), ("b", "g", "{}")],
            id="interleaved",
        ),
        pytest.param(
            [
                {"index": 0, "id": "a", "function": {"name": "f", "arguments": "1"}},
                {"index": 0, "id": "b", "function": {"name": "f", "arguments": "2"}},
            ],
            [("a", "f", "1"), ("b", "f", "2")],
            id="index always 0",
        ),
        pytest.param(
            [
                {"id": "a", "function": {"name": "f", "arguments": "1"}},
                {"function": {"arguments": "2"}},
                {"id": "b", "function": {"name": "g"}},
                {"id": "a", "function": {"arguments": "3"}},
            ],
            [("a", "f", "123"), ("b", "g", "")],
            id="index missing",
        ),
        pytest.param(
            [
                {"function": {"name": "f", "arguments": "1"}},
                {"function": {"name": "g", "arguments": "2"}},
            ],
            [(None, "f", "1"), (None, "g", "2")],
            id="neither index nor id",
        ),
        pytest.param(
            [
                {"index": 0, "function": {"name": "f"}},
                {"index": 0, "id": "a", "function": {"arguments": "x"}},
            ],
            [("a", "f", "x")],
            id="id later",
        ),
        pytest.param(
            [
                {
                    "index": 3,
                    "id": "a",
                    "function": {"name": "f", "arguments": {"n": 1.0, "é": [None]}},
                }
            ],
            [("a", "f", '{"n":1,"é":[null]}')],
            id="arguments as an object",
        ),
        pytest.param(
            [
                {"index": 0, "id": "a", "function": {"name": "f", "arguments": None}},
                {"index": 0, "id": "a"},
            ],
            [("a", "f", "")],
            id="arguments null",
        ),
        pytest.param(
            [{"index": 10**9, "id": "a", "function": {"name": "__proto__\0", "arguments": "{"}}],
            [("a", "__proto__\0", "{")],
            id="large index, odd name",
        ),
        pytest.param(
            [{"index": 0, "id": "a", "function": {"name": "n" * 1000}}],
            [("a", "n" * 256, "")],
            id="long name",
        ),
    ],
)
def test_tool_calls(pieces: list[dict[str, Any]], expected: list[tuple[Any, ...]]) -> None:
    assert calls(*(tool(**piece) for piece in pieces)) == expected


def test_tool_call_fragments_are_forwarded_at_once() -> None:
    first = tool(index=5, id="a", function={"name": "f", "arguments": ""})
    more = tool(index=5, id="a", function={"name": "f", "arguments": "{"})
    assert tokens(first, more)[:2] == [ToolCall(0, "a", "f"), ToolCall(0, None, None, "{")]


def test_too_many_tool_calls_and_too_long_arguments() -> None:
    many = chunk(tool_calls=[{"index": i, "id": str(i)} for i in range(257)])
    found = tokens(chunk(content="kept"), many)
    assert found[0] == Text("kept")
    assert len(found) == 1 + 256 + 1
    assert ended(many).code == Code.TOOL_CALL_LIMIT
    piece = tool(index=0, id="a", function={"arguments": "x" * (1 << 20)})
    assert ended(*[piece] * 17).code == Code.TOOL_ARGS_LIMIT


@pytest.mark.parametrize(
    "payload",
    [
        "{bad",
        '{"choices":[]} x',
        '{"choices":[]}{"choices":[]}',
        "\ufeff{}",
        "5",
        '{"choices":{}}',
        '{"choices":[{"delta":5}]}',
        '{"choices":[{"index":-1}]}',
        '{"choices":[{"index":128}]}',
        '{"choices":[{"index":2147483648}]}',
        '{"choices":[{"index":"zero"}]}',
        '{"choices":[{"index":0.5}]}',
        '{"choices":[{"index":true}]}',
        '{"usage":NaN}',
        '{"usage":Infinity}',
        '{"usage":1e999}',
        '{"x":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"x":' + '{"a":' * 100_000 + "1" + "}" * 100_001,
        json.dumps({"choices": [{}] * 10_000}),
        json.dumps({"choices": [{"delta": {"tool_calls": [{"index": -1}]}}]}),
    ],
    ids=lambda payload: payload[:30],
)
def test_bad_events_keep_the_text_and_say_where(payload: str) -> None:
    found = tokens(chunk(content="Hel"), payload, chunk(content="lo"))
    assert found[0] == Text("Hel")
    assert isinstance(found[1], Error)
    assert (found[1].code, len(found)) == (Code.BAD_EVENT, 2)
    assert len(found[1].message) < 300
    assert found[1].message.isprintable()


@pytest.mark.parametrize(
    "payload",
    [
        {"choices": None},
        {"choices": []},
        {},
        choice(delta=None),
        choice(),
        choice(delta={"content": None}),
        choice(delta={"content": []}),
        choice(delta={"content": {}}),
        choice(delta={"content": 5}),
        choice(delta={"content": ""}, finish_reason=""),
        chunk(content="") | {"error": None},
        {"prompt_filter_results": [], "choices": [], "id": "", "model": ""},
        {"created": 1.5, "choices": []},
        {"type": "ping"},
    ],
    ids=str,
)
def test_what_says_nothing_gives_no_token(payload: Any) -> None:
    found = tokens(payload, chunk(content="x"), STOP, "[DONE]")
    assert found[:-1] == [Text("x")]
    assert isinstance(found[-1], Done)


@pytest.mark.parametrize("index", [None, 0, 0.0, "0"])
def test_index_as_servers_write_it(index: Any) -> None:
    assert tokens(choice(index=index, delta={"content": "x"}))[0] == Text("x")


def test_content_as_an_array_of_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    assert tokens(chunk(content=parts))[0] == Text("ab")


def test_last_of_duplicate_keys_wins() -> None:
    assert tokens('{"choices":[{"delta":{"content":"a","content":"b"}}]}')[0] == Text("b")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"error": {"message": "boom", "type": "server_error", "code": 500}}, "boom"),
        ({"error": "boom"}, "boom"),
        ({"error": 5}, "5"),
        ({"error": {}}, "the provider reported an error without a message"),
        ({"object": "error", "message": "boom", "code": 400}, "boom"),
        ({"base_resp": {"status_code": 1004, "status_msg": "boom"}, "choices": []}, "boom"),
        ({"error": {"message": "\x1b[31mboom\0"}}, "\\x1b[31mboom\\x00"),
    ],
    ids=str,
)
def test_errors_in_the_stream(payload: Any, message: str) -> None:
    error = ended(chunk(content="Hel"), STOP, payload, chunk(content="lo"))
    assert (error.code, error.message, error.provider_reason) == ("provider_error", message, "stop")


@pytest.mark.parametrize(
    ("code", "retryable"), [(500, True), ("500", True), ("429", True), (400, False), ("41", False)]
)
def test_the_number_of_an_error_may_be_a_text(code: int | str, retryable: bool) -> None:
    error = ended({"error": {"message": "m", "code": code}})
    assert (error.retryable, error.provider_code) == (retryable, code)


@pytest.mark.parametrize("data", ['{"error":{"message":"m"}}', "m", '"m"', '{"message":"m"}'])
def test_error_events(data: str) -> None:
    error = Chat().feed(SseEvent("error", data))[-1]
    assert isinstance(error, Error)
    assert (error.code, error.message) == (Code.PROVIDER_ERROR, "m")


HIGH, LOW = "\\ud83d", "\\ude00"


def raw(field: str, text: str) -> str:
    return f'{{"choices":[{{"index":0,"delta":{{"{field}":"{text}"}}}}]}}'


@pytest.mark.parametrize(
    ("field", "kind"), [("content", Text), ("reasoning_content", Reasoning), ("refusal", Refusal)]
)
def test_a_split_emoji_is_joined(field: str, kind: Any) -> None:
    found = tokens(raw(field, "a" + HIGH), raw(field, LOW + "b"), STOP, "[DONE]")
    assert found[:-1] == [kind("a"), kind("\U0001f600b")]


def test_a_lone_half_becomes_the_replacement_character() -> None:
    assert tokens(raw("content", HIGH), STOP, "[DONE]")[:-1] == [Text("\ufffd")]
    assert tokens(raw("content", HIGH), chunk(content="x"))[0] == Text("\ufffdx")
    assert tokens(raw("content", LOW + "x"))[0] == Text("\ufffdx")
    assert tokens(raw("content", HIGH + HIGH + LOW))[0] == Text("\ufffd\U0001f600")


def test_split_emoji_in_tool_arguments_and_other_choices() -> None:
    call = '{"tool_calls":[{"index":0,"function":{"arguments":"%s"}}]}'
    half = '{"choices":[{"index":1,"delta":' + call + "}]}"
    found = tokens(half % HIGH, half % LOW)
    assert found[:-1] == [ToolCall(0, choice=1), ToolCall(0, arguments="\U0001f600", choice=1)]
    assert tokens(half % HIGH)[1] == ToolCall(0, arguments="\ufffd", choice=1)


def test_completions_read_text_and_their_own_logprobs() -> None:
    scores = {"tokens": ["a"], "token_logprobs": [None], "top_logprobs": [{"b": -1}]}
    found = tokens(
        choice(text="x", index=0, logprobs=None),
        choice(text="a", index=0, logprobs=scores),
        choice(text="", index=0, finish_reason="length"),
        "[DONE]",
        api="completions",
    )
    scored = Delta("a", 0, [Logprob("a", 0.0, None, [("b", -1.0)])])
    assert found == [Text("x"), scored, Done("length", "length")]


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [("stop", "stop"), ("function_call", "tool_calls"), ("new" * 100, "other"), (7, "other")],
)
def test_finish_reasons(reason: Any, meaning: str) -> None:
    last = tokens(choice(delta={}, finish_reason=reason))[-1]
    assert isinstance(last, Done)
    assert (last.finish_reason, last.provider_reason) == (meaning, str(reason)[:64])


def test_reasons_of_all_choices() -> None:
    two = {
        "choices": [{"index": 0, "finish_reason": "stop"}, {"index": 2, "finish_reason": "length"}]
    }
    last = tokens(two)[-1]
    assert isinstance(last, Done)
    assert last.choices == ["stop", None, "length"]


# The fast paths: whatever they accept, the general path must decode to the same tokens.

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["\\", '"', '\\"', '","', "\\\\", "\n\n", "}\n\ndata: {", "data: [DONE]", ""]
)
DELTAS = st.one_of(
    st.builds(lambda t: {"content": t}, TEXTS),
    st.builds(lambda t: {"content": t, "role": "assistant"}, TEXTS),
    st.builds(lambda t: {"reasoning": t}, TEXTS),
    st.builds(lambda t: {"tool_calls": [{"index": 0, "function": {"arguments": t}}]}, TEXTS),
)
PAYLOADS = st.one_of(
    st.builds(lambda d: chunk(**d), DELTAS),
    st.just(STOP),
    st.just({"choices": [], "usage": {"prompt_tokens": 1}}),
    st.just({"error": "boom"}),
)
PLAIN = st.builds(lambda t: chunk(content=t), TEXTS)
BLOCKS = st.lists(
    st.one_of(st.lists(PLAIN, max_size=6), st.lists(PAYLOADS, max_size=4)), max_size=6
)


def general(blocks: list[bytes]) -> list[StreamToken]:
    body = open_body("chat")
    return [token for block in blocks for token in body._events(block)]


def fast(blocks: list[bytes]) -> list[StreamToken]:
    body = open_body("chat")
    return [token for block in blocks for token in body.feed(block)]


@given(BLOCKS, st.booleans())
def test_fast_paths_decode_as_the_general_one(blocks: list[list[Any]], compact: bool) -> None:
    separators = (",", ":") if compact else (", ", ": ")
    encoded = [
        "".join(f"data: {json.dumps(p, separators=separators)}\n\n" for p in block).encode()
        for block in blocks
    ]
    assert fast(encoded) == general(encoded)


NOISE = [
    b"\\",
    b'"',
    b"\n",
    b"\r",
    b"\n\n",
    b"{",
    b"}",
    b",",
    b"data: ",
    b"[DONE]",
    b"\xff",
    b" ",
    b'","',
]


@pytest.mark.parametrize("seed", range(300))
def test_fast_paths_on_mutated_blocks(seed: int) -> None:
    rng = random.Random(seed)
    first = stream(chunk(content="first"))
    blocks = [first, first * 3]
    for _ in range(4):
        block = bytearray(
            stream(*(chunk(content=rng.choice(["a", "\\", '"', "é"])) for _ in range(4)))
        )
        for _ in range(rng.randrange(3)):
            at = rng.randrange(len(block))
            block[at : at + rng.randrange(3)] = rng.choice(NOISE)
        blocks.append(bytes(block) + b"\n\n")
    assert fast(blocks) == general(blocks), f"seed {seed}"


@pytest.mark.parametrize(
    "texts",
    [
        [b"a\\", b'b","c'],
        [b"a\\", b',"x'],
        [b"a", b"\\"],
        [b'a","b', b"c"],
        [b"a", b'b"'],
        [b'a",  ', b',"x'],
        [b"\\\\", b"x"],
        [b'\\"', b"x"],
        [b'x\\\\"', b"y"],
    ],
)
def test_quotes_and_backslashes_do_not_fool_the_template(texts: list[bytes]) -> None:
    before, after = stream(chunk(content="SLOT")).split(b"SLOT")
    warm = [before + b"x" + after] * 3
    blocks = [*warm, b"".join(before + text + after for text in texts)]
    assert fast(blocks) == general(blocks)


def test_a_block_in_which_prefix_and_suffix_overlap() -> None:
    before, after = stream(chunk(content="SLOT")).split(b"SLOT")
    blocks = [before + b"x" + after] * 3 + [before + after[1:]]
    assert fast(blocks) == general(blocks)


def test_a_carriage_return_is_a_line_end_even_where_json_allows_it() -> None:
    warm = stream(chunk(content="x"))
    blocks = [warm, warm, warm.replace(b'"choices": ', b'"choices":\r'), warm]
    assert fast(blocks) == general(blocks)


def test_a_half_emoji_is_held_over_blocks_and_hand_overs() -> None:
    warm, half = stream(chunk(content="x")), stream(raw("content", HIGH))
    blocks = [warm, warm, warm, half, warm, half, stream(raw("content", LOW)), warm]
    x = Text("x")
    assert fast(blocks) == [x, x, x, Text("\ufffdx"), Text("\U0001f600"), x] == general(blocks)
    body = open_body("chat")
    body.feed(warm)
    for block in (half, warm):
        body.state()
        assert not body.dirty
        body.feed(block)
        assert body.dirty


def test_template_is_learned_and_used() -> None:
    body = open_body("chat")
    event = stream(chunk(content="word"))
    for _ in range(2):
        assert body.feed(event) == [Text("word")]
    dialect = body._dialect
    assert isinstance(dialect, Chat)
    template = dialect._learner._template
    assert template is not None
    assert template.tokens(event * 3) == [Text("word")] * 3
    assert template.tokens(event.replace(b"c1", b"c2")) is None


def test_plain_text_never_meets_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    body = open_body("chat")
    monkeypatch.delattr(SseParser, "parse_chunk")
    block = stream(chunk(content="a")) * 5
    assert body.feed(block) + body.feed(block) == [Text("a")] * 10
    with pytest.raises(AttributeError):
        body.feed(b": comment\n\n")


def test_completions_drop_scores_that_do_not_match_their_tokens() -> None:
    scores = {"tokens": ["a", "b"], "token_logprobs": [-1.0]}
    body = open_body("completions")
    event = {"choices": [{"text": "ab", "index": 0, "logprobs": scores}]}
    assert body.feed(b"data: " + json.dumps(event).encode() + b"\n\n") == [Text("ab")]
