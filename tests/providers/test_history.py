"""Conversations: who calls and who answers, ids that fit, and whose thoughts go back."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.errors import RequestError
from ringcast.providers.chat_form import split
from ringcast.providers.history import check_names, history
from ringcast.providers.request import ChatRequest, Json
from ringcast.providers.thoughts import Thought, thoughts
from ringcast.providers.tool_ids import ALPHANUMERIC_9, ANY_40, ANY_64, LETTERS_64, IdRule, id_rule

USER: Json = {"role": "user", "content": "hi"}


def asked(*messages: Json, **fields: Any) -> ChatRequest:
    return ChatRequest(model="here/m", messages=list(messages), **fields)


def call(id: str | None = "a", name: str = "f") -> Json:
    return {"id": id, "function": {"name": name, "arguments": "{}"}}


def calling(*calls: Json, **beside: Any) -> Json:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)} | beside


def answer(id: str | None = "a", **beside: Any) -> Json:
    return {"role": "tool", "tool_call_id": id, "content": "42"} | beside


def ids(*messages: Json, rule: IdRule = ANY_64) -> list[str]:
    """The ids of calls and results, in their order."""
    found: list[str] = []
    for message in history(asked(*messages), rule):
        found += [call["id"] for call in message.get("tool_calls", [])]
        found += [message["tool_call_id"]] if message["role"] == "tool" else []
    return found


def refusal(*messages: Json) -> str:
    with pytest.raises(RequestError) as caught:
        history(asked(*messages), ANY_64)
    return caught.value.message


# Calls and results


def test_what_is_right_stays_as_it_is() -> None:
    messages = [
        {"role": "system", "content": "s"},
        USER,
        calling(call("a"), call("b"), content="so"),
        answer("b"),
        {"role": "developer", "content": "no calls are open beyond this, but this opens none"},
        answer("a"),
        USER,
        {"role": "assistant", "content": "done", "tool_calls": []},
    ]
    assert history(asked(*messages), ANY_64) == messages


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([answer()], "messages[].tool_call_id: 'a' answers no call of the message before"),
        ([answer(None)], "messages[].tool_call_id: '' answers no call of the message before"),
        ([answer(5)], "messages[].tool_call_id: Expected `str`, got `int`"),  # type: ignore[arg-type]
        ([calling(call()), answer("b")], "messages[].tool_call_id: 'b' answers no call"),
        ([calling(call()), answer(), answer()], "messages[].tool_call_id: 'a' answers no call"),
        ([calling(call()), answer(), USER, answer()], "messages[].tool_call_id: 'a' answers no"),
        ([calling(call())], "messages[].tool_calls: the call of 'f' has no result"),
        ([calling(call()), USER], "messages[].tool_calls: the call of 'f' has no result"),
        ([calling(call("a"), call("b", "g")), answer("a"), USER], "messages[].tool_calls: the c"),
        ([calling(call()), calling(call("b"))], "messages[].tool_calls: the call of 'f' has no"),
        ([calling(call(), call())], "messages[].tool_calls[].id: 'a' is there twice"),
        ([calling({"id": 5})], "messages[].tool_calls[].id: Expected `str`, got `int`"),
        ([{"role": "assistant", "tool_calls": 5}], "messages[].tool_calls: Expected `array`"),
    ],
)
def test_every_call_has_one_result_that_follows_it(messages: list[Json], message: str) -> None:
    assert refusal(*messages).startswith(message)


def test_a_provider_that_remembers_is_told_results_of_calls_that_are_not_here() -> None:
    messages = [answer("far"), USER, calling(call("a")), answer("a"), answer("b")]
    assert history(asked(*messages), ANY_64, remembered=True) == messages
    with pytest.raises(RequestError, match="'a' answers no call"):
        history(asked(calling(call()), answer(), answer()), ANY_64, remembered=True)


def test_calls_without_ids_are_answered_by_name() -> None:
    messages = [calling(call(None, "f"), call("", "g"), call(None, "f"))]
    messages += [answer(None, name=name) for name in ("g", "f", "f")]
    assert ids(*messages) == ["call_0", "call_0_1", "call_0_2", "call_0_1", "call_0", "call_0_2"]


def test_ids_that_come_again_are_told_apart() -> None:
    turn = [calling(call("f-0"), call("f-0_1")), answer("f-0_1"), answer("f-0")]
    first, second = ["f-0", "f-0_1"], ["f-0_2", "f-0_1_1"]
    assert ids(*turn, *turn) == [*first, *reversed(first), *second, *reversed(second)]


@pytest.mark.parametrize("rule", [LETTERS_64, ANY_40, ANY_64, ALPHANUMERIC_9])
@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True))
def test_ids_fit_their_rule_and_still_meet(rule: IdRule, names: list[str]) -> None:
    turn = [calling(*map(call, names)), *(answer(name) for name in reversed(names))]
    found = ids(*turn, *turn, rule=rule)
    calls, answers = found[: len(names)], found[len(names) : 2 * len(names)]
    assert answers == calls[::-1]
    assert all(re.fullmatch(rule.pattern, id) for id in found)
    assert len(set(found)) == 2 * len(names)
    assert found == ids(*turn, *turn, rule=rule)  # the same again for the next turn
    kept = [name for name in names if re.fullmatch(rule.pattern, name)]
    assert [id for id in calls if id in names] == kept


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        ("mistral-large-latest", ALPHANUMERIC_9),
        ("mistralai/Ministral-8B", ALPHANUMERIC_9),
        ("codestral", ALPHANUMERIC_9),
        ("Mixtral-8x7B-Instruct", ALPHANUMERIC_9),
        ("gpt-4o", ANY_40),
    ],
)
def test_mistrals_models_have_a_rule_of_their_own(model: str, rule: IdRule) -> None:
    assert id_rule(model, ANY_40) == rule


def test_names_are_refused_not_changed() -> None:
    tools = [{"googleSearch": {}}, {"function": {"name": "a.b"}}]
    check_names(asked(USER, tools=tools), re.compile(r"[a-z.]+"), "this one")
    with pytest.raises(RequestError) as caught:
        check_names(asked(USER, tools=tools), re.compile(r"[a-z]+"), "that one")
    assert caught.value.message == "tools[].function.name: that one wants [a-z]+, not 'a.b'"


def test_instructions_alone_are_no_conversation() -> None:
    with pytest.raises(RequestError, match="messages: needs a user message"):
        split([{"role": "system", "content": "s"}])


# Thoughts


def test_thoughts_go_back_to_the_provider_who_had_them() -> None:
    signed = call() | {"extra_content": {"google": {"thought_signature": "S"}}}
    theirs = calling(signed, model="there/m", reasoning=[{"signature": "S"}])
    ours = theirs | {"model": "here/other"}
    plain, kept = (history(asked(m, answer()), ANY_64)[0] for m in (theirs, ours))
    assert plain == calling(call())
    assert kept == calling(signed, reasoning=[{"signature": "S"}])


def test_pieces_join_to_thoughts_that_end_with_their_proof() -> None:
    pieces = [
        {"token": "reasoning", "content": "a"},
        {"content": "b", "index": 0},
        {"signature": "S"},
        {"content": "c"},
        {"content": "d", "block": 1},
        {"detail": {"type": "summary_text", "summary_index": 1}, "block": 1},
        {"content": "e", "block": 1},
        {"encrypted": "X", "detail": {"type": "reasoning"}, "block": 1},
        {"encrypted": "Y", "block": 2},
        {"detail": {"other": "part"}, "block": 2},
    ]
    assert thoughts({"reasoning": pieces}) == [
        Thought(0, ["ab"], signature="S", proven=True),
        Thought(0, ["c"]),
        Thought(1, ["d", "e"], encrypted="X", detail={"type": "reasoning"}, proven=True),
        Thought(2, [""], encrypted="Y", proven=True),
        Thought(2, [""], detail={"other": "part"}, proven=True),
    ]
    assert thoughts({"reasoning": pieces})[2].text == "d\n\ne"
    assert thoughts({}) == []


@pytest.mark.parametrize("reasoning", ["text", [5], [{"signature": 5}], [{"detail": []}]])
def test_what_is_no_list_of_thoughts(reasoning: Any) -> None:
    with pytest.raises(RequestError, match=r"messages\[\]\.reasoning: "):
        thoughts({"reasoning": reasoning})
