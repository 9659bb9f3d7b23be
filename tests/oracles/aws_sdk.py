"""The official AWS SDK, reading answers of Bedrock."""

from __future__ import annotations

import json
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from oracles.answers import Draft, Json, answer, counts, failure
from oracles.aws_calls import HI
from oracles.aws_chunks import Chunks
from ringcast.replay.recording import Recording


def client(service: str, url: str) -> Any:
    """A client of a service that is at `url`."""
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
        config=Config(retries={"max_attempts": 0}),
    )


class Reader:
    """Asks an upstream for recordings, and says what the SDK makes of them."""

    def __init__(self, url: str) -> None:
        """`url` is the upstream's."""
        self._client = client("bedrock-runtime", url)

    def read(self, recording: Recording) -> Json:
        """Read an answer, joining what streams: the SDK itself does not."""
        if recording.api == "invoke":
            return self._invoke(recording)
        told = Told()
        try:
            asked = {"modelId": recording.name, "messages": [HI]}
            if not recording.streamed:
                return _whole(self._client.converse(**asked))
            for event in self._client.converse_stream(**asked)["stream"]:
                [(kind, said)] = event.items()
                told.add(kind, said)
        except (ClientError, EventStreamError) as error:
            return answer([told.draft], told.usage, _failure(error))
        return answer([told.draft], told.usage)

    def _invoke(self, recording: Recording) -> Json:
        """The SDK leaves chunks as their model made them."""
        asked, chunks = {"modelId": recording.name, "body": b"{}"}, Chunks()
        if recording.streamed:
            for event in self._client.invoke_model_with_response_stream(**asked)["body"]:
                chunks.add(json.loads(event["chunk"]["bytes"]))
        else:
            chunks.add_message(json.loads(self._client.invoke_model(**asked)["body"].read()))
        return answer([chunks.draft], chunks.usage)


class Told:
    """The events of a conversation, told on."""

    def __init__(self) -> None:
        self.draft = Draft()
        self.usage: Json | None = None

    def add(self, kind: str, said: Any) -> None:
        match kind:
            case "contentBlockStart" if "toolUse" in said["start"]:
                call = said["start"]["toolUse"]
                self.draft.call(said["contentBlockIndex"], call["toolUseId"], call["name"])
            case "contentBlockDelta":
                self._delta(said["contentBlockIndex"], said["delta"])
            case "messageStop":
                self.draft.reason = said["stopReason"]
            case "metadata":
                self.usage = _usage(said["usage"])

    def _delta(self, index: int, delta: Any) -> None:
        self.draft.text += delta.get("text", "")
        self.draft.reasoning += delta.get("reasoningContent", {}).get("text", "")
        if index in self.draft.calls:
            self.draft.call(index, arguments=delta.get("toolUse", {}).get("input"))


def _whole(response: Any) -> Json:
    draft = Draft()
    for number, block in enumerate(response["output"]["message"]["content"]):
        draft.text += block.get("text", "")
        draft.reasoning += (
            block.get("reasoningContent", {}).get("reasoningText", {}).get("text", "")
        )
        if call := block.get("toolUse"):
            draft.call(number, call["toolUseId"], call["name"], json.dumps(call["input"]))
    draft.reason = response["stopReason"]
    return answer([draft], _usage(response["usage"]))


def _usage(usage: Any) -> Json:
    read, written = usage.get("cacheReadInputTokens"), usage.get("cacheWriteInputTokens")
    given, made, total = usage["inputTokens"], usage["outputTokens"], usage["totalTokens"]
    return counts(given, made, total, read, written, None)


def _failure(error: Any) -> Json:
    """What was raised; where the provider has no word, the SDK takes the status for one."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    said = error.response["Error"]
    word = None if said["Code"] == str(status) else said["Code"]
    return failure(status, word, None, said["Message"])
