"""OpenAI's APIs on Bedrock, at the host that Amazon calls mantle.

Source: docs.aws.amazon.com/bedrock/latest/userguide/bedrock-mantle.html.
"""

from __future__ import annotations

from typing import ClassVar

from ringcast.config import Provider
from ringcast.providers import openai_family
from ringcast.providers.openai import OpenAI
from ringcast.providers.request import Api, R


class Mantle(OpenAI):
    """Bedrock as OpenAI: models of OpenAI's and others', whose names begin with their maker's."""

    apis: ClassVar[tuple[Api, ...]] = ("chat", "responses")

    def __init__(self, config: Provider, host: str) -> None:
        """`host` is its base URL; nothing if it is the provider's own."""
        super().__init__(config)
        self._host = host

    def path(self, api: Api, model: str) -> str:
        """Return where an API is."""
        return f"{self._host}/openai/v1{super().path(api, model)}"

    def model_lacks(self, model: str, request: R) -> tuple[str, ...]:
        """Return the fields that a model does not know, as far as its name tells."""
        return openai_family.lacks(model.removeprefix("openai."), request)
