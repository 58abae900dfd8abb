"""Print the path of a Python that Django 6 runs on, for `make test-django`; say so if there is none.

    python tests/newer_python.py

PYTHON_DJANGO names one. Else the newest is taken that is on the PATH or that pyenv has.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

VERSIONS: Final = ("3.14", "3.13", "3.12")
"""Those that Django 6.1 supports."""

NONE: Final = """\
*** Django 6 is NOT TESTED here: it needs Python 3.12 or later, and none is to be found.
*** Install one where the shell or pyenv finds it as `python3.13`, or set PYTHON_DJANGO.
"""

_ASKED: Final = (
    f"import sys; print(sys.executable); sys.exit('%d.%d' % sys.version_info[:2] not in {VERSIONS})"
)


def candidates(environ: Mapping[str, str], home: Path) -> Iterator[str]:
    """What may be one: the one that is named, or all that have such a name."""
    if named := environ.get("PYTHON_DJANGO"):
        yield named
        return
    pyenv = Path(environ.get("PYENV_ROOT") or home / ".pyenv") / "versions"
    for version in VERSIONS:
        yield f"python{version}"
        yield from map(str, sorted(pyenv.glob(f"{version}*/bin/python"), reverse=True))


def first_that_runs(pythons: Iterable[str]) -> str | None:
    """The path of the first that is one: what pyenv has on the PATH may be a name without a Python."""
    for python in pythons:
        try:
            asked = subprocess.run([python, "-c", _ASKED], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return asked.stdout.strip()
    return None


if __name__ == "__main__":
    found = first_that_runs(candidates(os.environ, Path.home()))
    sys.stdout.write(f"{found}\n") if found else sys.exit(NONE)
