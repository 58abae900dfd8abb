import pytest

from mailtasks.local.redis import free_port


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


def test_a_wrong_time_limit(healthy):
    assert healthy("check", "--timeout", "0").code == 2
