"""`ringcast models`, `count` and `health`: what the providers say, asked through the daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from ringcast.broker.client import connect

_LIMITS: Final = {
    "requests_per_min": "requests a minute",
    "tokens_per_min": "tokens a minute",
    "concurrency": "at once",
}


def models(directory: Path, provider: str) -> dict[str, Any]:
    """Return what a provider lists, or all. Raises `NotRunning` and `RequestError`."""

    async def ask() -> dict[str, Any]:
        async with connect(directory, name="ringcast models") as client:
            return await client.models(provider)

    return asyncio.run(ask())


def count(directory: Path, model: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a request's tokens. Raises `NotRunning` and `RequestError`."""

    async def ask() -> dict[str, Any]:
        async with connect(directory, name="ringcast count") as client:
            return await client.count(model, messages)

    return asyncio.run(ask())


def health(directory: Path, provider: str) -> dict[str, Any]:
    """Return how a provider is, or all. Raises `NotRunning` and `RequestError`."""

    async def ask() -> dict[str, Any]:
        async with connect(directory, name="ringcast health") as client:
            return await client.health(provider)

    return asyncio.run(ask())


def print_models(said: dict[str, Any]) -> None:
    """Print models as a table, and below it who did not answer."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)  # a model's name may hold anything
    table = Table("model", "name", "context", "output", box=None)
    for model in said["models"]:
        limits = (model.get("context_tokens"), model.get("output_tokens"))
        sizes = [f"{tokens:,}" if tokens else "-" for tokens in limits]
        table.add_row(f"{model['provider']}/{model['id']}", model.get("name") or "", *sizes)
    if said["models"]:
        console.print(table)
    for provider, error in said["errors"].items():
        console.print(f"{provider}: {error['code']}: {error['message']}", style="dim")


def print_health(said: dict[str, Any]) -> None:
    """Print a line for each provider."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    for provider, health in said.items():
        latency = health.get("latency_ms")
        text = _verdict(health)
        took = "" if latency is None else f" ({latency:g} ms)"
        console.print(f"{provider:<20} {text}{took}", style="green" if health["ok"] else "dim")
        if (traffic := health.get("traffic")) and (line := _traffic(traffic)):
            console.print(f"{'':<20} {line}", style="dim")


def _verdict(health: dict[str, Any]) -> str:
    """Say whether a provider answers; of several keys, which are not taken."""
    if not health["ok"]:
        return f"{health['code']}: {health['message']}"
    return f"ok, but {health['message']}" if health.get("message") else "ok"


def _traffic(traffic: dict[str, Any]) -> str:
    """Say in a line what was done with a provider, and what is left to do; nothing if neither."""
    said = []
    if traffic["requests"]:
        said.append(f"{traffic['requests']} sent ({traffic['sent_again']} again)")
        said.append(f"{traffic['failures']} failed")
    if (first_ms := traffic.get("first_token_ms")) is not None:
        said.append(f"first token in {first_ms:g} ms")
    if (left := traffic.get("remaining_requests")) is not None:
        said.append(f"{left} requests left")
    if (left := traffic.get("remaining_tokens")) is not None:
        said.append(f"{left} tokens left")
    if traffic["breaker"] != "closed":
        said.append(f"breaker {traffic['breaker']}")
    if queued := traffic.get("queued"):
        said.append(f"{queued} waiting")
    if said and (processes := traffic.get("processes", 1)) > 1:
        said[0] = f"process {traffic.get('process', 1)} of {processes}: {said[0]}"
    if limits := [f"{traffic[name]} {unit}" for name, unit in _LIMITS.items() if traffic.get(name)]:
        said.append(f"limits {', '.join(limits)}")
    return ", ".join(said)
