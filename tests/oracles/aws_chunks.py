"""Chunks of Bedrock's InvokeModel, which each maker's models write in their own words."""

from __future__ import annotations

import json

from oracles.answers import Draft, Json, counts, later

_TEXTS = ("completion", "outputText", "generation", "text")
_REASONS = ("stop_reason", "completionReason", "finish_reason")


class Chunks:
    """The chunks of an answer, joined: text, or events of Nova or of Claude."""

    def __init__(self) -> None:
        self.draft = Draft()
        self.usage: Json | None = None

    def add(self, chunk: Json) -> None:
        """Add what a chunk says."""
        self.draft.text += "".join(chunk.get(name) or "" for name in _TEXTS)
        for name in _REASONS:
            self.draft.reason = chunk.get(name) or self.draft.reason
        self._nova(chunk)
        self._claude(chunk)
        metrics = chunk.get("amazon-bedrock-invocationMetrics")
        if metrics and self.usage is None:  # Claude counts itself
            given, made = metrics["inputTokenCount"], metrics["outputTokenCount"]
            read = metrics.get("cacheReadInputTokenCount")
            written = metrics.get("cacheWriteInputTokenCount")
            self.usage = counts(given, made, None, read, written, None)

    def add_message(self, message: Json) -> None:
        """Add Claude's whole answer."""
        for index, block in enumerate(message["content"]):
            self._claude({"index": index, "content_block": block, "delta": block})
            if block["type"] == "tool_use":
                self.draft.call(index, arguments=json.dumps(block["input"]))
        self._claude({"delta": message, "message": message})

    def _nova(self, event: Json) -> None:
        begun, more = event.get("contentBlockStart", {}), event.get("contentBlockDelta", {})
        if call := begun.get("start", {}).get("toolUse"):
            self.draft.call(begun["contentBlockIndex"], call["toolUseId"], call["name"])
        delta = more.get("delta", {})
        self.draft.text += delta.get("text", "")
        if "toolUse" in delta:
            self.draft.call(more["contentBlockIndex"], arguments=delta["toolUse"]["input"])
        self.draft.reason = event.get("messageStop", {}).get("stopReason") or self.draft.reason

    def _claude(self, event: Json) -> None:
        begun, delta = event.get("content_block", {}), event.get("delta", {})
        if begun.get("type") == "tool_use":
            self.draft.call(event["index"], begun["id"], begun["name"])
        self.draft.text += delta.get("text", "")
        self.draft.reasoning += delta.get("thinking", "")
        if "partial_json" in delta:
            self.draft.call(event["index"], arguments=delta["partial_json"])
        self.draft.reason = delta.get("stop_reason") or self.draft.reason
        if usage := event.get("message", event).get("usage"):
            given, made = usage.get("input_tokens"), usage.get("output_tokens")
            read = usage.get("cache_read_input_tokens")
            written = usage.get("cache_creation_input_tokens")
            self.usage = later(self.usage, counts(given, made, None, read, written, None))
