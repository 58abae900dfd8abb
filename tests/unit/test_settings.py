import dataclasses
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import mailtasks
from mailtasks.errors import SettingsError
from mailtasks.settings import (
    NO_FRAMEWORK,
    NOT_SETTINGS,
    SETTINGS,
    FrameworkValues,
    Relay,
    Settings,
    framework_values,
)

SECRET = "hunter2"
SECRETS = {
    "broker_url": f"redis://:{SECRET}@redis.example:6379/0",
    "store_url": f"rediss://app:{SECRET}@store.example/1?ssl_keyfile_password={SECRET}",
    "relay": f"smtp://ann:{SECRET}@mail.example.com",
    "flower_auth": f"admin:{SECRET}",
}


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(environ=None, **keywords):
    return Settings.load(environ=environ or {}, **keywords)


def refusal(environ=None, **keywords):
    with pytest.raises(SettingsError) as caught:
        load(environ, **keywords)
    return str(caught.value)


def test_defaults_without_any_source():
    settings = load()
    assert settings == Settings()
    assert settings.broker_url == settings.store_url == "redis://127.0.0.1:6379/0"
    assert settings.relay == Relay.parse("smtp://127.0.0.1:25")
    assert (settings.lease, settings.max_age, settings.retention) == (60, 5 * 86400, 7 * 86400)
    assert {settings.source(name) for name in SETTINGS} == {"default"}


def test_every_field_but_the_sources_is_in_the_table_with_a_sentence():
    fields = {field.name for field in dataclasses.fields(Settings)} - {"_sources"}
    assert fields == set(SETTINGS)
    assert all(setting.help.endswith(".") for setting in SETTINGS.values())


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().lease = 3


# --- precedence


def test_each_source_is_beaten_by_the_next_stronger_one(tmp_path):
    (tmp_path / "mailtasks.toml").write_text('lease = "11s"\n')
    assert load().lease == 11
    assert load(framework={"lease": 12}).lease == 12
    assert load({"MAILTASKS_LEASE": "13"}, framework={"lease": 12}).lease == 13
    assert load({"MAILTASKS_LEASE": "13"}, framework={"lease": 12}, lease=14).lease == 14


def test_the_source_of_a_value_is_told(tmp_path):
    (tmp_path / "mailtasks.toml").write_text("window_bulk = 3\n")
    settings = load({"MAILTASKS_LEASE": "2"}, framework={"flower_port": 80}, relay="smtp://localhost")
    told = {name: settings.source(name) for name in ("window_bulk", "lease", "flower_port", "relay", "slice")}
    assert told == {
        "window_bulk": "file mailtasks.toml",
        "lease": "environment MAILTASKS_LEASE",
        "flower_port": "framework",
        "relay": "keyword",
        "slice": "default",
    }


def test_the_constructor_takes_keywords_and_defaults_only(monkeypatch):
    monkeypatch.setenv("MAILTASKS_LEASE", "7")
    settings = Settings(slice=1)
    assert settings.lease == 60
    assert (settings.source("slice"), settings.source("lease")) == ("keyword", "default")


def test_replace_changes_one_setting():
    settings = dataclasses.replace(load(lease=2), slice=1)
    assert (settings.lease, settings.slice) == (2, 1)


def test_os_environ_is_asked_by_default(monkeypatch):
    monkeypatch.setenv("MAILTASKS_LEASE", "7")
    assert Settings.load().lease == 7


def test_an_empty_variable_counts_as_not_set():
    assert load({"MAILTASKS_LEASE": ""}).source("lease") == "default"


def test_variables_that_are_no_settings_are_let_through():
    environ = dict.fromkeys(NOT_SETTINGS - {"MAILTASKS_CONFIG"}, "1") | {"PATH": "/bin"}
    assert load(environ) == Settings()


# --- derived values


@pytest.mark.parametrize(
    ("broker", "store"),
    [
        ("redis://h:1/2", "redis://h:1/2"),
        ("rediss://h/2", "rediss://h/2"),
        ("redis+socket:///run/redis.sock?virtual_host=3", "unix:///run/redis.sock?db=3"),
        ("sentinel://h:1/2?master_name=m", "sentinel://h:1/2?master_name=m"),
    ],
)
def test_the_store_is_the_brokers_redis_by_default(broker, store):
    assert load(broker_url=broker).store_url == store


