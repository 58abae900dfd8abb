"""Debian's Dovecot as a server of ours: it takes mail by LMTP, and tells Postfix whose login is right.

It wants to be started by root. Everything of it is in a temporary folder, nothing of the system's is touched.
"""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mailtasks.local.redis import free_port
from mailtasks.testing import program
from tests.servers.system import SystemServer

HOST: Final = "127.0.0.1"

USERS: Final[dict[str, str]] = {
    "ann": "secret",
    "ann@example.com": "secret",
    "bob@example.com": "secret",
    "jörg@example.com": "secret",
    "full@example.com": "secret",
}
"""Who has a mailbox, and the password. Nobody else has."""

FULL: Final = "full@example.com"
"""This one's mailbox is full."""

CONFIGURATION: Final = """\
protocols = lmtp
listen = {host}
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
ssl = no
mail_location = maildir:~/mail
mail_plugins = quota
first_valid_uid = 1
first_valid_gid = 1
auth_mechanisms = plain login cram-md5
auth_username_chars =
auth_username_format = %u
recipient_delimiter =
lmtp_rcpt_check_quota = no
protocol lmtp {{
  mail_plugins = quota
}}
plugin {{
  quota = maildir:mailbox
}}
passdb {{
  driver = passwd-file
  args = scheme=PLAIN {folder}/users
}}
userdb {{
  driver = passwd-file
  args = {folder}/users
}}
service lmtp {{
  inet_listener lmtp {{
    address = {host}
    port = {port}
  }}
}}
service auth {{
  unix_listener {folder}/run/postfix {{
    mode = 0666
  }}
}}
service stats {{
  unix_listener stats-writer {{
    mode = 0666
  }}
}}
"""


def missing() -> str | None:
    """Why there is no Dovecot."""
    if program("dovecot") is None or not Path("/usr/lib/dovecot/lmtp").exists():
        return "Dovecot isn't there; install it: apt-get install dovecot-core dovecot-lmtpd"
    if os.getuid() != 0:
        return "Dovecot's master has to be started by root"
    return None


class Dovecot(SystemServer):
    """The server. A context manager.

    Attributes:
        port: LMTP.
        logins: the socket at which Postfix asks.
    """

    def __init__(self) -> None:
        super().__init__("dovecot")
        self.port = free_port()
        self.logins = self.folder / "run" / "postfix"

    def mailbox(self, address: str) -> list[bytes]:
        """What a user has got."""
        return [file.read_bytes() for file in sorted((self._home(address) / "mail" / "new").glob("*"))]

    def empty(self) -> None:
        """Forget what has arrived."""
        for file in (self.folder / "mail").glob("*/mail/new/*"):
            file.unlink()

    def log(self) -> str:
        """What it wrote."""
        files = (self.folder / name for name in ("log", "out"))
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def _command(self) -> Sequence[str]:
        command = program("dovecot")
        assert command
        return [command, "-F", "-c", str(self.folder / "conf")]

    def _output(self) -> Path:
        return self.folder / "out"

    def _answers(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), 1).close()
        except ConnectionRefusedError:
            return False
        return self.logins.exists()

    def _lay_out(self) -> None:
        self.folder.chmod(0o755)  # its processes, and Postfix', are no root
        nobody = pwd.getpwnam("nobody")
        mail = self.folder / "mail"
        mail.mkdir()
        os.chown(mail, nobody.pw_uid, nobody.pw_gid)
        (self.folder / "run").mkdir(mode=0o755)
        users = "".join(
            f"{user}:{{PLAIN}}{password}:{nobody.pw_uid}:{nobody.pw_gid}::{self._home(user)}::"
            f"{'userdb_quota_rule=*:bytes=10' if user == FULL else ''}\n"
            for user, password in USERS.items()
        )
        (self.folder / "users").write_text(users, encoding="utf-8")
        (self.folder / "users").chmod(0o644)
        configuration = CONFIGURATION.format(folder=self.folder, host=HOST, port=self.port)
        (self.folder / "conf").write_text(configuration)

    def _home(self, address: str) -> Path:
        return self.folder / "mail" / str(list(USERS).index(address))
