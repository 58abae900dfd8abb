import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import mailtasks
from mailtasks.cli import output

ROOT = Path(mailtasks.__file__).parents[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (3, "3"),
        (2.0, "2"),
        (0.12345, "0.123"),
        (0.08, "0.08"),
        (1 / 300, "0.0033"),
        (0.0, "0"),
        (("a", 1), "a, 1"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_cell(value, text):
    assert output.cell(value) == text


def test_a_date_is_local_time():
    moment = datetime(2026, 3, 1, 12, 0, 5, 999, tzinfo=UTC)
    assert datetime.fromisoformat(output.cell(moment)) == moment.replace(microsecond=0)


@pytest.mark.parametrize("wicked", ["\x1b[2J", "a\r\nb", "\x9b31m", "\u202eevil"])
def test_no_control_character_reaches_the_terminal(wicked, capsys):
    output.print_line(wicked)
    output.print_table(("a",), [[wicked]])
    output.print_pairs({"a": wicked})
    assert not set("\x1b\r\x9b\u202e") & set(capsys.readouterr().out)


def test_a_table_is_aligned(capsys):
    output.print_table(("name", "n"), [["a", 1], ["longer", None]])
    assert capsys.readouterr().out == "NAME    N\na       1\nlonger  -\n"


def test_a_table_in_a_pipe_is_never_cut(capsys):
    output.print_table(("text",), [["x" * 500]])
    assert "x" * 500 in capsys.readouterr().out


def test_an_empty_table_says_so(capsys):
    output.print_table(("name",), [], empty="nothing failed")
    assert capsys.readouterr().out == "nothing failed\n"


def test_pairs_are_aligned(capsys):
    output.print_pairs({"id": "x", "state": "sent"})
    assert capsys.readouterr().out == "id     x\nstate  sent\n"


def test_json_has_dates_as_iso_8601(capsys):
    output.print_json({"at": datetime(2026, 3, 1, tzinfo=UTC), "text": "ä"})
    out = capsys.readouterr().out
    assert "ä" in out
    assert json.loads(out) == {"at": "2026-03-01T00:00:00+00:00", "text": "ä"}


def on_a_terminal(code):
    """What a program prints on a terminal."""
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "60"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=its, cwd=ROOT, env=environment) as process:
        os.close(its)
        printed = b""
        try:
            while data := os.read(ours, 4096):
                printed += data
        except OSError:  # how Linux says that the other end of a terminal is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    return printed.decode()


TABLE = (
    "from mailtasks.cli.output import print_table; print_table(('name',), [['[red]a[/red]'], ['\\x1b[2J']])"
)


def test_on_a_terminal_rich_draws_and_takes_nothing_for_markup():
    printed = on_a_terminal(TABLE)
    assert "\x1b[" in printed
    assert "[red]a[/red]" in printed
    assert "\x1b[2J" not in printed


def test_without_rich_the_table_is_plain():
    printed = on_a_terminal(f"import sys; sys.modules['rich.console'] = None; {TABLE}")
    assert printed == "NAME\r\n[red]a[/red]\r\n\N{REPLACEMENT CHARACTER}[2J\r\n"


def test_counted():
    assert [output.counted(number, "mail") for number in (0, 1, 2)] == ["0 mails", "1 mail", "2 mails"]
    told = [output.counted(number, "person", "people") for number in (0, 1, 2000)]
    assert told == ["0 people", "1 person", "2,000 people"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_what_a_spreadsheet_takes_for_a_formula_is_text(start):
    assert output.for_sheet(f"{start}1+1") == f"'{start}1+1"
    assert output.for_sheet(f"550 {start}1+1") == f"550 {start}1+1"
    assert output.for_sheet("") == ""
