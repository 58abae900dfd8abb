"""Where tokens come from: commands and functions that work, and those that don't in each way."""

import os
import shlex
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mailtasks.relay import Relay
from mailtasks.reply import How
from mailtasks.smtp.token_sources import (
    LONGEST_TOKEN,
    MOST_OUTPUT,
    STOPS,
    Command,
    Function,
    TokenUnavailable,
    source_of,
)

SECRET = "ya29.hunter2"


def shell(script):
    return Command(("sh", "-c", script))


def failure(source, seconds=10.0):
    with pytest.raises(TokenUnavailable) as raised:
        source.fetch(seconds)
    assert raised.value.__context__ is None, "it may hold what was printed"
    return raised.value.how, str(raised.value)


def alive(pid):
    """Whether a process runs; what was killed and not waited for yet doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Commands


@pytest.mark.parametrize(
    ("printed", "token", "seconds"),
    [
        (SECRET, SECRET, None),
        (f"\n  {SECRET}\r\n\n", SECRET, None),
        (f'{{"access_token": "{SECRET}", "expires_in": 3599, "token_type": "Bearer"}}\n', SECRET, 3599),
        (f'{{"access_token": "{SECRET}", "expires_in": "3599"}}', SECRET, 3599),
        (f'{{\n"access_token": "{SECRET}"\n}}', SECRET, None),
        ("x" * LONGEST_TOKEN, "x" * LONGEST_TOKEN, None),
    ],
)
def test_a_command_prints_a_token(printed, token, seconds):
    fetched = Command((sys.executable, "-Ic", f"print({printed!r})")).fetch(10)
    assert (fetched.token, fetched.seconds) == (token, seconds)
    assert SECRET not in repr(fetched)


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("exit 3", "the token command failed with exit status 3"),
        (f"echo {SECRET}; exit 1", "the token command failed with exit status 1"),
        ("kill -9 $$", "the token command was ended by signal 9"),
        ("true", "the token command printed nothing"),
        ("echo; echo ' '", "the token command printed nothing"),
        (
            f"echo token:; echo {SECRET}",
            "the token command printed 2 lines, where a token alone or JSON is expected",
        ),
        (
            f"echo Bearer {SECRET}",
            "the token command printed what is no token: that has 1 to 8,192 ASCII characters and no space",
        ),
        (
            "printf %08193d 0",
            "the token command printed what is no token: that has 1 to 8,192 ASCII characters and no space",
        ),
        ("printf '\\377\\376'", "the token command printed what isn't text"),
        (f'echo \'{{"access_token": "{SECRET}"\'', "the token command printed JSON that can't be read"),
        ("echo '{}'", "the token command printed JSON without access_token"),
        (
            'echo \'{"error": "invalid_grant", "error_description": "hunter2"}\'',
            "the token command printed JSON without access_token (error: invalid_grant)",
        ),
        ('echo \'{"error": "Hunter 2"}\'', "the token command printed JSON without access_token"),
        (
            'echo \'{"access_token": ["hunter2"]}\'',
            "the token command printed JSON whose access_token is none: "
            "that has 1 to 8,192 ASCII characters and no space",
        ),
        *(
            (
                f'echo \'{{"access_token": "hunter2", "expires_in": {wrong}}}\'',
                "the token command printed JSON whose expires_in isn't a number of seconds above 0",
            )
            for wrong in ("0", "-5", "true", '"soon"', "NaN", "Infinity", "[]")
        ),
    ],
)
def test_a_command_that_yields_none_is_told_of_and_not_quoted(script, sentence, capfd):
    assert failure(shell(script)) == (How.UNSUITABLE, sentence)
    assert "hunter2" not in sentence


@pytest.mark.parametrize(
    ("word", "reason"), [("/no/such", "No such file or directory"), ("/etc/passwd", "Permission denied")]
)
def test_a_command_that_cannot_be_run(word, reason):
    assert failure(Command((word, SECRET))) == (How.UNSUITABLE, f"the token command can't be run ({reason})")


def test_what_a_command_prints_is_bounded():
    how, sentence = failure(shell("yes"))
    assert (how, sentence) == (How.UNSUITABLE, f"the token command printed more than {MOST_OUTPUT:,} bytes")


@pytest.mark.parametrize(
    "script",
    [
        "sleep 100",
        "exec >&-; sleep 100",  # its output has ended, and it goes on
        "sleep 100 & echo token",  # it has ended, and what it left holds its output
        "trap '' TERM; sleep 100; sleep 100",
    ],
)
def test_a_command_that_hangs_is_killed_with_all_that_it_started(script, tmp_path, wait_until):
    pids = tmp_path / "pids"
    began = time.monotonic()
    how, sentence = failure(shell(f"echo $$ > {pids}; {script}"), 0.5)
    assert (how, sentence) == (How.TIMED_OUT, "the token command hadn't ended after 0.5 s and was killed")
    assert time.monotonic() - began < 10
    group = int(pids.read_text())
    wait_until(lambda: not any(alive(pid) for pid in members(group)))


def members(group):
    """The processes of a group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found += [int(stat.parent.name)] if int(fields[2]) == group else []
    return found


