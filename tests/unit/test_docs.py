"""What the documentation names must be there: pages, anchors, files, modules, commands, options, targets."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import mailtasks
from mailtasks.cli import COMMANDS, group
from mailtasks.mailer import Mailer
from mailtasks.settings import SETTINGS
from tests.pages import fences

ROOT = Path(mailtasks.__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("[A-Z]*.md")), *sorted(DOCS.glob("**/*.md"))]
FOLDERS = "mailtasks|tests|docs|benchmarks|examples"
NO_MODULES = {"mailtasks.deliver", "mailtasks.attempts", "mailtasks.toml", "mailtasks.mailer.send"}
"""A task, a logger, a file and an attribute of an app, which look like modules."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, *languages: str) -> list[str]:
    """The blocks of code in these languages."""
    return [code for language, code in fences(page) if language in languages]


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def spans(page: Path) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def links(page: Path) -> Iterator[str]:
    text = prose(page)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)
    yield from re.findall(r"^\[[^\]]+\]: (\S+)", text, re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them from headings, and those written out."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', prose(page)))


def command_lines(page: Path) -> Iterator[list[str]]:
    """Every call of a program, from blocks for a shell and from backticks, split into words."""
    text = re.sub(r"\\\n", " ", "\n".join(blocks(page, "sh", "console")))
    lines = [line.removeprefix("$ ") for line in text.splitlines()]
    lines += [span for span in spans(page) if re.match(r"(mailtasks|make|python -m) ", span)]
    for line in lines:
        inner = re.search(r"\$\((.*)\)", line)
        yield shlex.split(inner[1] if inner else line, comments=True)


@pytest.mark.parametrize("script", sorted(DOCS.glob("make_*_page.py")), ids=lambda script: script.stem)
def test_a_generated_page_is_current(script):
    made = runpy.run_path(str(script))
    assert made["page"]() == made["PAGE"].read_text(encoding="utf-8"), "run `make docs` to write it anew"


def test_each_setting_has_a_row_and_each_command_a_section():
    settings = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    assert all(f"\n| `{name}` |" in settings for name in SETTINGS)
    commands = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    assert re.findall("^## (.+)$", commands, re.MULTILINE) == list(COMMANDS)


def test_generate_writes_each_of_them():
    pages = [path for path, _ in runpy.run_path(str(DOCS / "generate.py"))["pages"]()]
    assert len(pages) == len(set(pages)) == len(list(DOCS.glob("make_*_page.py")))


@each_page
def test_every_link_leads_somewhere(page):
    for target in links(page):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} isn't there"
        assert not anchor or anchor in anchors(file), f"{target}: there is no such heading"


