"""Debian's Postfix as a server of ours: its own configuration, queue and ports, and nothing of the system's.

Its master wants to be started by root. It delivers what it takes into a maildir; it offers TLS with a
certificate that a test's authority issued, logins that Dovecot knows, SIZE, SMTPUTF8, CHUNKING, DSN and
PIPELINING.
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path
from typing import Final

import trustme

from mailtasks.local.redis import free_port
from mailtasks.testing import wait_until
from tests.servers.system import SystemServer

HOST: Final = "127.0.0.1"
DAEMONS: Final = Path("/usr/lib/postfix/sbin")  # Debian's; not on any PATH
BOSS: Final = "boss@example.com"
"""Nobody may send as this one."""

SIZE_LIMIT: Final = 3_000_000
DOMAINS: Final = "example.com, example.org, xn--bcher-kva.example, bücher.example"

QUEUES: Final = (
    *("active", "bounce", "corrupt", "defer", "deferred", "flush"),
    *("hold", "incoming", "saved", "trace", "private"),
)

REFUSALS: Final = {
    "ghost@example.com": "550 5.1.1 no such user",
    "grey@example.com": "450 4.7.1 greylisted, please try again in 300 seconds",
    "full@example.com": "552 5.2.2 mailbox full",
}
"""What is said at RCPT to whom."""

MAIN: Final = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = {daemons}
maillog_file = {folder}/log/mail
maillog_file_prefixes = {folder}/log
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.test
mydestination =
mynetworks =
inet_interfaces = {host}
inet_protocols = ipv4
smtputf8_enable = yes
message_size_limit = {size}
mailbox_size_limit = 0
virtual_mailbox_limit = 0
virtual_mailbox_domains = {domains}
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:all/
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
local_recipient_maps =
alias_maps =
default_transport = discard
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_tls_cert_file = {folder}/tls/server.pem
smtpd_tls_key_file = {folder}/tls/server.pem
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {logins}
smtpd_sender_login_maps = inline:{{ {{ {boss} = boss }} }}, static:ann
smtpd_sender_restrictions = reject_authenticated_sender_login_mismatch
smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination
smtpd_recipient_restrictions = check_recipient_access inline:{{ {refusals} }}
smtpd_recipient_limit = 5
smtpd_peername_lookup = no
"""

MASTER: Final = """\
{host}:{plain} inet n - n - - smtpd
{host}:{implicit} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
postlog unix-dgram n - n - 1 postlogd
"""


def missing() -> str | None:
    """Why there is no Postfix."""
    if not (DAEMONS / "master").exists():
        return "Postfix isn't there; install it: apt-get install postfix"
    if os.getuid() != 0:
        return "Postfix' master has to be started by root"
    return None


@dataclass(frozen=True)
class Received:
    """A mail in the maildir: one copy for each recipient."""

    recipient: str
    sender: str  # of the envelope
    message: EmailMessage
    raw: bytes


class Postfix(SystemServer):
    """The server. A context manager.

    Args:
        logins: the socket of a Dovecot that knows who may log in.

    Attributes:
        ca: the file with the certificate to trust.
        port: plain SMTP, and STARTTLS.
        tls_port: TLS from the first byte.
    """

    def __init__(self, logins: Path) -> None:
        super().__init__("postfix")
        self._logins = logins
        self.port, self.tls_port = free_port(), free_port()
        self.ca = self.folder / "ca.pem"

    def url(self, *, tls: str = "none", login: str = "", chunking: str = "no") -> str:
        """For `tls` and `chunking` as in a relay's URL; `login` is `user:password`."""
        scheme, port = ("smtps", self.tls_port) if tls == "implicit" else ("smtp", self.port)
        options = {"none": "", "required": f"&tls=required&ca={self.ca}", "implicit": f"&ca={self.ca}"}[tls]
        return f"{scheme}://{login}{'@' if login else ''}{HOST}:{port}?chunking={chunking}{options}"

    def received(self, number: int, timeout: float = 20) -> list[Received]:
        """All that has arrived since `empty`, once there are at least so many."""
        new = self.folder / "mail" / "all" / "new"
        files = wait_until(
            lambda: (found := list(new.glob("*"))) if len(list(new.glob("*"))) >= number else None,
            timeout=timeout,
            what=f"the arrival of {number} mails ({self.log()[-500:]})",
        )
        return [_read(file.read_bytes()) for file in sorted(files)]

    def empty(self) -> None:
        """Forget what has arrived."""
        for file in (self.folder / "mail").glob("all/new/*"):
            file.unlink()

    def log(self) -> str:
        """What it wrote."""
        return "".join(file.read_text() for file in sorted((self.folder / "log").iterdir()))

    def _command(self) -> Sequence[str]:
        return [str(DAEMONS / "master"), "-c", str(self.folder / "etc"), "-s"]

    def _output(self) -> Path:
        return self.folder / "log" / "master"

    def _answers(self) -> bool:
        return "daemon started" in self.log()

    def _lay_out(self) -> None:
        folder, nobody = self.folder, pwd.getpwnam("nobody")
        folder.chmod(0o755)  # its daemons are no root
        for name in ("etc", "queue", "queue/pid", "log", "tls"):
            (folder / name).mkdir()
        for name in ("data", *(f"queue/{queue}" for queue in QUEUES)):
            self._own(name, "postfix", 0o700)
        self._own("queue/public", "postfix", 0o710, "postdrop")
        self._own("queue/maildrop", "postfix", 0o730, "postdrop")
        self._own("mail", "nobody", 0o700)
        self._make_certificate()
        refusals = ", ".join(f"{{ {address} = {reply} }}" for address, reply in REFUSALS.items())
        values = {
            "folder": folder,
            "daemons": DAEMONS,
            "host": HOST,
            "size": SIZE_LIMIT,
            "domains": DOMAINS,
            "uid": nobody.pw_uid,
            "gid": nobody.pw_gid,
            "boss": BOSS,
            "refusals": refusals,
            "logins": self._logins,
            "plain": self.port,
            "implicit": self.tls_port,
        }
        (folder / "etc" / "main.cf").write_text(MAIN.format(**values))
        (folder / "etc" / "master.cf").write_text(MASTER.format(**values))

    def _own(self, name: str, user: str, mode: int, group: str | None = None) -> None:
        path = self.folder / name
        path.mkdir(exist_ok=True)
        shutil.chown(path, user, group)
        path.chmod(mode)

    def _make_certificate(self) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        server = self.folder / "tls" / "server.pem"
        authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(server))
        server.chmod(0o600)  # smtpd reads it before it drops its rights


def _read(raw: bytes) -> Received:
    message = BytesParser(policy=policy.default.clone(utf8=True)).parsebytes(raw)
    assert isinstance(message, EmailMessage)
    return Received(str(message["Delivered-To"]), str(message["Return-Path"]).strip("<>"), message, raw)
