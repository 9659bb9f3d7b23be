"""The command line. Each command imports what it needs when it runs, so that all start fast."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import IO, Any, Final

import click

from ringcast import __version__, config_file, rundir
from ringcast.errors import RingcastError

APIS: Final = {
    "openai": "chat",
    "azure": "chat",
    "xai": "chat",
    "openrouter": "chat",
    "groq": "chat",
    "perplexity": "chat",
    "deepseek": "chat",
    "ollama": "native",
    "openai-compatible": "chat",
    "anthropic": "messages",
    "gemini": "generate",
    "vertex": "generate",
    "bedrock": "converse",
}


class Commands(click.Group):
    """A group whose commands report ringcast's own errors in one line."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command; an expected error becomes a line and its exit status."""
        try:
            return super().invoke(context)
        except RingcastError as error:
            click.echo(f"ringcast: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            sys.exit(130)
        except BrokenPipeError:  # the reader of our output has had enough
            sys.stderr.close()
            sys.exit(141)


_run_dir = click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    help="Where the daemon's sockets are (default: $RINGCAST_RUN_DIR, else per user).",
)
_config = click.option(
    "--config", "config_path", type=click.Path(path_type=Path), help="Configuration file (TOML)."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ringcast")
def main() -> None:
    """Stream LLM tokens to your editor: one daemon, every provider, nothing lost."""


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


@main.command()
@_config
@_run_dir
@click.option("--parent-pid", type=int, default=0, help="End when this process does.")
def serve(config_path: Path | None, run_dir: Path | None, parent_pid: int) -> None:
    """Run the daemon in the foreground until SIGTERM or Ctrl-C."""
    from ringcast import daemon

    directory = run_dir or rundir.default()
    if sys.stderr.isatty():
        click.echo(f"ringcast {__version__}: serving {directory} (Ctrl-C ends it)", err=True)
    daemon.serve(config_path, directory, parent_pid=parent_pid)


@main.command()
@_config
@_run_dir
def start(config_path: Path | None, run_dir: Path | None) -> None:
    """Run the daemon in the background, and return when it is ready."""
    from ringcast import detached

    directory = run_dir or rundir.default()
    config_file.load(config_path)  # a fault in it is told here, not in a log
    state = detached.start(directory, config_path)
    click.echo(f"ringcast is running (pid {state.pid}) in {directory}")


@main.command()
@_run_dir
def stop(run_dir: Path | None) -> None:
    """Stop the daemon: streams are told, then everything ends."""
    from ringcast import detached

    detached.stop(run_dir or rundir.default())
    click.echo("ringcast has stopped")


@main.command()
@_run_dir
@_json
def status(run_dir: Path | None, as_json: bool) -> None:
    """Say whether a daemon runs, and what it does."""
    from ringcast import inspection

    report = inspection.status(run_dir or rundir.default())
    if as_json:
        _print_json(report)
    else:
        inspection.print_status(report)


@main.command()
@_run_dir
@_json
def ps(run_dir: Path | None, as_json: bool) -> None:
    """List the daemon's processes with their private memory, and its streams."""
    from ringcast import inspection

    report = inspection.processes(run_dir or rundir.default())
    if as_json:
        _print_json(report)
    else:
        inspection.print_processes(report)


@main.command()
@_run_dir
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True)
@click.option("--looks", type=click.IntRange(min=0), default=0, help="End after so many.")
@_json
def top(run_dir: Path | None, interval: float, looks: int, as_json: bool) -> None:
    """Watch the daemon: how its streams flow, and which there are; Ctrl-C ends it."""
    from ringcast import inspection

    inspection.watch(run_dir or rundir.default(), interval, looks, as_json)


@main.command()
@_run_dir
@_config
@_json
def doctor(run_dir: Path | None, config_path: Path | None, as_json: bool) -> None:
    """Check this machine, the configuration and the daemon, and say how to mend faults."""
    from ringcast.doctor import examination

    findings = examination.examine(run_dir or rundir.default(), config_path)
    if as_json:
        _print_json([finding.plain() for finding in findings])
    else:
        examination.print_findings(findings)
    if any(finding.level == "fault" for finding in findings):
        sys.exit(1)


