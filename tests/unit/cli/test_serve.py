import os
import re
import signal
import smtplib
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import redis as redis_py

import mailtasks
import mailtasks.flower
import mailtasks.supervisor
from mailtasks.local.redis import free_port

ROOT = Path(mailtasks.__file__).parents[1]


@pytest.fixture
def program(tmp_path):
    """Start `mailtasks` as a process of its own, in an empty folder."""
    processes = []

    def start(*arguments, **environment):
        process = subprocess.Popen(
            [sys.executable, "-m", "mailtasks.cli", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def read_until(stream, pattern):
    """The match in the first line that has one."""
    for line in stream:
        if match := re.search(pattern, line):
            return match
    raise AssertionError(f"the program ended without saying {pattern}")


# --- sink


def test_sink_catches_and_saves(program, tmp_path):
    process = program("sink", "--port", 0, "--save", "mail")
    port = int(read_until(process.stdout, r":(\d+)$")[1])
    with smtplib.SMTP("127.0.0.1", port, timeout=5) as client:
        client.sendmail("shop@example.com", ["ann@example.com"], "Subject: Hello\r\n\r\nIt works\r\n")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, "")
    assert out == "messages caught: 1, recipients refused or deferred: 0\n"
    (saved,) = (tmp_path / "mail").glob("*.eml")
    assert b"It works" in saved.read_bytes()


def test_sink_misbehaves_on_request(program):
    process = program("sink", "--port", 0, "--faults", "refuse=1")
    port = int(read_until(process.stdout, r":(\d+)$")[1])
    with (
        smtplib.SMTP("127.0.0.1", port, timeout=5) as client,
        pytest.raises(smtplib.SMTPRecipientsRefused, match="550"),
    ):
        client.sendmail("shop@example.com", ["ann@example.com"], "Subject: Hello\r\n\r\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--faults", "explode=1"), "fault explode=1 isn't understood"),
        (("--port", "70000"), "70000 is not in the range"),
        (("--save", __file__), "is a file"),
        (("--save", "/dev/null/mail"), "'/dev/null/mail' can't be made: Not a directory"),
    ],
)
def test_sink_used_wrongly(cli, arguments, sentence):
    ran = cli("sink", *arguments)
    assert ran.code == 2
    assert sentence in ran.err
    assert ran.err.count("\n") == 1


def test_sink_on_a_port_that_is_taken(cli, sink):
    ran = cli("sink", "--port", sink.port)
    assert ran.code == 2
    assert f"can't listen on 127.0.0.1:{sink.port}" in ran.err


# --- worker


@pytest.fixture
def supervised(monkeypatch):
    """What `worker` asks of the supervisor, which ends at once with code 1."""
    asked = {}

    class Supervisor:
        def __init__(self, settings, **options):
            asked.update(options, settings=settings)

        def run(self):
            return 1

    monkeypatch.setattr(mailtasks.supervisor, "Supervisor", Supervisor)
    return asked


