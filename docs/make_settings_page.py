"""Write `docs/reference/settings.md` from the table in `mailtasks.settings`.

    python docs/make_settings_page.py

A test fails while the page isn't what this would write.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mailtasks.kinds import Duration
from mailtasks.relay import OPTIONS, Option
from mailtasks.settings import SETTINGS, Setting

PAGE: Final = Path(__file__).parent / "reference" / "settings.md"

INTRODUCTION: Final = """\
# Settings

<!-- Written by docs/make_settings_page.py from mailtasks/settings.py: change those, not this page. -->

A setting has the same name everywhere. The strongest source that holds it wins:

| | source | how | example |
| --- | --- | --- | --- |
| 1 | keyword | `Settings.load(...)`, `mailtasks --set` | `mailtasks --set lease=90s config` |
| 2 | environment | `MAILTASKS_` and the name in capitals | `MAILTASKS_LEASE=90s` |
| 3 | framework | `MAILTASKS` of [Django](../how-to/django.md), [Flask](../how-to/flask.md) | `{"LEASE": 9}` |
| 4 | file | `mailtasks.toml` in the working directory, or what `MAILTASKS_CONFIG` names | `lease = "90s"` |
| 5 | default | the table below | |

`mailtasks config` shows each effective value and where it came from, with passwords masked. A value or
a name that is wrong, in any source, stops the start with one line that says which and what is expected.
An environment variable that is empty counts as not set.

- A duration is a number of seconds, or a text with a unit: `"90s"`, `"15m"`, `"2h"`, `"5d"`.
- The relay is a URL: `smtp://USER:PASSWORD@HOST:587` or `smtps://…` (TLS from the first byte), with
  [options](#options-of-a-relays-url). `smtp://` demands STARTTLS with a verified certificate, unless the host
  is loopback or the URL says `tls=none`. The port is 465 for `smtps`, 25 for `smtp` on loopback, else 587.
- In a URL's user and password, the characters `/ ? # @ : %` are written `%2F %3F %23 %40 %3A %25`.
- What becomes of a mail whose fate is not known (its last byte may have reached the relay, and no answer
  was read): `resend` tries it once more, and then holds it; `hold` holds it for an operator's decision.
"""


RELAY: Final = """\

## Options of a relay's URL

They stand behind a `?`, with `&` between them: `smtp://HOST?tls=required&ca=/etc/ssl/corp.pem`. In a value,
`&`, `#`, `%` and the space are written `%26`, `%23`, `%25` and `%20`. A file is looked at when the settings
are read. [How to](../how-to/relays-and-tls.md) has examples.

| option | value | meaning |
| --- | --- | --- |
"""


def page() -> str:
    """The whole page."""
    rows = "\n".join(map(_row, SETTINGS.values()))
    settings = f"\n| setting | default | value | meaning |\n| --- | --- | --- | --- |\n{rows}\n"
    options = "\n".join(_option(name, option) for name, option in OPTIONS.items())
    return f"{INTRODUCTION}{settings}{RELAY}{options}\n"


def _option(name: str, option: Option) -> str:
    return f"| `{name}` | {option.expected} | {option.help} |"


def _row(setting: Setting) -> str:
    default = "" if setting.default is None else f"`{str(setting.default).lower()}`"
    value = setting.kind.expected.removesuffix(Duration.FORMS)
    unit = f" ({setting.unit})" if setting.unit not in {"", "seconds"} else ""
    return f"| `{setting.name}` | {default} | {value}{unit} | {setting.help} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
