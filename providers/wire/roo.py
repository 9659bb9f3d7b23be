"""Decoders for an editor that comes from Roo-Code: the same characters as its handlers give.

https://github.com/RooCodeInc/Roo-Code, src/api/providers, as of April 2026. Each class is one of
those handlers: the decoder of the same API, but for what the handler makes of visible text, of
thinking and of tool calls. What it has no chunk for (signatures, citations, log-probabilities, a
chat's refusal) stays, in tokens of its own. What loses or garbles an answer is not copied: the
choices of n > 1 mixed together, calls of Gemini whose arguments come in pieces without them,
calls without an id left out, errors of Bedrock as text of the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from ringcast.providers.wire.anthropic import MAX_BLOCKS, Messages
from ringcast.providers.wire.chunk import ChoiceDelta
from ringcast.providers.wire.dialect import Dialect, Recall
from ringcast.providers.wire.gemini import Generate
from ringcast.providers.wire.generation import FunctionCall
from ringcast.providers.wire.message import Block
from ringcast.providers.wire.numbers import position, whole
from ringcast.providers.wire.ollama import Line, Native
from ringcast.providers.wire.openai import Chat
from ringcast.providers.wire.reasoning import openai_reasoning
from ringcast.providers.wire.roo_handler import Handler, Tags, Thinker
from ringcast.providers.wire.roo_responses import OpenAiNative, Xai
from ringcast.shm.tokens import Reasoning, StreamToken, ToolCall

_LINE_END: Final = "\n"


class OpenAi(Thinker[Any], Chat):
    """`OpenAiHandler`: of thinking beside the text only `reasoning_content` is shown."""

    def __init__(self) -> None:
        super().__init__()
        self._own = Tags()

    @property
    def recall(self) -> Recall | None:
        """As others', once no tag can come: on the fast way, text of choice 0 is text."""
        tag = self._own.by_choice.get(0)
        return super().recall if tag and tag.settled else None

    def _reasoning(self, delta: ChoiceDelta, index: int, tokens: list[StreamToken]) -> None:
        delta.reasoning = delta.reasoning_details = None
        delta.reasoning_text = delta.thinking_blocks = None
        super()._reasoning(delta, index, tokens)


class _Detailed(msgspec.Struct, array_like=True):
    choices: set[int] = set()


class OpenRouter(Handler[Any], Chat):
    """`OpenRouterHandler`: `reasoning_details`, and `reasoning` as long as these had no text."""

    _own: _Detailed

    def __init__(self) -> None:
        super().__init__()
        self._own = _Detailed()

    def _reasoning(self, delta: ChoiceDelta, index: int, tokens: list[StreamToken]) -> None:
        delta.reasoning_content = None
        details = openai_reasoning((), delta.reasoning_details, index)
        if index not in self._own.choices and any(detail.content for detail in details):
            self._own.choices.add(index)
            self.changed = True
        if index in self._own.choices:
            delta.reasoning = None
        super()._reasoning(delta, index, tokens)


class Anthropic(Messages):
    """`AnthropicHandler`: every block of text or thinking but the first begins on a new line."""

    def _block(self, index: Any, block: Block, tokens: list[StreamToken]) -> None:
        if (whole(index) or 0) > 0:
            if block.type == "text":
                self._content(_LINE_END, 0, None, tokens)
            elif block.type == "thinking":
                block_index = position(index, "block", MAX_BLOCKS)
                tokens.append(Reasoning(_LINE_END, block=block_index))
        super()._block(index, block, tokens)


class _Parts(msgspec.Struct, array_like=True):
    """How many parts with a call, or a piece of one, each candidate had."""

    by_candidate: dict[int, int] = {}


class Gemini(Handler[Any], Generate):
    """`GeminiHandler`: a call's id is its name and how many parts with calls came before it."""

    _own: _Parts

    def __init__(self) -> None:
        super().__init__()
        self._own = _Parts()

    def _function_call(self, call: FunctionCall, index: int, tokens: list[StreamToken]) -> None:
        super()._function_call(call, index, tokens)
        self._own.by_candidate[index] = self._own.by_candidate.get(index, 0) + 1

    def _called(
        self, call: ToolCall | None, tokens: list[StreamToken], *, free: bool = False
    ) -> None:
        if call is not None and call.name is not None:
            number = self._own.by_candidate.get(call.choice, 0)
            call = msgspec.structs.replace(call, id=f"{call.name}-{number}")
        super()._called(call, tokens, free=free)


class Ollama(Thinker[Any], Native):
    """`NativeOllamaHandler`: thinking beside the text is left out, and calls are numbered."""

    def __init__(self) -> None:
        super().__init__()
        self._own = Tags()

    def _apply(self, line: Line, tokens: list[StreamToken]) -> list[StreamToken] | None:
        line.thinking = None
        if line.message is not None:
            line.message.thinking = None
        return super()._apply(line, tokens)

    def _called(
        self, call: ToolCall | None, tokens: list[StreamToken], *, free: bool = False
    ) -> None:
        if call is not None and call.id is not None:
            call = msgspec.structs.replace(call, id=f"ollama-tool-{call.index}")
        super()._called(call, tokens, free=free)


_OF_API: Final[dict[str, Callable[[], Dialect[Any]]]] = {
    "chat": OpenAi,
    "responses": OpenAiNative,
    "messages": Anthropic,
    "generate": Gemini,
    "native": Ollama,
}
_OF_KIND: Final[dict[tuple[str, str], Callable[[], Dialect[Any]]]] = {
    ("openrouter", "chat"): OpenRouter,
    ("xai", "responses"): Xai,
}


def handler(kind: str, api: str) -> Callable[[], Dialect[Any]] | None:
    """What Roo-Code uses for a provider of this kind.

    Null where it changes nothing (Bedrock's Converse), and for an API that it does not speak.
    """
    return _OF_KIND.get((kind, api)) or _OF_API.get(api)
