"""What an editor sees that comes from Roo-Code, against what Roo-Code's own handlers showed.

Its handlers were run over the recordings; their folder is found as in `test_corpus`.
"""

from __future__ import annotations

import csv
import json
import os
import random
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from fakes.hostile import HOSTILE, check, paths, put
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.cli import main
from ringcast.providers.wire import roo
from ringcast.providers.wire.body import Body, Ending, open_body
from ringcast.providers.wire.framing import framer
from ringcast.providers.wire.roo_responses import OpenAiNative, Xai
from ringcast.providers.wire.summary import decode, summarize
from ringcast.providers.wire.think_tag import ThinkTag
from ringcast.shm.tokens import (
    Delta,
    Done,
    Error,
    Logprob,
    Reasoning,
    Refusal,
    StreamToken,
    Text,
    ToolCall,
    Usage,
)

CORPUS = Path(os.environ.get("RINGCAST_CORPUS") or Path(__file__).parents[3] / "shared" / "corpus")
RANDOM_CUTS = 20
SMALL_BYTES = 100_000

APIS = {
    "chat.completions": "chat",
    "responses": "responses",
    "messages": "messages",
    "streamRawPredict": "messages",
    "streamGenerateContent": "generate",
    "ConverseStream": "converse",
    "api/chat (NDJSON)": "native",
}
KINDS = {"local": "openai-compatible"}
KEYS = ("text", "reasoning", "tool_calls")

# What is not copied, and why: files by reason.
MIXED = "the original reads `choices[0]` whatever its index, and so mixes several answers into one"
NO_ARGUMENTS = "the original loses arguments that come in pieces (`partialArgs`)"
LOST_ERROR = "the original takes an answer that was cut short for a whole one"
SERVERS_TOOLS = "the original tells of the provider's own tools in pieces that nobody can use"
DELIBERATE = {
    "local/litellm-proxy-n2.sse": MIXED,
    "openai/chat-n2-text.sse": MIXED,
    "openai/chat-n2-tools.sse": MIXED,
    "openai/chat-n3-jsonschema.sse": MIXED,
    "gemini/streamed-function-args.sse": NO_ARGUMENTS,
    "vertex/gemini-streamed-args-nested.sse": NO_ARGUMENTS,
    "local/llamabox-error-field.sse": LOST_ERROR,
    "vertex/gemini-quotes-escaped.sse": LOST_ERROR,
    "anthropic/code-execution.sse": SERVERS_TOOLS,
    "anthropic/pause-turn.sse": SERVERS_TOOLS,
    "anthropic/web-search-citations.sse": SERVERS_TOOLS,
}


class Recording(msgspec.Struct, frozen=True):
    """A body, what it is, and what the original made of it."""

    file: str
    kind: str
    api: str
    truth: dict[str, Any]

    @property
    def body(self) -> bytes:
        return (CORPUS / self.file).read_bytes()

    @property
    def why(self) -> str | None:
        return DELIBERATE.get(self.file)

    def tokens(self, chunks: list[bytes]) -> list[StreamToken]:
        return decode(self.api, chunks, kind=self.kind, compat="roo")


def recordings() -> list[Recording]:
    index = CORPUS / "INDEX.tsv"
    if not index.is_file():
        return []
    with index.open(newline="") as lines:
        rows = {row["file"]: row for row in csv.DictReader(lines, delimiter="\t")}
    found = []
    for path in sorted((CORPUS / "expected_roo").glob("*/*.json")):
        truth = json.loads(path.read_text())
        row = rows[truth["file"]]
        kind = KINDS.get(row["provider"], row["provider"])
        found.append(Recording(row["file"], kind, APIS[row["api"]], truth))
    return found


RECORDINGS = recordings()
STREAMS = [recording for recording in RECORDINGS if recording.file.endswith(".sse")]
needs_recordings = pytest.mark.skipif(not RECORDINGS, reason=f"no recordings in {CORPUS}")
of_each = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.file)


def kinds(tokens: list[StreamToken]) -> list[str]:
    """In which order there were text, thinking and calls."""
    names = {Text: "text", Delta: "text", Reasoning: "reasoning", ToolCall: "tool"}
    shown = (t for t in tokens if not isinstance(t, Text | Delta | Reasoning) or t.content)
    return [name for name, _ in groupby(names[type(t)] for t in shown if type(t) in names)]


def kinds_of(order: str) -> list[str]:
    """The same of a line like `usage text*4 tool_call_partial*2 tool_call_end`."""
    names = (chunk.partition("*")[0] for chunk in order.split())
    names = ("tool" if name.startswith("tool_call") else name for name in names)
    return [name for name, _ in groupby(n for n in names if n in ("text", "reasoning", "tool"))]


