import pytest

from mailtasks.errors import AddressError
from mailtasks.smtp import Envelope


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
