"""The answers that providers give in the simulation, and what is known of each as it is told."""

from __future__ import annotations

import random
from functools import cache
from itertools import accumulate

from ringcast.shm.tokens import Done, StreamToken, Text, ToolCall
from ringcast.workers.stage import TEXT_CHARACTERS
from ringcast.workers.stream import split

SHELF = 96
RING = 1 << 16
LARGE = (RING >> 1) - 4096  # an event near half of a ring may be lost with who reads it


class Answer:
    """One body: its events, and the tokens that it means. Shared by all runs."""

    def __init__(
        self, api: str, name: str, events: list[bytes], tokens: list[list[StreamToken]]
    ) -> None:
        """`tokens` has those of each event."""
        self.api = api
        self.name = name
        self.events = events
        self.body = b"".join(events)
        self.tokens = [token for some in tokens for token in some]
        self.largest = max(map(len, events))
        ends = list(accumulate(map(len, events)))
        # By token: the raw byte behind its event.
        self.raw = [end for end, some in zip(ends, tokens, strict=True) for _ in some]

    @property
    def last(self) -> int:
        """The number of its terminal token."""
        return len(self.tokens) - 1

    def rest(self, after: str) -> bytes:
        """What is behind the event numbered `after`, as a provider that keeps it sends it."""
        return b"".join(self.events[int(after) + 1 if after else 0 :])


def _chat(name: str, draw: random.Random) -> Answer:
    events: list[bytes] = []
    tokens: list[list[StreamToken]] = []
    calls = 0
    for number in range(draw.choice((0, 1, 3, 12, 12, 30))):
        text = f"{name}.{number} "
        kind = draw.random()
        if kind < 0.03:
            text += "x" * draw.choice((5000, 9000, 20_000, 25_000, 40_000))
        elif kind < 0.2:
            text += "y" * draw.choice((90, 300, 900))
        if kind > 0.97:
            text += "z" * draw.choice((0, 5000, 12_000, 36_000))
            delta = (
                f'{{"tool_calls":[{{"index":{calls},"id":"c{calls}",'
                f'"function":{{"name":"f","arguments":"{text}"}}}}]}}'
            )
            tokens.append([ToolCall(calls, f"c{calls}", "f", text)])
            calls += 1
        else:
            delta = f'{{"content":"{text}"}}'
            tokens.append(split(Text(text), TEXT_CHARACTERS))
        events.append(b'data: {"choices":[{"index":0,"delta":%b}]}\n\n' % delta.encode())
        if draw.random() < 0.1:
            events.append(b": keep-alive, and nothing else%b\n\n" % (b"." * draw.choice((9, 600))))
            tokens.append([])
    reason = b"tool_calls" if calls else b"stop"
    events.append(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"%b"}]}\n\n' % reason)
    events.append(b"data: [DONE]\n\n")
    tokens += [[], [Done("tool_calls" if calls else "stop")]]
    return Answer("chat", name, events, tokens)


def _background(name: str, draw: random.Random) -> Answer:
    head = b'data: {"type":"response.%b","sequence_number":%d,'
    about = b'"response":{"id":"%b","background":true,"status":"%b"}}\n\n'
    events = [head % (b"created", 0) + about % (name.encode(), b"in_progress")]
    tokens: list[list[StreamToken]] = [[]]
    for number in range(1, draw.choice((2, 5, 13, 25))):
        text = f"{name}.{number} " + "y" * draw.choice((0, 0, 0, 200))
        delta = b'"delta":"%b"}\n\n' % text.encode()
        events.append(head % (b"output_text.delta", number) + delta)
        tokens.append([Text(text)])
    events.append(head % (b"completed", len(events)) + about % (name.encode(), b"completed"))
    tokens.append([Done("stop")])
    return Answer("responses", name, events, tokens)


@cache
def shelf() -> list[Answer]:
    """All answers, made once: no two have a text in common."""
    draw = random.Random(20)
    return [(_background if i % 4 == 3 else _chat)(f"a{i}", draw) for i in range(SHELF)]