def test_a_command_reads_nothing_and_its_complaints_are_the_workers(capfd):
    assert shell("cat; echo complaint >&2; echo token").fetch(10).token == "token"
    assert capfd.readouterr().err == "complaint\n"


def test_no_descriptor_is_left():
    before = len(os.listdir("/proc/self/fd"))
    for script in ("echo token", "exit 1", "yes"):
        with suppress(TokenUnavailable):
            shell(script).fetch(10)
    assert len(os.listdir("/proc/self/fd")) == before


def interrupted(source, begun, wait_until):
    """What a fetch raises that is interrupted once it has begun."""
    caught = []

    def fetch():
        try:
            source.fetch(60)
        except TokenUnavailable as error:
            caught.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    wait_until(begun)
    source.interrupt()
    thread.join(10)
    assert not thread.is_alive()
    return caught


def test_an_interruption_kills_the_command_and_no_other_is_started(tmp_path, wait_until):
    begun = tmp_path / "begun"
    source = shell(f"touch {begun}; sleep 100")
    assert len(interrupted(source, begun.exists, wait_until)) == 1
    assert failure(source) == (How.UNTOUCHED, STOPS)


# Functions


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of the user's; returns what `token=` says for its function `token`."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(code):
        name = f"user_module_{time.monotonic_ns()}"
        (tmp_path / f"{name}.py").write_text(code)
        return f"{name}:token"

    return write


@pytest.mark.parametrize(
    ("returned", "seconds"),
    [
        (f"'{SECRET}'", None),
        (f"('{SECRET}', 3599)", 3599),
        (f"['{SECRET}', 59.5]", 59.5),
        (f"('{SECRET}', None)", None),
        (f"{{'access_token': '{SECRET}', 'expires_in': 3599, 'token_source': 'cache'}}", 3599),
    ],
)
def test_a_function_returns_a_token(module, returned, seconds):
    fetched = Function(module(f"def token():\n    return {returned}\n")).fetch(10)
    assert (fetched.token, fetched.seconds) == (SECRET, seconds)


def test_a_method_of_an_object_is_a_function_too(module):
    name = module(f"class Mail:\n    @staticmethod\n    def get(): return '{SECRET}'\n")
    assert Function(name.replace(":token", ":Mail.get")).fetch(10).token == SECRET


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("raise KeyError('hunter2')", "can't be imported: it raised KeyError"),
        ("pass", "can't be imported: it raised AttributeError"),
        ("token = 'hunter2'", "raised TypeError"),
        ("def token(): raise ValueError('hunter2')", "raised ValueError"),
        ("def token(): raise SystemExit", "raised SystemExit"),
        ("def token(): return None", "returned NoneType, neither a token nor a token and seconds"),
        ("def token(): yield 'hunter2'", "returned generator, neither a token nor a token and seconds"),
        ("def token(): return b'hunter2'", "returned bytes, neither a token nor a token and seconds"),
        (
            "def token(): return 'hunter 2'",
            "returned what is no token: that has 1 to 8,192 ASCII characters and no space",
        ),
        (
            "def token(): return 'hunter2', 0",
            "returned a token whose time isn't a number of seconds above 0",
        ),
        (
            "def token(): return {'error': 'invalid_client'}",
            "returned a mapping without access_token (error: invalid_client)",
        ),
    ],
)
def test_a_function_that_yields_none_is_told_of_and_not_quoted(module, code, sentence):
    name = module(code)
    assert failure(Function(name)) == (How.UNSUITABLE, f"the token function {name} {sentence}")


def test_a_module_that_is_not_there():
    assert failure(Function("no_such.module:token")) == (
        How.UNSUITABLE,
        "the token function no_such.module:token can't be imported: it raised ModuleNotFoundError",
    )


SLOW = """
import threading
calls, go = [], threading.Event()
def token():
    calls.append(1)
    go.wait(30)
    return "token"
"""


def test_a_function_that_hangs_is_not_called_again_before_it_has_returned(module, wait_until):
    name = module(SLOW)
    source = Function(name)
    late = (How.TIMED_OUT, f"the token function {name} hadn't returned after 0.1 s")
    assert [failure(source, 0.1), failure(source, 0.1)] == [late, late]
    user = sys.modules[name.removesuffix(":token")]
    assert len(user.calls) == 1
    user.go.set()
    wait_until(source._call.ended.is_set)
    assert (source.fetch(10).token, len(user.calls)) == ("token", 2)


def test_an_interruption_waits_for_no_function(module, wait_until):
    name = module(SLOW)
    source = Function(name)
    interrupted(source, lambda: source._call and source._call.ended, wait_until)
    assert failure(source) == (How.UNTOUCHED, STOPS)
    imported = name.removesuffix(":token")  # by the thread that is left behind, now or in a moment
    wait_until(lambda: getattr(sys.modules.get(imported), "go", None)).set()


def test_the_source_is_what_the_url_says():
    command = Relay.parse(f"smtp://ann@h?token_command={shlex.quote('tool')}%20-v")
    assert isinstance(source_of(command), Command)
    assert isinstance(source_of(Relay.parse("smtp://ann@h?token=a:b")), Function)
