"""What the fork server imports before it forks: imports only, no context, loop or thread.

A child forked from it starts in milliseconds and shares these modules' pages. Freezing the
heap keeps the collector from touching, and thereby copying, them.
"""

import asyncio
import ctypes
import gc
import multiprocessing.connection
import ssl

import httptools
import httpx
import msgspec
import uvloop
import zmq

import ringcast.broker.process
import ringcast.providers.process
import ringcast.workers.process

__all__ = [
    "asyncio",
    "ctypes",
    "httptools",
    "httpx",
    "msgspec",
    "multiprocessing",
    "ringcast",
    "ssl",
    "uvloop",
    "zmq",
]

gc.collect()
gc.freeze()
