"""One answer in each API's two forms: the events of its stream, and its whole JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from fakes.frames import PAD, block

Json = dict[str, Any]


class Call(msgspec.Struct, frozen=True):
    id: str
    name: str
    arguments: Json


class Said(msgspec.Struct, frozen=True):
    """What a model may say; a form takes what its API has."""

    text: str = ""
    thoughts: str = ""
    seal: str = ""
    redacted: str = ""
    refusal: str = ""
    calls: list[Call] = []
    sources: list[str] = []
    given: int = 1
    made: int = 1
    cached: int = 0
    finish: int = 0
    seed: int = 0

    def cut(self, text: str) -> Iterator[str]:
        """A text in pieces of 1 to 5 characters."""
        rng, at = random.Random(self.seed), 0
        while at < len(text):
            size = rng.randint(1, 5)
            yield text[at : at + size]
            at += size


def compact(value: Any) -> str:
    """As JSON.stringify writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class Form(msgspec.Struct, frozen=True):
    """An API's two forms; `reasons` are the words with which it may end."""

    api: str
    events: Callable[[Said, str], Iterator[Json]]
    answer: Callable[[Said, str], Json]
    reasons: list[str]
    last: bytes = b""
    named: bool = False  # the events' names are outside of their JSON

    def stream(self, said: Said) -> list[bytes]:
        reason = self.reasons[said.finish % len(self.reasons)]
        frames: list[bytes] = []
        for event in self.events(said, reason):
            payload = event
            if self.named:
                payload = {key: value for key, value in event.items() if key != "event"}
                payload["p"] = PAD[: len(frames) * 7 % len(PAD)]
            frames.append(block(self.api, event, compact(payload)))
        return [*frames, self.last] if self.last else frames

    def whole(self, said: Said) -> bytes:
        reason = self.reasons[said.finish % len(self.reasons)]
        return json.dumps(self.answer(said, reason)).encode()


# https://platform.openai.com/docs/api-reference/chat


def _chat_usage(said: Said) -> Json:
    return {
        "prompt_tokens": said.given,
        "completion_tokens": said.made,
        "total_tokens": said.given + said.made,
        "prompt_tokens_details": {"cached_tokens": said.cached},
    }


def _chat_sources(said: Said) -> list[Json]:
    return [{"type": "url_citation", "url_citation": {"url": url}} for url in said.sources]


def chat_events(said: Said, reason: str) -> Iterator[Json]:
    def chunk(delta: Json, reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {"id": "c", "model": "m", "choices": [choice]}

    yield chunk({"role": "assistant", "content": ""})
    yield from (chunk({"reasoning_content": piece}) for piece in said.cut(said.thoughts))
    yield from (chunk({"content": piece}) for piece in said.cut(said.text))
    yield from (chunk({"refusal": piece}) for piece in said.cut(said.refusal))
    if said.sources:
        yield chunk({"annotations": _chat_sources(said)})
    for index, call in enumerate(said.calls):
        begun = {"index": index, "id": call.id, "function": {"name": call.name, "arguments": ""}}
        yield chunk({"tool_calls": [begun]})
        for piece in said.cut(compact(call.arguments)):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, reason)
    yield {"id": "c", "model": "m", "choices": [], "usage": _chat_usage(said)}


def chat_answer(said: Said, reason: str) -> Json:
    calls = [
        {"id": c.id, "function": {"name": c.name, "arguments": compact(c.arguments)}}
        for c in said.calls
    ]
    message = {
        "role": "assistant",
        "content": said.text or None,
        "reasoning_content": said.thoughts,
        "refusal": said.refusal or None,
        "tool_calls": calls,
        "annotations": _chat_sources(said),
    }
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {"id": "c", "model": "m", "choices": [choice], "usage": _chat_usage(said)}


def completion_events(said: Said, reason: str) -> Iterator[Json]:
    about = {"id": "c", "model": "m"}
    for piece in said.cut(said.text):
        yield about | {"choices": [{"index": 0, "text": piece, "finish_reason": None}]}
    yield about | {"choices": [{"index": 0, "text": "", "finish_reason": reason}]}
    yield about | {"choices": [], "usage": _chat_usage(said)}


def completion_answer(said: Said, reason: str) -> Json:
    choice = {"index": 0, "text": said.text, "finish_reason": reason}
    return {"id": "c", "model": "m", "choices": [choice], "usage": _chat_usage(said)}


# https://platform.openai.com/docs/api-reference/responses-streaming


def _response(said: Said, reason: str, output: list[Json]) -> Json:
    incomplete = {"incomplete_details": {"reason": reason}} if reason != "completed" else {}
    return {
        "id": "r",
        "model": "m",
        "status": "incomplete" if incomplete else "completed",
        "output": output,
        "usage": {
            "input_tokens": said.given,
            "output_tokens": said.made,
            "total_tokens": said.given + said.made,
            "input_tokens_details": {"cached_tokens": said.cached},
        },
    } | incomplete


