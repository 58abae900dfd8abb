import pytest

from mailtasks.cli.context import Context
from mailtasks.errors import SettingsError
from mailtasks.settings import Settings


def test_settings_are_read_once(tmp_path):
    context = Context(None, {"lease": "2s"}, debug=False)
    assert context.settings.lease == 2
    assert context.settings is context.settings


def test_a_wrong_setting_is_told_when_a_command_asks():
    context = Context(None, {"lease": "soon"}, debug=False)
    with pytest.raises(SettingsError):
        _ = context.settings


def test_child_processes_come_to_the_same_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("MAILTASKS_LEASE", "5")
    file = tmp_path / "mine.toml"
    file.write_text("window_bulk = 3\nslice = 1\n")
    context = Context(str(file), {"slice": "7s"}, debug=False)
    settings = Settings.load(environ=context.environment)
    assert settings == context.settings
    assert (settings.lease, settings.window_bulk, settings.slice) == (5, 3, 7)


def test_the_environment_is_handed_on(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert Context(None, {}, debug=False).environment["HOME"] == "/somewhere"


def test_a_mailer_has_these_settings():
    context = Context(None, {"namespace": "mine"}, debug=False)
    with context.mailer() as mailer:
        assert mailer.settings is context.settings
