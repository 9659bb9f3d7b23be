"""The broker's ROUTER sockets: bound in the run directory, open to nobody else."""

from __future__ import annotations

import os
from pathlib import Path

import zmq

from ringcast.broker.gate import DOMAIN
from ringcast.sockets import make


def router(context: zmq.Context[zmq.Socket[bytes]], **options: object) -> zmq.Socket[bytes]:
    """Return a ROUTER that the gate guards, and that says when a peer is gone; `bind` it."""
    return make(context, zmq.ROUTER, router_mandatory=1, zap_domain=DOMAIN, **options)


def bind(socket: zmq.Socket[bytes], path: Path) -> None:
    """Bind to a socket that only we may open; the run directory is locked."""
    path.unlink(missing_ok=True)
    mask = os.umask(0o177)
    try:
        socket.bind(f"ipc://{path}")
    finally:
        os.umask(mask)