def test_the_check_of_links_would_notice(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One, two\n[there](#one-two) [gone](#three) [lost](nowhere.md)\n")
    for target in ("#three", "nowhere.md"):
        assert target in links(page)
    with pytest.raises(AssertionError, match="no such heading"):
        test_every_link_leads_somewhere(page)


@each_page
def test_every_file_that_is_named_is_there(page):
    for span in spans(page):
        if re.fullmatch(rf"({FOLDERS})/[\w./-]+", span):
            assert (ROOT / span).exists(), f"{span} isn't there"


@each_page
def test_every_module_that_is_named_is_there(page):
    for span in spans(page):
        if re.fullmatch(r"(mailtasks|benchmarks)(\.\w+)+", span) and span not in NO_MODULES:
            assert _resolves(span), f"{span} is no module, nor anything in one"


def _resolves(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        module, _, attribute = name.rpartition(".")
        return hasattr(importlib.import_module(module), attribute)
    return True


@each_page
def test_every_command_is_one(page):
    for words in command_lines(page):
        match words:
            case ["make", target, *_]:
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
            case ["python", "-m", module, *_]:
                importlib.import_module(module)
            case ["mailtasks", *rest]:
                _check_call(rest)


def _check_call(words: list[str]) -> None:
    name = next((word for word in words if not word.startswith("-") and "=" not in word), None)
    assert name is None or name in COMMANDS, f"mailtasks {' '.join(words)}: there is no such command"
    commands = [group, *filter(None, [name and group.get_command(click.Context(group), name)])]
    if isinstance(commands[-1], click.Group) and name:
        part = words[words.index(name) + 1] if words[-1] != name else None
        assert part is None or part in commands[-1].commands, f"mailtasks {name} {part}: there is none"
        commands += [commands[-1].commands[part]] if part else []
    options = [option for command in commands for option in command.params]
    known = {spelling for option in options for spelling in (*option.opts, *option.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known | {"--help"}, " ".join(words)


SAID = [
    ("README.md", "app that names no broker takes that of `MAILTASKS_BROKER_URL`"),
    ("README.md", "From then on `send()`, `status()` and the others go through the app and its broker"),
    (
        "docs/how-to/existing-celery-app.md",
        "if the key `CELERY_BROKER_URL` is missing) takes that of `MAILTASKS_BROKER_URL`",
    ),
    (
        "docs/how-to/existing-celery-app.md",
        "the functions of the module (`send()`, `status()` and the rest) go through your app and its broker",
    ),
    ("docs/how-to/mail-does-not-go.md", "`celery control revoke` do nothing to a mail"),
    ("README.md", "Its *Revoke* does nothing to a mail; use `mailtasks cancel ID`."),
    ("docs/tutorial.md", "*Revoke* does nothing to a mail; `mailtasks cancel ID` does."),
    (
        "README.md",
        "130 interrupted by Ctrl-C, which ends `worker`, `flower`, `sink` and `up` in good order, with 0",
    ),
    (
        "docs/reference/commands.md",
        "| 0 | done; also what runs until it is told to end (`worker`, `outbox run`,",
    ),
    (
        "docs/reference/commands.md",
        "| 130 | Ctrl-C before the command was done, or before one of those that run on",
    ),
    ("README.md", "of a batch of several mails RETRY means that a recipient will be tried again"),
    ("docs/how-to/retries-and-rates.md", "RETRY if at least one recipient will be tried again"),
    ("README.md", "A *hint*, a Celery task that carries an id and nothing of the mail, tells a worker"),
    (
        "README.md",
        "if no mail may ever arrive twice and nobody looks at what is in doubt (the setting `hold`",
    ),
    ("docs/how-to/testing.md", "`task_always_eager = True`, usual in Django's tests,"),
    ("docs/how-to/mail-does-not-go.md", "The *pump* is the thread in each worker that publishes a hint"),
]
"""What newcomers looked for and didn't find, or misunderstood."""


@pytest.mark.parametrize(("page", "sentence"), SAID)
def test_what_newcomers_asked_is_answered(page, sentence):
    assert sentence in " ".join((ROOT / page).read_text(encoding="utf-8").split())


@each_page
def test_python_blocks_can_be_read(page):
    for code in blocks(page, "python"):
        ast.parse(code)


def test_the_first_thirty_lines_of_the_readme():
    head = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:30]
    text = "\n".join(head)
    for what in ("guarantee", "limit", "in_doubt", "send(", "`make demo`", "Don't use it", "The road"):
        assert what in text, f"{what!r} comes too late"


def test_every_room_of_the_house_has_its_floor():
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    house = next(it for it in configured["tool"]["importlinter"]["contracts"] if it["type"] == "layers")
    floors = prose(ROOT / "CONTRIBUTING.md").partition("| floor |")[2].partition("\n\n")[0]
    rooms = re.findall(r"`mailtasks/(\w+)(?:\.py)?`", floors)
    assert sorted(rooms) == sorted(re.findall(r"\w+", " ".join(house["layers"])))


def test_the_readme_and_the_settings_name_the_sources_alike():
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Settings")[2].partition(";")[0]
    words = re.sub(r"\(.*?\)", "", text).lower()
    sources = re.findall("keyword|environment|framework|file|default", words)
    assert " > ".join(sources) in (mailtasks.settings.__doc__ or "")


@pytest.mark.parametrize("name", [name for name in vars(Mailer) if not name.startswith("_")])
def test_each_method_says_what_it_raises(name):
    assert name == "close" or "Raises:" in getattr(Mailer, name).__doc__


def test_every_decision_is_in_the_index():
    pages = sorted(path.name for path in (ROOT / "docs/adr").glob("0*.md"))
    assert re.findall(r"\((0.*\.md)\)", (ROOT / "docs/adr/README.md").read_text()) == pages