def test_a_store_of_its_own():
    assert load(broker_url="redis://a/0", store_url="unix:///s.sock").store_url == "unix:///s.sock"


def test_window_and_doubt_by_priority():
    settings = load(window_bulk=16)
    assert [settings.window(it) for it in ("urgent", "normal", "bulk")] == [1, 4, 16]
    assert [settings.doubt(it) for it in ("urgent", "normal", "bulk")] == ["resend", "resend", "hold"]


# --- the file


def test_the_file_that_mailtasks_config_names(tmp_path):
    path = tmp_path / "mail.toml"
    path.write_text('relay = "smtp://localhost:2525"\n')
    settings = load({"MAILTASKS_CONFIG": str(path)})
    assert settings.relay.port == 2525
    assert settings.source("relay") == f"file {path}"


def test_a_file_given_by_keyword_beats_the_one_in_the_environment(tmp_path):
    (tmp_path / "a.toml").write_text("lease = 3\n")
    assert load({"MAILTASKS_CONFIG": "b.toml"}, file="a.toml").lease == 3


def test_a_named_file_that_is_not_there():
    expected = "file mail.toml: it isn't there; make it, or name another one"
    assert refusal({"MAILTASKS_CONFIG": "mail.toml"}) == expected
    assert refusal(file="mail.toml") == expected


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "mailtasks.toml").mkdir()
    assert refusal() == "file mailtasks.toml: it can't be read (Is a directory); expected a TOML file"


def test_a_file_that_is_no_utf8(tmp_path):
    (tmp_path / "mailtasks.toml").write_bytes(b'default_from = "\xff"')
    assert refusal() == "file mailtasks.toml: it can't be read (it is no UTF-8); expected a TOML file"


def test_a_file_that_is_no_toml(tmp_path):
    (tmp_path / "mailtasks.toml").write_text("lease: 60\n")
    assert refusal() == (
        "file mailtasks.toml: Expected '=' after a key in a key/value pair (at line 1, column 6); "
        'expected TOML, lines such as lease = "60s"'
    )


# --- what is refused, in the words that a person sees


def test_a_typo_in_a_keyword():
    assert refusal(leese=2) == "leese (keyword): there is no such setting; did you mean lease?"


def test_a_typo_in_the_environment():
    assert refusal({"MAILTASKS_RELAI": "x"}) == (
        "MAILTASKS_RELAI (environment): there is no such setting; did you mean MAILTASKS_RELAY?"
    )


def test_a_typo_in_the_file(tmp_path):
    (tmp_path / "mailtasks.toml").write_text("broker = 1\n")
    assert refusal() == ("broker (file mailtasks.toml): there is no such setting; did you mean broker_url?")


def test_a_typo_that_resembles_nothing():
    assert refusal(framework={"zzz": 1}) == (
        "zzz (framework): there is no such setting; `mailtasks config` lists them all"
    )


def test_the_first_framework_that_has_settings_is_heard(monkeypatch):
    says = {"a": None, "b": FrameworkValues("b's settings", {"lease": 7}), "c": FrameworkValues("c", {})}
    for name, said in says.items():
        module = ModuleType(name)
        module.framework_values = lambda celery, said=said: said
        monkeypatch.setitem(sys.modules, f"reader_{name}", module)
    readers = {"never_imported": "never_imported", **{f"reader_{name}": f"reader_{name}" for name in says}}
    monkeypatch.setattr("mailtasks.settings.FRAMEWORK_READERS", readers)
    assert (load().lease, load().source("lease")) == (7, "b's settings")
    assert load(framework={}).source("lease") == "default"
    monkeypatch.setattr("mailtasks.settings.FRAMEWORK_READERS", {"reader_a": "reader_a"})
    assert framework_values() == NO_FRAMEWORK


def test_a_wrong_value_is_named_with_its_source():
    assert refusal({"MAILTASKS_LEASE": "soon"}) == (
        "lease (environment MAILTASKS_LEASE): 'soon' is wrong; expected seconds, at least 1, "
        'at most 3650 days, as a number or a text such as "90s", "15m", "2h" or "5d"'
    )


