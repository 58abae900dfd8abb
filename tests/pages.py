"""How tests read pages of Markdown."""

from __future__ import annotations

import re
from pathlib import Path


def fences(page: Path) -> list[tuple[str, str]]:
    """Language and code of each block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
