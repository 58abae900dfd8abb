"""Certificate files, looked at when the settings are read: what isn't usable is told then, not at night.

A sentence here may quote a file's path, and nothing of what is in it. Certificates are read by ssl, which is
imported only where there is a file: most settings name none.
"""

from __future__ import annotations

from pathlib import Path


def check_authorities(file: str) -> str:
    """The path of a PEM file with certificates to trust; ValueError, if it isn't one."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _demand_readable("ca", file)
    try:
        context.load_verify_locations(cafile=file)
    except (ssl.SSLError, ValueError):
        raise ValueError(f"its ca file {file!r} holds no certificate (expected PEM)") from None
    return file


def check_own(cert: str, key: str | None) -> None:
    """See that a certificate of ours and its key can be used; ValueError, if not.

    Args:
        key: the file with the key; None if it is in the certificate's.
    """
    _demand_readable("cert", cert)
    if key:
        _demand_readable("key", key)
    wrong = why_unusable(cert, key)
    if wrong:
        raise ValueError(wrong)


def why_unusable(cert: str, key: str | None) -> str:
    """What is wrong with a certificate of ours, as the end of a sentence about a relay's URL; or `""`."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    lock = Lock()
    holder = f"its key file {key!r}" if key else f"its cert file {cert!r}, where the key is looked for,"
    try:
        context.load_cert_chain(cert, key, password=lock.refuse)
    except OSError as error:
        if lock.tried:
            return f"{holder} holds an encrypted key, which nobody could unlock at night (decrypt it)"
        if not isinstance(error, ssl.SSLError):
            return f"its cert file {cert!r} or the key can't be read ({error.strerror})"
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"{holder} holds a key that doesn't fit the certificate in {cert!r}"
        if _holds_certificate(cert):
            return f"{holder} holds no private key (expected PEM)"
        return f"its cert file {cert!r} holds no certificate (expected PEM)"
    return ""


class Lock:
    """Stands where OpenSSL would ask the terminal for a key's password.

    Attributes:
        tried: whether it was asked.
    """

    def __init__(self) -> None:
        self.tried = False

    def refuse(self) -> str:
        """No password, and a note that one was wanted."""
        self.tried = True
        return ""


def _holds_certificate(file: str) -> bool:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except (OSError, ValueError):
        return False
    return True


def _demand_readable(option: str, file: str) -> None:
    try:
        Path(file).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else "it holds a NUL"
        raise ValueError(f"its {option} file {file!r} can't be read ({reason})") from None
