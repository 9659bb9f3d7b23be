"""What one kind of provider is asked, and how its short answers read. Pure: no key, no socket.

A vendor makes `Call`s: what goes to `base_url + path`, and reads what comes back for models and
counts. Generations are read by the wire decoder of their API instead. Every method that takes a
request raises `RequestError` (bad_request) naming the field that the API does not have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Final, Literal, TypeAlias

import msgspec

from ringcast.config import Provider
from ringcast.errors import Code, RequestError
from ringcast.providers.request import Api, Call, ChatRequest, CompletionRequest, refuse
from ringcast.shm.records import Cursor

AnyRequest: TypeAlias = ChatRequest | CompletionRequest


_TAKE_PROMPTS: Final[tuple[Api, ...]] = (
    "completions",
    "complete",
    "invoke",
    "interactions",
    "responses",
)


class Model(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model that a provider lists; what it does not tell is None."""

    id: str
    name: str | None = None
    owner: str | None = None
    created: int | None = None
    context_tokens: int | None = None
    output_tokens: int | None = None
    inputs: list[str] | None = None
    outputs: list[str] | None = None


class Page(msgspec.Struct, frozen=True):
    """Some of the models, and what to ask `models` for to get the others; empty: that is all."""

    models: list[Model]
    next: str = ""


class Capabilities(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a provider's APIs can be asked for. A model may do less, never more.

    `count` says where a count of tokens comes from.
    """

    apis: list[Api]
    tools: bool = False
    parallel_tool_calls: bool = False
    images: bool = False
    json_schema: bool = False
    reasoning: bool = False
    logprobs: bool = False
    several: bool = False
    seed: bool = False
    prompt_cache: bool = False
    reattach: bool = False
    models: bool = True
    count: Literal["provider", "estimate"] = "estimate"


class Vendor(ABC):
    """One kind of provider, as it is configured. The first of `apis` is its main one."""

    apis: ClassVar[tuple[Api, ...]]
    # Statuses besides 200 that answer `health` of a provider which is well.
    alive: ClassVar[tuple[int, ...]] = ()
    # Whether some servers of this kind lack what `count` asks for.
    may_not_count: ClassVar[bool] = False

    def __init__(self, config: Provider) -> None:
        """`config` is complete: its `base_url` is filled in."""
        self.config = config

    def api(self, request: AnyRequest) -> Api:
        """Return the API that a request means: for a prompt the first that takes one."""
        if request.api is None:
            takes_prompts = (api for api in _TAKE_PROMPTS if api in self.apis)
            main = self.apis[0]
            return main if isinstance(request, ChatRequest) else next(takes_prompts, main)
        if request.api not in self.apis:
            known = " and ".join((", ".join(self.apis[:-1]), self.apis[-1]))
            raise refuse(
                "api", f"{self.config.kind} has {known.removeprefix(' and ')}, not {request.api}"
            )
        return request.api

    @abstractmethod
    def generate(self, model: str, request: AnyRequest) -> Call:
        """Return the call for a generation by `api(request)`."""

    @abstractmethod
    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for, of a certain model as far as its name tells."""

    @abstractmethod
    def models(self, page: str = "") -> Call | None:
        """Return the call that lists models from `page` on; None where nothing does."""

    @abstractmethod
    def read_models(self, body: bytes) -> Page:
        """Read the answer to it. Raises `msgspec.MsgspecError` if it is none."""

    def count(self, model: str, request: AnyRequest) -> Call | None:
        """Return the call that counts a request's tokens; None where nothing does."""
        return None

    @abstractmethod
    def read_count(self, body: bytes) -> int:
        """Read the answer to it. Raises `msgspec.MsgspecError` if it is none."""

    def health(self) -> Call | None:
        """Return the cheapest call that proves the provider reachable and the key good."""
        return self.models()

    def reattach(self, api: str, cursor: Cursor) -> Call:
        """Return the call that goes on with an answer behind `cursor`."""
        raise self._no_cursor(api)

    def recall(self, api: str, cursor: Cursor) -> Call:
        """Return the call that makes the provider stop an answer."""
        raise self._no_cursor(api)

    def _no_cursor(self, api: str) -> RequestError:
        return RequestError(Code.BAD_REQUEST, f"{self.config.kind} keeps no answers of {api}")
