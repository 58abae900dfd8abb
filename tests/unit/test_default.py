"""The mailer that nobody names; that it is an installed app's, `test_celery` has."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from mailtasks.campaign import Campaign
from mailtasks.default import default_mailer, forget_default_mailer
from mailtasks.mailer import Mailer


@pytest.fixture(autouse=True)
def _none_yet(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILTASKS_BROKER_URL", redis_url)
    monkeypatch.setattr("mailtasks.default._default", None)


def test_threads_that_want_it_at_once_get_the_same() -> None:
    together = Barrier(8)

    def wanted(_: int) -> Mailer:
        together.wait()
        return default_mailer()

    with ThreadPoolExecutor(8) as pool:
        [mailer] = set(pool.map(wanted, range(8)))
    mailer.close()


def test_a_campaign_uses_it() -> None:
    assert Campaign.all() == []
    assert Campaign("spring")._mailer is default_mailer()
    default_mailer().close()


def test_it_is_forgotten_on_request() -> None:
    forget_default_mailer()
    first = default_mailer()
    forget_default_mailer()
    assert default_mailer() is not first
    default_mailer().close()
