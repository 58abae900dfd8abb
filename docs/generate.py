"""Write every generated page of the reference anew: each `make_…_page.py` here makes one.

    python docs/generate.py

Each script can be run by itself, too. Tests compare what they would write with what is there.
"""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SCRIPTS: Final = "make_*_page.py"


def pages() -> Iterator[tuple[Path, str]]:
    """Each page's file and what should be in it."""
    for script in sorted(Path(__file__).parent.glob(SCRIPTS)):
        made = runpy.run_path(str(script))
        yield made["PAGE"], made["page"]()


if __name__ == "__main__":
    for path, text in pages():
        path.write_text(text, encoding="utf-8")
