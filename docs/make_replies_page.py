"""Write `docs/reference/replies.md` from the reply table in `mailtasks.policy.verdict`.

    python docs/make_replies_page.py

A test fails while the page isn't what this would write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from mailtasks.policy.verdict import CONSEQUENCES, ROWS, Case, Row
from mailtasks.reply import How

PAGE: Final = Path(__file__).parent / "reference" / "replies.md"

INTRODUCTION: Final = """\
# What a reply means

<!-- Written by docs/make_replies_page.py from mailtasks/policy/verdict.py: change those, not this page. -->

What happened to a recipient is named first: by the first row of the first table that fits it. What follows
from the name is a line of the second table. If the basic and the enhanced code disagree, the basic one wins,
since a row asks for both.

- "Free" means that the attempt doesn't count towards `max_retries`: it wasn't the recipient's fault.
- "At the least": the next attempt doesn't come before, whatever the retry settings say. A 4xx may name such
  a wait as well ("please try again in 5 minutes", "Greylisted for 300 seconds"); it is kept, up to an hour,
  or up to `retry_backoff_max` if that is more.
- "Once more" is a counted retry over a new connection; the same answer, if it is a 5xx, then fails.
- "Fail and suppress": the address enters the [suppression list](../how-to/suppression.md). A retry leaves it
  alone until it is taken off that list, and then wants `--force`. "After several": it enters when RCPT was
  answered so on three days of thirty.
- What the destination (relay and domain) should be spared is recorded as an event and not acted upon yet.
  A relay that can't be connected to is left alone by the whole process for one second, doubling to a minute.
- `RSET` and `close` wait for the end of a transaction that goes on for other recipients.
- At `content` no relay is asked yet: an attachment that is stored apart is missing, or its store is away. See
  [attachments](../how-to/attachments.md).
- The examples are replies of real servers, with other addresses.
"""


def page() -> str:
    """The whole page."""
    parts = ("## From answer to name\n", _names(), "## From name to consequence\n", _consequences())
    return "\n".join([INTRODUCTION, *parts])


def _names() -> str:
    rows = (
        f"| {number} | {_conditions(row)} | {_link(row.case)} | {_example(row)} |"
        for number, row in enumerate(ROWS, 1)
    )
    return _table(("", "if", "it is", "for instance"), rows)


def _example(row: Row) -> str:
    return f"`{row.example}`" if row.example else ""


def _consequences() -> str:
    return _table(("case", "recipient", "destination or relay", "connection"), map(_consequence, Case))


def _consequence(case: Case) -> str:
    it = CONSEQUENCES[case]
    least = f", after {it.wait / 60:g} minutes at the least" if it.wait else ""
    columns = (it.move + least, it.destination or "–", it.connection or "–")
    return f'| <a id="{case}"></a>`{case}` | {" | ".join(columns)} |'


def _link(case: Case) -> str:
    return f"[`{case}`](#{case})"


def _table(head: Sequence[str], rows: Iterator[str]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", "| --- " * len(head) + "|", *rows, ""])


def _conditions(row: Row) -> str:
    """A row in words."""
    return ", ".join(filter(None, _each(row)))


def _each(row: Row) -> Iterator[str]:
    yield f"at {_either(row.stages)}" if row.stages else ""
    yield f"{_either(row.hows)}" if set(row.hows) != set(How) else "whatever happened"
    yield f"code {_either(map(_beginning, row.codes))}" if row.codes else ""
    yield f"enhanced {_either(map(_beginning, row.enhanced))}" if row.enhanced else ""
    yield f"text with {_either(repr(word.strip()) for word in row.words)}" if row.words else ""
    yield {None: "", True: "dot begun", False: "dot not begun"}[row.dot_begun]
    yield "another recipient was accepted" if row.others_accepted else ""


def _beginning(code: str) -> str:
    """A beginning of a basic code, or of an enhanced one: `5` → `5xx`, `4.7.` → `4.7.x`, `4.5.3` as it is."""
    if code.endswith("."):
        return f"{code}x"
    return code if "." in code else f"{code:x<3}"


def _either(words: Sequence[str] | Iterator[str]) -> str:
    return " / ".join(str(word).replace("_", " ") for word in words)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
