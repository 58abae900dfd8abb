import runpy
from pathlib import Path

import pytest

import mailtasks
from mailtasks.cli import COMMANDS
from mailtasks.settings import SETTINGS

DOCS = Path(mailtasks.__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", ["settings", "commands"])
def test_the_page_is_current(name):
    script = runpy.run_path(str(DOCS / f"make_{name}_page.py"))
    assert script["page"]() == script["PAGE"].read_text(encoding="utf-8"), (
        f"run `python docs/make_{name}_page.py` to write the page anew"
    )


def test_each_setting_has_a_row():
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    assert all(f"\n| `{name}` |" in page for name in SETTINGS)


def test_each_command_has_a_section():
    page = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    assert [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")] == list(
        COMMANDS
    )
