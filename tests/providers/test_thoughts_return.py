"""Recorded answers are sent back as messages with their thoughts as they were, byte for byte.

What they were is read off the recorded events, without our decoders.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from ringcast.config import Provider
from ringcast.providers.anthropic import Anthropic
from ringcast.providers.gemini import Gemini
from ringcast.providers.openai import OpenAI
from ringcast.providers.request import Api, ChatRequest, Json
from ringcast.providers.wire.summary import decode
from ringcast.shm.answer import joined

CORPUS = Path(os.environ.get("RINGCAST_CORPUS") or Path(__file__).parents[3] / "shared" / "corpus")
USER: Final[Json] = {"role": "user", "content": "hi"}


def recordings(*oracles: str) -> Iterator[str]:
    """Streams of these SDKs with proofs of thoughts."""
    index = CORPUS / "INDEX.tsv"
    lines = index.read_text().splitlines() if index.exists() else []
    for row in csv.DictReader(lines, delimiter="\t"):
        truth = CORPUS / "expected" / Path(row["file"]).with_suffix(".json")
        streamed = row["oracle"] in oracles and row["file"].endswith(".sse") and truth.exists()
        if streamed and json.loads(truth.read_bytes())["signatures"]:
            yield row["file"]


def events(file: str) -> list[Any]:
    lines = (CORPUS / file).read_bytes().splitlines()
    return [json.loads(line[5:]) for line in lines if line.startswith(b"data: {")]


def returned(file: str, api: Api, shape: Callable[[ChatRequest], Json]) -> Json:
    """The body that sends a recorded answer back, with results for its calls."""
    message = joined(decode(api, [(CORPUS / file).read_bytes()])).message()
    calls = message.get("tool_calls", [])
    results = [
        {"role": "tool", "tool_call_id": c["id"], "name": c["function"]["name"], "content": "42"}
        for c in calls
    ]
    return shape(ChatRequest(model="m", api=api, messages=[USER, message, *results, USER]))


@pytest.mark.parametrize("file", list(recordings("anthropic", "anthropic-vertex")))
def test_claudes_thoughts(file: str) -> None:
    blocks: dict[int, Json] = {}
    for event in events(file):
        if event["type"] == "content_block_start":
            blocks[event["index"]] = event["content_block"]
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            for name in delta.keys() & {"thinking", "signature"}:
                blocks[event["index"]][name] += delta[name]
    thoughts = [block for block in blocks.values() if "thinking" in block["type"]]
    sent = sent_to_claude(file)
    assert thoughts
    assert [block for block in sent if "thinking" in block["type"]] == thoughts
    assert sent[0] == thoughts[0]


def sent_to_claude(file: str) -> list[Json]:
    claude = Anthropic(Provider("anthropic"))
    body = returned(file, "messages", lambda r: claude.generate("claude-sonnet-4-5", r).body)
    blocks: list[Json] = body["messages"][1]["content"]
    return blocks


SERVED: Final = ("code-execution.sse", "pause-turn.sse", "web-search-citations.sse")


@pytest.mark.parametrize("name", [n for n in SERVED if (CORPUS / "anthropic" / n).exists()])
def test_calls_of_claudes_own_tools_and_what_they_found(name: str) -> None:
    blocks: dict[int, Json] = {}
    inputs: dict[int, str] = {}
    for event in events(f"anthropic/{name}"):
        if event["type"] == "content_block_start":
            blocks[event["index"]] = event["content_block"]
        elif "partial_json" in event.get("delta", {}):
            index, piece = event["index"], event["delta"]["partial_json"]
            inputs[index] = inputs.get(index, "") + piece
    for index, text in inputs.items():
        blocks[index]["input"] = json.loads(text)
    kinds = ("server_tool_use", "web_search_tool_result", "bash_code_execution_tool_result")
    served = [block for block in blocks.values() if block["type"] in kinds]
    assert served
    assert [b for b in sent_to_claude(f"anthropic/{name}") if b["type"] in kinds] == served


@pytest.mark.parametrize("file", list(recordings("openai-responses")))
def test_sealed_thoughts_of_responses(file: str) -> None:
    done = [e["item"] for e in events(file) if e["type"] == "response.output_item.done"]
    thoughts = [item for item in done if item.get("encrypted_content")]
    openai = OpenAI(Provider("openai"))
    body = returned(file, "responses", lambda r: openai.generate("gpt-5", r).body)
    sent = [item for item in body["input"] if item.get("type") == "reasoning"]
    assert [item["encrypted_content"] for item in sent] == [
        t["encrypted_content"] for t in thoughts
    ]
    texts = [[part["text"] for part in thought.get("summary", [])] for thought in thoughts]
    assert [[part["text"] for part in item["summary"]] for item in sent] == texts


@pytest.mark.parametrize("file", list(recordings("genai", "genai-vertex")))
def test_geminis_signatures(file: str) -> None:
    parts = [
        part
        for event in events(file)
        for part in event["candidates"][0].get("content", {}).get("parts", [])
        if "thoughtSignature" in part
    ]
    gemini = Gemini(Provider("gemini"))
    body = returned(file, "generate", lambda r: gemini.generate("gemini-2.5-pro", r).body)
    sent = [part for part in body["contents"][1]["parts"] if "thoughtSignature" in part]
    assert [known(part) for part in sent] == [known(part) for part in parts]


def known(part: Json) -> Json:
    """A signed part without what is joined, as texts and arguments are, or ours, as ids."""
    about = {name: value for name, value in part.items() if name not in ("text", "functionCall")}
    return about | ({"name": part["functionCall"]["name"]} if "functionCall" in part else {})
