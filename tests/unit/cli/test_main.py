import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

import mailtasks
from mailtasks import cli as package
from mailtasks.cli import COMMANDS, group, main, run
from mailtasks.cli import config as config_module
from mailtasks.errors import AddressError, MailtasksError, StoreUnavailable

ROOT = Path(mailtasks.__file__).parents[1]


@pytest.fixture
def failing(monkeypatch):
    """Make `mailtasks config` raise an error of the test's choice."""

    def fail_with(error):
        @click.command()
        def config():
            raise error

        monkeypatch.setattr(config_module, "config", config)

    return fail_with


def test_without_arguments_help_is_shown(cli):
    assert "Usage: mailtasks" in cli().err


def test_help_lists_every_command_in_order(cli):
    ran = cli("--help")
    assert ran.code == 0
    listed = [line.split()[0] for line in ran.out.partition("Commands:\n")[2].splitlines()]
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(cli, name):
    ran = cli(name, "--help")
    assert ran.code == 0
    assert f"Usage: mailtasks {name}" in ran.out


def printing():
    for name, module in COMMANDS.items():
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from ((name, part) for part in command.commands)
        elif module not in ("serve", "demo"):
            yield (name,)


@pytest.mark.parametrize("words", list(printing()), ids=" ".join)
def test_every_command_that_prints_has_json(cli, words):
    assert "--json" in cli(*words, "--help").out


@pytest.mark.parametrize(
    ("name", "advice"),
    [("stauts", " Did you mean 'stats' or 'status'?"), ("sned", " Did you mean 'send'?"), ("x", "")],
)
def test_an_unknown_command(cli, name, advice):
    ran = cli(name)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"mailtasks: No such command {name!r}.{advice} See `mailtasks --help`.\n"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("worker", "-c", "x"), "at least 1"),
        (("flower", "--port", "x"), "at least 1, at most 65535"),
        (("failed", "--limit", "x"), "at least 1"),
    ],
)
def test_what_is_no_number(cli, words, wanted):
    ran = cli(*words)
    assert ran.code == 2
    assert f": 'x' is no whole number; write one, {wanted}. See `" in ran.err


def test_several_addresses_in_one_option(cli):
    ran = cli("send", "--to", "ann@example.com,bob@example.com", "--from", "shop@example.com", "--text", "hi")
    assert ran.code == 2
    assert "give several addresses as a list (on the command line: each with a --to of its own)" in ran.err


@pytest.mark.parametrize("code", ["abc", "6", "5500", "55x", "."])
def test_a_code_that_no_reply_has(cli, code):
    ran = cli("retry", "--code", code)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"mailtasks: no code begins with {code!r}; give one such as 550, 5.7. or 4\n"


def test_an_unknown_option(cli):
    ran = cli("config", "--jsn")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("mailtasks: No such option '--jsn'.")
    assert ran.err.endswith("See `mailtasks config --help`.\n")
    assert ran.err.count("\n") == 1


def test_a_wrong_setting(cli):
    ran = cli("--set", "lease=soon", "config")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("mailtasks: lease (keyword): 'soon' is wrong; expected seconds")
    assert ran.err.count("\n") == 1


def test_a_set_without_a_value(cli):
    ran = cli("--set", "lease", "config")
    assert ran.code == 2
    assert "'lease' is not NAME=VALUE" in ran.err


def test_a_config_file_that_is_not_there(cli):
    ran = cli("--config", "no.toml", "config")
    assert (ran.code, ran.err) == (
        2,
        "mailtasks: file no.toml: it isn't there; make it, or name another one\n",
    )


def test_help_works_whatever_the_settings_are(cli, monkeypatch):
    monkeypatch.setenv("MAILTASKS_LEASE", "soon")
    assert cli("config", "--help").code == 0


@pytest.mark.parametrize(
    ("error", "code"), [(AddressError("no"), 2), (StoreUnavailable("no"), 1), (MailtasksError("no"), 1)]
)
def test_our_errors_are_one_sentence(cli, failing, error, code):
    failing(error)
    ran = cli("config")
    assert (ran.code, ran.out, ran.err) == (code, "", "mailtasks: no\n")


def test_a_bug_is_called_one(cli, failing):
    failing(KeyError("x"))
    ran = cli("config")
    assert (ran.code, ran.err) == (1, "mailtasks: KeyError: 'x' (this is a bug; --debug shows more)\n")


@pytest.mark.parametrize(("error", "code"), [(KeyError("x"), 1), (AddressError("no"), 2)])
def test_debug_shows_the_traceback_and_changes_no_exit_code(cli, failing, error, code):
    failing(error)
    ran = cli("--debug", "config")
    assert ran.code == code
    assert ran.err.startswith("Traceback (most recent call last):")
    assert ran.err.splitlines()[-1].startswith("mailtasks: ")


def test_a_file_that_is_in_the_way_is_no_bug(cli, failing):
    failing(PermissionError(13, "Permission denied", "flower.log"))
    ran = cli("config")
    assert (ran.code, ran.err) == (1, "mailtasks: 'flower.log' can't be used: Permission denied\n")


def test_an_id_to_try_again_with_is_told(cli, failing):
    failing(StoreUnavailable("Redis didn't answer", ids=["0abc.0"]))
    ran = cli("config")
    assert (ran.code, ran.err) == (
        1,
        "mailtasks: Redis didn't answer\n"
        "mailtasks: to send it again, add --id 0abc.0: it is sent once, then\n",
    )


def test_a_full_disk_is_told_in_one_sentence():
    with Path("/dev/full").open("w") as full:
        program = [sys.executable, "-m", "mailtasks.cli", "config"]
        ran = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    sentence = "mailtasks: standard output can't be written: No space left on device\n"
    assert (ran.returncode, ran.stderr) == (1, sentence)


def test_ctrl_c(cli, failing):
    failing(KeyboardInterrupt())
    ran = cli("config")
    assert (ran.code, ran.err.strip()) == (130, "")


def test_a_reader_that_has_seen_enough():
    read = subprocess.Popen(
        [sys.executable, "-c", "from mailtasks.cli import main; main(['config'])"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    read.stdout.close()
    assert read.stderr.read() == b""
    read.stderr.close()
    assert read.wait() == 1


def test_main_exits_with_the_code(capsys):
    with pytest.raises(SystemExit) as left:
        main(["nonsense"])
    assert left.value.code == 2
    assert "No such command" in capsys.readouterr().err


def test_help_imports_neither_redis_nor_celery():
    code = (
        "import sys; from mailtasks.cli import run; run(['--help']); "
        "print({'redis', 'celery', 'kombu', 'rich'} & set(sys.modules))"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT)
    assert out.splitlines()[-1] == "set()"


def test_the_table_names_modules_that_hold_the_commands():
    for name, module in COMMANDS.items():
        attribute = name.replace("-", "_")
        assert isinstance(getattr(import_module(f"{package.__name__}.{module}"), attribute), click.Command)


def test_run_returns_zero_for_success(capsys):
    assert run(["--help"]) == 0
    assert capsys.readouterr().out
