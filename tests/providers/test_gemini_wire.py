"""Gemini's generateContent streams, and their fast paths against the general one."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.providers.wire import tool_calls
from ringcast.providers.wire.body import Body, Ending, open_body
from ringcast.providers.wire.partial_arguments import PartialArguments
from ringcast.providers.wire.sse import WireError
from ringcast.providers.wire.summary import decode, summarize
from ringcast.shm.tokens import (
    Citation,
    Delta,
    Done,
    Error,
    Logprob,
    Reasoning,
    StreamToken,
    Text,
    ToolCall,
    Usage,
)

Json = dict[str, Any]
COUNTS = {"promptTokenCount": 3, "candidatesTokenCount": 1, "totalTokenCount": 4}
STOP: Json = {"candidates": [{"content": {}, "finishReason": "STOP", "index": 0}]}


def chunk(*parts: Any, index: Any = 0, counts: Json | None = None, **fields: Any) -> Json:
    candidate = {"content": {"parts": list(parts), "role": "model"}, "index": index} | fields
    usage = {} if counts is None else {"usageMetadata": counts}
    return {"candidates": [candidate]} | usage | {"modelVersion": "g", "responseId": "r"}


def text(content: str, **fields: Any) -> Json:
    return chunk({"text": content}, **fields)


def call(**fields: Any) -> Json:
    return chunk({"functionCall": fields})


def stream(*chunks: Any, end: str = "\r\n\r\n") -> bytes:
    return "".join(f"data: {json.dumps(c, ensure_ascii=False)}{end}" for c in chunks).encode()


def tokens(*chunks: Any) -> list[StreamToken]:
    return decode("generate", [stream(*chunks)])


def arguments(*pieces: Any) -> str:
    """The argument text of the first call in a stream of function calls."""
    found = tokens(*(call(**piece) for piece in pieces), STOP)
    assert isinstance(found[-1], Done), found[-1]
    return str(summarize(found)["tool_calls"][0]["arguments"])


def test_text_usage_and_done() -> None:
    later = COUNTS | {"candidatesTokenCount": 2, "thoughtsTokenCount": 7}
    assert tokens(text("Hel", counts=COUNTS), text("lo", counts=later), STOP) == [
        Text("Hel"),
        Usage(3, 1, 4),
        Text("lo"),
        Done("stop", "STOP", usage=Usage(3, 2, 4, reasoning_tokens=7), id="r", model="g"),
    ]


def test_the_end_is_the_end_of_the_body() -> None:
    every = [text(part, finishReason="STOP") for part in ("a", "b")]
    assert tokens(*every)[:-1] == [Text("a"), Text("b")]
    last = tokens(text("a"))[-1]
    assert isinstance(last, Error)
    assert last.code == Code.STREAM_INCOMPLETE
    assert tokens(text("a", finishReason="FINISH_REASON_UNSPECIFIED"))[-1] == last


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("MAX_TOKENS", "length"),
        ("SPII", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "error"),
        ("CONTINUATION", "pause"),
        ("INVENTED_TOMORROW", "other"),
    ],
)
def test_finish_reasons(reason: str, meaning: Any) -> None:
    done = tokens({"candidates": [{"finishReason": reason}]})[-1]
    assert isinstance(done, Done)
    assert (done.finish_reason, done.provider_reason) == (meaning, reason)


def test_a_blocked_prompt() -> None:
    feedback = {"promptFeedback": {"blockReason": "OTHER", "safetyRatings": []}}
    assert tokens(feedback)[-1] == Done("content_filter", "OTHER")


def test_thoughts_and_signatures_on_any_part() -> None:
    parts = [
        {"text": "hm", "thought": True},
        {"text": "", "thought": True, "thoughtSignature": "A"},
        {"text": "x", "thoughtSignature": "B"},
        {"text": "", "thoughtSignature": "C"},
        {"functionCall": {"name": "f"}, "thoughtSignature": "D"},
    ]
    assert tokens(chunk(*parts), STOP) == [
        Reasoning("hm"),
        Reasoning("", signature="A"),
        Text("x"),
        Reasoning("", signature="B"),
        Reasoning("", signature="C"),
        ToolCall(0, None, "f", "{}"),
        Reasoning("", signature="D", detail={"tool_call": 0}),
        Done("tool_calls", "STOP", id="r", model="g", arguments_valid=True),
    ]


def test_other_parts_are_carried() -> None:
    code: Json = {"executableCode": {"language": "PYTHON", "code": "1"}}
    result: Json = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1\n"}}
    picture: Json = {"inlineData": {"mimeType": "image/png", "data": "AA=="}}
    found = tokens(chunk(code, result, picture | {"thoughtSignature": "S"}, {}), STOP)
    assert found[:-1] == [
        Reasoning("", detail=code),
        Reasoning("", detail=result),
        Reasoning("", signature="S", detail=picture),
    ]


def test_parallel_calls_of_one_function_without_ids() -> None:
    calls = [{"functionCall": {"name": "f", "args": {"n": n}}} for n in (1.0, 2.5)]
    assert tokens(chunk(*calls), STOP)[:-1] == [
        ToolCall(0, None, "f", '{"n":1}'),
        ToolCall(1, None, "f", '{"n":2.5}'),
    ]


def test_arguments_are_written_as_json_stringify_does() -> None:
    args = {"z": "é\u2028\x7f", "a": [1.0, None, True, {}], "n": 1e21}
    assert arguments({"name": "f", "args": args}) == (
        '{"z":"é\u2028\x7f","a":[1,null,true,{}],"n":1e+21}'
    )
    half = stream(call(name="f", args={"a": "HALF"}), STOP).replace(b"HALF", b"\\ud83d")
    found = decode("generate", [half])
    assert found[0] == ToolCall(0, None, "f", '{"a":"\\ud83d"}')
    msgspec.msgpack.encode(found)


def test_a_call_whose_end_is_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_calls, "MAX_ARGUMENT_CHARS", len('{"a":'))
    found = tokens(call(name="f", **piece("$.a", numberValue=1)), STOP)
    assert found[:-1] == [ToolCall(0, None, "f"), ToolCall(0, arguments='{"a":')]
    assert isinstance(found[-1], Error)
    assert (found[-1].code, found[-1].provider_reason) == (Code.TOOL_ARGS_LIMIT, "STOP")


def piece(path: str, more: bool = True, **value: Any) -> Json:
    return {"partialArgs": [{"jsonPath": path, **value}], "willContinue": more}


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([{}], "{}"),
        ([], "{}"),
        ([piece("$.a", stringValue="x"), piece("$.a", stringValue='"y'), {}], '{"a":"x\\"y"}'),
        ([piece("$.a", numberValue=1.0), piece("$.b", boolValue=False)], '{"a":1,"b":false}'),
        ([piece("$.a", nullValue="NULL_VALUE"), piece("$.b", nullValue=None)], None),
        ([piece("$.a", numberValue=1), piece("$.a", numberValue=2)], '{"a":2}'),
        ([piece("$.a.b[0].c", numberValue=1), piece("$.d", numberValue=2)], None),
        ([piece("$.a[0][1]", numberValue=1), piece("$.a[2]", numberValue=2)], None),
        ([piece("$['a.b'][\"c\"]", stringValue="")], '{"a.b":{"c":""}}'),
        ([piece("$['it\\'s \"x\"']", stringValue="")], '{"it\'s \\"x\\"":""}'),
        ([piece("$.a"), piece("$.b", more=False, stringValue="z")], '{"b":"z"}'),
    ],
)
def test_streamed_arguments(pieces: list[Json], text: str | None) -> None:
    found = arguments({"name": "f", "willContinue": True}, *pieces)
    assert text is None or found == text
    json.loads(found)


def test_streamed_arguments_are_told_as_they_come() -> None:
    begun = call(name="f", id="i", willContinue=True)
    body = open_body("generate")
    assert body.feed(stream(begun)) == [ToolCall(0, "i", "f")]
    assert body.feed(stream(call(**piece("$.a", stringValue="x")))) == [
        ToolCall(0, arguments='{"a":"x')
    ]
    assert body.feed(stream(call(**piece("$.a", stringValue="y")))) == [ToolCall(0, arguments="y")]
    assert body.feed(stream(call(name="g", args={}))) == [
        ToolCall(0, arguments='"}'),
        ToolCall(1, None, "g", "{}"),
    ]


def test_a_cut_call_is_not_made_whole() -> None:
    found = tokens(call(name="f", willContinue=True), call(**piece("$.a", stringValue="x")))
    assert summarize(found)["tool_calls"][0]["arguments"] == '{"a":"x'
    assert isinstance(found[-1], Error)


@pytest.mark.parametrize(
    "pieces",
    [
        [piece("$", stringValue="x")],
        [piece("a", stringValue="x")],
        [piece("$[0]", stringValue="x")],
        [piece("$.a.", stringValue="x")],
        [piece("$.a" * 3000, stringValue="x")],
        [piece("$.a[999999999]", stringValue="x")],
        [piece("$.a", stringValue="x"), piece("$.a.b", stringValue="x")],
        [piece("$.a.b", stringValue="x"), piece("$.a", stringValue="x")],
        [piece("$.a", stringValue="x"), piece("$.a", numberValue=1)],
        [piece("$.a[1]", numberValue=1), piece("$.a[0]", numberValue=1)],
        [piece("$.a[1]", numberValue=1), piece("$.a.b", numberValue=1)],
        [piece("$.a", numberValue=1), piece("$.b", numberValue=1), piece("$.a", numberValue=1)],
        [{"partialArgs": 5}],
        [{"partialArgs": [{"jsonPath": 5}]}],
    ],
)
def test_arguments_without_a_place(pieces: list[Json]) -> None:
    last = tokens(call(name="f", willContinue=True), *(call(**p) for p in pieces), STOP)[-1]
    assert isinstance(last, Error)
    assert last.code == Code.BAD_EVENT


SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=6)
KEYS = st.text(max_size=4)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(KEYS, inner, min_size=1, max_size=3)
    ),
    max_leaves=12,
)


def leaves(value: Any, path: str) -> list[tuple[str, Any]]:
    """The scalars of a value in the order of its text, with their paths in normal form."""
    if isinstance(value, dict):
        steps = [(json.dumps(key), inner) for key, inner in value.items()]
    elif isinstance(value, list):
        steps = [(str(index), inner) for index, inner in enumerate(value)]
    else:
        return [(path, value)]
    return [leaf for step, inner in steps for leaf in leaves(inner, f"{path}[{step}]")]


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_any_object_can_be_streamed(value: Json, rng: random.Random) -> None:
    writer, written = PartialArguments(), ""
    for path, scalar in leaves(value, "$"):
        cut = rng.randint(0, len(scalar)) if isinstance(scalar, str) else None
        for part in (scalar,) if cut is None else (scalar[:cut], scalar[cut:]):
            writer = msgspec.msgpack.decode(msgspec.msgpack.encode(writer), type=PartialArguments)
            written += writer.write(path, part)
    text = written + writer.close()
    assert json.loads(text) == value
    assert text == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@given(st.lists(st.text(st.sampled_from("$.[]'\"\\a0 \n"), max_size=12), max_size=4))
def test_any_path_is_written_or_refused(paths: list[str]) -> None:
    writer, written = PartialArguments(), ""
    with contextlib.suppress(WireError):
        for path in paths:
            written += writer.write(path, "x")
        assert isinstance(json.loads(written + writer.close()), dict)


def test_several_candidates() -> None:
    both = {"candidates": [{"content": {"parts": [{"text": t}]}} for t in "ab"]}
    second = chunk({"functionCall": {"name": "f"}}, index=1, finishReason="MAX_TOKENS")
    assert tokens(both, second, STOP) == [
        Text("a"),
        Delta("b", 1),
        ToolCall(0, None, "f", "{}", 1),
        Done("stop", "STOP", choices=["STOP", "MAX_TOKENS"], arguments_valid=True),
    ]


def test_citations() -> None:
    source = {"startIndex": 1, "endIndex": 3, "uri": "u", "title": "t", "license": "MIT"}
    for name in ("citations", "citationSources"):
        found = tokens(text("x", citationMetadata={name: [source]}), STOP)
        assert found[1] == Citation("u", "t", None, 1, 3, 0, source)


def test_the_last_grounding_counts() -> None:
    web: Json = {"web": {"uri": "u", "title": "t"}}
    book: Json = {"retrievedContext": {"title": "b", "text": "said"}}
    support = {"segment": {"endIndex": 5, "text": "claim"}, "groundingChunkIndices": [0]}
    first = {"groundingChunks": [{"web": {"uri": "old"}}]}
    last = {"groundingChunks": [web, book], "groundingSupports": [support]}
    queries = {"webSearchQueries": ["q"], "groundingChunks": []}
    groundings = [text("x", groundingMetadata=g) for g in ({}, first, last, queries)]
    assert tokens(*groundings, STOP)[4:-1] == [
        Citation("u", "t", "claim", 0, 5, 0, web | {"groundingSupports": [support]}),
        Citation(None, "b", "said", None, None, 0, book),
        Reasoning("", detail={"type": "grounding", "webSearchQueries": ["q"]}),
    ]


def test_what_else_is_known_of_a_search_comes_last() -> None:
    pages = {"urlMetadata": [{"retrievedUrl": "u", "urlRetrievalStatus": "OK"}]}
    shown = {"searchEntryPoint": {"renderedContent": "<div>"}}
    found = tokens(
        text("x"), text("y", urlContextMetadata=pages), text("z", groundingMetadata=shown), STOP
    )
    assert found[3:-1] == [
        Reasoning("", detail={"type": "grounding", "urlContextMetadata": pages} | shown)
    ]


def test_logprobs() -> None:
    chosen = [{"token": "x", "tokenId": 5, "logProbability": -0.5}]
    tops = [{"candidates": [*chosen, {"token": "y", "logProbability": -1}]}]
    scored = text("x", logprobsResult={"chosenCandidates": chosen, "topCandidates": tops})
    score = Logprob("x", -0.5, None, [("x", -0.5), ("y", -1.0)])
    assert tokens(text("a"), scored, STOP)[1] == Delta("x", 0, [score])
    body = open_body("generate")
    unreadable = text("x", logprobsResult={"chosenCandidates": [5]})
    assert body.feed(stream(unreadable)) == [Text("x")]
    assert body.oddities == 1


FAULT = {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}
FAILED = Error("provider_error", "overloaded", True, type="UNAVAILABLE", provider_code=503)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n", "\r\n\r\n"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("wrapped", [False, True])
def test_errors_after_text_in_all_their_forms(end: str, indent: int | None, wrapped: bool) -> None:
    fault: Any = [FAULT] if wrapped else FAULT
    line = "\r\n" if "\r" in end else "\n"
    data = stream(text("x")) + (json.dumps(fault, indent=indent).replace("\n", line) + end).encode()
    for way in ([data], [data[i : i + 1] for i in range(len(data))]):
        assert decode("generate", way) == [Text("x"), FAILED]
    assert decode("generate", [stream(text("x"), fault, text("y"))]) == [Text("x"), FAILED]


def test_an_error_alone_with_status_200() -> None:
    for said in (FAULT, [FAULT]):
        assert decode("generate", [json.dumps(said, indent=2).encode()]) == [FAILED]


def test_whole_answers_and_arrays_of_chunks() -> None:
    done = Done("stop", "STOP", id="r", model="g")
    one = json.dumps(text("x", finishReason="STOP"), indent=2).encode()
    kind = Ending(content_type="application/json")
    assert decode("generate", [one], kind) == [Text("x"), done]
    many = json.dumps([text("x"), text("y", finishReason="STOP")], indent=2).encode()
    assert decode("generate", [many], kind) == [Text("x"), Text("y"), done]
    broken = json.dumps([text("x"), FAULT]).encode()
    assert decode("generate", [broken], kind) == [Text("x"), FAILED]
    other = decode("generate", [b'{"models": []}'], kind)[0]
    assert isinstance(other, Error)
    assert other.code == Code.NOT_EVENT_STREAM


def test_of_an_array_that_was_cut_the_whole_chunks_count() -> None:
    many = json.dumps([text("x"), text("y", finishReason="STOP")], indent=2).encode()
    first, both = len(json.dumps([text("x")], indent=2)) - len("\n]"), len(many) - len("\n]")
    for size in range(first, both):
        *texts, last = decode("generate", [many[:size]])
        assert texts == [Text("x")]
        assert isinstance(last, Error)
        assert (last.code, last.retryable) == (Code.STREAM_INCOMPLETE, True)
    for size in range(both, len(many) + 1):  # without the closing bracket nothing is missing
        found = decode("generate", [many[:size]])
        assert found == [Text("x"), Text("y"), Done("stop", "STOP", id="r", model="g")]
    failed = json.dumps([text("x"), FAULT]).encode()[:-1]
    assert decode("generate", [failed]) == [Text("x"), FAILED]
    nothing = decode("generate", [b'[{"models": []},'])[-1]
    assert isinstance(nothing, Error)
    assert nothing.code == Code.NOT_EVENT_STREAM


def test_a_chunk_may_be_in_a_response() -> None:
    wrapped = [{"response": one, "traceId": "t"} for one in (text("x"), text("y"), STOP)]
    assert tokens(*wrapped) == tokens(text("x"), text("y"), STOP)
    answer = json.dumps(wrapped[0] | {"response": text("x", finishReason="STOP")}).encode()
    assert decode("generate", [answer])[0] == Text("x")


def test_text_and_a_call_in_one_part_are_both_told() -> None:
    part = {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "S"}
    signed = Reasoning("", signature="S", detail={"tool_call": 0})
    called = [ToolCall(0, None, "f", "{}"), signed]
    assert tokens(chunk(part | {"text": ""}), STOP)[:-1] == called
    assert tokens(chunk(part | {"text": "x"}), STOP)[:-1] == [Text("x"), *called]
    thought = part | {"text": "hm", "thought": True}
    assert tokens(chunk(thought), STOP)[:-1] == [Reasoning("hm"), *called]


@pytest.mark.parametrize(
    "payload",
    [
        {"candidates": 5},
        {"candidates": [{"index": -1}]},
        {"candidates": [{}] * 129},
        {"candidates": [{"content": {"parts": "x"}}]},
        call(**piece("$.a")) | {"candidates": [{"content": {"parts": [5]}}]},
    ],
    ids=str,
)
def test_bad_events(payload: Json) -> None:
    found = tokens(text("x"), payload, text("y"))
    assert found[0] == Text("x")
    assert isinstance(found[1], Error)
    assert (found[1].code, len(found)) == (Code.BAD_EVENT, 2)


def test_unknown_keys_and_values_pass() -> None:
    strange = text("x", brandNewer={"a": 1}, brandNew=[1]) | {"more": {"x": None}}
    assert tokens(strange, {"usageMetadata": {"promptTokenCount": "many"}}, STOP)[:-1] == [
        Text("x")
    ]


def test_a_split_emoji_is_joined() -> None:
    raw = stream(text("a"), text("bHIGH"), text("LOWc"), STOP)
    data = raw.replace(b"HIGH", b"\\ud83d").replace(b"LOW", b"\\ude00")
    assert decode("generate", [data])[:-1] == [Text("a"), Text("b"), Text("\U0001f600c")]


def test_plain_text_makes_no_checkpoint() -> None:
    body = open_body("generate")
    body.feed(stream(text("a", counts=COUNTS)))
    body.state()
    body.feed(stream(text("b", counts=COUNTS | {"candidatesTokenCount": 9})))
    assert not body.dirty
    body.feed(stream(text("c", counts=COUNTS | {"thoughtsTokenCount": 9})))
    assert body.dirty
    body.state()
    body.feed(stream(text("d", finishReason="STOP")))
    assert body.dirty


# The fast paths: whatever they accept, the general path must decode to the same tokens.

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["\\", '"', "\n\n", "\r\n\r\ndata: {", "\u2028", ""]
)
USAGES = st.none() | st.dictionaries(
    st.sampled_from(["promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "x"]),
    st.sampled_from([0, 1, 2**63 - 1, 2**63, -1, 1.0, None, "5"]),
)
PLAIN = st.builds(lambda content, counts: text(content, counts=counts), TEXTS, USAGES)
PAYLOADS = st.one_of(
    PLAIN,
    st.builds(text, TEXTS, index=st.sampled_from([0, 1, None, 0.0, -1])),
    st.builds(lambda t: chunk({"text": t, "thought": True}), TEXTS),
    st.builds(lambda t: call(name="f", args={"a": t}), TEXTS),
    st.builds(lambda t: call(**piece("$.a", stringValue=t)), TEXTS),
    st.sampled_from([STOP, FAULT, [], {}, None, call(name="f", willContinue=True), "[DONE]"]),
)
BLOCKS = st.lists(
    st.one_of(st.lists(PLAIN, max_size=6), st.lists(PAYLOADS, max_size=4)), max_size=6
)


def decoded(blocks: list[bytes], *, fast: bool) -> list[StreamToken]:
    body = open_body("generate")
    found: list[StreamToken] = []
    for block in blocks:
        found += body.feed(block) if fast else [] if body.finished else body._events(block)
    return found + body.end(Ending())


@given(BLOCKS, st.sampled_from(["\r\n\r\n", "\n\n"]))
def test_fast_paths_decode_as_the_general_one(blocks: list[list[Any]], end: str) -> None:
    encoded = [stream(*payloads, end=end) for payloads in blocks]
    assert decoded(encoded, fast=True) == decoded(encoded, fast=False)


NOISE = [b"\\", b'"', b"\n", b"\r", b"\n\n", b"\r\n\r\n", b"{", b"}", b",", b"data: ", b"\xff"]


@pytest.mark.parametrize("seed", range(300))
def test_fast_paths_on_mutated_blocks(seed: int) -> None:
    rng = random.Random(seed)
    blocks = [stream(text("a")), stream(text("b"), text("c"))]
    for _ in range(4):
        data = bytearray(stream(*(text(rng.choice(["a", "\\", '"', "é"])) for _ in range(4))))
        for _ in range(rng.randrange(3)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.choice(NOISE)
        blocks.append(bytes(data) + b"\r\n\r\n")
    assert decoded(blocks, fast=True) == decoded(blocks, fast=False), f"seed {seed}"


@given(BLOCKS)
def test_hand_over_at_every_block(blocks: list[list[Any]]) -> None:
    encoded = [stream(*payloads) for payloads in blocks]
    body, found = open_body("generate"), []
    for block in encoded:
        body = Body.restore("generate", body.state())
        found += body.feed(block)
    found += Body.restore("generate", body.state()).end(Ending())
    assert found == decoded(encoded, fast=True)


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_end_in_one_terminal_token(pieces: list[bytes]) -> None:
    wrapped = [b"data: " + data + b"\n\n" for data in pieces]
    for way in (pieces, wrapped):
        found = decode("generate", way)
        assert [isinstance(token, Done | Error) for token in found].count(True) == 1
        assert isinstance(found[-1], Done | Error)
