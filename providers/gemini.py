"""Request shaping for Gemini: streamed content generation, and interactions.

Sources: ai.google.dev/api/generate-content, /tokens, /models and /interactions-api.
`generation_body` serves every door to Gemini.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

import msgspec

from ringcast.providers import gemini_contents, interactions
from ringcast.providers.chat_form import response_format, split
from ringcast.providers.gemini_contents import Contents
from ringcast.providers.gemini_thinking import thinking_config, version
from ringcast.providers.history import check_names, history
from ringcast.providers.request import (
    Call,
    ChatRequest,
    Json,
    accept,
    chatted,
    given,
    laid_over,
    stops,
    without,
)
from ringcast.providers.tool_ids import ANY_64
from ringcast.providers.vendor import AnyRequest, Capabilities, Model, Page, Vendor
from ringcast.shm.records import Cursor

# The schema of interactions that is spoken here: steps. A GET of one needs the header as well.
HEADERS: Final = {"api-revision": "2026-05-20"}
NAMES: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}")
LACKS: Final = ("parallel_tool_calls", "metadata", "user", "cache_key", "suffix")
MODELS_A_PAGE: Final = 1000  # the most that can be asked for

_COLLECTIONS: Final = ("models", "tunedModels")


class Listed(msgspec.Struct, rename="camel"):
    """A model as Google lists it; `name` begins with its collection."""

    name: str
    display_name: str | None = None
    input_token_limit: int | None = None
    output_token_limit: int | None = None


class Models(msgspec.Struct, rename="camel"):
    """A page of models."""

    models: list[Listed] = []
    next_page_token: str = ""


class Counted(msgspec.Struct, rename="camel"):
    """The answer to a question for the size of a prompt."""

    total_tokens: int


class Gemini(Vendor):
    """Google's Gemini API."""

    apis = ("generate", "interactions")

    def generate(self, model: str, request: AnyRequest) -> Call:
        """Return the call for generated content, streamed or not, or for an interaction."""
        if self.api(request) == "generate":
            body = laid_over(generation_body(model, request), request.extra)
            return Call(_path(model, generation_method(request)), body, accept(request))
        body = laid_over(interactions.body(model, request), request.extra)
        return Call("/interactions", body, HEADERS | accept(request))

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for."""
        return Capabilities(
            list(self.apis),
            tools=True,
            images=True,
            json_schema=True,
            reasoning=version(model) >= (2, 5),
            logprobs=True,
            several=True,
            seed=True,
            reattach=True,
            count="provider",
        )

    def models(self, page: str = "") -> Call | None:
        """Return the GET of the models from the page with that token on."""
        after = f"&pageToken={quote(page, safe='')}" if page else ""
        return Call(f"/models?pageSize={MODELS_A_PAGE}{after}", method="GET")

    def read_models(self, body: bytes) -> Page:
        """Read a page of them. Raises `msgspec.MsgspecError` if it is none."""
        listed = msgspec.json.decode(body, type=Models)
        return Page([_model(model) for model in listed.models], listed.next_page_token)

    def health(self) -> Call | None:
        """Return the GET of one model."""
        return Call("/models?pageSize=1", method="GET")

    def count(self, model: str, request: AnyRequest) -> Call | None:
        """Return the call that counts what a generation would read."""
        return Call(_path(model, "countTokens"), count_body(model, request))

    def read_count(self, body: bytes) -> int:
        """Read the answer to it. Raises `msgspec.MsgspecError` if it is none."""
        return msgspec.json.decode(body, type=Counted).total_tokens

    def reattach(self, api: str, cursor: Cursor) -> Call:
        """Return the GET that goes on with an interaction after the cursor's event."""
        resumed = f"&last_event_id={quote(cursor.after, safe='')}" if cursor.after else ""
        path = f"/interactions/{quote(cursor.id, safe='')}?stream=true{resumed}"
        return Call(path, headers=dict(HEADERS), method="GET")

    def recall(self, api: str, cursor: Cursor) -> Call:
        """Return the call that stops an interaction which runs in the background."""
        return Call(f"/interactions/{quote(cursor.id, safe='')}/cancel", headers=dict(HEADERS))


def generation_method(request: AnyRequest) -> str:
    """Return what stands behind the model and a colon in the path: whether to stream."""
    return "streamGenerateContent?alt=sse" if request.stream else "generateContent"


def generation_body(
    model: str, request: AnyRequest, who: str = "gemini", *, ids: bool = True
) -> Json:
    """Return the body of a generation, without the request's `extra`.

    `who` is named in refusals. Without `ids` calls have none: some doors refuse them. Raises
    `RequestError` (bad_request).
    """
    asked = without(chatted(request, "generate", "interactions"), LACKS, who)
    check_names(asked, NAMES, who)
    system, rest = split(history(asked, ANY_64))
    return given(
        contents=Contents(model, ids).turns(rest),
        systemInstruction=gemini_contents.instructions(system),
        tools=gemini_contents.tools(asked.tools),
        toolConfig=gemini_contents.tool_config(asked.tool_choice),
        generationConfig=_config(model, asked) or None,
    )


def count_body(model: str, request: AnyRequest) -> Json:
    """Return the body of a count: a whole generation, or the prompt of an interaction."""
    if not isinstance(request, ChatRequest):
        return {"contents": [{"role": "user", "parts": [{"text": request.prompt}]}]}
    lenient = msgspec.structs.replace(request, drop_unsupported=True)
    counted = generation_body(model, lenient)
    return {"generateContentRequest": {"model": "/".join(_named(model))} | counted}


def _config(model: str, request: ChatRequest) -> Json:
    return given(
        temperature=request.temperature,
        topP=request.top_p,
        topK=request.top_k,
        maxOutputTokens=request.max_tokens,
        stopSequences=stops(request),
        presencePenalty=request.presence_penalty,
        frequencyPenalty=request.frequency_penalty,
        seed=request.seed,
        candidateCount=request.n,
        responseLogprobs=request.logprobs,
        logprobs=request.top_logprobs,
        thinkingConfig=thinking_config(model, request),
    ) | _format(request)


def _format(request: ChatRequest) -> Json:
    if request.response_format is None:
        return {}
    kind, wanted = response_format(request.response_format)
    if kind == "text":
        return {"responseMimeType": "text/plain"}
    return given(
        responseMimeType="application/json",
        responseJsonSchema=wanted.schema if wanted else None,
    )


def _path(model: str, method: str) -> str:
    collection, name = _named(model)
    return f"/{collection}/{quote(name, safe='')}:{method}"


def _named(model: str) -> tuple[str, str]:
    """Return the collection that a model is in, and its name there."""
    collection, slash, name = model.partition("/")
    return (collection, name) if slash and collection in _COLLECTIONS else ("models", model)


def _model(listed: Listed) -> Model:
    return Model(
        listed.name.removeprefix("models/"),
        name=listed.display_name,
        owner="google",
        context_tokens=listed.input_token_limit,
        output_tokens=listed.output_token_limit,
    )