@pytest.fixture
def shop(cli, tmp_path, monkeypatch):
    """A folder with an app that can be loaded, and some modules that hold none."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "shop.py").write_text("import celery\nprint('loaded')\napp = celery.Celery('shop')\n")
    (tmp_path / "other.py").write_text("app = 'no app'")
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "quits.py").write_text("import os\nos._exit(3)")


@pytest.mark.usefixtures("shop")
def test_worker_hands_its_options_on(cli, supervised):
    ran = cli("--set", "lease=2s", "worker", "-c", "4", "--processes", "3", "-A", "shop", "-l", "debug")
    assert ran.code == 1
    assert supervised["settings"].lease == 2
    assert supervised["environment"]["MAILTASKS_LEASE"] == "2s"
    options = ("processes", "concurrency", "app", "log_level")
    assert [supervised[name] for name in options] == [3, 4, "shop", "DEBUG"]


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("app", "why"),
    [
        ("nosuch", "No module named 'nosuch'"),
        ("other", "'no app' is no Celery app"),
        ("broken", "ZeroDivisionError: division by zero"),
        ("quits", "loading it ended the process with exit code 3"),
        ("mailtasks.smtp", "AttributeError: module 'mailtasks.smtp' has no attribute 'celery'"),
    ],
)
def test_worker_with_an_app_that_cant_be_loaded_says_so_once(cli, supervised, app, why):
    ran = cli("worker", "-A", app)
    assert (ran.code, ran.out, ran.err) == (
        2,
        "",
        f"mailtasks: The Celery app {app!r} can't be loaded ({why}); name it as for celery -A. "
        "See `mailtasks worker --help`.\n",
    )
    assert not supervised


RATE = (
    "task_annotations = {'mailtasks.deliver': {'rate_limit': '2/x'}}",
    "task_annotations: rate_limit '2/x' is no rate; expected a text such as ",
)
SYNTAX = ("task_annotations = {", "celeryconfig.py can't be imported (SyntaxError: '{' was never closed (")


@pytest.mark.parametrize(
    ("command", "config", "sentence"),
    [
        ("worker", *SYNTAX),
        ("up", *RATE),
        pytest.param("worker", *RATE, marks=pytest.mark.slow),
        pytest.param("up", *SYNTAX, marks=pytest.mark.slow),
    ],
)
def test_a_mistake_in_a_celeryconfig_is_said_once_and_nothing_starts(
    program, tmp_path, command, config, sentence
):
    (tmp_path / "celeryconfig.py").write_text(config)
    process = program(command)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"mailtasks: {sentence}"), err
    assert not (tmp_path / ".mailtasks" / "redis").exists()


def test_a_mistake_in_the_annotations_of_a_users_app(cli, supervised, tmp_path):
    (tmp_path / "annotated.py").write_text(
        "import celery, mailtasks.celery\n"
        "app = mailtasks.celery.install(celery.Celery('shop'))\n"
        "app.conf.task_annotations = {'mailtasks.deliver': {'retry_backof': 2}}\n"
    )
    ran = cli("worker", "-A", "annotated")
    sentence = "task_annotations: mailtasks.deliver has no retry_backof; expected retry_backoff"
    assert (ran.code, ran.err) == (2, f"mailtasks: {sentence}\n")
    assert not supervised


def test_looking_at_an_app_ends_with_who_looks(program, tmp_path, wait_until):
    (tmp_path / "slow.py").write_text(
        "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(60)\n"
    )
    process, file = program("worker", "-A", "slow"), tmp_path / "pid"
    pid = int(wait_until(lambda: file.exists() and file.read_text(), timeout=45))
    process.kill()
    wait_until(lambda: not is_running(pid), timeout=45, what="the end of the process that loads the app")


def test_worker_with_a_wrong_setting_does_not_start(cli, supervised):
    assert cli("--set", "lease=soon", "worker").code == 2
    assert not supervised


@pytest.mark.parametrize("option", [("-c", "0"), ("--processes", "0"), ("-c", "many"), ("-l", "NOPE")])
def test_worker_used_wrongly(cli, supervised, option):
    assert cli("worker", *option).code == 2
    assert not supervised


# --- flower


def test_flower_gets_address_and_port(cli, monkeypatch):
    asked = []
    monkeypatch.setattr(mailtasks.flower, "run_flower", lambda *given, **options: asked.append(options))
    assert cli("flower").code == 0
    assert cli("flower", "--address", "0.0.0.0", "--port", "80").code == 0
    assert asked == [{"address": "127.0.0.1", "port": None}, {"address": "0.0.0.0", "port": 80}]


def test_flower_for_everybody_needs_a_login(cli):
    ran = cli("flower", "--address", "0.0.0.0")
    assert ran.code == 2
    assert "give it a login (MAILTASKS_FLOWER_AUTH=USER:PASSWORD)" in ran.err


# --- up


def answers(url):
    try:
        with urllib.request.urlopen(f"{url}/healthcheck", timeout=2) as response:
            return response.status == 200
    except urllib.error.URLError:
        return False


def test_up_runs_everything_once_in_a_folder_and_leaves_nothing_running(
    program, cli, tmp_path, monkeypatch, wait_until
):
    process = program("--set", f"flower_port={free_port()}", "up", "--processes", "1", "-c", "2")
    flower = read_until(process.stdout, r"Flower  (http://\S+)")[1]
    ready = {read_until(process.stderr, r"(\w+)-\d+@\S+ ready\.")[1] for _ in range(2)}
    assert ready == {"urgent", "worker1"}
    another = cli("up", "--no-flower")
    assert another.code == 2
    assert "a Redis server already keeps its data in" in another.err
    assert read_until(process.stdout, r"Flower shows the tasks at (\S+)\.$")[1] == flower
    for name in ("MAILTASKS_BROKER_URL", "MAILTASKS_RELAY"):
        monkeypatch.setenv(name, read_until(process.stdout, rf"export {name}=(\S+)")[1])
    ran = cli("send", "--from", "shop@example.com", "--to", "ann@example.com", "--text", "It works", "--json")
    id = ran.json["id"]
    wait_until(lambda: cli("status", id, "--json").json["state"] == "sent", timeout=30)
    wait_until(lambda: answers(flower), timeout=30)
    (caught,) = (tmp_path / ".mailtasks" / "mail").glob("*.eml")
    assert id.encode() in caught.read_bytes()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert cli("status", id).code == 1  # Redis is gone
    assert not answers(flower)


def test_up_uses_what_the_settings_name(program, redis_url, sink):
    process = program(
        *("up", "--no-flower"),
        MAILTASKS_BROKER_URL=redis_url,
        MAILTASKS_RELAY=sink.url,
        CELERY_BROKER_URL=f"redis://127.0.0.1:{free_port()}/0",  # for another app
    )
    assert process.stdout.readline() == f"Redis   {redis_url} is yours and is used as it is\n"
    relay = f"127.0.0.1:{sink.port}"
    assert process.stdout.readline() == f"Relay   {relay} is yours: mail will really be sent\n"
    read_until(process.stdout, "To send mail from another terminal:")
    assert "mailtasks send" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert "export" not in out
    assert err.count(" ready.") == 3, "the last lines come when all workers are there"


def test_up_starts_its_redis_again_and_stops_if_it_ends_at_once(
    program, cli, tmp_path, monkeypatch, wait_until
):
    # A hint that a worker was taking when Redis died comes again after the margin.
    process = program("up", "--no-flower", "--processes", "1", "-c", "1", MAILTASKS_HINT_MARGIN="1")
    for name in ("MAILTASKS_BROKER_URL", "MAILTASKS_RELAY"):
        monkeypatch.setenv(name, read_until(process.stdout, rf"export {name}=(\S+)")[1])
    ran = cli("send", "--from", "shop@example.com", "--to", "ann@example.com", "--text", "It works", "--json")
    id = ran.json["id"]

    def redis():
        with redis_py.Redis.from_url(os.environ["MAILTASKS_BROKER_URL"]) as client:
            return client.info("server")["process_id"]

    os.kill(redis(), signal.SIGKILL)
    line = read_until(process.stdout, "^.* ended by itself.*$")[0]
    assert line.startswith("Redis ended by itself and was started again with what it had kept; mail goes on.")
    wait_until(lambda: cli("status", id, "--json").json["state"] == "sent", timeout=30)
    os.kill(redis(), signal.SIGKILL)
    line = read_until(process.stdout, "^.* ended by itself.*$")[0]
    if "was started again" in line:  # the mail took so long that Redis had been steady
        os.kill(redis(), signal.SIGKILL)
        line = read_until(process.stdout, "^.* ended by itself.*$")[0]
    assert line == (
        f"Redis ended by itself again, so everything stops; {tmp_path}/.mailtasks/redis/redis.log "
        "may say why, and `mailtasks up` then goes on with what wasn't finished"
    )
    _, err = process.communicate(timeout=50)
    assert process.returncode == 1, err
    assert "connection to broker lost" in err.lower()
    assert "Celery 5.1" not in err
    assert "prefetch count" not in err


def test_up_in_a_folder_that_can_not_be_made(cli):
    ran = cli("up", "--folder", "/dev/null/data")
    assert ran.code == 2
    assert "'/dev/null/data' can't be made: Not a directory" in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (("--set", "lease=soon"), (), "lease (keyword): 'soon' is wrong"),
        (("--set", "leese=5"), (), "leese (keyword): there is no such setting; did you mean lease?"),
        ((), ("--processes", "0"), "0 is not in the range"),
    ],
)
def test_up_that_fails_leaves_no_folder(cli, tmp_path, before, after, sentence):
    ran = cli(*before, "up", *after)
    assert ran.code == 2
    assert sentence in ran.err
    assert not list(tmp_path.iterdir())
