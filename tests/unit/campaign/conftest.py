from __future__ import annotations

from collections.abc import Iterator

import pytest

from mailtasks.policy.backoff import RetryPolicy
from mailtasks.testing import CatchingServer
from tests.bench import Bench


@pytest.fixture
def bench(redis_url: str, sink: CatchingServer) -> Iterator[Bench]:
    """A mailer and a worker's delivery."""
    one = Bench(redis_url, sink.url, RetryPolicy(retry_jitter=False))
    yield one
    one.close()
