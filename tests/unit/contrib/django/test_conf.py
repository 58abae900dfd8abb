"""`MAILTASKS` in Django's settings: one of the sources, in its place among them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import StringIO

import pytest
from django.core.mail import EmailMessage

from mailtasks.cli.context import Context, Host
from mailtasks.contrib.django import conf
from mailtasks.default import default_mailer
from mailtasks.errors import SettingsError
from mailtasks.settings import Settings


def test_settings_are_read_by_everything_in_the_process(override):
    override(MAILTASKS={"LEASE": "90s", "DEFAULT_FROM": "shop@example.com", "ON_COMMIT": False})
    settings = Settings.load()
    assert (settings.lease, settings.source("lease")) == (90, "Django's settings")
    assert default_mailer().settings == settings


def test_the_environment_is_stronger_and_a_file_weaker(override, monkeypatch, tmp_path):
    override(MAILTASKS={"LEASE": 90, "SLICE": 3})
    monkeypatch.setenv("MAILTASKS_LEASE", "80")
    (tmp_path / "mailtasks.toml").write_text("slice = 4\nwindow_bulk = 5\n")
    settings = Settings.load()
    assert (settings.lease, settings.slice, settings.window_bulk) == (80, 3, 5)
    assert Settings.load(framework={}).slice == 4


def test_a_change_is_followed(override):
    override(MAILTASKS={"LEASE": 90})
    first = default_mailer()
    assert default_mailer() is first
    override(MAILTASKS={"LEASE": 80})
    assert default_mailer().settings.lease == 80


WRONG = {
    "no dict": (
        ["LEASE"],
        r"MAILTASKS in Django's settings: .*LEASE.* \(list\) is wrong; expected a dict",
    ),
    "small letters": (
        {"lease": 9},
        r"MAILTASKS\['lease'\] in Django's settings: write the name in capitals, 'LEASE'",
    ),
    "unknown": (
        {"LEASES": 9},
        r"leases \(Django's settings\): there is no such setting; did you mean lease\?",
    ),
    "a value": ({"LEASE": "long"}, r"lease \(Django's settings\): 'long' is wrong; expected seconds"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(case, override):
    given, sentence = WRONG[case]
    override(MAILTASKS=given)
    with pytest.raises(SettingsError, match=sentence):
        Settings.load()


def test_on_commit_is_yes_or_no(override):
    override(MAILTASKS={"ON_COMMIT": "no"})
    with pytest.raises(
        SettingsError,
        match=r"MAILTASKS\['ON_COMMIT'\] in Django's settings: 'no' is wrong; expected True or False",
    ):
        conf.on_commit()


@pytest.mark.parametrize(
    ("given", "keep"),
    [
        (None, None),
        (False, None),
        (True, "until_accepted"),
        ("until_final", "until_final"),
        ("forever", "forever"),
    ],
)
def test_the_outbox_is_off_on_or_how_long_rows_stay(override, given, keep):
    override(MAILTASKS={"OUTBOX": given, "ON_COMMIT": None})
    assert conf.on_commit()
    assert conf.outbox() == keep
    assert Settings.load().source("lease") == "default", "it is none of our settings"


@pytest.mark.parametrize("given", ["always", 1, ["forever"]])
def test_what_the_outbox_may_be(override, given):
    override(MAILTASKS={"OUTBOX": given})
    with pytest.raises(
        SettingsError,
        match=r"^MAILTASKS\['OUTBOX'\] in Django's settings: .* is wrong; "
        r"""expected True, False, "until_accepted", "until_final" or "forever"$""",
    ):
        conf.outbox()


def test_processes_that_are_started_get_them_by_their_environment(override, monkeypatch):
    override(MAILTASKS={"LEASE": 90, "SLICE": "3s", "MASK_ADDRESSES": True, "RETENTION": None})
    monkeypatch.setenv("MAILTASKS_SLICE", "4")
    monkeypatch.setenv("MAILTASKS_LEASE", "")
    host = Host(framework=conf.framework_values())
    environment = Context(None, {"window_bulk": "5"}, debug=False, host=host).environment
    settings = Settings.load(environ=environment, framework={})
    assert (settings.lease, settings.slice, settings.window_bulk) == (90, 4, 5)
    assert settings.mask_addresses is True
    assert "MAILTASKS_RETENTION" not in environment
    assert settings.default_from == "The Shop <shop@example.com>", "Django's DEFAULT_FROM_EMAIL"


def test_a_default_sender_of_ours_is_stronger_than_djangos(override):
    override(MAILTASKS={"DEFAULT_FROM": "ann@example.com"})
    assert Settings.load().default_from == "ann@example.com"
    override(MAILTASKS={}, DEFAULT_FROM_EMAIL="nobody at all")
    with pytest.raises(SettingsError, match=r"^default_from \(Django's settings\): 'nobody at all' is wrong"):
        Settings.load()


ELSEWHERE = """
import json, sys
from mailtasks.settings import Settings
without = Settings.load().source("lease")
{code}
print(json.dumps([without, Settings.load().source("lease"), "mailtasks.contrib.django.conf" in sys.modules]))
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", ["default", "default", False]),
        ("import django.conf", ["default", "default", True]),
        (
            "import django.conf as c; c.settings.configure(MAILTASKS={'LEASE': 9})",
            ["default", "Django's settings", True],
        ),
    ],
)
def test_a_process_without_djangos_settings_asks_nobody(code, expected):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO")}
    ran = subprocess.run(
        [sys.executable, "-c", ELSEWHERE.format(code=code)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert json.load(StringIO(ran.stdout)) == expected


def test_mail_needs_no_database(override, queue):
    from django.core.mail import get_connection

    mail = EmailMessage("Hello", "Hi", to=["ann@example.com"])
    assert get_connection(database="default").send_messages([mail]) == 1
