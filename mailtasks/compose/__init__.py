"""From a `Message` to the bytes that a relay takes.

`mime` lays out the parts, `headers` writes the header lines. Pure functions: the same message, id
and date give the same bytes on every machine. `template` does the same for a mail to many.
"""

from mailtasks.compose.mime import Composed, compose

__all__ = ["Composed", "compose"]
