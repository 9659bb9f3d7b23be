"""Where providers are and who asks them: what the vendors' own places say, and what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fakes.daemon import in_loop
from fakes.endpoint import asked
from fakes.google import authorized_user, service_account

from ringcast import config
from ringcast.config import Config, Key, Provider
from ringcast.errors import ConfigError
from ringcast.providers import access, aws, aws_files, google, google_places
from ringcast.providers.credentials import Credential

CANARY = "canary-0a1b2c3d4e5f"
NOBODY = httpx.AsyncClient(transport=httpx.AsyncBaseTransport())
HERE = os.environ | {"PYTHONPATH": str(Path(config.__file__).parents[1])}
STATIC = {"AWS_ACCESS_KEY_ID": "AKID00000000", "AWS_SECRET_ACCESS_KEY": CANARY}


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cloud's, wherever the tests run."""
    monkeypatch.setattr(aws_files, "_MACHINE", Path("/no/such"))
    monkeypatch.setattr(google_places, "_MACHINE", Path("/no/such"))


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has nothing."""
    return {"HOME": str(tmp_path), "PATH": str(tmp_path)}


def completed(provider: Provider) -> Provider:
    return config.complete(Config({"up": provider})).providers["up"]


def grant(provider: Provider, environment: dict[str, str]) -> tuple[Provider, Credential]:
    return access.grant("up", completed(provider), environment)


def missing(provider: Provider, environment: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        grant(provider, environment)
    assert CANARY not in str(caught.value)
    return str(caught.value)


async def headers(credential: Credential) -> dict[str, str]:
    request = asked("https://bedrock-runtime.eu-west-1.amazonaws.com/model/m/converse")
    before = {*request.headers}
    await credential.authorize(request, NOBODY)
    return {name: value for name, value in request.headers.items() if name not in before}


# Bedrock


@pytest.mark.parametrize(
    ("provider", "variables", "region"),
    [
        (Provider("bedrock", region="eu-west-1"), {"AWS_REGION": "us-west-2"}, "eu-west-1"),
        (Provider("bedrock"), {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "x"}, "eu-west-1"),
        (Provider("bedrock"), {"AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
        (Provider("bedrock"), {}, "sa-east-1"),
        (Provider("bedrock"), {"AWS_PROFILE": "work"}, "ap-south-1"),
        (Provider("bedrock", profile="work"), {"AWS_PROFILE": "other"}, "ap-south-1"),
    ],
)
def test_the_region(
    provider: Provider,
    variables: dict[str, str],
    region: str,
    home: dict[str, str],
    tmp_path: Path,
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(
        "[default]\nregion = sa-east-1\n[profile work]\nregion = ap-south-1\n"
    )
    located = access.locate(provider, home | variables)
    assert located.region == region
    assert located.base_url == f"https://bedrock-runtime.{region}.amazonaws.com"


def test_what_bedrock_lacks(home: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / ".aws"
    assert missing(Provider("bedrock"), home) == (
        "no region: neither the setting region nor AWS_REGION nor AWS_DEFAULT_REGION is given, "
        f"and profile default has none in {folder}/config"
    )
    assert missing(Provider("bedrock"), home | {"AWS_REGION": "evil.com/"}).startswith("the region")
    assert missing(Provider("bedrock", profile="p"), home | {"AWS_REGION": "us-east-1"}) == (
        "no credentials: neither AWS_BEARER_TOKEN_BEDROCK nor AWS_ACCESS_KEY_ID with "
        "AWS_SECRET_ACCESS_KEY nor AWS_WEB_IDENTITY_TOKEN_FILE, "
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, AWS_CONTAINER_CREDENTIALS_FULL_URI is set, "
        f"no profile p in {folder}/config or {folder}/credentials has any, "
        "and this is no EC2 instance"
    )


def test_a_profile_that_says_only_where(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    config_file = tmp_path / ".aws/config"
    config_file.write_text("[default]\nregion = eu-west-1\n")
    assert missing(Provider("bedrock"), home).startswith("no credentials: ")
    config_file.write_text("[default]\nregion = eu-west-1\nsso_session = corp\n")
    assert grant(Provider("bedrock"), home)[1].source == "profile default of AWS"


def test_a_broken_file_of_aws_shows_nothing(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(f"{CANARY}\n")
    text = f"{tmp_path}/.aws/config cannot be read: MissingSectionHeaderError"
    assert missing(Provider("bedrock"), home) == text


@in_loop
async def test_whose_signature_it_is() -> None:
    environment = {"HOME": "/no/such", "AWS_REGION": "eu-west-1", **STATIC}
    _, credential = grant(Provider("bedrock"), environment)
    assert "Credential=AKID00000000/" in (await headers(credential))["authorization"]
    environment["AWS_SESSION_TOKEN"] = "session"
    _, credential = grant(Provider("bedrock"), environment)
    assert (await headers(credential))["x-amz-security-token"] == "session"
    environment["AWS_BEARER_TOKEN_BEDROCK"] = CANARY
    _, credential = grant(Provider("bedrock"), environment)
    assert await headers(credential) == {"authorization": f"Bearer {CANARY}"}
    # ... which goes to AWS only, but a signature gives nothing away
    _, credential = grant(Provider("bedrock", base_url="https://proxy.corp"), environment)
    assert "Signature=" in (await headers(credential))["authorization"]
    _, credential = grant(Provider("bedrock", key=Key(env="K")), environment | {"K": "other-key"})
    assert await headers(credential) == {"authorization": "Bearer other-key"}


@pytest.mark.parametrize(
    ("kind", "name"), [("bedrock", "botocore"), ("vertex", "google-auth")], ids=["aws", "google"]
)
def test_an_extra_that_is_not_installed(
    kind: config.Kind,
    name: str,
    home: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (aws, google):
        monkeypatch.setattr(module, "find_spec", lambda _: None)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text("[default]\naws_access_key_id = x\n")
    authorized_user(tmp_path / ".config/gcloud/application_default_credentials.json", "http://x")
    text = missing(Provider(kind), home | {"AWS_REGION": "us-east-1"})
    assert text.endswith(f" needs {name}: pip install 'ringcast[{kind}]'")


def test_keys_that_no_header_can_hold(home: dict[str, str]) -> None:
    for value in (f"{CANARY}\u00e9", f"{CANARY} {CANARY}"):
        environment = home | {"AWS_REGION": "us-east-1"} | STATIC | {"AWS_SESSION_TOKEN": value}
        text = missing(Provider("bedrock"), environment)
        assert text.startswith("the session token of AWS holds characters")


def test_keys_of_the_environment_need_no_extra(
    home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws, "find_spec", lambda _: None)
    grant(Provider("bedrock", region="us-east-1"), home | STATIC)


# Vertex


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("global", "aiplatform.googleapis.com"),
        ("us-east5", "us-east5-aiplatform.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
    ],
)
def test_where_a_location_is(location: str, host: str, home: dict[str, str]) -> None:
    provider = Provider("vertex", project="p1", location=location)
    assert access.locate(provider, home).base_url == f"https://{host}"


def test_project_and_location(home: dict[str, str], tmp_path: Path) -> None:
    kept = tmp_path / ".config/gcloud/application_default_credentials.json"
    authorized_user(kept, "http://x")
    located, credential = grant(Provider("vertex"), home)
    assert (located.project, located.location) == ("paying-project", "global")
    assert credential.source == str(kept)
    named = service_account(tmp_path / "key.json", "http://x")
    variables = {"GOOGLE_APPLICATION_CREDENTIALS": str(named), "CLOUD_ML_REGION": "us-east5"}
    located, credential = grant(Provider("vertex"), home | variables)
    assert (located.project, located.location) == ("canary-project", "us-east5")
    assert credential.source == str(named)
    variables |= {"GOOGLE_CLOUD_PROJECT": "p2", "GOOGLE_CLOUD_LOCATION": "us-west1"}
    located, _ = grant(Provider("vertex"), home | variables)
    assert (located.project, located.location) == ("p2", "us-west1")
    located, _ = grant(Provider("vertex", project="p3", location="eu"), home | variables)
    assert (located.project, located.location) == ("p3", "eu")
    gcloud = tmp_path / ".config/gcloud/configurations/config_default"
    gcloud.parent.mkdir()
    gcloud.write_text("[core]\nproject = p4\n")
    located, _ = grant(Provider("vertex"), home | {"GCE_METADATA_HOST": "x", "CLOUDSDK_CONFIG": ""})
    assert located.project == "paying-project"
    kept.unlink()
    located, credential = grant(Provider("vertex"), home | {"GCE_METADATA_HOST": "x"})
    assert (located.project, credential.source) == ("p4", "the metadata server")


def test_what_vertex_lacks(home: dict[str, str], tmp_path: Path) -> None:
    gcloud = tmp_path / ".config/gcloud"
    no_credentials = (
        "no credentials: neither the setting credentials nor GOOGLE_APPLICATION_CREDENTIALS is "
        f"given, there is no {gcloud}/application_default_credentials.json "
        "(gcloud auth application-default login), and this is no Google machine"
    )
    assert missing(Provider("vertex"), home) == no_credentials
    assert missing(Provider("vertex", project="p"), home) == no_credentials
    assert missing(Provider("vertex"), home | {"GCE_METADATA_HOST": "x"}) == (
        "no project: neither the setting project nor GOOGLE_CLOUD_PROJECT, GCLOUD_PROJECT, "
        "ANTHROPIC_VERTEX_PROJECT_ID is given, and neither the credentials file nor "
        f"{gcloud} has one"
    )
    gone = home | {"GOOGLE_APPLICATION_CREDENTIALS": "/no/such", "GOOGLE_CLOUD_PROJECT": "p"}
    assert missing(Provider("vertex"), gone) == (
        "credentials file /no/such: No such file or directory"
    )
    path = authorized_user(tmp_path / "f", "http://x")
    found = home | {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}
    assert "project and location" in missing(Provider("vertex"), found | {"GCLOUD_PROJECT": "a/b"})
    elsewhere = Provider("vertex", base_url="https://aiplatform.googleapis.com.evil.org")
    assert missing(elsewhere, found).startswith("base_url is not Google's")
    grant(Provider("vertex", base_url="http://127.0.0.1:1", credentials=str(path)), home)


@in_loop
async def test_a_key_of_express_mode() -> None:
    provider = Provider("vertex", key=Key(env="K"), project="p")
    _, credential = grant(provider, {"HOME": "/no/such", "K": CANARY})
    assert await headers(credential) == {"x-goog-api-key": CANARY}


# Azure


@in_loop
async def test_a_resource_and_its_key() -> None:
    environment = {"AZURE_OPENAI_API_KEY": CANARY, "PATH": ""}
    located, credential = grant(Provider("azure", resource="corp"), environment)
    assert located.base_url == "https://corp.openai.azure.com"
    assert await headers(credential) == {"api-key": CANARY}
    assert credential.source == "AZURE_OPENAI_API_KEY"
    environment |= {
        "AZURE_OPENAI_ENDPOINT": "https://gate.corp.example/openai/v1/",
        "OPENAI_API_VERSION": "2024-10-21",
    }
    located, _ = grant(Provider("azure"), environment)
    assert (located.base_url, located.api_version) == ("https://gate.corp.example", "2024-10-21")
    located, _ = grant(Provider("azure", api_version="preview", resource="r"), environment)
    assert (located.base_url, located.api_version) == ("https://r.openai.azure.com", "preview")


def test_what_azure_lacks(home: dict[str, str], tmp_path: Path) -> None:
    assert missing(Provider("azure"), home) == (
        "no endpoint: neither the setting resource nor base_url nor AZURE_OPENAI_ENDPOINT is given"
    )
    for address in ("http://r.openai.azure.com", "r.openai.azure.com", "https://[", "https://"):
        text = missing(Provider("azure"), home | {"AZURE_OPENAI_ENDPOINT": address})
        assert text == "AZURE_OPENAI_ENDPOINT is not an https:// address"
    assert missing(Provider("azure", resource="r"), home) == (
        "no credentials: neither key nor token_command nor AZURE_OPENAI_API_KEY is given, "
        "and there is no `az` command"
    )
    key = {"AZURE_OPENAI_API_KEY": CANARY}
    elsewhere = Provider("azure", base_url="https://r.openai.azure.com.evil.org")
    assert missing(elsewhere, home | key).startswith("base_url is not Azure's")
    (tmp_path / "az").write_text("#!/bin/sh\n")
    (tmp_path / "az").chmod(0o700)
    _, credential = grant(Provider("azure", resource="r"), home)
    assert credential.source == "token command az"


# all others


@pytest.mark.parametrize(
    ("variable", "base_url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        (":8080", "http://127.0.0.1:8080"),
        ("box", "http://box:11434"),
        ("box:1", "http://box:1"),
        ("http://box", "http://box"),
        ("https://box:8443/x", "https://box:8443"),
        ("[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_where_ollama_is(variable: str, base_url: str) -> None:
    assert access.locate(Provider("ollama"), {"OLLAMA_HOST": variable}).base_url == base_url
    given = Provider("ollama", base_url="http://mine:1")
    assert access.locate(given, {"OLLAMA_HOST": variable}).base_url == "http://mine:1"


def test_what_is_no_place_for_ollama() -> None:
    for variable in ("box:x", "ftp://box", "http://[", "box:99999"):
        text = missing(Provider("ollama"), {"OLLAMA_HOST": variable})
        assert text.startswith("OLLAMA_HOST is ")


@pytest.mark.parametrize(
    ("kind", "header", "value"),
    [
        ("openai", "authorization", f"Bearer {CANARY}"),
        ("anthropic", "x-api-key", CANARY),
        ("gemini", "x-goog-api-key", CANARY),
    ],
)
@in_loop
async def test_a_key(kind: config.Kind, header: str, value: str) -> None:
    located, credential = grant(Provider(kind), {f"{kind.upper()}_API_KEY": CANARY})
    assert await headers(credential) == {header: value}
    assert credential.source == f"{kind.upper()}_API_KEY"
    assert missing(Provider(kind), {}) == f"{kind.upper()}_API_KEY is not set"
    _, credential = access.grant("up", located, {}, "another-key")
    assert await headers(credential) == {header: value.replace(CANARY, "another-key")}


@in_loop
async def test_a_configured_header_proves_enough() -> None:
    provider = Provider("anthropic", headers={"X-Api-Key": CANARY})
    _, credential = grant(provider, {})
    assert await headers(credential) == {}
    assert credential.mask(CANARY.encode()) == b"[masked]"
    _, credential = grant(Provider("anthropic", headers={"Authorization": f"Bearer {CANARY}"}), {})
    assert await headers(credential) == {}


@in_loop
async def test_a_token_command_for_any_kind() -> None:
    provider = Provider("openai-compatible", "http://gate", token_command=["echo", CANARY])
    _, credential = grant(provider, {})
    assert await headers(credential) == {"authorization": f"Bearer {CANARY}"}


def test_what_the_processes_share_imports_no_cloud() -> None:
    """Botocore and google-auth cost 9 to 11 MiB, and only who uses them pays that."""
    clouds = "('botocore', 'google.auth', 'google.oauth2', 'cryptography', 'requests')"
    code = f"import sys, ringcast.preload; print([m for m in {clouds} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=HERE)
    assert done.stdout == b"[]\n"