def _items(said: Said) -> list[Json]:
    sources = [{"type": "url_citation", "url": url} for url in said.sources]
    parts: list[Json] = [{"type": "output_text", "text": said.text, "annotations": sources}]
    if said.refusal:
        parts.append({"type": "refusal", "refusal": said.refusal})
    summary = [{"type": "summary_text", "text": said.thoughts}] if said.thoughts else []
    reasoning = {"type": "reasoning", "id": "rs", "summary": summary}
    calls = [
        {
            "type": "function_call",
            "id": f"fc{call.id}",
            "call_id": call.id,
            "name": call.name,
            "arguments": compact(call.arguments),
        }
        for call in said.calls
    ]
    sealed = {"encrypted_content": said.seal} if said.seal else {}
    return [reasoning | sealed, {"type": "message", "id": "m", "content": parts}, *calls]


def response_events(said: Said, reason: str) -> Iterator[Json]:
    items = _items(said)
    yield {"type": "response.created", "response": {"id": "r", "model": "m"}}
    for index, item in enumerate(items):
        begun = item | {"arguments": ""} if "arguments" in item else {"type": item["type"]}
        yield {"type": "response.output_item.added", "output_index": index, "item": begun}
        for kind, fields in _response_deltas(said, index, item):
            yield {"type": f"response.{kind}", "output_index": index} | fields
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    answer = _response(said, reason, items)
    yield {"type": f"response.{answer['status']}", "response": answer}


def _response_deltas(said: Said, index: int, item: Json) -> Iterator[tuple[str, Json]]:
    if item["type"] == "reasoning":
        for piece in said.cut(said.thoughts):
            yield "reasoning_summary_text.delta", {"summary_index": 0, "delta": piece}
    elif item["type"] == "message":
        yield from (("output_text.delta", {"delta": piece}) for piece in said.cut(said.text))
        for annotation in item["content"][0]["annotations"]:
            yield "output_text.annotation.added", {"annotation": annotation}
        yield "output_text.done", {"text": said.text}
        yield from (("refusal.delta", {"delta": piece}) for piece in said.cut(said.refusal))
    else:
        for piece in said.cut(item["arguments"]):
            yield "function_call_arguments.delta", {"delta": piece}
        yield "function_call_arguments.done", {"arguments": item["arguments"]}


def response_answer(said: Said, reason: str) -> Json:
    return _response(said, reason, _items(said))


# https://docs.anthropic.com/en/api/messages-streaming


def _message_blocks(said: Said) -> list[Json]:
    sources = [{"type": "web_search_result_location", "url": url} for url in said.sources]
    blocks: list[Json] = []
    if said.thoughts or said.seal:
        blocks.append({"type": "thinking", "thinking": said.thoughts, "signature": said.seal})
    if said.redacted:
        blocks.append({"type": "redacted_thinking", "data": said.redacted})
    blocks.append({"type": "text", "text": said.text, "citations": sources})
    return blocks + [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
        for call in said.calls
    ]


def message_events(said: Said, reason: str) -> Iterator[Json]:
    usage = {"input_tokens": said.given, "cache_read_input_tokens": said.cached}
    about = {"id": "m", "model": "c", "content": [], "usage": usage}
    yield {"type": "message_start", "message": about}
    for index, whole in enumerate(_message_blocks(said)):
        empty = {"thinking": "", "signature": "", "text": "", "input": {}, "citations": []}
        begun = {key: empty.get(key, value) for key, value in whole.items()}
        yield {"type": "content_block_start", "index": index, "content_block": begun}
        for delta in _message_deltas(said, whole):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    end = {"stop_reason": reason, "stop_sequence": None}
    yield {"type": "message_delta", "delta": end, "usage": {"output_tokens": said.made}}
    yield {"type": "message_stop"}


def _message_deltas(said: Said, whole: Json) -> Iterator[Json]:
    for citation in whole.get("citations", []):
        yield {"type": "citations_delta", "citation": citation}
    for piece in said.cut(whole.get("text", "")):
        yield {"type": "text_delta", "text": piece}
    for piece in said.cut(whole.get("thinking", "")):
        yield {"type": "thinking_delta", "thinking": piece}
    if whole.get("signature"):
        yield {"type": "signature_delta", "signature": whole["signature"]}
    if "input" in whole:
        for piece in said.cut(compact(whole["input"]) if whole["input"] else ""):
            yield {"type": "input_json_delta", "partial_json": piece}


