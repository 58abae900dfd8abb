"""Flask's configuration becomes settings: what `MAIL_*` means, what wins, what is refused and how."""

from __future__ import annotations

import pytest
from flask import Flask

from mailtasks.contrib.flask import Mail
from mailtasks.contrib.flask.config import relay_url, settings_in
from mailtasks.errors import SettingsError

PASSWORD = "s3cr/et:@"


def settings(**config):
    app = Flask("shop")
    app.config.update(config)
    return Mail(app).settings


@pytest.mark.parametrize(
    ("config", "url"),
    [
        ({}, None),
        ({"MAIL_SERVER": None, "MAIL_USERNAME": "", "MAIL_PASSWORD": None}, None),
        ({"MAIL_SERVER": "localhost"}, "smtp://localhost:25"),
        ({"MAIL_PORT": 1025}, "smtp://127.0.0.1:1025"),
        ({"MAIL_SERVER": "mx.example.com", "MAIL_USE_TLS": False}, "smtp://mx.example.com:25?tls=none"),
        (
            {"MAIL_SERVER": "mx.example.com", "MAIL_PORT": "587", "MAIL_USE_TLS": "true"},
            "smtp://mx.example.com:587?tls=required",
        ),
        ({"MAIL_SERVER": "mx.example.com", "MAIL_USE_TLS": 0}, "smtp://mx.example.com:25?tls=none"),
        ({"MAIL_SERVER": "mx.example.com", "MAIL_USE_SSL": True}, "smtps://mx.example.com:465"),
        (
            {"MAIL_SERVER": "mx.example.com", "MAIL_USE_SSL": 1, "MAIL_USE_TLS": False},
            "smtps://mx.example.com:465",
        ),
        ({"MAIL_SERVER": "::1", "MAIL_PORT": 25}, "smtp://[::1]:25"),
        (
            {"MAIL_SERVER": "mx.example.com", "MAIL_USERNAME": "me@shop", "MAIL_PASSWORD": PASSWORD},
            "smtp://me%40shop:s3cr%2Fet%3A%40@mx.example.com:25",
        ),
        ({"MAIL_SERVER": "mx.example.com", "MAIL_USERNAME": "me"}, "smtp://mx.example.com:25"),
        (
            {"MAIL_SERVER": "mx.example.com", "MAIL_USERNAME": "me", "MAIL_PASSWORD": 1234},
            "smtp://me:1234@mx.example.com:25",
        ),
    ],
)
def test_the_keys_of_flask_mail_name_the_relay(config, url):
    assert relay_url(config) == url


def test_a_server_elsewhere_gets_tls_unless_the_config_says_no():
    assert settings(MAIL_SERVER="mx.example.com").relay.tls == "required"
    assert settings(MAIL_SERVER="mx.example.com", MAIL_USE_TLS=False).relay.tls == "none"
    assert settings(MAIL_SERVER="localhost").relay.tls == "none"
    assert settings(MAIL_SERVER="mx.example.com", MAIL_USE_SSL=True).relay.tls == "implicit"


def test_user_and_password_arrive_as_they_are_and_are_shown_to_nobody():
    made = settings(MAIL_SERVER="mx.example.com", MAIL_USERNAME="me@shop", MAIL_PASSWORD=PASSWORD)
    assert (made.relay.username, made.relay.password) == ("me@shop", PASSWORD)
    shown = f"{made!r} {made.relay} {made.describe()}"
    assert "s3cr" not in shown
    assert "***" in shown


def test_the_other_keys_become_the_setting_that_is_meant():
    made = settings(MAIL_DEFAULT_SENDER=("The Shop", "shop@example.com"), MAIL_MAX_EMAILS=50)
    assert made.default_from == "The Shop <shop@example.com>"
    assert made.connection_messages == 50
    assert made.source("default_from") == "Flask's config"
    assert settings(MAIL_MAX_EMAILS=None, MAIL_DEFAULT_SENDER=None).default_from is None


