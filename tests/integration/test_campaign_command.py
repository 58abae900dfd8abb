"""`mailtasks campaign` on the whole road: killed, paused, taken up; each address once in every book."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from csv import DictReader
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from mailtasks.campaign import Campaign
from mailtasks.errors import UnknownCampaign
from mailtasks.local.processes import Child
from mailtasks.state import State
from tests.integration.conftest import THREADS, Road, wait_until

Make = Callable[..., Any]
BULK_WINDOW = 8
SEED = 5


@dataclass
class People:
    """A file of people, and what should become of each."""

    lines: list[str] = field(default_factory=lambda: ["email,name,city"])
    sent: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    suppressed: set[str] = field(default_factory=set)
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def accepted(self) -> int:
        return len(self.sent) + len(self.refused) + len(self.suppressed)


def people(number: int) -> People:
    """So many rows; of a hundred one repeats an earlier one, two can't be mailed, one is suppressed."""
    chance, made = random.Random(SEED), People()
    for n in range(number):
        address = f"{chance.choice(['ann', 'bob', 'cy'])}{n}@mail{n % 7}.example.com"
        match chance.randrange(100):
            case 0:
                made.rejected["bad address"] += 1
                address = f"nobody{n}@"
            case 1:
                made.rejected["too few or too many columns"] += 1
                made.lines.append(f"{address},one,two,three")
                continue
            case 2:
                made.suppressed.add(address)
            case 3:
                address = f"refuse{n}@example.com"
                made.refused.add(address)
            case 4:
                address = f"defer-once-{n}@example.com"
                made.sent.add(address)
            case 5 if made.sent:
                made.rejected["repeated"] += 1
                address = made.lines[chance.randrange(1, 1 + n // 2)].partition(",")[0].upper()
                if address.endswith("@") or address.lower() not in made.sent | made.refused | made.suppressed:
                    made.rejected["repeated"] -= 1
                    continue
            case _:
                made.sent.add(address)
        made.lines.append(f"{address},Ann {n},Köln")
    return made


class Command:
    """`mailtasks campaign send` of one file, as often as it takes."""

    def __init__(self, road: Road, file: Path, *options: str) -> None:
        self._road = road
        (road.folder / "letter.txt").write_text("Dear {{ name }} in {{ city }},\n\nhello.\n")
        (road.folder / "letter.html").write_text("<p>Dear {{ name }}</p><p>from {{ city }}, {{ email }}</p>")
        self._words = [
            *("campaign", "send", str(file), "--name", "spring", "--subject", "Hi {{ name }}"),
            *("--text", str(road.folder / "letter.txt"), "--html", str(road.folder / "letter.html")),
            *("--unsubscribe", "https://example.com/u?who={{ email|urlencode }}", "--yes", "--json"),
            *options,
        ]

    def run(self, *more: str, code: int = 0) -> dict[str, Any]:
        """Run it to its end; what it prints."""
        said = self._road.command(*self._words, *more, code=code, timeout=600)
        found: dict[str, Any] = json.loads(said)
        return found

    def start(self, *more: str) -> Child:
        """Start it, to be killed or waited for."""
        command = [sys.executable, "-m", "mailtasks.cli", *self._words, *more]
        self.log.unlink(missing_ok=True)
        return Child(command, environment=self._road.environment(), output=self.log)

    @property
    def log(self) -> Path:
        """What the latest one that was started says."""
        return self._road.folder / "send.log"


def status(road: Road) -> Any:
    return json.loads(road.command("campaign", "status", "spring", "--json"))


@pytest.mark.parametrize(
    ("number", "rate", "kills"),
    [
        (800, "100/s", [0.0]),
        pytest.param(100_000, "3000/s", [0.0, 0.3, 0.6], marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_each_address_is_mailed_once_whatever_is_killed(
    highway: Make, tmp_path: Path, number: int, rate: str, kills: list[float]
) -> None:
    """The command is killed when that share of rows is accepted, or when it has just ended."""
    road, made = highway(), people(number)
    file = tmp_path / "people.csv"
    file.write_text("\n".join(made.lines) + "\n")
    road.mailer.suppressions.add(*made.suppressed)
    command = Command(road, file, "--rate", rate)
    victim = road.start_worker()
    road.start_worker()

    campaign = Campaign("spring", mailer=road.mailer)
    for share in kills:
        sender = command.start()
        wait_until(lambda sender=sender, least=share * number: not sender.running or rows(campaign) > least)
        sender.kill()
    campaign.pause()  # or it might be through before a busy machine has read the rows again
    report = command.run()
    campaign.resume()
    assert report["campaign"] == "spring"
    assert report["accepted"] == made.accepted
    assert report["reasons"] == dict(made.rejected)
    assert report["rejected"] == sum(made.rejected.values())

    wait_until(lambda: campaign.status().states[State.SENT] > number / 10)
    campaign.pause("a look")
    victim.kill()
    wait_until(lambda: not campaign.status().states[State.SENDING], what="the lapse of what the dead one had")
    before = status(road)
    assert (before["state"], before["reason"]) == ("paused", "a look")
    road.start_worker()
    assert command.run()["before"] == made.accepted, "the same command again changes nothing"
    assert status(road)["states"] == before["states"], "a pause lasts over workers"
    watching = command.start("--wait")
    wait_until(
        lambda: "paused: a look" in command.log.read_text(), what="the watcher's saying that it is paused"
    )
    road.command("campaign", "resume", "spring")
    assert watching.wait(600) == 1, "some were refused"
    told = json.loads("{" + command.log.read_text().partition("\n{")[2])
    assert told["status"]["state"] == "finished"
    settle_doubt(road)
    agree(road, made)


def rows(campaign: Campaign) -> int:
    """How many it has; none while it isn't begun."""
    try:
        return campaign.status().rows
    except UnknownCampaign:
        return 0


def settle_doubt(road: Road) -> None:
    """What a killed worker had in its hands: who was caught has it, others get it once more."""
    caught = {recipient for _, recipient in road.relay.accepted}
    doubts = list(road.mailer.in_doubt())
    assert len(doubts) <= THREADS * BULK_WINDOW
    for doubt in doubts:
        if doubt.address in caught:
            road.mailer.settle(doubt.id, as_="sent")
        else:
            road.mailer.resend(doubt.id)
    wait_until(lambda: not road.unfinished())


def agree(road: Road, made: People) -> None:
    """Each book tells the same, and the server caught each who should have it once."""
    caught = Counter(recipient for _, recipient in road.relay.accepted.elements())
    assert caught == Counter(made.sent)
    found = status(road)
    states = {state: count for state, count in found["states"].items() if count}
    wanted = {"sent": len(made.sent), "failed": len(made.refused), "suppressed": len(made.suppressed)}
    assert states == wanted
    assert found["rows"] == made.accepted
    figures = json.loads(road.command("stats", "--json"))
    assert {state: count for state, count in figures["states"].items() if count} == wanted
    failures = list(DictReader(StringIO(road.command("campaign", "failures", "spring", "--csv"))))
    assert {failure["email"] for failure in failures} == made.refused
    assert len(failures) == len(made.refused)
    assert made.refused <= {entry.address for entry in road.mailer.suppressions}, (
        "hard bounces enter the list"
    )
    assert road.mailer.sweep() == []
