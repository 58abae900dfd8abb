"""Passwords: whatever they are, they arrive as given and are shown nowhere."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailtasks.errors import SettingsError
from mailtasks.relay import Relay, mask_url
from mailtasks.settings import Settings

MARK = "hunter2"  # what to look for; it stands in no sentence of ours

characters = st.characters(codec="utf-8", exclude_characters="\0")
words = st.text(characters, max_size=20)
passwords = st.tuples(words, words).map(MARK.join)
urls = st.text(st.sampled_from("/?#@:[]%& a1=.") | characters, max_size=30).map(lambda text: text + MARK)


@given(user=st.text(characters, min_size=1, max_size=20), password=passwords)
def test_a_relays_login_arrives_as_given(user, password):
    relay = Relay.parse(f"smtps://{quote(user, safe='')}:{quote(password, safe='')}@mail.example.com")
    assert (relay.username, relay.password) == (user, password)


@given(password=passwords)
def test_no_password_is_shown(password):
    encoded = quote(password, safe="")
    settings = Settings(
        broker_url=f"redis://:{encoded}@h/0",
        store_url=f"rediss://ann:{encoded}@h/0?ssl_keyfile_password={encoded}",
        relay=f"smtp://ann:{encoded}@h",
        flower_auth=f"ann:{encoded}",
        blobs=f"sftp://ann:{encoded}@h/blobs?secret={encoded}",
    )
    assert MARK not in f"{settings!r} {settings.describe()} {settings.relay} {settings.relay!r}"


@given(command=passwords)
def test_no_command_of_a_token_is_shown(command):
    url = f"smtp://ann@h?token_command={quote(command, safe='')}"
    shown = mask_url(url)
    try:
        settings = Settings(relay=url)
        shown += f"{settings!r} {settings.describe()} {settings.relay} {settings.relay!r}"
    except SettingsError as error:  # it ends within quotes
        shown += str(error)
    assert MARK not in shown


@given(user=words, password=passwords)
def test_a_url_is_masked_however_badly_it_is_written(user, password):
    masked = mask_url(f"redis://{user}:{password}@h/0")
    written_badly = any(it in f"{user}{password}" for it in "/?#@")
    assert written_badly or MARK not in masked


@pytest.mark.parametrize("name", ["broker_url", "store_url", "relay", "flower_auth", "blobs"])
@pytest.mark.parametrize(
    "beginning", ["", "smtp://", "redis://", "redis://ann:", "smtp://ann:", "file://", "unix://ann:"]
)
@given(rest=urls)
def test_no_error_quotes_a_secret(name, beginning, rest):
    try:
        Settings(**{name: beginning + rest})
    except SettingsError as error:
        sentence = str(error)
        assert "?ca=" in beginning + rest or MARK not in sentence
        assert "\n" not in sentence
