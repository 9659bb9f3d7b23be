"""The official Anthropic SDK, reading answers."""

from __future__ import annotations

import json
from typing import Any

import anthropic

from oracles.answers import Draft, Json, answer, counts, failure, later
from oracles.openai_calls import HELLO
from ringcast.replay.recording import Recording


class Reader:
    """Asks an upstream for recordings, and says what the SDK makes of them."""

    def __init__(self, url: str) -> None:
        """`url` is the upstream's."""
        self._client = anthropic.Anthropic(base_url=url, api_key="sk-none", max_retries=0)

    def read(self, recording: Recording) -> Json:
        """Read by the SDK's plain way: its parsed events or objects."""
        if recording.api == "complete":
            return self._complete(recording)
        asked = {"model": recording.name, "max_tokens": 100, "messages": HELLO}
        told = Told()
        try:
            if not recording.streamed:
                return _whole(self._client.messages.create(**asked))
            for event in self._client.messages.create(**asked, stream=True):
                told.add(event)
        except anthropic.APIStatusError as error:
            return answer([told.draft], told.usage, _failure(error))
        return answer([told.draft], told.usage)

    def _complete(self, recording: Recording) -> Json:
        draft = Draft()
        for piece in self._client.completions.create(
            model=recording.name, prompt="hi", max_tokens_to_sample=100, stream=True
        ):
            draft.text += piece.completion
            draft.reason = piece.stop_reason or draft.reason
        return answer([draft])

    def accumulate(self, recording: Recording) -> Json:
        """Read a stream by the SDK's own accumulator."""
        with self._client.messages.stream(
            model=recording.name, max_tokens=100, messages=HELLO
        ) as stream:
            return _whole(stream.get_final_message())


class Told:
    """The events of a message, told on."""

    def __init__(self) -> None:
        self.draft = Draft()
        self.usage: Json | None = None

    def add(self, event: Any) -> None:
        match event.type:
            case "message_start":
                self.usage = _usage(event.message.usage)
            case "content_block_start":
                block = event.content_block
                if block.type == "tool_use":
                    self.draft.call(event.index, block.id, block.name)
                elif block.type == "text":
                    self.draft.text += block.text
            case "content_block_delta":
                self._delta(event.index, event.delta)
            case "message_delta":
                self.draft.reason = event.delta.stop_reason
                self.usage = later(self.usage, _usage(event.usage))

    def _delta(self, index: int, delta: Any) -> None:
        draft = self.draft
        match delta.type:
            case "text_delta":
                draft.text += delta.text
            case "thinking_delta":
                draft.reasoning += delta.thinking
            case "input_json_delta" if index in draft.calls:  # else it is for a server's own tool
                draft.call(index, arguments=delta.partial_json)


def _whole(message: Any) -> Json:
    """The arguments of calls are objects here."""
    draft = Draft()
    for number, block in enumerate(message.content):
        match block.type:
            case "text":
                draft.text += block.text
            case "thinking":
                draft.reasoning += block.thinking
            case "tool_use":
                draft.call(number, block.id, block.name, json.dumps(block.input))
    draft.reason = message.stop_reason
    return answer([draft], _usage(message.usage))


def _usage(usage: Any) -> Json:
    read, written = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
    return counts(usage.input_tokens, usage.output_tokens, None, read, written, None)


def _failure(error: anthropic.APIStatusError) -> Json:
    """What was raised: the SDK leaves it to its reader to look into the body."""
    body: Any = error.body
    said = body["error"]
    return failure(error.status_code, said["type"], None, said["message"])
