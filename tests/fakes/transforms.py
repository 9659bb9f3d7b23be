"""Streams for transformers: any text, cut anywhere, in any batches, with a hand-over anywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from hypothesis import strategies as st

from ringcast.shm.tokens import (
    Delta,
    Done,
    Error,
    FunctionCall,
    Reasoning,
    Refusal,
    StreamToken,
    Text,
    ToolCall,
)
from ringcast.workers.transform import StreamTransformer
from ringcast.workers.transforms import Transforms

Make = Callable[[], list[StreamTransformer]]
END = Done("stop")

cuts = st.lists(st.integers(0, 7), max_size=40)
batches = st.lists(st.integers(1, 5), max_size=40)


def pieces(text: str, sizes: list[int]) -> list[str]:
    """A text in pieces of these sizes, and the rest as the last one."""
    found: list[str] = []
    for size in sizes:
        found.append(text[:size])
        text = text[size:]
    return [*found, text]


def run(
    make: Make, tokens: list[StreamToken], sizes: list[int] | None = None, *, restart: bool = False
) -> list[StreamToken]:
    """What becomes of a stream that comes in batches, a token each by default.

    With `restart` a new chain goes on from the state of the one before after each batch.
    """
    chain = Transforms(make())
    tokens, after = [*tokens, END], list[StreamToken]()
    for size in [*(sizes or []), *[1] * len(tokens)]:
        after += chain.feed(tokens[:size], 1)
        tokens = tokens[size:]
        if restart:
            state, chain = chain.state(), Transforms(make())
            chain.restore(state)
            chain.finished = bool(after) and isinstance(after[-1], Done | Error)
    return after


def said(tokens: list[StreamToken]) -> dict[tuple[str, int, int], str]:
    """The text of each part of an answer: its kind and two numbers that tell it from others."""
    texts: dict[tuple[str, int, int], str] = defaultdict(str)
    for token in tokens:
        match token:
            case Text():
                texts["text", 0, 0] += token.content
            case Delta():
                texts["text", token.index, 0] += token.content
            case Reasoning():
                texts["reasoning", token.index, token.block] += token.content
            case Refusal():
                texts["refusal", token.index, 0] += token.content
            case ToolCall():
                texts["tool", token.choice, token.index] += token.arguments
            case FunctionCall():
                texts["function", token.index, 0] += token.arguments
            case _:
                continue
    return {key: text for key, text in texts.items() if text}


def visible(tokens: list[StreamToken]) -> str:
    """The text of choice 0."""
    return said(tokens).get(("text", 0, 0), "")