@needs_recordings
def test_every_difference_is_one_of_a_recording() -> None:
    assert set(DELIBERATE) <= {recording.file for recording in RECORDINGS}


@of_each
def test_the_same_characters(recording: Recording) -> None:
    got, truth = summarize(recording.tokens([recording.body])), recording.truth
    if recording.why == MIXED:
        assert_mixed(got, truth)
        return
    if recording.why == NO_ARGUMENTS:
        assert all(json.loads(call["arguments"]) for call in got["tool_calls"])
        got["tool_calls"] = [call | {"arguments": ""} for call in got["tool_calls"]]
    assert {key: got[key] for key in KEYS} == {key: truth[key] for key in KEYS}


def assert_mixed(got: dict[str, Any], truth: dict[str, Any]) -> None:
    """The letters are those of all choices, and those of ours in their order."""

    def letters(said: dict[str, Any]) -> str:
        calls = [call["arguments"] for call in said["tool_calls"]]
        return "".join([said["text"], *calls])

    assert len(got["choices"]) > 1
    mixed = letters(truth)
    for choice in got["choices"]:
        rest = iter(mixed)
        assert all(letter in rest for letter in letters(choice))
    ours = sum((Counter(letters(choice)) for choice in got["choices"]), Counter[str]())
    assert ours == Counter(mixed)


@of_each
def test_the_same_order(recording: Recording) -> None:
    order = kinds(recording.tokens([recording.body]))
    if recording.why == SERVERS_TOOLS:
        wanted = [kind for kind in kinds_of(recording.truth["order"]) if kind != "tool"]
        assert order == [kind for kind, _ in groupby(wanted)]
    else:
        assert order == kinds_of(recording.truth["order"])


@of_each
def test_the_same_end(recording: Recording) -> None:
    last, error = recording.tokens([recording.body])[-1], recording.truth["error"]
    if recording.why == LOST_ERROR:
        assert isinstance(last, Error)
        assert error is None
    elif error is None:
        assert isinstance(last, Done)
    else:
        assert isinstance(last, Error)
        assert last.message
        assert error["message"].endswith(last.message)


@of_each
def test_the_same_counts(recording: Recording) -> None:
    """But for input of Anthropic, which the original takes from the beginning of the stream."""
    last, said = recording.tokens([recording.body])[-1], recording.truth["usage"]
    assert isinstance(last, Done | Error)
    usage = last.usage or Usage()
    if said and recording.api != "messages":
        assert usage.input_tokens == max(chunk["inputTokens"] for chunk in said)
    if said:
        assert usage.output_tokens == max(chunk["outputTokens"] for chunk in said)


