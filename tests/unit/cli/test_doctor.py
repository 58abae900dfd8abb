import dataclasses
import sys

import pytest

from mailtasks.cli import doctor
from mailtasks.cli.doctor import Facts, Level
from mailtasks.local.redis import LocalRedis, free_port
from mailtasks.relay import Relay
from mailtasks.settings import Settings
from mailtasks.testing.scripted import HANG, ScriptedRelay
from mailtasks.testing.sentinels import WatchedRedis
from tests.lmtp import LmtpScript, serving

GOOD = {
    "version": "7.2.4",
    "read_only": False,
    "latency": 0.2,
    "aof": True,
    "aof_written": True,
    "fsync": "always",
    "eviction": "noeviction",
    "used": 2**20,
    "ceiling": 2**30,
    "replicas": 2,
}
DAY = 86400


def facts(**changes):
    return Facts(**(GOOD | changes))


@pytest.mark.parametrize("judge", [*doctor.STORE_JUDGES, doctor.judge_failover, doctor.judge_confirmation])
def test_a_good_redis_needs_no_advice(judge):
    _, level, found, advice = judge(facts())
    assert (level, advice) == (Level.OK, "")
    assert found


@pytest.mark.parametrize(
    ("judge", "changes", "level", "found", "advice"),
    [
        (doctor.judge_redis_version, {"version": "6.0.16"}, "fail", "6.0.16", "use Redis 6.2 or later"),
        (doctor.judge_redis_version, {"version": "6.2.14"}, "ok", "6.2.14", ""),
        (doctor.judge_redis_version, {"version": "10.0.0"}, "ok", "10.0.0", ""),
        (doctor.judge_latency, {"latency": 12.345}, "warn", "12.35 ms", "in one network"),
        (doctor.judge_persistence, {"aof": False}, "fail", "no append-only file", "set appendonly yes"),
        (doctor.judge_persistence, {"aof_written": False}, "fail", "can't be written", "disk and log"),
        (doctor.judge_persistence, {"fsync": "everysec"}, "warn", "last second or two", "appendfsync always"),
        (doctor.judge_persistence, {"fsync": "no"}, "warn", "never synced", "set appendfsync everysec"),
        (doctor.judge_persistence, {"fsync": None}, "warn", "isn't told", "ask whoever runs this Redis"),
        (doctor.judge_eviction, {"eviction": "allkeys-lru"}, "fail", "allkeys-lru", "noeviction"),
        (doctor.judge_eviction, {"eviction": "allkeys-lru", "ceiling": 0}, "warn", "allkeys", "noeviction"),
        (doctor.judge_memory, {"ceiling": 0}, "ok", "1.0 MiB used, no limit", ""),
        (doctor.judge_role, {"read_only": True}, "fail", "a read-only replica", "the URL of the primary"),
        (doctor.judge_failover, {"replicas": 1}, "ok", "1 connected", ""),
        (doctor.judge_failover, {"replicas": 0}, "warn", "none connected", "nothing to fail over to"),
        (doctor.judge_confirmation, {"replicas": 0}, "fail", "none connected", "nothing is sent without one"),
        (doctor.judge_confirmation, {"replicas": 1}, "warn", "1 connected", "none is left that could"),
        (doctor.judge_memory, {"used": 70, "ceiling": 100}, "warn", "(70%)", "more maxmemory soon"),
        (doctor.judge_memory, {"used": 99, "ceiling": 100}, "warn", "(99%)", "is reached, send() fails"),
        (doctor.judge_memory, {"used": 100, "ceiling": 100}, "fail", "(100%)", "maxmemory: send() fails"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_redis(judge, changes, level, found, advice):
    verdict = judge(facts(**changes))
    assert verdict[1] == level
    assert found in verdict[2]
    assert advice in verdict[3]


@pytest.mark.parametrize(("held", "level"), [(0, "ok"), (1, "warn"), (40, "warn")])
def test_what_is_said_of_doubt(held, level):
    finding = doctor.judge_doubt(held)
    assert finding.level == level
    assert bool(finding.advice) == bool(held)
    assert (f"{held} recipient" in finding.found) == bool(held)


@pytest.mark.parametrize(
    ("batches", "level", "found"),
    [(0, "ok", "nothing"), (12, "warn", "batches that aren't tried again by themselves: 12")],
)
def test_what_is_said_of_what_was_set_aside(batches, level, found):
    finding = doctor.judge_aside(batches)
    assert finding.level == level
    assert found in finding.found
    assert ("mailtasks failed" in finding.advice) == bool(batches)


@pytest.mark.parametrize(
    ("version", "level", "found"),
    [(None, "fail", "not installed"), ("5.6.1", "fail", "5.6.1, not 5.7.x"), ("5.7.3", "ok", "5.7.3")],
)
def test_versions_of_packages(version, level, found):
    finding = doctor.judge_version("celery", "5.7.", version)
    assert (finding.level, finding.found) == (level, found)
    assert bool(finding.advice) == (level != "ok")


def test_a_package_that_is_not_installed():
    assert doctor._installed("no-such-package") is None


@pytest.mark.parametrize(
    ("url", "level", "found"),
    [
        ("smtps://mail.example.com", "ok", "encrypted, certificate verified"),
        ("smtp://mail.example.com", "ok", "encrypted, certificate verified"),
        ("smtp://localhost", "ok", "none, and none needed on loopback"),
        ("smtp://mail.example.com?tls=none", "warn", "none: mail is sent in plain text"),
        ("smtp://a:b@mail.example.com?tls=none", "warn", "none: mail and password are sent in plain text"),
    ],
)
def test_secrecy(url, level, found):
    finding = doctor.judge_secrecy(Relay.parse(url))
    assert (finding.level, finding.found) == (level, found)


@pytest.mark.parametrize(
    ("ends", "level", "days"),
    [(14.5, "ok", "14 more days"), (13.9, "warn", "13 more days"), (1.5, "warn", "1 more day")],
)
def test_the_days_that_a_certificate_has_left(ends, level, days):
    finding = doctor.judge_certificate(1e9 + ends * DAY, 1e9)
    assert (finding.level, finding.found) == (level, f"good for {days}")


def test_pipelining():
    assert doctor.judge_pipelining(frozenset({"size", "pipelining"})).level is Level.OK
    assert doctor.judge_pipelining(frozenset({"size"})).level is Level.WARN


@pytest.mark.parametrize(
    ("offered", "level", "found"),
    [
        ({"chunking", "pipelining"}, Level.OK, "offered: mail goes by BDAT"),
        ({"chunking"}, Level.WARN, "mail goes by DATA: PIPELINING not offered"),
        ({"size"}, Level.WARN, "mail goes by DATA: CHUNKING and PIPELINING not offered"),
    ],
)
def test_chunking(offered, level, found):
    finding = doctor.judge_chunking(frozenset(offered))
    assert (finding.level, finding.found) == (level, found)


def test_chunking_is_looked_at_where_it_is_wanted():
    with ScriptedRelay(extensions=("PIPELINING",)) as relay:
        wanted = doctor.relay_findings(Relay.parse(f"{relay.url}?chunking=yes"), None, 5)
        assert "relay: chunking" in [finding.subject for finding in wanted]
        unwanted = doctor.relay_findings(Relay.parse(relay.url), None, 5)
        assert "relay: chunking" not in [finding.subject for finding in unwanted]


@pytest.mark.parametrize(
    ("sender", "level", "found"),
    [
        (None, "warn", "not set"),
        ("Shop <shop@example.com>", "ok", "Shop <shop@example.com>"),
    ],
)
def test_the_sender(sender, level, found):
    finding = doctor.judge_sender(sender)
    assert finding.level == level
    assert finding.found.startswith(found)


# --- with real servers


def test_a_real_redis(redis_url):
    findings = {it.subject: it for it in doctor.redis_findings(Settings(broker_url=redis_url))}
    assert list(findings) == [
        "store",
        "store: version",
        "store: role",
        "store: latency",
        "store: persistence",
        "store: eviction",
        "store: memory",
    ]
    assert findings["store: persistence"].found.startswith("append-only file, synced every second")
    assert findings["store: eviction"].level is Level.OK


def test_who_wants_a_replica_is_told_that_there_is_none(redis_url):
    settings = Settings(broker_url=redis_url, durability="replica")
    last = list(doctor.redis_findings(settings))[-1]
    assert (last.subject, last.level) == ("store: replicas", Level.FAIL)


def test_sentinels_that_are_not_there():
    port = free_port()
    url = f"sentinel://:hunter2@127.0.0.1:{port}/0?master_name=mymaster&sentinel_password=hunter2"
    (finding,) = doctor.redis_findings(Settings(broker_url=url))
    assert finding.level is Level.FAIL
    assert "can't be used: no sentinel knows where it is: 127.0.0.1" in finding.found
    assert "hunter2" not in str(finding)
    assert finding.advice == (
        "see that the sentinels run, and that broker_url has their addresses, what they call the master "
        "(master_name) and, if they want one, their sentinel_password"
    )


def test_a_redis_that_sentinels_watch():
    with WatchedRedis() as watched:
        findings = list(doctor.redis_findings(Settings(broker_url=watched.url, durability="replica")))
    assert findings[0].found == f"{watched.url} answers"
    assert (findings[-1].level, findings[-1].found) == (Level.OK, "2 connected")


def test_a_broker_of_its_own_need_not_persist(redis_url):
    settings = Settings(broker_url=redis_url, store_url=redis_url.replace("/0", "/1"))
    subjects = [it.subject for it in doctor.redis_findings(settings)]
    assert "broker: eviction" in subjects
    assert "broker: persistence" not in subjects
    assert "store: persistence" in subjects


def test_a_redis_that_is_not_there_and_has_a_password():
    port = free_port()
    (finding,) = doctor.redis_findings(Settings(broker_url=f"redis://:hunter2@127.0.0.1:{port}/0"))
    assert finding.level is Level.FAIL
    assert finding.found.startswith(f"redis://:***@127.0.0.1:{port}/0 can't be used: ")
    assert "hunter2" not in str(finding)
    assert finding.advice == "see that it runs, and that broker_url has its host, port, database and password"


def test_a_ledger_of_its_own_that_is_not_there(redis_url):
    settings = Settings(broker_url=redis_url, store_url=f"redis://127.0.0.1:{free_port()}/0")
    assert "that store_url has its host" in list(doctor.redis_findings(settings))[-1].advice


def test_a_database_that_redis_does_not_have(redis_url):
    (finding,) = doctor.redis_findings(Settings(broker_url=redis_url.replace("/0", "/99")))
    assert finding.level is Level.FAIL
    assert finding.advice == "write a database that this Redis has at the end of broker_url, such as /0"


def test_a_wrong_password(redis_url):
    (finding,) = doctor.redis_findings(Settings(broker_url=redis_url.replace("//", "//who:what@")))
    assert finding.advice == "put the right user and password into broker_url"


def test_a_real_replica(redis_server):
    with LocalRedis() as replica:
        with replica.client() as client:
            client.replicaof("127.0.0.1", redis_server.port)
        findings = {it.subject: it for it in doctor.redis_findings(Settings(broker_url=replica.url))}
    assert findings["store: role"].level is Level.FAIL
    assert findings["store: role"].found == "a read-only replica"


def test_a_redis_that_does_not_tell_its_configuration(redis_server):
    with redis_server.client() as client:
        client.acl_setuser(
            "renter", enabled=True, passwords=["+pw"], commands=["+@all", "-config"], keys=["*"]
        )
    url = f"redis://renter:pw@127.0.0.1:{redis_server.port}/0"
    findings = {it.subject: it for it in doctor.redis_findings(Settings(broker_url=url))}
    assert "isn't told" in findings["store: persistence"].found


def test_a_real_relay(sink):
    findings = list(doctor.relay_findings(Relay.parse(sink.url), None, 5))
    assert [it.subject for it in findings] == ["relay", "relay: TLS", "relay: pipelining"]
    assert {it.level for it in findings} == {Level.OK}
    assert findings[0].found.startswith(f"127.0.0.1:{sink.port} ready in ")
    assert not sink.messages


def test_a_relay_that_is_not_there():
    (finding,) = doctor.relay_findings(Relay.parse(f"smtp://127.0.0.1:{free_port()}"), None, 5)
    assert (finding.subject, finding.level) == ("relay", Level.FAIL)
    assert "connection refused" in finding.found
    assert finding.advice == doctor.ADVICE[doctor.Stage.CONNECT]


@pytest.mark.parametrize(
    ("replies", "stage", "advice"),
    [
        ({"CONNECT": HANG}, "greeting", "check the port: one that is for TLS from the first byte, often 465"),
        ({"EHLO": HANG}, "ehlo", "give it longer with --timeout; if it stays silent, tell the relay's oper"),
        ({"AUTH": HANG}, "auth", "give it longer with --timeout; if it stays silent, tell the relay's oper"),
        ({"CONNECT": "554 go away"}, "greeting", "ask the relay's operator whether this machine may send"),
        ({"AUTH": "535 5.7.8 no"}, "auth", "check user and password in the relay's URL"),
    ],
)
def test_advice_for_a_silent_relay_is_not_that_for_one_that_refuses(replies, stage, advice):
    with ScriptedRelay(replies, extensions=["AUTH PLAIN"]) as server:
        relay = Relay.parse(f"smtp://ann:secret@127.0.0.1:{server.port}")
        (finding,) = doctor.relay_findings(relay, None, 0.3)
    assert f": {stage}: " in finding.found
    assert finding.advice.startswith(advice)


def test_a_relay_without_tls_that_should_have_it(sink):
    (finding,) = doctor.relay_findings(Relay.parse(f"{sink.url}?tls=required"), None, 5)
    assert finding.level is Level.FAIL
    assert finding.advice.startswith("use the port on which it offers STARTTLS, often 587")
    assert finding.advice.endswith("on a network that you trust, ?tls=none")


def test_a_plain_port_with_smtps(sink):
    url = sink.url.replace("smtp://", "smtps://")
    (finding,) = doctor.relay_findings(Relay.parse(url), None, 5)
    assert finding.level is Level.FAIL
    assert finding.advice.startswith(
        "this port speaks no TLS from the first byte: write smtp:// for STARTTLS"
    )


def test_a_login_that_is_not_offered(sink):
    url = sink.url.replace("smtp://", "smtp://ann:secret@")
    (finding,) = doctor.relay_findings(Relay.parse(url), None, 5)
    assert finding.level is Level.FAIL
    assert finding.advice.endswith("or take USER:PASSWORD@ out of the relay's URL")


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_the_certificate_of_a_real_relay(secure_relay, scheme):
    findings = {it.subject: it for it in doctor.relay_findings(secure_relay(scheme), None, 5)}
    assert findings["relay"].level is Level.OK
    assert findings["relay: TLS"].found == "encrypted, certificate verified"
    assert findings["relay: certificate"].level is Level.WARN
    assert findings["relay: certificate"].found == "good for 3 more days"


def test_a_certificate_that_nobody_trusts(secure_relay):
    relay = dataclasses.replace(secure_relay("smtp"), ca=None)
    (finding,) = doctor.relay_findings(relay, None, 5)
    assert finding.level is Level.FAIL
    assert "certificate" in finding.found
    assert finding.advice == doctor.ADVICE[doctor.Stage.TLS]


def test_a_relay_that_speaks_lmtp(tmp_path):
    path = tmp_path / "lmtp"
    with serving(path, LmtpScript(), LmtpScript()):
        findings = list(doctor.relay_findings(Relay.parse(f"lmtp://{path}"), None, 5))
    assert [(it.subject, it.level, it.found) for it in findings[1:]] == [
        ("relay: TLS", Level.OK, "none, and none needed on loopback"),
        ("relay: pipelining", Level.OK, "offered"),
    ]


@pytest.mark.parametrize(
    ("command", "found", "advice"),
    [
        ("exit%201", "auth: the token command failed with exit status 1", "run the command by hand, as the"),
        ("echo%20hunter2", "auth: 535 5.7.8 no", "see that the token is for the user in the relay's URL"),
    ],
)
def test_advice_for_a_token(command, found, advice):
    with ScriptedRelay({"AUTH": "535 5.7.8 no"}, extensions=["AUTH XOAUTH2"]) as server:
        url = f"smtp://ann@127.0.0.1:{server.port}?token_command=sh%20-c%20%27{command}%27"
        (finding,) = doctor.relay_findings(Relay.parse(url), None, 5)
    assert finding.found.endswith(found)
    assert finding.advice.startswith(advice)
    assert "hunter2" not in str(finding)


def test_a_function_for_tokens_may_be_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "tokens_of_the_shop.py").write_text("def token(): return 'good'\n")
    monkeypatch.chdir(tmp_path)
    with ScriptedRelay(extensions=["AUTH XOAUTH2"]) as server:
        url = f"smtp://ann@127.0.0.1:{server.port}?token=tokens_of_the_shop:token&local=127.0.0.1"
        first, *_ = doctor.relay_findings(Relay.parse(url), None, 5)
    assert first.level is Level.OK
    assert first.found.endswith(" ms, logged in as ann with a token, from 127.0.0.1")


@pytest.mark.parametrize(
    ("url", "who"),
    [
        ("smtp://h", "without a login"),
        ("smtp://ann:pw@h", "logged in as ann"),
        ("smtp://h?auth=oauthbearer&token=a:b", "logged in with a token"),
    ],
)
def test_what_a_relay_knows_of_us(url, who):
    assert doctor._who(Relay.parse(url)) == who


@pytest.mark.parametrize(
    ("sentence", "advice"),
    [
        ("it wants a certificate of ours, and the relay's URL says no cert", "add cert=FILE"),
        ("it doesn't know the authority of our certificate", "get a certificate that the relay's operator"),
        ("the local address 10.0.0.9 can't be sent from (x)", "name an address of this machine with local="),
        ("h has no IPv4 address, and the local address 10.0.0.9 is one", "name an address of the relay's"),
    ],
)
def test_advice_for_certificates_and_addresses(sentence, advice):
    relay = Relay.parse("smtp://h")
    failed = doctor.ConnectFailed(relay, doctor.Outcome(doctor.Stage.TLS, doctor.How.LOST, detail=sentence))
    assert doctor._unavailable(relay, failed).advice.startswith(advice)


# --- Attachments


def test_attachments_in_redis_need_no_probe(redis_url):
    finding = doctor.blob_finding(Settings(broker_url=redis_url, blob_cap=2**20))
    assert (finding.subject, finding.level) == ("attachments", Level.OK)
    assert finding.found == "in Redis, at most 1.0 MiB"


def test_a_folder_is_probed_and_nothing_is_left(redis_url, tmp_path):
    finding = doctor.blob_finding(Settings(broker_url=redis_url, blobs=f"file://{tmp_path}"))
    assert (finding.level, finding.advice) == (Level.OK, "")
    assert finding.found == f"the folder {tmp_path} keeps them, and lets go of them"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_isnt_there(redis_url, tmp_path):
    finding = doctor.blob_finding(Settings(broker_url=redis_url, blobs=f"file://{tmp_path}/no"))
    assert finding.level is Level.FAIL
    assert finding.found.startswith(f"the folder {tmp_path}/no can't take an attachment (No such file or dir")
    assert (
        finding.advice == "see that `blobs` names a place that all producers and workers can read and write"
    )


def test_a_store_whose_library_isnt_there(redis_url, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    finding = doctor.blob_finding(Settings(broker_url=redis_url, blobs="s3://key:hunter2@bucket"))
    assert finding.level is Level.FAIL
    assert "pip install mailtasks[blobs]" in finding.found
    assert finding.advice == "install it where producers and workers run"
    assert "hunter2" not in finding.found
