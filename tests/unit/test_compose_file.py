"""`docker-compose.yml` by the specification's schema and by what it is there for. No engine runs it here."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import jsonschema
import pytest
import yaml

import mailtasks
from mailtasks.cli import COMMANDS
from mailtasks.settings import Settings

ROOT = Path(mailtasks.__file__).parents[1]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
OURS = ("worker", "flower", "outbox")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def options(command):
    """`--name value` pairs of a command line."""
    return {name.removeprefix("--"): value for name, value in zip(command[1::2], command[2::2], strict=True)}


def settings_of(service, **given):
    """The settings that a container would have, interpolated as `docker compose` does."""
    environ = {
        name: re.sub(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)\}", lambda it: given.get(it[1], it[2] or ""), text)
        for name, text in SERVICES[service]["environment"].items()
    }
    return Settings.load(environ=environ)


def test_it_obeys_the_compose_specification():
    schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(COMPOSE)


def test_the_schema_would_notice_a_typo():
    schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text(encoding="utf-8"))
    wrong = {"services": {"redis": {"image": "redis", "volume": ["redis-data:/data"]}}}
    with pytest.raises(jsonschema.ValidationError, match="'volume'"):
        jsonschema.Draft202012Validator(schema).validate(wrong)


def test_redis_keeps_what_it_was_given():
    redis = options(SERVICES["redis"]["command"])
    assert (redis["appendonly"], redis["appendfsync"], redis["maxmemory-policy"]) == (
        "yes",
        "always",
        "noeviction",
    )
    assert SERVICES["redis"]["volumes"] == ["redis-data:/data"]
    assert "redis-data" in COMPOSE["volumes"]
    assert "ports" not in SERVICES["redis"]


def test_the_worker_can_be_scaled():
    assert not {"container_name", "ports", "hostname"} & set(SERVICES["worker"])


@pytest.mark.parametrize("service", OURS)
def test_the_settings_are_right(service):
    settings = settings_of(service, MAILTASKS_FLOWER_AUTH="ann:a-long-password")
    assert settings.broker_url == settings.store_url == "redis://redis:6379/0"
    assert settings.relay.url_masked == "smtp://mailpit:1025?tls=none"


def test_flower_has_a_login_that_must_be_chosen():
    assert "${MAILTASKS_FLOWER_AUTH:?" in SERVICES["flower"]["environment"]["MAILTASKS_FLOWER_AUTH"]
    assert settings_of("flower", MAILTASKS_FLOWER_AUTH="ann:pw").flower_auth == "ann:pw"


def test_an_outbox_is_for_who_asks_for_it():
    assert SERVICES["outbox"]["profiles"] == ["outbox"]
    assert all("profiles" not in service for name, service in SERVICES.items() if name != "outbox")
    url = "postgresql://shop:secret@db/shop"
    assert settings_of("outbox", MAILTASKS_DATABASE_URL=url).database_url == url
    assert settings_of("outbox").database_url is None, "what others of ours start doesn't need it"


def test_the_image_has_what_its_services_need():
    [installed] = re.findall(r"^RUN pip install (.*)$", DOCKERFILE, re.MULTILINE)
    assert re.search(r'"\.\[(.*?)\]"', installed)[1].split(",") == [
        "cli",
        "flower",
        "sqlalchemy",
        "zstd",
        "css",
    ]
    assert '"psycopg[binary]"' in installed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cli", "flower", "sqlalchemy"} <= set(project["optional-dependencies"])
    assert "psycopg[binary]" in {it.partition(">")[0] for it in project["optional-dependencies"]["dev"]}


def test_ports_are_open_to_this_machine_only():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("service", OURS)
def test_our_services_wait_for_redis_and_run_our_commands(service):
    assert SERVICES[service]["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert "test" in SERVICES["redis"]["healthcheck"]
    assert SERVICES[service]["command"][0] in COMMANDS


def copied():
    """What the Dockerfile copies into the image: (source, folder or name in it)."""
    lines = re.findall(r"^COPY (.*) (\S+)$", DOCKERFILE, re.MULTILINE)
    return [(source, target) for sources, target in lines for source in sources.split()]


def test_the_image_is_built_from_files_that_are_let_in():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{source}" for source, _ in copied()} <= set(ignored)


def test_what_is_copied_into_the_image_is_enough_for_the_wheel(tmp_path):
    for source, target in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (tmp_path / target).mkdir(exist_ok=True)
            shutil.copy(ROOT / source, tmp_path / target)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", tmp_path]
    built = subprocess.run(build, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("mailtasks-*.whl")
    assert "mailtasks/local/recipients.csv" in ZipFile(wheel).namelist()
