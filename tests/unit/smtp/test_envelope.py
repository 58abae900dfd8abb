import pytest

from mailtasks.errors import AddressError, MessageError
from mailtasks.smtp import Envelope
from mailtasks.smtp.envelope import Notifications


def test_an_envelope_may_have_the_null_sender():
    assert Envelope("", ("a@b.example",), b"").sender == ""


@pytest.mark.parametrize(
    ("sender", "recipients", "sentence"),
    [
        ("a@b", (), "an envelope without a recipient can't be sent; give at least one address"),
        ("a@b", ("c@d", ""), "a recipient's address is empty; only the sender may be"),
        ("a", ("c@d",), "address 'a' is none: give it as local@domain"),
        ("a@b", ("c",), "address 'c' is none: give it as local@domain"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_on_the_wire(sender, recipients, sentence):
    with pytest.raises(AddressError) as raised:
        Envelope(sender, recipients, b"")
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("sender", "recipient", "said", "needed"),
    [
        ("a@b", "c@d", False, False),
        ("a@b", "c@d", True, True),
        ("ä@b", "c@d", False, True),
        ("a@b", "c@dö", False, True),
    ],
)
def test_smtputf8_is_needed_for_headers_or_addresses(sender, recipient, said, needed):
    assert Envelope(sender, (recipient,), b"", smtputf8=said).needs_smtputf8 is needed


@pytest.mark.parametrize(
    ("asked", "with_mail", "with_rcpt"),
    [
        (Notifications(("never",)), b"", b" NOTIFY=NEVER ORCPT=rfc822;ann+2Bshop@example.com"),
        (
            Notifications(("success", "failure", "delay"), "full", "4x.0"),
            b" RET=FULL ENVID=4x.0",
            b" NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;ann+2Bshop@example.com",
        ),
        (Notifications(returned="headers", id="4 x"), b" RET=HDRS ENVID=4+20x", b""),
    ],
)
def test_what_servers_are_asked_to_tell(asked, with_mail, with_rcpt):
    assert asked.with_mail == with_mail
    assert asked.with_rcpt("ann+shop@example.com") == with_rcpt


def test_a_non_ascii_recipient_has_no_orcpt():
    assert Notifications(("delay",)).with_rcpt("jörg@example.com") == b" NOTIFY=DELAY"


@pytest.mark.parametrize("given", [{"notify": ("delay\r\nRSET",)}, {"returned": "all"}])
def test_words_that_rfc_3461_does_not_have_are_refused(given):
    with pytest.raises(MessageError, match=r"^the notifications .* are none that RFC 3461 knows$"):
        Notifications(**given)
