"""How many examples are tried, and how long one may take.

`make test` tries half as many as with `--slow`, and others each time: what one run misses the next may find.
A machine that is busy with other tests makes an example slow, not wrong.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("quick", deadline=None, max_examples=50)
settings.register_profile("slow", deadline=None, max_examples=100)


def pytest_configure(config: pytest.Config) -> None:
    """Before the tests are imported, which is when their decorators read the profile."""
    settings.load_profile("slow" if config.getoption("--slow") else "quick")
