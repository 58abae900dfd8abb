"""What docs/how-to/relays-and-tls.md says: its URLs are read, its functions are called."""

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import trustme

import mailtasks
from mailtasks.relay import Relay
from mailtasks.smtp.token_sources import Function
from tests.pages import fences

PAGE = Path(mailtasks.__file__).parents[1] / "docs/how-to/relays-and-tls.md"
URLS = sorted(set(re.findall(r"`(smtps?://[^`]+)`", PAGE.read_text(encoding="utf-8"))))
FUNCTIONS = {name: code for _, code in fences(PAGE) for name in re.findall(r"^def (\w+)", code, re.MULTILINE)}


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """A file with a certificate and its key, for every file that the page names."""
    file = tmp_path_factory.mktemp("pem") / "all.pem"
    trustme.CA().issue_cert("worker.example").private_key_and_cert_chain_pem.write_to_path(str(file))
    return file


def test_the_page_is_found_to_have_urls_and_functions():
    assert len(URLS) > 10
    assert sorted(FUNCTIONS) == ["google", "microsoft"]


@pytest.mark.parametrize("url", URLS)
def test_every_url_is_one(url, pem):
    relay = Relay.parse(re.sub(r"/etc/ssl/[\w.]+", str(pem), url))
    assert relay.token is None or relay.token.removeprefix("shop.tokens:") in FUNCTIONS


class Google:
    """As much of google-auth's credentials as the page uses; its `expiry` is naive, and UTC."""

    @classmethod
    def from_service_account_file(cls, file, *, scopes, subject):
        assert scopes == ["https://mail.google.com/"]
        return cls()

    def refresh(self, request):
        self.token = "ya29.good"
        self.expiry = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)


class Microsoft:
    """As much of msal as the page uses."""

    def __init__(self, client_id, *, authority, client_credential):
        assert authority == "https://login.microsoftonline.com/tenant"

    def acquire_token_for_client(self, scopes):
        return {"access_token": "ey.good", "expires_in": 3599, "token_source": "identity_provider"}


LIBRARIES = {
    "google": {},
    "google.auth": {},
    "google.auth.transport": {},
    "google.auth.transport.requests": {"Request": object},
    "google.oauth2": {"service_account": SimpleNamespace(Credentials=Google)},
    "msal": {"ConfidentialClientApplication": Microsoft},
}


@pytest.mark.parametrize(("name", "token"), [("google", "ya29.good"), ("microsoft", "ey.good")])
def test_every_function_yields_a_token(name, token, tmp_path, monkeypatch):
    for library, holds in LIBRARIES.items():
        module = ModuleType(library)
        vars(module).update(holds)
        monkeypatch.setitem(sys.modules, library, module)
    for word in ("CLIENT_ID", "TENANT_ID", "CLIENT_SECRET"):
        monkeypatch.setenv(f"SHOP_{word}", "tenant")
    (tmp_path / f"tokens_by_{name}.py").write_text(FUNCTIONS[name])
    monkeypatch.syspath_prepend(tmp_path)
    fetched = Function(f"tokens_by_{name}:{name}").fetch(10)
    assert fetched.token == token
    assert 3590 < fetched.seconds <= 3600
