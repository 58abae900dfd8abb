"""For `mailtasks.testing`: Flask applications send though they are tested."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from mailtasks.contrib.flask.config import flag
from mailtasks.contrib.flask.state import AppMail


@contextmanager
def sending() -> Iterator[None]:
    """Within the block, TESTING suppresses nothing; MAIL_SUPPRESS_SEND does."""
    with patch.object(AppMail, "suppress", _Suppress(), create=True):
        yield


class _Suppress:
    """Stands before the attribute of every application's mail."""

    def __get__(self, state: AppMail | None, _: type[AppMail] | None = None) -> Any:
        return self if state is None else bool(flag(state.app.config, "MAIL_SUPPRESS_SEND"))

    def __set__(self, state: AppMail, value: bool) -> None:
        vars(state)["suppress"] = value  # for later
