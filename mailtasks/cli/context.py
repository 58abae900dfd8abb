"""What every command is handed: the settings that this call of the program has."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from mailtasks.settings import NO_FRAMEWORK, SETTINGS, FrameworkValues, Settings, mask_url

if TYPE_CHECKING:
    from mailtasks.mailer import Mailer
    from mailtasks.outbox.store import RowStore


@dataclass(frozen=True)
class Host:
    """Whose command line this is: the shell's, or that of a framework which runs it on its own settings.

    Attributes:
        program: as people call it.
        framework: its share of the settings.
        app: the Celery app that `worker` runs by default.
        environment: variables that processes need to find that app.
        outbox: the framework's own outbox, by what its databases are called; None names the usual one.
    """

    program: str = "mailtasks"
    framework: FrameworkValues = NO_FRAMEWORK
    app: str = "mailtasks"
    environment: Mapping[str, str] = field(default_factory=dict)
    outbox: Callable[[str | None], RowStore] | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The same for a process that is to come to the same settings."""
        said = {SETTINGS[name].variable: str(value) for name, value in self.framework.values.items()}
        return {**said, **self.environment}


@dataclass
class Context:
    """The options that stand before the command, and the settings that follow from them."""

    file: str | None  # --config
    changes: Mapping[str, str]  # --set
    debug: bool
    host: Host = field(default_factory=Host)

    @cached_property
    def settings(self) -> Settings:
        """Read when a command first asks, so that help works whatever the settings are."""
        changes: dict[str, Any] = dict(self.changes)
        return Settings.load(framework=self.host.framework, file=self.file, **changes)

    @property
    def environment(self) -> dict[str, str]:
        """For processes that read the settings themselves: they come to the same ones.

        Raises:
            SettingsError: a setting is wrong.
        """
        _ = self.settings  # before names are looked up, which may be those of no setting
        named = {"MAILTASKS_CONFIG": self.file} if self.file else {}
        changed = {SETTINGS[name].variable: value for name, value in self.changes.items()}
        variables = self.host.variables
        # An empty variable counts as not set.
        own = {name: text for name, text in os.environ.items() if text or name not in variables}
        return {**variables, **own, **named, **changed}

    @property
    def ledger(self) -> str:
        """The Redis that is asked, its password masked: a wrong one is why most find nothing."""
        return mask_url(self.settings.store_url)

    def mailer(self) -> Mailer:
        """A mailer of these settings; use it as a context manager."""
        from mailtasks.mailer import Mailer  # brings in Redis and Celery

        return Mailer(self.settings)


pass_context = click.make_pass_decorator(Context)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
