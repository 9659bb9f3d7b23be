"""Credit: how far a stream may run ahead of the reader that pays for it.

The window is measured in raw bytes of the response body, because that is what the provider
process can count before anything is decoded. Limits are cumulative: "write up to byte N".
"""

from __future__ import annotations


class Window:
    """A fixed window over one stream's body.

    `limit` — the byte up to which the provider process may write. A record may overshoot
    it (events are whole), so at most `size` plus one record is ever unprocessed.
    """

    __slots__ = ("limit", "size")

    def __init__(self, size: int) -> None:
        """Open a window of `size` bytes, from byte 0."""
        self.size = size
        self.limit = size

    def processed(self, position: int) -> bool:
        """Note that the reader is done with bytes below `position`.

        Returns whether the limit has moved enough to tell: a quarter of the window, so
        that a stream costs four grants a window and never falls to its last few bytes.
        """
        limit = position + self.size
        if limit - self.limit < self.size >> 2:
            return False
        self.limit = limit
        return True