def message_answer(said: Said, reason: str) -> Json:
    return {
        "id": "m",
        "type": "message",
        "model": "c",
        "content": _message_blocks(said),
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {
            "input_tokens": said.given,
            "output_tokens": said.made,
            "cache_read_input_tokens": said.cached,
        },
    }


# https://ai.google.dev/api/generate-content


def _gemini(said: Said, parts: list[Json], **fields: Any) -> Json:
    usage = {
        "promptTokenCount": said.given,
        "candidatesTokenCount": said.made,
        "totalTokenCount": said.given + said.made,
        "cachedContentTokenCount": said.cached,
    }
    candidate = {"content": {"parts": parts, "role": "model"}, "index": 0} | fields
    about = {"responseId": "r", "modelVersion": "g"}
    return about | {"candidates": [candidate], "usageMetadata": usage}


def _gemini_end(said: Said, reason: str) -> Json:
    sources = [{"uri": url, "startIndex": 1} for url in said.sources]
    return {"finishReason": reason, "citationMetadata": {"citationSources": sources}}


def _gemini_calls(said: Said) -> list[Json]:
    sealed = {"thoughtSignature": said.seal} if said.seal else {}
    calls: list[Json] = [
        {"functionCall": {"name": c.name, "args": c.arguments}} for c in said.calls
    ]
    return [*calls, {"text": ""} | sealed]


def gemini_events(said: Said, reason: str) -> Iterator[Json]:
    for piece in said.cut(said.thoughts):
        yield _gemini(said, [{"text": piece, "thought": True}])
    for piece in said.cut(said.text):
        yield _gemini(said, [{"text": piece}])
    for part in _gemini_calls(said):
        yield _gemini(said, [part])
    yield _gemini(said, [], **_gemini_end(said, reason))


def gemini_answer(said: Said, reason: str) -> Json:
    thoughts = [{"text": said.thoughts, "thought": True}] if said.thoughts else []
    parts: list[Json] = [*thoughts, {"text": said.text}, *_gemini_calls(said)]
    return _gemini(said, parts, **_gemini_end(said, reason))


# https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html


def _converse_usage(said: Said) -> Json:
    return {
        "inputTokens": said.given,
        "outputTokens": said.made,
        "totalTokens": said.given + said.made,
        "cacheReadInputTokens": said.cached,
    }


def _converse_sources(said: Said) -> list[Json]:
    return [{"title": "t", "location": {"web": {"url": url}}} for url in said.sources]


def _converse_blocks(said: Said) -> Iterator[list[Json]]:
    """The events of each block, without its index."""
    thoughts: list[Json] = [{"text": piece} for piece in said.cut(said.thoughts)]
    thoughts += [{"signature": said.seal}] if said.seal else []
    yield [{"delta": {"reasoningContent": thought}} for thought in thoughts]
    if said.redacted:
        yield [{"delta": {"reasoningContent": {"redactedContent": said.redacted}}}]
    text: list[Json] = [{"text": piece} for piece in said.cut(said.text)]
    yield [{"delta": one} for one in text + [{"citation": c} for c in _converse_sources(said)]]
    for call in said.calls:
        yield [
            {"start": {"toolUse": {"toolUseId": call.id, "name": call.name}}},
            *({"delta": {"toolUse": {"input": p}}} for p in said.cut(compact(call.arguments))),
        ]


def converse_events(said: Said, reason: str) -> Iterator[Json]:
    yield {"event": "messageStart", "role": "assistant"}
    for index, pieces in enumerate(_converse_blocks(said)):
        for piece in pieces:
            name = "contentBlockStart" if "start" in piece else "contentBlockDelta"
            yield {"event": name, "contentBlockIndex": index} | piece
        yield {"event": "contentBlockStop", "contentBlockIndex": index}
    yield {"event": "messageStop", "stopReason": reason}
    yield {"event": "metadata", "usage": _converse_usage(said)}


def converse_answer(said: Said, reason: str) -> Json:
    thought: Json = {"text": said.thoughts} | ({"signature": said.seal} if said.seal else {})
    cited = {"content": [{"text": said.text}], "citations": _converse_sources(said)}
    content: list[Json] = [
        {"reasoningContent": {"reasoningText": thought}},
        *([{"reasoningContent": {"redactedContent": said.redacted}}] if said.redacted else []),
        {"citationsContent": cited} if said.sources else {"text": said.text},
    ]
    content += [
        {"toolUse": {"toolUseId": call.id, "name": call.name, "input": call.arguments}}
        for call in said.calls
    ]
    message = {"role": "assistant", "content": content}
    usage = _converse_usage(said)
    return {"output": {"message": message}, "stopReason": reason, "usage": usage}