def cuts(data: bytes, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    mean = rng.choice([30, 100, 300, 3000])  # single bytes come besides
    pieces, at = [], 0
    while at < len(data):
        size = rng.randrange(1, 2 * mean)
        pieces.append(data[at : at + size])
        at += size
    return pieces


@of_each
def test_cuts_change_nothing(recording: Recording) -> None:
    data = recording.body
    whole = summarize(recording.tokens([data]))
    ways = [cuts(data, seed) for seed in range(RANDOM_CUTS if len(data) < SMALL_BYTES else 4)]
    ways.append([data[i : i + 1] for i in range(min(len(data), SMALL_BYTES))])
    ways[-1].append(data[SMALL_BYTES:])
    for seed, way in enumerate(ways):
        assert summarize(recording.tokens(way)) == whole, f"cut {seed}"


def blocks(recording: Recording) -> tuple[list[bytes], bytes]:
    """The events of a body, each a block of its own, and what is left behind them."""
    cutter, data = framer(recording.api), recording.body
    pieces = data.splitlines(keepends=True)
    if recording.api == "converse":  # its messages end anywhere
        pieces = [data[i : i + 1] for i in range(len(data))]
    return [block for piece in pieces if (block := cutter.feed(piece))], cutter.rest()


def handed_over(
    kind: str, api: str, said: list[bytes], rest: bytes = b"", *, always: bool
) -> list[StreamToken]:
    """The tokens when another worker goes on at every block, with the last state that matters."""
    body, tokens = open_body(api, kind=kind, compat="roo"), []
    state = body.state()
    for block in said:
        body = Body.restore(api, state, kind=kind, compat="roo")
        tokens += body.feed(block)
        if always or body.dirty:
            state = body.state()
    return tokens + body.tail(rest) + body.end(Ending())


@of_each
def test_hand_over_at_every_event(recording: Recording) -> None:
    tokens = handed_over(recording.kind, recording.api, *blocks(recording), always=True)
    check(tokens)
    assert summarize(tokens) == summarize(recording.tokens([recording.body]))


@of_each
def test_only_what_matters_makes_a_checkpoint(recording: Recording) -> None:
    tokens = handed_over(recording.kind, recording.api, *blocks(recording), always=False)
    got, whole = summarize(tokens), summarize(recording.tokens([recording.body]))
    assert {key: got[key] for key in KEYS} == {key: whole[key] for key in KEYS}


def event(said: Any) -> bytes:
    name = f"event: {said['type']}\n" if "type" in said else ""
    return f"{name}data: {json.dumps(said)}\n\n".encode()


def shown(api: str, *payloads: Any, kind: str = "openai", done: bool = True) -> list[StreamToken]:
    """The tokens of a stream with these payloads, however it is handed over or cut.

    `done` ends it with `[DONE]`.
    """
    said = [*map(event, payloads), *[b"data: [DONE]\n\n"] * done]
    tokens = decode(api, [b"".join(said)], kind=kind, compat="roo")
    check(tokens)
    for other in (
        decode(api, cuts(b"".join(said), 1), kind=kind, compat="roo"),
        handed_over(kind, api, said, always=True),
        handed_over(kind, api, said, always=False),
    ):
        assert summarize(other) == summarize(tokens)
    return tokens


def chunk(index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": index, "delta": delta}]}


def seen(tokens: list[StreamToken]) -> tuple[str, str]:
    """The visible text and the thinking."""
    summary = summarize(tokens)
    return summary["text"], summary["reasoning"]


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<th", "ink>", "Hm", "\n", "<"]), max_size=9)
)
def test_a_leading_think_tag_however_the_text_is_cut(pieces: list[str]) -> None:
    tag = ThinkTag()
    parts = tag.feed("".join(pieces)) + tag.flush()
    tokens = shown("chat", *(chunk(content=piece) for piece in pieces))
    assert seen(tokens) == (
        "".join(text for thinking, text in parts if not thinking),
        "".join(text for thinking, text in parts if thinking),
    )


def test_what_was_held_back_comes_before_the_error() -> None:
    tokens = shown("chat", chunk(content="<think>Hm</thi"), {"error": {"message": "overloaded"}})
    assert tokens[:-1] == [Reasoning("Hm"), Reasoning("</thi")]
    tokens = shown("chat", chunk(content="<thi"), done=False)
    assert tokens[0] == Text("<thi")
    assert isinstance(tokens[-1], Error)


def test_each_choice_has_its_own_think_tag() -> None:
    said = [chunk(i, content=text) for text in ("<thi", "nk>a", "</think>b") for i in (1, 0)]
    choices = summarize(shown("chat", *said))["choices"]
    assert [(choice["text"], choice["reasoning"]) for choice in choices] == [("b", "a")] * 2


def test_a_cut_emoji_in_a_think_tag_is_whole() -> None:
    tokens = shown("chat", *(chunk(content=text) for text in ("<think>\ud83d", "\ude00</think>x")))
    assert seen(tokens) == ("x", "😀")


def test_no_log_probability_is_lost() -> None:
    said = []
    for text in ("<think>", "a", "</think>", "b", "c"):
        scored = chunk(content=text)
        scored["choices"][0]["logprobs"] = {"content": [{"token": text, "logprob": -0.5}]}
        said.append(scored)
    tokens = shown("chat", *said)
    scores = [score for t in tokens if isinstance(t, Delta) for score in t.logprob or []]
    assert [score.token for score in scores] == ["<think>", "a", "</think>", "b", "c"]
    assert Delta("b", 0, [Logprob("b", -0.5)]) in tokens
    assert seen(tokens) == ("bc", "a")


THOUGHTS = [
    chunk(reasoning="a"),
    chunk(reasoning="b", reasoning_details=[{"type": "reasoning.summary", "summary": "B"}]),
    chunk(reasoning="c"),
    chunk(reasoning_details=[{"type": "reasoning.encrypted", "data": "sealed"}]),
    chunk(reasoning_content="d"),
    chunk(content="!"),
]


@pytest.mark.parametrize(
    ("kind", "thinking"),
    [("groq", "d"), ("openai-compatible", "d"), ("ollama", "d"), ("openrouter", "aB")],
)
def test_which_thinking_is_shown(kind: str, thinking: str) -> None:
    tokens = shown("chat", *THOUGHTS, kind=kind)
    assert seen(tokens) == ("!", thinking)
    sealed = Reasoning("", encrypted="sealed", detail={"type": "reasoning.encrypted"})
    assert (sealed in tokens) == (kind == "openrouter")


def test_a_refusal_in_a_chat_is_left_as_it_is() -> None:
    tokens = shown("chat", chunk(refusal="I can"), chunk(refusal="not."))
    assert tokens[:2] == [Refusal("I can"), Refusal("not.")]


REFUSED = [{"type": "response.refusal.delta", "delta": delta} for delta in ("I can", "not.")]
COMPLETED = {"type": "response.completed", "response": {"status": "completed"}}


def test_a_refusal_in_a_response_is_text() -> None:
    assert seen(shown("responses", *REFUSED, COMPLETED))[0] == "[Refusal] I can[Refusal] not."
    assert summarize(shown("responses", *REFUSED, COMPLETED, kind="xai"))["refusal"] == "I cannot."


@pytest.mark.parametrize("kind", ["openai", "xai"])
def test_custom_tools_are_left_out(kind: str) -> None:
    items = [
        {"type": "custom_tool_call", "call_id": "1", "name": "free", "input": "text"},
        {"type": "function_call", "call_id": "2", "name": "f", "arguments": "{}"},
    ]
    said: list[Any] = []
    for index, item in enumerate(items):
        about = {"output_index": index}
        begun = {key: value for key, value in item.items() if key not in ("input", "arguments")}
        said.append({"type": "response.output_item.added", "item": begun} | about)
        if index == 0:
            said.append({"type": "response.custom_tool_call_input.delta", "delta": "te"} | about)
            said.append({"type": "response.custom_tool_call_input.done", "input": "text"} | about)
        said.append({"type": "response.output_item.done", "item": item} | about)
    calls = [{"id": "2", "name": "f", "arguments": "{}"}]
    assert summarize(shown("responses", *said, COMPLETED, kind=kind))["tool_calls"] == calls
    answer = json.dumps({"status": "completed", "output": items}).encode()
    tokens = decode("responses", [answer], kind=kind, compat="roo")
    assert summarize(tokens)["tool_calls"] == calls


MESSAGE = {
    "type": "message",
    "content": [
        {"type": "output_text", "text": "a"},
        {"type": "refusal", "refusal": "no", "text": "no"},
        {"type": "output_text", "text": "b"},
    ],
}
DELTA = {"type": "response.output_text.delta", "delta": "ab"}
ITEM_DONE = {"type": "response.output_item.done", "output_index": 0, "item": MESSAGE}
ALL_DONE = {
    "type": "response.completed",
    "response": {"status": "completed", "output": [MESSAGE | {"type": "reasoning"}, MESSAGE, None]},
}


@pytest.mark.parametrize("said", [[DELTA, ITEM_DONE], [DELTA], [ITEM_DONE], []], ids=len)
def test_a_server_without_deltas_is_heard_once(said: list[Any]) -> None:
    begun = {"type": "response.in_progress"}
    assert seen(shown("responses", begun, *said, ALL_DONE))[0] == "ab"


def test_blocks_begin_on_new_lines() -> None:
    blocks = [
        {"type": "thinking", "thinking": "a", "signature": "s"},
        {"type": "text", "text": "b"},
        {"type": "redacted_thinking", "data": "sealed"},
        {"type": "thinking", "thinking": "c", "signature": "t"},
        {"type": "text", "text": ""},
    ]
    said: list[Any] = [{"type": "message_start", "message": {"id": "m", "content": []}}]
    said += [
        {"type": "content_block_start", "index": index, "content_block": block}
        for index, block in enumerate(blocks)
    ]
    tokens = shown("messages", *said, {"type": "message_stop"}, done=False)
    assert seen(tokens) == ("\nb\n", "a\nc")
    assert summarize(tokens)["signatures"] == ["s", "sealed", "t"]
    answer = json.dumps({"type": "message", "content": blocks}).encode()
    assert seen(decode("messages", [answer], kind="anthropic", compat="roo")) == seen(tokens)


def test_calls_of_gemini_are_numbered_by_their_parts() -> None:
    def parts(*calls: Any, index: int = 0) -> dict[str, Any]:
        content = {"parts": [{"functionCall": call} for call in calls]}
        return {"candidates": [{"index": index, "content": content, "finishReason": "STOP"}]}

    f, g = {"name": "f", "args": {"n": 1.0}, "id": "of the provider"}, {"name": "g"}
    pieces = [{"name": "h", "willContinue": True}, {"willContinue": True}, {}]
    tokens = shown("generate", parts(f, g), parts(g, g, index=1), parts(*pieces, f), done=False)
    first, second = summarize(tokens)["choices"]
    assert [call["id"] for call in first["tool_calls"]] == ["f-0", "g-1", "h-2", "f-5"]
    assert [call["arguments"] for call in first["tool_calls"]] == ['{"n":1}', "{}", "{}", '{"n":1}']
    assert [call["id"] for call in second["tool_calls"]] == ["g-0", "g-1"]


def test_ollamas_calls_are_numbered_and_its_thinking_is_left_out() -> None:
    call = {"id": "of the server", "function": {"name": "f", "arguments": {"n": 1.0}}}
    lines: list[Any] = [
        {"message": {"thinking": "Hm", "content": "<thi"}},
        {"message": {"content": "nk>a</think>b", "tool_calls": [call]}},
        {"message": {"tool_calls": [call | {"id": None}]}, "done": True, "done_reason": "stop"},
    ]
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    tokens = decode("native", [data], kind="ollama", compat="roo")
    check(tokens)
    assert seen(tokens) == ("b", "a")
    assert summarize(tokens)["tool_calls"] == [
        {"id": f"ollama-tool-{number}", "name": "f", "arguments": '{"n":1}'} for number in (0, 1)
    ]


def test_ollamas_other_call_is_as_the_first() -> None:
    data = json.dumps({"response": "<think>a</think>b", "thinking": "Hm", "done": True}).encode()
    assert seen(decode("native", [data + b"\n"], kind="ollama", compat="roo")) == ("b", "a")


@pytest.mark.parametrize(
    ("kind", "api", "handler"),
    [
        ("openai", "chat", roo.OpenAi),
        ("azure", "chat", roo.OpenAi),
        ("groq", "chat", roo.OpenAi),
        ("xai", "chat", roo.OpenAi),
        ("ollama", "chat", roo.OpenAi),
        ("openrouter", "chat", roo.OpenRouter),
        ("openai", "responses", OpenAiNative),
        ("azure", "responses", OpenAiNative),
        ("openrouter", "responses", OpenAiNative),
        ("xai", "responses", Xai),
        ("anthropic", "messages", roo.Anthropic),
        ("vertex", "messages", roo.Anthropic),
        ("vertex", "generate", roo.Gemini),
        ("gemini", "generate", roo.Gemini),
        ("ollama", "native", roo.Ollama),
        ("bedrock", "converse", None),
        ("gemini", "interactions", None),
        ("openai", "completions", None),
        ("anthropic", "complete", None),
        ("bedrock", "invoke", None),
    ],
)
def test_the_handler_of_a_provider(kind: str, api: str, handler: type[Any] | None) -> None:
    assert roo.handler(kind, api) is handler


def test_an_api_that_the_original_does_not_speak_is_decoded_as_ever() -> None:
    said = {"choices": [{"index": 0, "text": "<think>a</think>", "finish_reason": "stop"}]}
    tokens = shown("completions", said)
    assert tokens == decode("completions", [event(said) + b"data: [DONE]\n\n"])
    assert tokens[0] == Text("<think>a</think>")


@needs_recordings
@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(STREAMS or [Recording("", "", "", {})]),
    st.integers(0),
    st.integers(0),
    st.sampled_from(list(HOSTILE)),
)
def test_a_hostile_value_anywhere_in_a_recording(
    recording: Recording, number: int, place: int, hostile: str
) -> None:
    lines = recording.body.splitlines(keepends=True)
    said = [at for at, line in enumerate(lines) if line.startswith(b"data: {")]
    at = said[number % len(said)]
    payload = json.loads(lines[at][len("data: ") :])
    places = list(paths(payload))
    lines[at] = f"data: {put(payload, places[place % len(places)], HOSTILE[hostile])}\n".encode()
    cutter = framer(recording.api)
    found = [b for n in range(0, len(lines), 7) if (b := cutter.feed(b"".join(lines[n : n + 7])))]
    check(handed_over(recording.kind, recording.api, found, cutter.rest(), always=True))


def test_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(event(chunk(content="<think>a</think>b")) + b"data: [DONE]\n\n")
    command = ["decode", "--provider", "groq", "--summary", str(file)]
    plain = json.loads(CliRunner().invoke(main, command).output)
    rewritten = json.loads(CliRunner().invoke(main, [*command, "--compat", "roo"]).output)
    assert (plain["text"], plain["reasoning"]) == ("<think>a</think>b", "")
    assert (rewritten["text"], rewritten["reasoning"]) == ("b", "a")
