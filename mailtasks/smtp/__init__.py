"""Talking SMTP: a sans-IO engine, a connection around it, a pool around those.

Read `engine` first, with `chunking` beside it; `session` joins them to a socket, `loop` lets one thread wait
for all sockets, `pool` lends sessions to threads; `bearing` remembers what a relay doesn't bear.
"""

from mailtasks.smtp.envelope import Envelope
from mailtasks.smtp.pool import Pool
from mailtasks.smtp.session import ConnectFailed, Session, Timeouts

__all__ = ["ConnectFailed", "Envelope", "Pool", "Session", "Timeouts"]