def test_our_own_win_and_the_environment_wins_over_all(monkeypatch):
    config = {
        "MAIL_SERVER": "theirs.example.com",
        "MAIL_DEFAULT_SENDER": "no address",
        "MAILTASKS": {"RELAY": "smtp://ours.example.com", "lease": "90s", "namespace": "one"},
        "MAILTASKS_NAMESPACE": "two",
        "MAILTASKS_DEFAULT_FROM": "ours@example.com",
        "MAILTASKS_HELLO_NAME": None,
        "MAILTASKS_BLOBS": "",
    }
    made = settings(**config)
    assert (made.relay.host, made.lease, made.namespace) == ("ours.example.com", 90, "two")
    assert made.default_from == "ours@example.com"
    monkeypatch.setenv("MAILTASKS_NAMESPACE", "three")
    assert settings(**config).namespace == "three"


def test_one_config_in_two_spellings_is_one():
    assert settings_in({"MAILTASKS": {"REDIS_TIMEOUT": 2}}) == settings_in({"MAILTASKS_REDIS_TIMEOUT": 2})


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"MAIL_USE_TLS": True, "MAIL_USE_SSL": True},
            "MAIL_USE_TLS and MAIL_USE_SSL (Flask's config): both are set, and a connection has TLS either "
            "from the first byte (MAIL_USE_SSL, port 465) or by STARTTLS (MAIL_USE_TLS, port 587); leave one "
            "out",
        ),
        (
            {"MAIL_USE_TLS": "maybe"},
            "MAIL_USE_TLS (Flask's config): 'maybe' is wrong; expected true or false",
        ),
        (
            {"MAIL_SUPPRESS_SEND": "sometimes"},
            "MAIL_SUPPRESS_SEND (Flask's config): 'sometimes' is wrong; expected true or false",
        ),
        (
            {"MAIL_PORT": "smtp"},
            "MAIL_PORT (Flask's config): 'smtp' is wrong; expected a whole number from 1 to 65535",
        ),
        (
            {"MAIL_SERVER": f"smtp://me:{PASSWORD}@mx.example.com"},
            "MAIL_SERVER (Flask's config): it is no host name; give one such as 'smtp.example.com', and a "
            "whole URL as MAILTASKS_RELAY",
        ),
        (
            {"MAIL_SERVER": "[mx", "MAIL_USERNAME": "me", "MAIL_PASSWORD": PASSWORD},
            "MAIL_SERVER and what belongs to it (Flask's config): its host or port can't be read (in a "
            "password, write / ? # @ : % as %2F %3F %23 %40 %3A %25); correct MAIL_SERVER, MAIL_PORT, "
            "MAIL_USE_TLS, MAIL_USE_SSL, MAIL_USERNAME or MAIL_PASSWORD",
        ),
        (
            {"MAIL_DEFAULT_SENDER": "the shop"},
            "MAIL_DEFAULT_SENDER (Flask's config): 'the shop' is no mail address",
        ),
        (
            {"MAILTASKS": ["lease"]},
            "MAILTASKS (Flask's config): it must map names of settings to values, such as {'LEASE': 60}",
        ),
        (
            {"MAILTASKS_LEESE": 60},
            "leese (Flask's config): there is no such setting; did you mean lease?",
        ),
        ({"MAILTASKS": {"LEASE": "soon"}}, "lease (Flask's config): 'soon' is wrong; expected seconds"),
    ],
)
def test_what_is_wrong_stops_the_start_in_one_sentence(config, sentence):
    with pytest.raises(SettingsError) as caught:
        settings(**config)
    assert str(caught.value).startswith(sentence)
    assert "s3cr" not in str(caught.value)
    assert caught.value.__context__ is None or "s3cr" not in str(caught.value.__context__)


def test_a_relay_is_given_as_a_url():
    from mailtasks.relay import Relay

    with pytest.raises(SettingsError, match=r"^MAILTASKS_RELAY \(Flask's config\): give it as a URL"):
        settings(MAILTASKS_RELAY=Relay.parse("smtp://mx.example.com"))
