import runpy
from pathlib import Path

import mailtasks
from mailtasks.settings import SETTINGS

DOCS = Path(mailtasks.__file__).parents[1] / "docs"


def test_the_reference_page_is_current():
    script = runpy.run_path(str(DOCS / "make_settings_page.py"))
    assert script["page"]() == script["PAGE"].read_text(encoding="utf-8"), (
        "run `python docs/make_settings_page.py` to write the page anew"
    )


def test_the_page_has_a_row_for_each_setting():
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    assert all(f"\n| `{name}` |" in page for name in SETTINGS)
