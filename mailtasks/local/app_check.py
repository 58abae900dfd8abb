"""Whether a Celery app can be loaded: tried in a process of its own, since loading it runs its code.

`why_not` is for whoever is about to start several workers, each of which would say it at length.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

from celery import Celery
from celery.app.utils import find_app

from mailtasks.local.processes import Child


def why_not(app: str, environment: Mapping[str, str] | None = None) -> str:
    """Why `celery -A` could not load an app, in a few words; "" if it could.

    Args:
        app: what `-A` gets.
        environment: what the app is loaded in; ours if it is None.
    """
    command = [sys.executable, "-m", __name__, app]
    with Child(command, environment=environment, output=subprocess.PIPE) as child:
        said = child.stdout.read().strip()
        code = child.wait()
    return said or (f"loading it ended the process with exit code {code}" if code else "")


def _try_to_load(app: str) -> str:
    try:
        found = find_app(app)
    except ModuleNotFoundError as error:
        return str(error)
    except (Exception, SystemExit) as error:  # whatever a user's module raises
        return f"{type(error).__name__}: {error}"
    return "" if isinstance(found, Celery) else f"{found!r} is no Celery app"


def _main() -> None:
    verdict = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # where what the app prints may go
    os.write(verdict, _try_to_load(sys.argv[1]).encode())
    sys.stdout.flush()
    os._exit(0)  # a thread that the app has started would keep the process


if __name__ == "__main__":
    _main()
