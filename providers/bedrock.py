"""Amazon Bedrock: Converse for all models, InvokeModel in each maker's form, and OpenAI's APIs.

The last are at another host, "mantle", and only for some models. Models are listed by the control
plane, at a third one; a base URL that is none of Amazon's stands for all three. Guardrails go into
`extra`: `guardrailConfig` for Converse, what the SDKs call `guardrailIdentifier`,
`guardrailVersion` and `trace` for InvokeModel.
Sources: docs.aws.amazon.com/bedrock/latest/APIReference/API_Operations_Amazon_Bedrock_Runtime.html,
API_ListFoundationModels.html, API_ListInferenceProfiles.html and
docs.aws.amazon.com/bedrock/latest/userguide/bedrock-mantle.html.
"""

from __future__ import annotations

import base64
import re
from typing import Any, ClassVar, Final
from urllib.parse import quote

import msgspec

from ringcast.config import Provider
from ringcast.providers import converse, invoke
from ringcast.providers.bedrock_model import family, foundation
from ringcast.providers.chat_form import typed
from ringcast.providers.mantle import Mantle
from ringcast.providers.request import Api, Call, Json, accept, chatted, laid_over
from ringcast.providers.vendor import AnyRequest, Capabilities, Model, Page, Vendor

_EVENTS: Final = {"accept": "application/vnd.amazon.eventstream"}
_AMAZON: Final = re.compile(
    r"https://bedrock-runtime(?P<fips>(?:-fips)?)\.(?P<region>[a-z0-9-]+)"
    r"\.(?P<domain>amazonaws\.com(?:\.cn)?)"
)
_PROFILES: Final = "/inference-profiles?maxResults=1000"
# What InvokeModel is told by headers, as the SDKs call it.
_BY_HEADER: Final = {
    "guardrailIdentifier": "x-amzn-bedrock-guardrailidentifier",
    "guardrailVersion": "x-amzn-bedrock-guardrailversion",
    "trace": "x-amzn-bedrock-trace",
    "performanceConfigLatency": "x-amzn-bedrock-performanceconfig-latency",
    "serviceTier": "x-amzn-bedrock-service-tier",
}
_THINKING: Final = ("claude", "nova", "gpt-oss")
_TEXT_ONLY: Final = ("claude-text", "titan", "llama2", "mistral", "command")


class _Foundation(msgspec.Struct, rename="camel"):
    """A model as its maker left it."""

    model_id: str
    model_name: str | None = None
    provider_name: str | None = None
    input_modalities: list[str] | None = None
    output_modalities: list[str] | None = None


class _Profile(msgspec.Struct, rename="camel"):
    """A model in several regions, or for one application."""

    inference_profile_id: str
    inference_profile_name: str | None = None


class _Models(msgspec.Struct, rename="camel"):
    """All models, or a page of profiles."""

    model_summaries: list[_Foundation] | None = None
    inference_profile_summaries: list[_Profile] | None = None
    next_token: str | None = None


class _Counted(msgspec.Struct, rename="camel"):
    """The answer to a question for the size of a prompt."""

    input_tokens: int


class Bedrock(Vendor):
    """Amazon Bedrock."""

    apis: ClassVar[tuple[Api, ...]] = ("converse", "invoke", "chat", "responses")

    def __init__(self, config: Provider) -> None:
        """`config` is complete: its `base_url` is filled in."""
        super().__init__(config)
        self._control = _elsewhere(config.base_url, "https://bedrock{fips}.{region}.{domain}")
        mantle = _elsewhere(config.base_url, "https://bedrock-mantle.{region}.api.aws")
        self._mantle = Mantle(config, mantle)

    def generate(self, model: str, request: AnyRequest) -> Call:
        """Return the call for a conversation, or for the continuation of a text."""
        match self.api(request):
            case "converse":
                return self._converse(model, request)
            case "invoke":
                return self._invoke(model, request)
            case _:
                return self._mantle.generate(model, request)

    def _converse(self, model: str, request: AnyRequest) -> Call:
        path = _path(model, "converse-stream" if request.stream else "converse")
        asked = chatted(request, "converse", "invoke")
        body = converse.body(model, asked, self.config.max_tokens)
        return Call(path, laid_over(body, request.extra), _EVENTS | accept(request))

    def _invoke(self, model: str, request: AnyRequest) -> Call:
        path = _path(model, "invoke-with-response-stream" if request.stream else "invoke")
        headers = {
            header: typed(request.extra[name], str, f"extra.{name}")
            for name, header in _BY_HEADER.items()
            if name in request.extra
        }
        extra = {name: value for name, value in request.extra.items() if name not in _BY_HEADER}
        body = laid_over(invoke.body(model, request, self.config), extra)
        return Call(path, body, _EVENTS | accept(request) | headers)

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for; of a model whose name does not tell, what some can do."""
        kind = family(model)
        unknown = kind == "other"
        return Capabilities(
            list(self.apis),
            tools=kind not in _TEXT_ONLY,
            images=kind not in (*_TEXT_ONLY, "gpt-oss"),
            json_schema=unknown or kind in ("claude", "gpt-oss"),
            reasoning=unknown or kind in _THINKING,
            prompt_cache=unknown or kind in ("claude", "nova"),
            count="provider" if kind == "claude" or not model else "estimate",
        )

    def models(self, page: str = "") -> Call:
        """Return the GET of the models, or the one of the profiles that `page` is the path of."""
        return Call(self._control + (page or "/foundation-models"), method="GET")

    def read_models(self, body: bytes) -> Page:
        """Read either list. Raises `msgspec.MsgspecError` if it is none."""
        listed = msgspec.json.decode(body, type=_Models)
        if listed.model_summaries is not None:
            return Page([_model(model) for model in listed.model_summaries], _PROFILES)
        profiles = listed.inference_profile_summaries or []
        token = listed.next_token
        return Page(
            [Model(p.inference_profile_id, name=p.inference_profile_name) for p in profiles],
            f"{_PROFILES}&nextToken={quote(token, safe='')}" if token else "",
        )

    def count(self, model: str, request: AnyRequest) -> Call | None:
        """Return the call that counts a prompt for Claude, under its own id and no profile's."""
        if family(model) != "claude":
            return None
        if self.api(request) == "invoke":
            call = self._invoke(model, request)
            encoded = base64.b64encode(msgspec.json.encode(call.body)).decode()
            counted: Json = {"invokeModel": {"body": encoded}}
        else:
            call = self._converse(model, request)
            fields: dict[str, Any] = {n: v for n, v in call.body.items() if n in converse.COUNTED}
            counted = {"converse": fields}
        return Call(_path(foundation(model), "count-tokens"), {"input": counted})

    def read_count(self, body: bytes) -> int:
        """Read the answer to it. Raises `msgspec.MsgspecError` if it is none."""
        return msgspec.json.decode(body, type=_Counted).input_tokens


def _elsewhere(base_url: str, host: str) -> str:
    """Return the base URL of another host in the same region; nothing means the same host."""
    amazon = _AMAZON.fullmatch(base_url)
    return host.format(**amazon.groupdict()) if amazon else ""


def _path(model: str, operation: str) -> str:
    return f"/model/{quote(model, safe='')}/{operation}"


def _model(listed: _Foundation) -> Model:
    return Model(
        listed.model_id,
        name=listed.model_name,
        owner=listed.provider_name,
        inputs=_lower(listed.input_modalities),
        outputs=_lower(listed.output_modalities),
    )


def _lower(modalities: list[str] | None) -> list[str] | None:
    return None if modalities is None else [modality.lower() for modality in modalities]
