"""The wheel: built, installed into an environment of its own with nothing but its dependencies, and used."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

USE = """
import sys
import mailtasks
assert not {"celery", "redis", "django", "flask", "rich"} & set(sys.modules), "importing starts something"
from importlib.resources import files
from mailtasks.store import scripts
assert all(scripts.text(name) for name in scripts.NAMES), "the Lua scripts are not in the wheel"
assert (files("mailtasks") / "py.typed").is_file(), "the types are not in the wheel"
from mailtasks.local.demo import RECIPIENTS, read
assert RECIPIENTS.is_relative_to(files("mailtasks")), RECIPIENTS
assert len(list(read(RECIPIENTS))) == 1000, "the demo's people are not in the wheel"
from mailtasks import Mailer, Message, send_mail
print(mailtasks.__version__, mailtasks.__file__)
"""


@pytest.mark.timeout(300)
def test_the_wheel_is_all_that_is_needed(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("mailtasks-*.whl")

    venv.create(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    # Our own pip does it: to bring another one into the environment takes longer than all the rest.
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", wheel], check=True, capture_output=True)

    used = subprocess.run([python, "-c", USE], cwd=tmp_path, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    assert str(tmp_path) in used.stdout

    command = subprocess.run([python.with_name("mailtasks"), "--help"], capture_output=True, text=True)
    assert command.returncode == 0
    assert "worker" in command.stdout
