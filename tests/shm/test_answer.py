"""A stream's tokens joined to one answer, and the message that goes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ringcast.shm.answer import Answer, Called, Choice, joined
from ringcast.shm.tokens import (
    Citation,
    Delta,
    Done,
    Error,
    FunctionCall,
    Reasoning,
    Refusal,
    StreamToken,
    Summary,
    Text,
    ToolCall,
    Usage,
)

USAGE = Usage(3, 5)


def test_an_answer_of_every_kind_of_token() -> None:
    tokens: list[StreamToken] = [
        Reasoning("Let me "),
        Reasoning("see."),
        Reasoning("", signature="sig"),
        Reasoning("", block=1, encrypted="xyz"),
        Usage(3),
        Text("Hello"),
        Delta(" there"),
        Citation(url="https://a"),
        ToolCall(0, "c1", "f", '{"a":'),
        ToolCall(1, "c2", "g"),
        ToolCall(0, arguments="1}"),
        Done("tool_calls", "tool_use", USAGE, Summary(9), "msg_1", "claude"),
    ]
    answer = joined(tokens, "anthropic/claude")
    thoughts = [
        Reasoning("Let me see.", signature="sig"),
        Reasoning("", block=1, encrypted="xyz"),
    ]
    calls = [Called("c1", "f", '{"a":1}'), Called("c2", "g", "")]
    assert answer == Answer(
        [Choice("Hello there", thoughts, None, calls, None, [Citation(url="https://a")])],
        "tool_calls",
        "tool_use",
        USAGE,
        Summary(9),
        "msg_1",
        "claude",
        asked="anthropic/claude",
    )
    assert (answer.text, answer.reasoning, answer.tool_calls) == (
        "Hello there",
        "Let me see.",
        calls,
    )
    assert answer.message() == {
        "role": "assistant",
        "model": "anthropic/claude",
        "content": "Hello there",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
            {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
        ],
        "reasoning": [
            {"content": "Let me see.", "block": 0, "signature": "sig"},
            {"content": "", "block": 1, "encrypted": "xyz"},
        ],
    }


def test_signatures_of_several_calls_stay_apart() -> None:
    signed = [Reasoning("", signature=f"s{n}", detail={"tool_call": n}) for n in range(2)]
    assert joined([Reasoning("hm"), *signed]).choices[0].reasoning == [Reasoning("hm"), *signed]


def test_several_choices_are_told_apart() -> None:
    answer = joined(
        [Delta("b", 1), Delta("a"), ToolCall(0, "c", "f", "{}", choice=1), Done("stop")]
    )
    assert answer.choices == [Choice("a"), Choice("b", tool_calls=[Called("c", "f", "{}")])]


def test_a_legacy_call_and_a_refusal() -> None:
    answer = joined([FunctionCall("f", "{"), FunctionCall(None, "}"), Refusal("No."), Done("stop")])
    assert answer.message() == {
        "role": "assistant",
        "content": None,
        "refusal": "No.",
        "function_call": {"name": "f", "arguments": "{}"},
    }


def test_what_came_before_an_error_is_kept() -> None:
    error = Error("transport", "the connection to the provider broke", True)
    assert joined([Text("Hel"), Usage(3), error]) == Answer(
        [Choice("Hel")], "error", usage=Usage(3), error=error
    )


def test_what_has_no_end_is_cut_off() -> None:
    assert joined([Text("Hel")]) == Answer([Choice("Hel")])


@given(st.lists(st.text(max_size=5)), st.lists(st.text(max_size=5)))
def test_joining_is_joining(texts: list[str], thoughts: list[str]) -> None:
    tokens: list[StreamToken] = [Reasoning(thought) for thought in thoughts]
    answer = joined([*tokens, *map(Text, texts), Done("stop")])
    assert (answer.text, answer.reasoning) == ("".join(texts), "".join(thoughts))