def test_a_wrong_value_that_a_stronger_source_overrides_is_refused_all_the_same():
    assert refusal({"MAILTASKS_LEASE": "soon"}, lease=2).startswith("lease (environment MAILTASKS_LEASE)")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [  # the line's beginning; the whole of what a kind expects is tested with the kinds
        ({"lease": 0}, "lease (keyword): 0 is wrong; expected seconds, at least 1, at most 3650 days, as"),
        ({"max_age": "999999999d"}, "max_age (keyword): '999999999d' is wrong; expected seconds, at least"),
        ({"window_bulk": 0}, "window_bulk (keyword): 0 is wrong; expected a whole number of at least 1"),
        ({"flower_port": 65536}, "flower_port (keyword): 65536 is wrong; expected a whole number from 1"),
        ({"doubt_bulk": "drop"}, "doubt_bulk (keyword): 'drop' is wrong; expected \"resend\" or \"hold\""),
        ({"namespace": "Mail!"}, "namespace (keyword): 'Mail!' is wrong; expected lower-case letters"),
        ({"mask_addresses": "maybe"}, "mask_addresses (keyword): 'maybe' is wrong; expected true or false"),
        ({"hello_name": "a b"}, "hello_name (keyword): 'a b' is wrong; expected a host name"),
        ({"default_from": "a\r\nBcc: c"}, "default_from (keyword): 'a\\r\\nBcc: c' is wrong; expected an"),
        ({"lease": None}, "lease (keyword): None is wrong; expected seconds"),
        ({"broker_url": "amqp://h"}, "broker_url (keyword): it doesn't begin with redis://, rediss://, "),
        ({"store_url": "sentinel://h"}, "store_url (keyword): it doesn't say what its sentinels call the"),
        ({"durability": "disk"}, "durability (keyword): 'disk' is wrong; expected \"primary\" or"),
        ({"store_url": "redis://h/x"}, "store_url (keyword): its database is no number; expected a URL"),
        ({"relay": "http://h"}, "relay (keyword): it doesn't begin with smtp://, smtps:// or lmtp://;"),
        ({"flower_auth": "admin"}, "flower_auth (keyword): it isn't a user, a colon and a password without"),
    ],
)  # fmt: skip
def test_wrong_values(wrong, sentence):
    assert refusal(**wrong).startswith(sentence)
    assert "\n" not in refusal(**wrong)


# --- secrets


def test_secrets_are_in_no_repr_no_str_and_no_description():
    settings = load(**SECRETS)
    shown = f"{settings!r} {settings} {settings.relay!r} {settings.relay} {settings.describe()}"
    assert SECRET not in shown
    assert "redis://:***@redis.example:6379/0" in shown


def test_secrets_are_as_given_where_they_are_used():
    settings = load(**SECRETS)
    assert settings.broker_url == SECRETS["broker_url"]
    assert settings.relay.password == SECRET
    assert settings.flower_auth == SECRETS["flower_auth"]


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    "wrong",
    [SECRET, f":{SECRET}@h", f"smtp://u:{SECRET}/ @h", f"redis://u:{SECRET}@h:port/ 0", f" {SECRET}:a b", 7],
)
def test_an_error_about_a_secret_setting_quotes_nothing(name, wrong):
    with pytest.raises(SettingsError) as caught:
        load(**{name: wrong})
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_a_description_has_a_row_for_each_setting():
    rows = load(lease=2).describe()
    assert [row.name for row in rows] == list(SETTINGS)
    (lease,) = (row for row in rows if row.name == "lease")
    assert (lease.value, lease.source, lease.help) == (2, "keyword", SETTINGS["lease"].help)


def test_repr_tells_what_is_not_the_default():
    assert repr(load(lease=2)) == "Settings(lease=2)"


def test_importing_settings_brings_neither_redis_nor_celery():
    code = "import sys, mailtasks.settings; print({'redis', 'celery', 'kombu', 'ssl'} & set(sys.modules))"
    root = Path(mailtasks.__file__).parents[1]
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=root) == "set()\n"
