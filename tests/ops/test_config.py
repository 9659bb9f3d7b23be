"""The configuration: what is refused, and that all of it is said at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ringcast import config, config_file
from ringcast.config import Config, Key
from ringcast.errors import ConfigError


def problems(text: str) -> list[str]:
    """What `parse` says, a problem a line."""
    with pytest.raises(ConfigError) as caught:
        config_file.parse(text, "f")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("f: ") for line in lines)
    return [line.removeprefix("f: ") for line in lines]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[proccesses]", "unknown setting proccesses (did you mean processes?)"),
        ("[xyzzy]", "unknown setting xyzzy"),
        (
            '[providers.a]\nkind = "openai"\nmax_tokns = 1',
            "unknown setting providers.a.max_tokns (did you mean providers.a.max_tokens?)",
        ),
        (
            '[providers.a]\nkind = "openai"\nkey = { env = "A", enf = "B" }',
            "unknown setting providers.a.key.enf (did you mean providers.a.key.env?)",
        ),
        ("[providers.a]\nmax_tokens = 1", "providers.a.kind: must be given"),
        (
            '[providers.a]\nkind = "opnai"',
            "providers.a.kind = 'opnai': unknown (did you mean openai?)",
        ),
        ("[providers]\na = 3", "providers.a: Expected `object`, got `int`"),
        ("providers = 3", "providers: Expected `object`, got `int`"),
        ("[timeouts]\nidle_s = true", "timeouts.idle_s: Expected `float`, got `bool`"),
        ("[timeouts]\nidle_s = nan", "timeouts.idle_s = nan: must be in 0..1099511627776"),
        ("[timeouts]\nidle_s = 1e400", "timeouts.idle_s = inf: must be in 0..1099511627776"),
        (
            "[limits]\nmax_line_bytes = -1",
            "limits.max_line_bytes = -1: must be in 0..1099511627776",
        ),
        ("[limits]\nmax_clients = 1.5", "limits.max_clients: Expected `int`, got `float`"),
        (
            "[rings]\nin_bytes = 70000",
            "rings.in_bytes = 70000: must be a power of two in 65536..268435456",
        ),
        ("[processes]\nworkers = 0", "processes.workers = 0: must be in 1..16"),
        ("[queue]\nlength = -1", "queue.length = -1: must be in 0..1000000"),
        ("[queue]\nwait_s = nan", "queue.wait_s = nan: must be in 0..86400"),
        (
            '[providers.a]\nkind = "openai"\nrequests_per_min = -1',
            "providers.a.requests_per_min = -1: must be in 0 (no limit)..1099511627776",
        ),
        (
            "[limits]\nmax_messages_per_s = 0",
            "limits.max_messages_per_s = 0: must be at least 100",
        ),
        (
            "[credit]\nwindow_min_bytes = 10",
            "credit: 1024 <= window_min_bytes <= window_max_bytes <= budget_bytes must hold",
        ),
        (
            '[providers.a]\nkind = "openai-compatible"',
            "providers.a.base_url: needed for this kind",
        ),
        (
            '[providers.a]\nkind = "openai"\nbase_url = "file:///etc"',
            "providers.a.base_url: must begin with http:// or https://",
        ),
        ('[providers."a/b"]\nkind = "openai"', "providers.a/b: use letters, digits, - _ ."),
        (
            '[providers.a]\nkind = "openai"\nkey = {}',
            "providers.a.key: give one of env, file, command, keyring",
        ),
        (
            '[providers.a]\nkind = "openai"\nkey = { env = "A", file = "b" }',
            "providers.a.key: give one of env, file, command, keyring",
        ),
        (
            '[providers.a]\nkind = "openai"\nkey = { command = [] }',
            "providers.a.key: must not be empty",
        ),
        (
            '[providers.a]\nkind = "openai"\nheaders = { "x-a" = "b\\r\\nx-c: d" }',
            "providers.a.headers.'x-a': not a header's name, or not printable ASCII",
        ),
        (
            '[providers.a]\nkind = "openai"\nheaders = { "x a:" = "b" }',
            "providers.a.headers.'x a:': not a header's name, or not printable ASCII",
        ),
        (
            '[providers.a]\nkind = "openai"\nheaders = { "x" = "\u00e9" }',
            "providers.a.headers.'x': not a header's name, or not printable ASCII",
        ),
        (
            '[providers.a]\nkind = "openai"\nregion = "us-east-1"',
            "providers.a.region: goes with kind bedrock, not with openai",
        ),
        (
            '[providers.a]\nkind = "bedrock"\nresource = "r"',
            "providers.a.resource: goes with kind azure, not with bedrock",
        ),
        (
            '[providers.a]\nkind = "azure"\ncredentials = "~/f"',
            "providers.a.credentials: goes with kind vertex, not with azure",
        ),
        (
            '[providers.a]\nkind = "azure"\nresource = "evil.com/"',
            "providers.a.resource: use letters, digits and -",
        ),
        (
            '[providers.a]\nkind = "vertex"\nlocation = "x@evil.com"',
            "providers.a.location: use letters, digits and -",
        ),
        (
            '[providers.a]\nkind = "azure"\ntoken_command = []',
            "providers.a.token_command: must not be empty",
        ),
        (
            '[providers.a]\nkind = "azure"\ntoken_command = ["az"]\nkey = { env = "A" }',
            "providers.a: give key or token_command, not both",
        ),
        (
            '[providers.a]\nkind = "bedrock"\ntoken_command = ["aws"]',
            "providers.a.token_command: not for bedrock (AWS has credential_process)",
        ),
        (
            '[providers.a]\nkind = "openai"\nkeys = [{ env = "A" }, { env = "B", file = "c" }]',
            "providers.a.keys[1]: give one of env, file, command, keyring",
        ),
        (
            '[providers.a]\nkind = "openai"\nkeys = [{ env = "A" }]\nkey = { env = "B" }',
            "providers.a: give keys or one key or token_command",
        ),
        (
            '[providers.a]\nkind = "openai"\nkeys = [{ env = "A" }, { env = "B" }, { env = "A" }]',
            "providers.a.keys[2]: is keys[0] once more",
        ),
        (
            '[providers.a]\nkind = "openai"\nkeys = { env = "A" }',
            "providers.a.keys: Expected `array`, got `object`"
            ' (write { env = "NAME" }, or file, command, keyring; never the key itself)',
        ),
        (
            '[providers.a]\nkind = "openai"\nkey = "sk-1"',
            "providers.a.key: Expected `object | null`, got `str`"
            ' (write { env = "NAME" }, or file, command, keyring; never the key itself)',
        ),
        (
            '[routes.a]\ntry = ["groq/m"]\norder = "fast"',
            "routes.a.order: Invalid enum value 'fast' (must be one of listed, weighted, fastest)",
        ),
        (
            '[prices]\n"opnai/gpt-4o" = { input = 1, output = 2 }',
            "prices.opnai/gpt-4o: no provider 'opnai' (did you mean openai?)",
        ),
        (
            "[usage]\ndaily_usd = 1\nkeep = false",
            "usage.daily_usd: needs usage.keep = true: else a restart forgets what was spent today",
        ),
        (
            '[usage]\nfile = "rel/x"',
            "usage.file = 'rel/x': must begin with / or ~ "
            "(each command has its own working directory)",
        ),
        ("[retry]\nattempts = 0", "retry.attempts = 0: must be in 1..100"),
        ("[retry]\nbudget_ratio = nan", "retry.budget_ratio = nan: must be in 0..1"),
        ("[breaker]\nopen_s = 0", "breaker.open_s = 0.0: must be in 0.1..86400"),
        ("[breaker]\nfailure_rate = 1.5", "breaker.failure_rate = 1.5: must be in 0.01..1"),
    ],
)
def test_a_fault_is_named(text: str, problem: str) -> None:
    assert problems(text) == [problem]


def test_all_faults_are_told_at_once() -> None:
    text = """
        [providers.a]
        kind = "opnai"
        max_tokens = "x"
        [providers.b]
        kind = "openai-compatible"
        [timeouts]
        idel_s = 3
        total_s = -1
    """
    assert problems(text) == [
        "providers.a.max_tokens: Expected `int`, got `str`",
        "unknown setting timeouts.idel_s (did you mean timeouts.idle_s?)",
        "timeouts.total_s = -1.0: must be in 0..1099511627776",
        "providers.a.kind = 'opnai': unknown (did you mean openai?)",
        "providers.b.base_url: needed for this kind",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[providers",
        "[rings]\n[rings]",
        "[rings]\nin_bytes = 1\nin_bytes = 2",
        "a = " + "[" * 100_000,
        "a = " + "9" * 5_000,
    ],
    ids=["truncated", "table twice", "key twice", "deep", "long number"],
)
def test_what_is_no_toml_is_one_line(text: str) -> None:
    assert len(problems(text)) == 1


def test_nothing_given_is_fine() -> None:
    assert config_file.parse("") == Config()


def test_well_known_providers_need_no_configuration() -> None:
    providers = config.complete(Config()).providers
    assert providers["openai"].base_url == "https://api.openai.com/v1"
    assert providers["openai"].key == Key(env="OPENAI_API_KEY")
    assert providers["ollama"].key is None
    for kind in ("ollama", "bedrock", "azure", "vertex"):
        assert providers[kind] == config.Provider(kind)  # the rest is found where it is used


def test_a_known_key_goes_to_its_own_host_only() -> None:
    text = '[providers.mine]\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1/"'
    mine = config.complete(config_file.parse(text)).providers["mine"]
    assert mine.key is None
    assert mine.base_url == "http://127.0.0.1:9/v1"


def test_a_provider_replaces_the_well_known_one() -> None:
    text = '[providers.openai]\nkind = "openai"\nkey = { file = "k" }'
    assert config.complete(config_file.parse(text)).providers["openai"].key == Key(file="k")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_load_reads_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "c", b"\xef\xbb\xbf[rings]\nin_bytes = 65536\n")
    assert config_file.load(path).rings.in_bytes == 65536


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "loop", "latin", "big"])
def test_load_refuses_what_is_no_text_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "c"
    match kind:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)
        case "latin":
            path.write_bytes(b"# \xe9")
        case "big":
            path.write_bytes(b"#" * (config_file.MAX_CONFIG_BYTES + 1))
    with pytest.raises(ConfigError, match=f"^{path}: [a-zA-Z0-9 ()-]+$"):
        config_file.load(path)


def test_a_file_that_the_environment_names_must_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGCAST_CONFIG", str(tmp_path / "c"))
    with pytest.raises(ConfigError, match="no such file"):
        config_file.load()
    write(tmp_path / "c", b"[processes]\nworkers = 3\n")
    assert config_file.load().processes.workers == 3


def test_no_file_at_the_usual_place_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RINGCAST_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_file.load() == config.complete(Config())
