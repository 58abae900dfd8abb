"""How a campaign is sent, and what can't be."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from mailtasks.campaign import CampaignOptions
from mailtasks.errors import MessageError, SettingsError

NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"rate": "fast"}, SettingsError, "the campaign's rate 'fast' is none"),
        ({"begins": datetime(2030, 1, 1)}, MessageError, "a campaign's begins 2030-01-01 .* no time zone"),
        ({"begins": NOW, "ends": NOW}, MessageError, "the campaign would end at .* give it time"),
    ],
)
def test_options_that_cant_be(options: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        CampaignOptions(**options)


def test_a_rate_is_messages_a_second() -> None:
    assert CampaignOptions(rate="600/m").a_second == 10
    assert CampaignOptions().a_second == 0
