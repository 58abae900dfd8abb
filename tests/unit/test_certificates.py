"""Certificate files that aren't: each sentence is read here; `mailtasks.relay` puts "relay: " before it."""

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from mailtasks.certificates import check_authorities, check_own, why_unusable


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with certificates and keys that fit, and what doesn't."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca"))
    mine = authority.issue_cert("worker.example")
    mine.private_key_and_cert_chain_pem.write_to_path(str(folder / "both"))
    mine.cert_chain_pems[0].write_to_path(str(folder / "cert"))
    mine.private_key_pem.write_to_path(str(folder / "key"))
    authority.issue_cert("other.example").private_key_pem.write_to_path(str(folder / "other"))
    key = serialization.load_pem_private_key((folder / "key").read_bytes(), None)
    for name in ("PKCS8", "TraditionalOpenSSL"):
        lock = serialization.BestAvailableEncryption(b"hunter2")
        (folder / name).write_bytes(
            key.private_bytes(serialization.Encoding.PEM, getattr(serialization.PrivateFormat, name), lock)
        )
    (folder / "text").write_text("nothing\n")
    (folder / "binary").write_bytes(b"\0\xff\n" * 100)
    (folder / "empty").touch()
    (folder / "torn").write_bytes((folder / "cert").read_bytes()[:300])
    return folder


def sentence(check, *paths):
    with pytest.raises(ValueError) as raised:  # noqa: PT011  (its text is what is looked at)
        check(*paths)
    return str(raised.value)


@pytest.mark.parametrize("name", ["ca", "both"])
def test_authorities_that_can_be_trusted(files, name):
    assert check_authorities(str(files / name)) == str(files / name)


@pytest.mark.parametrize("name", ["text", "binary", "empty", "torn", "key"])
def test_a_file_without_a_certificate_trusts_nobody(files, name):
    path = str(files / name)
    assert sentence(check_authorities, path) == f"its ca file {path!r} holds no certificate (expected PEM)"


@pytest.mark.parametrize("pair", [("both", None), ("cert", "key"), ("both", "key")])
def test_a_certificate_and_its_key(files, pair):
    check_own(*(name and str(files / name) for name in pair))


@pytest.mark.parametrize(
    ("cert", "key", "wrong"),
    [
        (
            "cert",
            None,
            "its cert file 'F/cert', where the key is looked for, holds no private key (expected PEM)",
        ),
        ("cert", "text", "its key file 'F/text' holds no private key (expected PEM)"),
        ("cert", "cert", "its key file 'F/cert' holds no private key (expected PEM)"),
        ("cert", "other", "its key file 'F/other' holds a key that doesn't fit the certificate in 'F/cert'"),
        ("text", None, "its cert file 'F/text' holds no certificate (expected PEM)"),
        ("key", "key", "its cert file 'F/key' holds no certificate (expected PEM)"),
        ("binary", "key", "its cert file 'F/binary' holds no certificate (expected PEM)"),
        ("torn", "key", "its cert file 'F/torn' holds no certificate (expected PEM)"),
        *(
            (
                "cert",
                name,
                f"its key file 'F/{name}' holds an encrypted key, "
                "which nobody could unlock at night (decrypt it)",
            )
            for name in ("PKCS8", "TraditionalOpenSSL")
        ),
        ("gone", "key", "its cert file 'F/gone' can't be read (No such file or directory)"),
        ("cert", "gone", "its key file 'F/gone' can't be read (No such file or directory)"),
        ("", "key", "its cert file 'F/' can't be read (Is a directory)"),
    ],
)
def test_what_is_wrong_with_ours(files, cert, key, wrong):
    said = sentence(check_own, f"{files}/{cert}", key and f"{files}/{key}")
    assert said == wrong.replace("F/", f"{files}/")


def test_a_path_with_a_nul_is_no_file():
    assert sentence(check_authorities, "a\0b") == "its ca file 'a\\x00b' can't be read (it holds a NUL)"


def test_a_file_that_goes_between_two_looks_is_told(tmp_path):
    gone = str(tmp_path / "gone")
    assert why_unusable(gone, None) == (
        f"its cert file {gone!r} or the key can't be read (No such file or directory)"
    )