_model = click.option("-m", "--model", required=True, help="PROVIDER/model, as openai/gpt-4o.")
_system = click.option("-s", "--system", help="A system message.")


def _messages(text: str | None, system: str | None) -> list[dict[str, Any]]:
    """Return a conversation of TEXT, or of what comes by standard input."""
    if text is None and sys.stdin.isatty():
        click.echo("ringcast: reading the text from the terminal, until Ctrl-D", err=True)
    said = [{"role": "user", "content": sys.stdin.read() if text is None else text}]
    return [{"role": "system", "content": system}, *said] if system else said


@main.command()
@_run_dir
@_json
@click.argument("provider", default="")
def models(run_dir: Path | None, as_json: bool, provider: str) -> None:
    """List the models of PROVIDER, or of all that can be asked."""
    from ringcast import questions

    said = questions.models(run_dir or rundir.default(), provider)
    if as_json:
        _print_json(said)
    else:
        questions.print_models(said)


@main.command()
@_run_dir
@_model
@_system
@_json
@click.argument("text", required=False)
def count(
    run_dir: Path | None, model: str, system: str | None, as_json: bool, text: str | None
) -> None:
    """Count the tokens of TEXT (or standard input) as a request to a model."""
    from ringcast import questions

    said = questions.count(run_dir or rundir.default(), model, _messages(text, system))
    if as_json:
        _print_json(said)
    else:
        about = "about " if said["accuracy"] == "estimate" else ""
        click.echo(f"{about}{said['tokens']} tokens ({said['accuracy']})")


@main.command()
@_run_dir
@_json
@click.argument("provider", default="")
def health(run_dir: Path | None, as_json: bool, provider: str) -> None:
    """Say whether PROVIDER (or each) answers and takes our key; fails if PROVIDER does not."""
    from ringcast import questions

    said = questions.health(run_dir or rundir.default(), provider)
    if as_json:
        _print_json(said)
    else:
        questions.print_health(said)
    if provider and not said[provider]["ok"]:
        sys.exit(1)


@main.command()
@_config
@click.option(
    "--days", type=click.IntRange(1, 36500), default=7, show_default=True, help="Today is one."
)
@click.option("--by", type=click.Choice(["day", "provider", "model"]), help="Sums of these only.")
@_json
def usage(config_path: Path | None, days: int, by: str | None, as_json: bool) -> None:
    """Show what was used and what it cost, by day, provider and model; needs no daemon."""
    from ringcast import spending

    report = spending.report(config_file.load(config_path).usage, days, by)
    if as_json:
        _print_json(report.plain())
    else:
        spending.print_report(report)


@main.command()
@_run_dir
@_model
@_system
@click.option("--max-tokens", type=click.IntRange(min=1), help="The longest answer.")
@click.option("--temperature", type=float, help="0 is the least random.")
@click.option("--api", help="The provider's API; its main one by default.")
@click.option("--no-stream", is_flag=True, help="Have the answer sent in one piece.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON token a line.")
@click.argument("text", required=False)
def chat(
    run_dir: Path | None,
    model: str,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    api: str | None,
    no_stream: bool,
    as_json: bool,
    text: str | None,
) -> None:
    """Stream the answer to TEXT (or standard input) to the terminal; Ctrl-C cancels it."""
    from ringcast import conversation

    options = {"max_tokens": max_tokens, "temperature": temperature, "api": api}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if no_stream:
        given["stream"] = False
    directory, messages = run_dir or rundir.default(), _messages(text, system)
    sys.exit(conversation.chat(directory, model, messages, given, as_json))


@main.command()
@_run_dir
@click.argument("stream")
def cancel(run_dir: Path | None, stream: str) -> None:
    """End the stream with this id (see `ringcast ps`) for everybody."""
    from ringcast import conversation

    try:
        stream_id = bytes.fromhex(stream)
    except ValueError:
        raise click.BadParameter("a stream id is 32 hexadecimal digits") from None
    conversation.cancel(run_dir or rundir.default(), stream_id)