def nova_events(said: Said, reason: str) -> Iterator[Json]:
    for event in converse_events(said, reason):
        yield {event["event"]: {key: value for key, value in event.items() if key != "event"}}


# https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters.html


def titan_events(said: Said, reason: str) -> Iterator[Json]:
    for piece in said.cut(said.text):
        yield {"outputText": piece, "index": 0, "completionReason": None}
    counts = {"inputTextTokenCount": said.given, "totalOutputTextTokenCount": said.made}
    yield {"outputText": "", "index": 0, "completionReason": reason} | counts


def titan_answer(said: Said, reason: str) -> Json:
    result = {"outputText": said.text, "tokenCount": said.made, "completionReason": reason}
    return {"inputTextTokenCount": said.given, "results": [result]}


def llama_events(said: Said, reason: str) -> Iterator[Json]:
    for number, piece in enumerate(said.cut(said.text)):
        counts = {"prompt_token_count": None if number else said.given}
        yield counts | {"generation": piece, "generation_token_count": number, "stop_reason": None}
    yield llama_answer(said, reason) | {"generation": ""}


def llama_answer(said: Said, reason: str) -> Json:
    counts = {"prompt_token_count": said.given, "generation_token_count": said.made}
    return counts | {"generation": said.text, "stop_reason": reason}


def mistral_events(said: Said, reason: str) -> Iterator[Json]:
    for piece in said.cut(said.text):
        yield {"outputs": [{"text": piece, "stop_reason": None}]}
    yield {"outputs": [{"text": "", "stop_reason": reason}]}


def mistral_answer(said: Said, reason: str) -> Json:
    return {"outputs": [{"text": said.text, "stop_reason": reason}]}


def cohere_events(said: Said, reason: str) -> Iterator[Json]:
    for piece in said.cut(said.text):
        yield {"text": piece, "is_finished": False}
    yield {"is_finished": True, "finish_reason": reason}


def cohere_answer(said: Said, reason: str) -> Json:
    return {"id": "i", "generations": [{"text": said.text, "finish_reason": reason}]}


# https://github.com/ollama/ollama/blob/main/docs/api.md


def _ollama(message: Json, **fields: Any) -> Json:
    return {"model": "o", "message": {"role": "assistant", "content": ""} | message} | fields


def _ollama_calls(said: Said) -> list[Json]:
    return [{"function": {"name": c.name, "arguments": c.arguments}} for c in said.calls]


def ollama_events(said: Said, reason: str) -> Iterator[Json]:
    for piece in said.cut(said.thoughts):
        yield _ollama({"thinking": piece}, done=False)
    for piece in said.cut(said.text):
        yield _ollama({"content": piece}, done=False)
    for call in _ollama_calls(said):
        yield _ollama({"tool_calls": [call]}, done=False)
    counts = {"prompt_eval_count": said.given, "eval_count": said.made}
    yield _ollama({}, done=True, done_reason=reason, **counts)


def ollama_answer(said: Said, reason: str) -> Json:
    message = {"content": said.text, "thinking": said.thoughts, "tool_calls": _ollama_calls(said)}
    counts = {"prompt_eval_count": said.given, "eval_count": said.made}
    return _ollama(message, done=True, done_reason=reason, **counts)


_CLAUDE = ["end_turn", "tool_use", "max_tokens", "refusal"]
_CONVERSE = ["end_turn", "tool_use", "max_tokens", "guardrail_intervened"]
_DONE = b"data: [DONE]\n\n"

FORMS: dict[str, Form] = {
    "chat": Form("chat", chat_events, chat_answer, ["stop", "length", "tool_calls"], _DONE),
    "completions": Form(
        "completions", completion_events, completion_answer, ["stop", "length"], _DONE
    ),
    "responses": Form(
        "responses", response_events, response_answer, ["completed", "max_output_tokens"]
    ),
    "messages": Form("messages", message_events, message_answer, _CLAUDE),
    "generate": Form("generate", gemini_events, gemini_answer, ["STOP", "MAX_TOKENS", "SAFETY"]),
    "converse": Form("converse", converse_events, converse_answer, _CONVERSE, named=True),
    "invoke claude": Form("invoke", message_events, message_answer, _CLAUDE),
    "invoke nova": Form("invoke", nova_events, converse_answer, _CONVERSE),
    "invoke titan": Form("invoke", titan_events, titan_answer, ["FINISH", "LENGTH"]),
    "invoke llama": Form("invoke", llama_events, llama_answer, ["stop", "length"]),
    "invoke mistral": Form("invoke", mistral_events, mistral_answer, ["stop", "length"]),
    "invoke cohere": Form("invoke", cohere_events, cohere_answer, ["COMPLETE", "MAX_TOKENS"]),
    "native": Form("native", ollama_events, ollama_answer, ["stop", "length"]),
}
