"""What the name of a model on Bedrock says: who made it, and what it is called without its region.

A model is asked for by its id (`meta.llama3-1-8b-instruct-v1:0`), by the id of a cross-region
profile (the same behind `us.` and its like), or by an ARN, which ends with either or with an
opaque id. Sources: docs.aws.amazon.com/bedrock/latest/userguide/models-supported.html and
/inference-profiles-support.html.
"""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias

Family: TypeAlias = Literal[
    "claude",
    "claude-text",  # Claude 2 and Instant, which know no messages
    "nova",
    "titan",
    "llama2",
    "llama3",
    "llama4",
    "mistral",  # the first ones, which know no messages either
    "command",  # Cohere's first, which know no messages
    "gpt-oss",
    "other",
]

_ARN: Final = re.compile(r"arn:aws[^:]*:bedrock:[^:]*:[^:]*:[^/]+/(?P<id>.+)", re.DOTALL)
_PROFILE: Final = re.compile(r"(?:us|us-gov|eu|apac|au|ca|jp|global)\.(?=[a-z0-9-]+\.)")
_FAMILIES: Final[tuple[tuple[str, Family], ...]] = (
    ("anthropic.claude-v2", "claude-text"),
    ("anthropic.claude-instant", "claude-text"),
    ("anthropic.claude", "claude"),
    ("amazon.nova", "nova"),
    ("amazon.titan-t", "titan"),  # titan-text-… and titan-tg1-…; titan-embed-… makes no text
    ("meta.llama2", "llama2"),
    ("meta.llama3", "llama3"),
    ("meta.llama4", "llama4"),
    ("mistral.mistral-7b", "mistral"),
    ("mistral.mixtral", "mistral"),
    ("mistral.mistral-small-2402", "mistral"),
    ("mistral.mistral-large-2402", "mistral"),
    ("cohere.command-text", "command"),
    ("cohere.command-light", "command"),
    ("openai.gpt-oss", "gpt-oss"),
)


def foundation(model: str) -> str:
    """Return the model's own id, without ARN and profile; an opaque id stays what it is."""
    arn = _ARN.fullmatch(model)
    return _PROFILE.sub("", arn["id"] if arn else model, count=1)


def family(model: str) -> Family:
    """Return which kind of model it is, `other` where its name does not tell."""
    id = foundation(model)
    return next((family for start, family in _FAMILIES if id.startswith(start)), "other")
