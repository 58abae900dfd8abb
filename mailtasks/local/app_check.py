"""Whether workers of a Celery app could start: tried in a process of its own, since loading it runs its code.

`why_not` is for whoever is about to start several workers, each of which would say it at length.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

from celery import Celery
from celery.app.utils import find_app

from mailtasks.errors import SettingsError
from mailtasks.guard import WRONG_USE
from mailtasks.installation import is_installed
from mailtasks.local.processes import Child
from mailtasks.supervisor import environment_of
from mailtasks.tasks import demand_settings


def why_not(app: str, environment: Mapping[str, str] | None = None) -> str:
    """Why `celery -A` could not load an app, in a few words; "" if it could.

    Args:
        app: what `-A` gets.
        environment: what the app is loaded in; ours if it is None.

    Raises:
        SettingsError: it could, but a setting, `celeryconfig.py` or `task_annotations` is wrong.
    """
    command = [sys.executable, "-m", __name__, app]
    with Child(command, environment=environment_of(app, environment), output=subprocess.PIPE) as child:
        said = child.stdout.read().strip()
        code = child.wait()
    if said and code == WRONG_USE:
        raise SettingsError(said)
    return said or (f"loading it ended the process with exit code {code}" if code else "")


def _try_to_load(app: str) -> str:
    try:
        found = find_app(app)
        if is_installed(found):
            demand_settings(found)
    except SettingsError:
        raise
    except ModuleNotFoundError as error:
        return str(error)
    except (Exception, SystemExit) as error:  # whatever a user's module raises
        return f"{type(error).__name__}: {error}"
    return "" if isinstance(found, Celery) else f"{found!r} is no Celery app"


def _main() -> None:
    verdict = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # where what the app prints may go
    try:
        said, code = _try_to_load(sys.argv[1]), 0
    except SettingsError as error:
        said, code = str(error), WRONG_USE
    os.write(verdict, said.encode())
    sys.stdout.flush()
    os._exit(code)  # a thread that the app has started would keep the process


if __name__ == "__main__":
    _main()
