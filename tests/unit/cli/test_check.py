import os
from datetime import UTC, datetime, timedelta

import pytest

from mailtasks.cli import doctor
from mailtasks.local.processes import Child
from mailtasks.local.redis import free_port
from mailtasks.mailer import Mailer
from mailtasks.message import Priority
from mailtasks.supervisor import celery_command


@pytest.fixture
def healthy(cli, redis_url, sink, monkeypatch):
    """`cli`, with servers that answer."""
    monkeypatch.setenv("MAILTASKS_BROKER_URL", redis_url)
    monkeypatch.setenv("MAILTASKS_RELAY", sink.url)
    monkeypatch.setenv("MAILTASKS_DEFAULT_FROM", "shop@example.com")
    return cli


def test_all_is_well(healthy):
    ran = healthy("check")
    assert (ran.code, ran.err) == (0, "")
    assert {line.split()[0] for line in ran.out.splitlines()} == {"ok", "warn", "->"}  # fsync: everysec


def test_json(healthy):
    ran = healthy("check", "--json")
    assert (ran.code, ran.json["ok"]) == (0, True)
    assert {"subject", "level", "found", "advice"} == set(ran.json["findings"][0])
    assert {"python", "celery", "store", "relay", "default_from"} <= {
        it["subject"] for it in ran.json["findings"]
    }


def test_something_fails(healthy, monkeypatch):
    monkeypatch.setenv("MAILTASKS_RELAY", f"smtp://127.0.0.1:{free_port()}")
    ran = healthy("check")
    assert ran.code == 1
    assert "\nfail  relay" in ran.out
    assert "-> check host and port of the relay" in ran.out
    assert healthy("check", "--json").json["ok"] is False


def test_each_finding_that_is_not_ok_says_what_to_do(healthy, monkeypatch):
    monkeypatch.delenv("MAILTASKS_DEFAULT_FROM")
    for finding in healthy("check", "--json").json["findings"]:
        assert bool(finding["advice"]) == (finding["level"] != "ok")


def lines(ran, subject):
    """What is said of a subject, and the advice behind it."""
    said = [" ".join(line.split()) for line in ran.out.splitlines()]
    found = next(number for number, line in enumerate(said) if line.split()[1] == subject)
    return [line for line in said[found : found + 2] if line.startswith(("->", said[found]))]


def test_nobody_works(healthy):
    assert lines(healthy("check"), "workers") == [
        "warn workers none answers",
        "-> start them: `mailtasks worker`",
    ]


def test_somebody_works(healthy, tmp_path, wait_until):
    command = celery_command(
        "mailtasks", "test", ["mailtasks-3-bulk"], ["-P", "threads", "-c", "1", "-l", "INFO"]
    )
    with Child(command, environment=dict(os.environ), output=tmp_path / "log"):
        wait_until(lambda: " ready." in (tmp_path / "log").read_text(), timeout=30)
        assert lines(healthy("check"), "workers") == ["ok workers answer, and take mail"]
        other = lines(healthy("--set", "namespace=other", "check"), "workers")
    assert other == [
        "warn workers 1 answer, and none takes mail from other-1-urgent, other-2-normal, other-3-bulk",
        "-> start those that do: `mailtasks worker`",
    ]


@pytest.mark.parametrize(
    ("paused", "found", "advice"),
    [
        (["all"], "all", "resume"),
        (["bulk"], "bulk", "resume bulk"),
        (["bulk", "normal"], "bulk, normal", "resume"),
        (["bulk", "all"], "all, bulk", "resume"),
    ],
)
def test_a_pause(healthy, paused, found, advice):
    for what in paused:
        healthy("pause", what)
    assert lines(healthy("check"), "paused") == [
        f"warn paused {found}",
        f"-> to go on: `mailtasks {advice}`",
    ]


def test_a_sweep_has_found_something(healthy):
    healthy("send", "--to", "ann@example.com", "--text", "It works")
    now = datetime.now(UTC)
    with Mailer() as mailer:
        mailer.redis.delete(mailer.ledger.keys.due(Priority.NORMAL))
        assert len(mailer.sweep()) == 1
    found, advice = lines(healthy("check"), "sweep")
    assert found.startswith(f"warn sweep found 1 astray since the beginning, the last on {now:%Y-%m-%d at }")
    assert "`the sweep found batch`; report it" in advice


def test_what_a_sweep_found_long_ago_is_no_warning():
    last = datetime.now(UTC) - timedelta(days=8)
    finding = doctor.judge_sweep(2, last)
    assert (finding.level, finding.advice) == (doctor.Level.OK, "")
    assert f"found 2 astray since the beginning, the last on {last:%Y-%m-%d at %H:%M} UTC" in finding.found


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("worker_concurrency = 3\n", ["ok celeryconfig.py can be loaded"]),
        (
            "import nothing_like_it\n",
            [
                "warn celeryconfig.py celeryconfig.py can't be imported (ModuleNotFoundError: No module "
                "named 'nothing_like_it'); correct it",
                "-> `mailtasks worker` doesn't start with it; one with an app of your own (-A) may",
            ],
        ),
    ],
)
def test_a_celeryconfig(healthy, tmp_path, config, said):
    (tmp_path / "celeryconfig.py").write_text(config)
    ran = healthy("check")
    assert (ran.code, lines(ran, "celeryconfig.py")) == (0, said)


def test_a_wrong_time_limit(healthy):
    assert healthy("check", "--timeout", "0").code == 2
