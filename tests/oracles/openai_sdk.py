"""The official OpenAI SDK, reading answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import openai

from oracles.answers import Draft, Json, answer, counts, failure
from oracles.openai_calls import HELLO
from ringcast.replay.recording import Recording


class Reader:
    """Asks an upstream for recordings, and says what the SDK makes of them."""

    def __init__(self, url: str) -> None:
        """`url` is the upstream's."""
        self._client = openai.OpenAI(base_url=f"{url}/v1", api_key="sk-none", max_retries=0)

    def read(self, recording: Recording) -> Json:
        """Read by the SDK's plain way: its parsed chunks or objects."""
        read: Any = {"chat": self._chat, "completions": self._completion}
        return read.get(recording.api, self._response)(recording)  # type: ignore[no-any-return]

    def accumulate(self, recording: Recording) -> Json:
        """Read a stream by the SDK's own accumulator. Raises what that raises."""
        if recording.api == "chat":
            with self._client.chat.completions.stream(
                model=recording.name, messages=HELLO
            ) as stream:
                return _whole_chat(stream.get_final_completion())
        with self._client.responses.stream(model=recording.name, input="hi") as stream:
            return _whole_response(stream.get_final_response())

    def _chat(self, recording: Recording) -> Json:
        create, joined = self._client.chat.completions.create, Joined()
        asked = {"model": recording.name, "messages": HELLO}
        try:
            if not recording.streamed:
                return _whole_chat(create(**asked))
            for chunk in create(**asked, stream=True):
                joined.add(chunk)
        except openai.APIError as error:
            return joined.answer(_failure(error))
        return joined.answer()

    def _completion(self, recording: Recording) -> Json:
        joined = Joined()
        for chunk in self._client.completions.create(
            model=recording.name, prompt="hi", stream=True
        ):
            joined.usage = chunk.usage or joined.usage
            for choice in chunk.choices:
                draft = joined.draft(choice.index)
                draft.text += choice.text
                draft.reason = choice.finish_reason or draft.reason
        return joined.answer()

    def _response(self, recording: Recording) -> Json:
        create, told = self._client.responses.create, Told()
        try:
            if not recording.streamed:
                return _whole_response(create(model=recording.name, input="hi"))
            for event in create(model=recording.name, input="hi", stream=True):
                told.add(event)
        except openai.APIError as error:
            told.error = _failure(error)
        return answer([told.draft], told.usage, told.error)


class Joined:
    """The chunks of a chat, joined."""

    def __init__(self) -> None:
        self.usage: Any = None
        self._drafts: dict[int, Draft] = {}

    def draft(self, index: int) -> Draft:
        return self._drafts.setdefault(index, Draft())

    def add(self, chunk: Any) -> None:
        self.usage = chunk.usage or self.usage
        for choice in chunk.choices:
            draft = self.draft(choice.index)
            draft.reason = choice.finish_reason or draft.reason
            if choice.delta is not None:  # Azure's verdicts of its filters have none
                _delta(choice.delta, draft)

    def answer(self, error: Json | None = None) -> Json:
        drafts = [self._drafts[index] for index in sorted(self._drafts)] or [Draft()]
        return answer(drafts, _chat_usage(self.usage), error)


class Told:
    """The events of a response, told on."""

    def __init__(self) -> None:
        self.draft = Draft()
        self.usage: Json | None = None
        self.error: Json | None = None

    def add(self, event: Any) -> None:
        draft = self.draft
        match event.type:
            case "response.output_text.delta":
                draft.text += event.delta
            case "response.refusal.delta":
                draft.refuse(event.delta)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                draft.reasoning += event.delta
            case "response.output_item.done" if event.item.type == "function_call":
                item = event.item
                draft.call(event.output_index, item.call_id, item.name, item.arguments)
            case "response.completed" | "response.incomplete" | "response.failed":
                self.usage = _response_usage(event.response.usage)
                draft.reason = _reason(event.response)
                if said := event.response.error:
                    self.error = failure(code=said.code, message=said.message)


def _delta(delta: Any, draft: Draft) -> None:
    draft.text += delta.content or ""
    draft.reasoning += _thought(delta)
    draft.refuse(delta.refusal)
    for call in delta.tool_calls or []:
        said = call.function
        draft.call(call.index, call.id, said and said.name, said and said.arguments)


def _whole_chat(completion: Any) -> Json:
    drafts = []
    for choice in completion.choices:
        drafts.append(draft := Draft())
        message, draft.reason = choice.message, choice.finish_reason
        draft.text, draft.reasoning = message.content or "", _thought(message)
        draft.refuse(message.refusal)
        for number, call in enumerate(message.tool_calls or []):
            draft.call(number, call.id, call.function.name, call.function.arguments)
    return answer(drafts, _chat_usage(completion.usage))


def _whole_response(response: Any) -> Json:
    draft = Draft()
    for number, item in enumerate(response.output):
        match item.type:
            case "message":
                _content(item.content, draft)
            case "reasoning":
                texts: Iterable[Any] = [*(item.summary or []), *(item.content or [])]
                draft.reasoning += "".join(part.text for part in texts)
            case "function_call":
                draft.call(number, item.call_id, item.name, item.arguments)
    draft.reason = _reason(response)
    return answer([draft], _response_usage(response.usage))


def _content(parts: Iterable[Any], draft: Draft) -> None:
    for part in parts:
        if part.type == "output_text":
            draft.text += part.text
        else:
            draft.refuse(part.refusal)


def _reason(response: Any) -> str:
    """Our word for how a response ended: its status, with what made it incomplete."""
    why = response.incomplete_details
    return f"{response.status}:{why.reason}" if why else str(response.status)


def _thought(said: Any) -> str:
    """The thoughts beside a text, which are not OpenAI's: the SDK lets them through."""
    return getattr(said, "reasoning_content", None) or getattr(said, "reasoning", None) or ""


def _chat_usage(usage: Any) -> Json | None:
    if usage is None:
        return None
    given, made = usage.prompt_tokens_details, usage.completion_tokens_details
    return counts(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
        given and given.cached_tokens,
        getattr(given, "cache_write_tokens", None),
        made and made.reasoning_tokens,
    )


def _response_usage(usage: Any) -> Json | None:
    if usage is None:
        return None
    given, made = usage.input_tokens_details, usage.output_tokens_details
    return counts(
        usage.input_tokens,
        usage.output_tokens,
        usage.total_tokens,
        given and given.cached_tokens,
        getattr(given, "cache_write_tokens", None),
        made and made.reasoning_tokens,
    )


def _failure(error: openai.APIError) -> Json:
    """What was raised; the SDK puts the status before the message where there is one."""
    status = getattr(error, "status_code", None)
    message = error.message.removeprefix(f"Error code: {status} - ")
    return failure(status, error.type, error.code, message)
