import os
import socket
import threading

import pytest

from mailtasks.errors import SettingsError, UnknownMessage
from mailtasks.local import up
from mailtasks.local.processes import Child, living
from mailtasks.local.up import Everything
from mailtasks.mailer import Mailer
from mailtasks.message import Message
from mailtasks.settings import Settings

PLAIN = {
    name: value
    for name, value in os.environ.items()
    if name not in ("MAILTASKS_BROKER_URL", "MAILTASKS_RELAY")
}


@pytest.fixture
def lines():
    return []


@pytest.fixture
def everything(tmp_path, lines):
    """Make one, with Flower left out."""

    def make(**options):
        given = {"environment": PLAIN, "flower": False, "report": lines.append}
        return Everything(tmp_path / "data", **(given | options))

    return make


@pytest.fixture
def flowers(monkeypatch):
    """The commands of the Flowers that would be started."""
    commands = []

    class Child:
        def __init__(self, command, **options):
            commands.append(command)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(up, "Child", Child)
    return commands


def test_what_no_setting_names_is_started_and_ends(everything, lines):
    before = living()
    with everything() as running:
        assert set(running.started) == {"MAILTASKS_BROKER_URL", "MAILTASKS_RELAY"}
        assert len(living()) == len(before) + 2
        settings = Settings.load(environ=running.environment)
        assert settings.broker_url == running.started["MAILTASKS_BROKER_URL"]
        assert [line.split()[:2] for line in lines] == [
            ["Redis", settings.broker_url],
            ["Relay", running.started["MAILTASKS_RELAY"]],
        ]
    assert living() == before


def test_what_was_accepted_is_there_the_next_time(everything):
    message = Message(to="ann@example.com", sender="shop@example.com")
    with everything() as running, Mailer(Settings.load(environ=running.environment)) as mailer:
        id = mailer.send(message)
    with everything() as running, Mailer(Settings.load(environ=running.environment)) as mailer:
        assert mailer.status(id).id == id
        with pytest.raises(UnknownMessage):
            mailer.status("0" * len(id))


def test_what_another_terminal_was_told_stays_right(everything):
    with everything() as running:
        told = running.started
    with everything() as again:
        assert again.started == told


def test_a_port_that_is_taken_the_next_time_is_not_waited_for(everything):
    with everything() as running:
        told = running.started
        taken = int(told["MAILTASKS_RELAY"].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", taken)), everything() as again:
        assert again.started["MAILTASKS_RELAY"] != told["MAILTASKS_RELAY"]


@pytest.mark.parametrize("written", ["", "soon", "99999999"])
def test_a_port_that_cant_be_read_is_none(everything, tmp_path, written):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / up.REDIS_PORT).write_text(written)
    with everything() as running:
        assert running.started


def test_what_has_ended_by_itself_is_known(everything, wait_until):
    with everything() as running:
        assert running.ended() == []
        os.kill(next(child.pid for child in living() if "mailtasks.local.sink" in child.command), 9)
        wait_until(lambda: running.ended() == ["the catching server"])


@pytest.fixture
def watched(everything, monkeypatch):
    """Everything, looked after; an event that is set when all is to stop."""
    monkeypatch.setattr(up, "LOOK", 0.05)
    told, over = threading.Event(), threading.Event()
    with everything() as running:
        thread = threading.Thread(target=running._watch, args=(over, told.set))
        thread.start()
        yield running, told
        over.set()
        thread.join()


def kill(module):
    os.kill(next(child.pid for child in living() if module in child.command), 9)


def test_a_catching_server_that_ends_is_started_again_once(watched, lines, wait_until):
    running, told = watched
    url = running.started["MAILTASKS_RELAY"]
    for words in (
        "started again with what it had kept; mail goes on.",
        "ended by itself again, so everything stops;",
    ):
        kill("mailtasks.local.sink")
        line = wait_until(lambda words=words: next((line for line in lines if words in line), ""))
        assert line.startswith("the catching server ended by itself")
    assert told.wait(5)
    assert running.started["MAILTASKS_RELAY"] == url


def test_what_cant_be_started_again_stops_everything(watched, lines, monkeypatch):
    _, told = watched
    monkeypatch.setattr(up.CatchingProcess, "start", lambda self: refuse())
    kill("mailtasks.local.sink")
    assert told.wait(5)
    assert lines[-1] == (
        "the catching server ended by itself and can't be started again (no), so everything stops; "
        "`mailtasks up` then goes on with what wasn't finished"
    )


def test_without_flower_mail_goes_on(watched, lines, wait_until, tmp_path):
    running, told = watched
    running._parts["Flower"] = Child(["sleep", "60"])
    running._parts["Flower"].kill()
    wait_until(lambda: "ended" in lines[-1])
    assert lines[-1].startswith("Flower ended by itself, and mail goes on without it; ")
    assert str(tmp_path / "data" / "flower.log") in lines[-1]
    assert not told.is_set()


def test_without_a_redis_to_start_no_empty_folder_is_left(everything, tmp_path, monkeypatch):
    monkeypatch.setattr(up, "LocalRedis", refuse)
    with pytest.raises(SettingsError, match="no"):
        everything().__enter__()
    assert not (tmp_path / "data").exists()


def refuse(**options):
    raise SettingsError("no")


def test_what_the_settings_name_is_not_started(everything, lines):
    given = {
        "MAILTASKS_BROKER_URL": "redis://:hunter2@redis.example.com/0",
        "MAILTASKS_RELAY": "smtp://localhost:2525",
    }
    before = living()
    with everything(environment={**PLAIN, **given}) as running:
        assert living() == before
        assert running.started == {}
    assert lines == [
        "Redis   redis://:***@redis.example.com/0 is yours and is used as it is",
        "Relay   localhost:2525 is yours: mail will really be sent",
    ]


def test_if_one_part_can_not_be_started_the_others_end(everything, monkeypatch):
    monkeypatch.setattr(up, "CatchingProcess", refuse)
    before = living()
    with pytest.raises(SettingsError, match="no"):
        everything().__enter__()
    assert living() == before


def test_a_wrong_setting_starts_nothing(everything, tmp_path):
    with pytest.raises(SettingsError, match="lease"):
        everything(environment={**PLAIN, "MAILTASKS_LEASE": "soon"}).__enter__()
    assert not (tmp_path / "data").exists()


def test_flower_is_told_its_port(everything, flowers, lines):
    with everything(flower=True):
        pass
    (command,) = flowers
    address, port = command[command.index("--address") + 1], command[command.index("--port") + 1]
    assert lines[-1] == f"Flower  http://{address}:{port}"


def test_flower_takes_another_port_if_its_own_is_taken(everything, flowers):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with everything(flower=True, environment={**PLAIN, "MAILTASKS_FLOWER_PORT": port}):
            pass
    assert port not in flowers[0]


def test_without_flower_installed_it_says_how_to_get_it(everything, flowers, lines, monkeypatch):
    monkeypatch.setattr(up.importlib.util, "find_spec", lambda name: None)
    with everything(flower=True):
        pass
    assert not flowers
    assert lines[-1] == "Flower  isn't installed; pip install 'mailtasks[flower]'"