@main.command()
@click.option("--provider", required=True, type=click.Choice(sorted(APIS)))
@click.option(
    "--api",
    type=click.Choice(
        [
            *("chat", "completions", "responses", "messages", "complete"),
            *("generate", "interactions", "converse", "invoke", "native"),
        ]
    ),
    help="The provider's API; its main one by default.",
)
@click.option("--cut", type=click.IntRange(min=1), help="Feed N bytes at a time.")
@click.option("--cut-seed", type=int, help="Feed pieces of random sizes, by this seed.")
@click.option("--status", "http_status", type=int, default=200, help="The body's HTTP status.")
@click.option("--compat", type=click.Choice(["roo"]), help="Show what this client would show.")
@click.option("--summary", is_flag=True, help="Print one object for the whole stream.")
@click.argument("file", type=click.File("rb"))
def decode(
    provider: str,
    api: str | None,
    cut: int | None,
    cut_seed: int | None,
    http_status: int,
    compat: str | None,
    summary: bool,
    file: IO[bytes],
) -> None:
    """Decode a recorded response body exactly as a worker would, one JSON token a line."""
    from ringcast import offline
    from ringcast.providers.wire.summary import summarize
    from ringcast.shm.tokens import describe

    tokens = offline.decode(
        api or APIS[provider],
        file.read(),
        cut,
        cut_seed,
        http_status,
        kind=provider,
        compat=compat or "",
    )
    if summary:
        _print_json(summarize(tokens))
    else:
        for token in tokens:
            _print_json(describe(token))


@main.group(invoke_without_command=True)
@_json
@click.pass_context
def tokenizers(context: click.Context, as_json: bool) -> None:
    """List the rank files with which tokens are counted, and where they are."""
    if context.invoked_subcommand:
        return
    from ringcast import tokenizers as files

    if as_json:
        _print_json(files.present())
        return
    for file in files.present():
        click.echo(f"{file['file']:<20} {file['path'] or 'not installed'}")


@tokenizers.command("install")
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, path_type=Path),
    help="A rank file, or a folder, wheel or tar archive that holds one; else they are downloaded.",
)
def install_tokenizers(source: Path | None) -> None:
    """Install rank files, each known by its SHA-256."""
    from ringcast import tokenizers as files

    for path in files.install(source):
        click.echo(f"installed {path}")


@main.command()
@click.option("--corpus", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8377, show_default=True)
@click.option("--knobs", default="", help="Defaults for all answers, as `pace=0;cut=7`.")
def replay(corpus: Path | None, host: str, port: int, knobs: str) -> None:
    """Serve recorded answers over HTTP as their providers would, at a natural pace."""
    from ringcast.replay import process

    process.serve(corpus, host, port, knobs)


@main.command()
@click.option("--corpus", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--pace", type=float, help="Events a second; natural by default.")
@_json
def demo(corpus: Path | None, pace: float | None, as_json: bool) -> None:
    """Show the whole daemon at work on recorded answers: no key, no network."""
    from ringcast.demo import show

    sys.exit(show.run(corpus, pace, as_json))


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument(
    "what",
    type=click.Choice(
        [
            "ring",
            "parse",
            "transport",
            "dispatch",
            "footprint",
            "e2e",
            "reliability",
            "fanout",
            "crowd",
            "slow",
            "transforms",
            "pipeline",
            "tokens",
            "count",
            "limiter",
        ]
    ),
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(what: str, arguments: tuple[str, ...]) -> None:
    """Measure; every benchmark checks its answer first. `ringcast bench ring --json`."""
    import importlib

    importlib.import_module(f"ringcast.bench.{what}").main(list(arguments))


@main.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def soak(arguments: tuple[str, ...]) -> None:
    """Stream millions of checked tokens and watch the memory. `ringcast soak --help`."""
    from ringcast.soak import run

    run.main(list(arguments))
