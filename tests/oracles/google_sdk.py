"""The official Google SDK, reading answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import count
from typing import Any

from google import genai
from google.genai import errors, types

from oracles.answers import Draft, Json, answer, counts, failure, later
from ringcast.replay.recording import Recording


class Reader:
    """Asks an upstream for recordings, and says what the SDK makes of them."""

    def __init__(self, url: str) -> None:
        """`url` is the upstream's."""
        options = types.HttpOptions(base_url=url)
        self._client = genai.Client(api_key="none", http_options=options)

    def read(self, recording: Recording) -> Json:
        """Read chunks, joined here: the SDK itself joins none."""
        models, model = self._client.models, f"models/{recording.name}"
        joined = Joined()
        try:
            if recording.streamed:
                joined.add(models.generate_content_stream(model=model, contents="hi"))
            else:
                joined.add([models.generate_content(model=model, contents="hi")])
        except errors.APIError as error:
            return answer([joined.draft], error=_failure(error))
        return answer([joined.draft], joined.usage)


class Joined:
    """Chunks, joined. The arguments of calls are objects, and no calls have an id of old."""

    def __init__(self) -> None:
        self.draft = Draft()
        self.usage: Json | None = None
        self._numbers = count()

    def add(self, chunks: Iterable[Any]) -> None:
        for chunk in chunks:
            if chunk.usage_metadata is not None:
                self.usage = later(self.usage, _usage(chunk.usage_metadata))
            for candidate in chunk.candidates or []:
                self._candidate(candidate)

    def _candidate(self, candidate: Any) -> None:
        if candidate.finish_reason is not None:
            self.draft.reason = candidate.finish_reason.value
        for part in (candidate.content and candidate.content.parts) or []:
            if part.text and part.thought:
                self.draft.reasoning += part.text
            elif part.text:
                self.draft.text += part.text
            if called := part.function_call:
                arguments = json.dumps(called.args)
                self.draft.call(next(self._numbers), called.id, called.name, arguments)


def _usage(usage: Any) -> Json:
    return counts(
        usage.prompt_token_count,
        usage.candidates_token_count,
        usage.total_token_count,
        usage.cached_content_token_count,
        None,
        usage.thoughts_token_count,
    )


def _failure(error: errors.APIError) -> Json:
    return failure(error.code, error.status, error.code, error.message or "")
