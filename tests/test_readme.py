"""What the README says of the providers is what they are, and its examples do what they say."""

from __future__ import annotations

import doctest
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import pytest
from fakes.daemon import CANARY_KEY, RECORDINGS, daemon

from ringcast import config, config_file
from ringcast.cli import bench
from ringcast.providers.kinds import vendor
from ringcast.providers.request import ChatRequest, CompletionRequest
from ringcast.providers.transform_spec import encoded
from ringcast.providers.wire.summary import decode
from ringcast.replay.process import spawned
from ringcast.shm.answer import joined

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
REQUESTS = (ROOT / "providers" / "README.md").read_text()
PAGES = {"README.md": README, "providers/README.md": REQUESTS}
PAGES["ops/bench/README.md"] = (ROOT / "ops" / "bench" / "README.md").read_text()
ROWS = dict(re.findall(r"^\| `([a-z-]+)` \| ([a-z, ]+) \| ", README, re.MULTILINE))


def test_every_kind_has_its_row() -> None:
    assert ROWS.keys() == set(get_args(config.Kind))


@pytest.mark.parametrize("kind", get_args(config.Kind))
def test_the_apis_of_a_kind(kind: config.Kind) -> None:
    assert ROWS[kind].split(", ") == list(vendor(config.Provider(kind, "http://x")).apis)


FIELDS = (
    *("tools", "parallel_tool_calls", "images", "json_schema", "reasoning"),
    *("logprobs", "several", "seed", "prompt_cache", "models"),
)
PROMISES = {
    cells[1].strip(" `"): cells[2:-1]
    for line in REQUESTS.partition("| what can be asked of |")[2].splitlines()[2:]
    if len(cells := line.split("|")) == len(FIELDS) + 4
}


@pytest.mark.parametrize("kind", get_args(config.Kind))
def test_what_can_be_asked_of_a_kind(kind: config.Kind) -> None:
    promised = vendor(config.Provider(kind, "http://x")).capabilities()
    said = [cell.strip() for cell in PROMISES[kind]]
    assert said[-1] == promised.count
    assert [cell == "✓" for cell in said[:-1]] == [getattr(promised, name) for name in FIELDS]


def test_the_fields_of_a_request_are_named() -> None:
    section = REQUESTS.partition("## A request")[2].partition("## Transformers")[0]
    named = set(re.findall(r"`([a-z_]+)`", section))
    fields = {*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__}
    assert fields - named <= {"suffix"}


TRANSFORMS = re.findall(r'^\| `(\{"name".*?\})` \|', REQUESTS, re.MULTILINE)


def test_the_transformers_of_a_request_are_those_there_are() -> None:
    said = [json.loads(one) for one in TRANSFORMS]
    assert {one["name"] for one in said} == {
        "think_tags",
        "content_filter",
        "accumulate",
        "json_preview",
    }
    assert encoded(said, [])  # it refuses what there is not


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_what_is_there(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)[^)]*\)", PAGES[page])
    assert links
    missing = [one for one in links if not (ROOT / page).parent.joinpath(one).exists()]
    assert not missing


COMMANDS = set(re.findall(r"ringcast bench ([a-z]\w+)", "\n".join(PAGES.values())))


def test_the_benchmarks_are_those_there_are() -> None:
    (choice,) = [one.type for one in bench.params if one.name == "what"]
    assert isinstance(choice, click.Choice)
    assert set(choice.choices) >= COMMANDS
    assert COMMANDS


def test_the_settings_are_known() -> None:
    tables = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert len(tables) == 3
    for table in tables:
        config_file.parse(table, "README")


EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
# What the examples print the text of, in their order.
CONNECT, PROVIDER, PIPELINE = (
    "anthropic/thinking-text",
    "openai/json-chat",
    "openai/chat-text-usage",
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with spawned(knobs="pace=0") as upstream:
        yield f"{upstream.url}/v1"


def run(example: str) -> None:
    exec(compile(example, "README.md", "exec"), {"__name__": "example"})


def text_of(name: str) -> str:
    recording = next(one for one in RECORDINGS if one.name == name)
    return joined(decode(recording.api, [recording.body])).text


@pytest.mark.parametrize(
    ("example", "said"), list(zip(EXAMPLES[1:], [PROVIDER, PIPELINE], strict=True))
)
def test_an_example_runs(
    example: str,
    said: str,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY_KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setitem(config.BASE_URLS, "openai", url)
    run(example)
    assert text_of(said) in capsys.readouterr().out


@pytest.mark.timeout(30)
def test_the_example_with_a_daemon_runs(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = f'[providers.anthropic]\nkind = "anthropic"\nbase_url = "{url}"\n'
    with daemon(f'{section}key = {{ env = "KEY" }}', KEY=CANARY_KEY) as running:
        monkeypatch.setenv("RINGCAST_RUN_DIR", str(running.directory))
        run(EXAMPLES[0])
    assert text_of(CONNECT) in capsys.readouterr().out


def test_the_sessions_are_as_shown() -> None:
    session = doctest.DocTestParser().get_doctest(README, {}, "README", "README.md", 0)
    assert len(session.examples) > 9
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(session)
    assert runner.failures == 0
