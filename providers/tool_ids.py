"""Ids of tool calls that a provider accepts, whoever gave them.

A conversation may move from one provider to another, whose rule for ids is narrower: what does not
fit is replaced by its hash, which is the same in the call and in its result.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

import msgspec


class IdRule(msgspec.Struct, frozen=True):
    """What an id must match, and what one begins with that is made of so many hex digits."""

    pattern: str
    prefix: str = "call_"
    digits: int = 24

    def fit(self, id: str) -> str:
        """Return an id as it is, or another one for it where it breaks the rule."""
        if re.fullmatch(self.pattern, id):
            return id
        return self.prefix + blake2b(id.encode()).hexdigest()[: self.digits]


# What Anthropic and Bedrock want: 64 is Bedrock's limit. OpenAI's chat takes 40, Responses 64.
LETTERS_64: Final = IdRule(r"[a-zA-Z0-9_-]{1,64}")
ANY_40: Final = IdRule(r"(?s:.{1,40})")
ANY_64: Final = IdRule(r"(?s:.{1,64})")
# What Mistral's models want, whoever serves them: their tokenizer checks it.
# https://github.com/mistralai/mistral-common
ALPHANUMERIC_9: Final = IdRule(r"[a-zA-Z0-9]{9}", prefix="", digits=9)
_mistral = re.compile(r"(mi|mini|code|magi|dev)stral|(mi|pi)xtral").search


def id_rule(model: str, usual: IdRule) -> IdRule:
    """Return the rule for a model's calls, which is the server's usual one or Mistral's."""
    return ALPHANUMERIC_9 if _mistral(model.lower()) else usual
