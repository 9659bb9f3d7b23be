"""A number of tokens and who says so: one form for the library, the daemon and its clients."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Accuracy: TypeAlias = Literal["exact", "provider", "estimate"]


class TokenCount(msgspec.Struct, frozen=True):
    """`exact` by the model's own encoding, by the `provider`, or an `estimate` of ours."""

    tokens: int
    accuracy: Accuracy


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(TokenCount).decode
