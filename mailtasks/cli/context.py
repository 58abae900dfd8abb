"""What every command is handed: the settings that this call of the program has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from mailtasks.settings import SETTINGS, Settings, framework_values, mask_url

if TYPE_CHECKING:
    from mailtasks.mailer import Mailer


@dataclass
class Context:
    """The options that stand before the command, and the settings that follow from them."""

    file: str | None  # --config
    changes: Mapping[str, str]  # --set
    debug: bool

    @cached_property
    def settings(self) -> Settings:
        """Read when a command first asks, so that help works whatever the settings are."""
        changes: dict[str, Any] = dict(self.changes)
        return Settings.load(file=self.file, **changes)

    @property
    def environment(self) -> dict[str, str]:
        """For processes that read the settings themselves: they come to the same ones, framework or not.

        Raises:
            SettingsError: a setting is wrong.
        """
        _ = self.settings  # before names are looked up, which may be those of no setting
        said = {
            SETTINGS[name].variable: str(value)
            for name, value in framework_values().items()
            if value is not None
        }
        named = {"MAILTASKS_CONFIG": self.file} if self.file else {}
        changed = {SETTINGS[name].variable: value for name, value in self.changes.items()}
        given = {name: value for name, value in os.environ.items() if value or name not in said}
        return {**said, **given, **named, **changed}

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
