"""`mailtasks campaign send --attach-field`: a column that names a file of each person's own."""

import csv

import pytest

PEOPLE = """\
email,name,bill
ann@example.com,Ann,ann.pdf
eve@example.com,Eve,../secret
cy@example.com,Cy,
"""


@pytest.fixture
def send(live, tmp_path):
    (tmp_path / "bills").mkdir()
    (tmp_path / "bills" / "ann.pdf").write_bytes(b"%PDF for Ann")
    (tmp_path / "secret").write_text("of others")
    (tmp_path / "people.csv").write_text(PEOPLE)
    (tmp_path / "letter.txt").write_text("Dear {{ name }}\n")

    def send(*more):
        usual = ("people.csv", "--name", "bills", "--subject", "Your bill", "--text", "letter.txt")
        return live("campaign", "send", *usual, *more)

    return send


BILLS = ("--attach-field", "bill", "--attach-folder", "bills")


def test_a_dry_run_shows_the_first_persons_file_and_who_is_rejected(send, tmp_path):
    ran = send(*BILLS, "--dry-run", "--rejects", "rejects.csv")
    assert ran.code == 0
    assert "would send to 2 people as campaign 'bills'" in ran.out
    assert "(and the file ann.pdf)" in ran.out
    what = f"bill names the file '../secret', which lies outside of {tmp_path}/bills"
    assert f"people.csv, line 3: {what}" in ran.err
    assert "rejected 1 row: 1 × a file that can't be attached" in ran.err
    with (tmp_path / "rejects.csv").open(newline="") as file:
        assert list(csv.reader(file))[1:] == [["3", "a file that can't be attached", what]]


def test_what_is_accepted_has_its_files_stored(send, live):
    ran = send(*BILLS, "--yes", "--json")
    assert (ran.code, ran.json["accepted"]) == (0, 2)
    assert ran.json["reasons"] == {"a file that can't be attached": 1}
    assert live("blobs", "--json").json["stored"] == 1


def test_a_test_mail_has_the_first_persons_file(send, live):
    ran = send(*BILLS, "--test-to", "me@example.com", "--json")
    assert (ran.code, ran.json["accepted"]) == (0, 0)
    assert live("status", ran.json["id"]).code == 0
    assert live("blobs", "--json").json["stored"] == 0, "it is part of the body"


@pytest.mark.parametrize("given", [BILLS[:2], BILLS[2:]])
def test_column_and_folder_go_together(send, given):
    ran = send(*given, "--dry-run")
    assert ran.code == 2
    assert "Give --attach-field and --attach-folder together: a column, and where its files lie." in ran.err


def test_a_column_or_folder_that_isnt_there_is_told(send):
    ran = send("--attach-field", "bil", "--attach-folder", "bills", "--dry-run")
    assert ran.code != 0
    assert "attachment_fields: there is no field 'bil'; give one, or leave it out" in ran.err
    ran = send("--attach-field", "bill", "--attach-folder", "elsewhere", "--dry-run")
    assert ran.code != 0
    assert "attachment_folder: 'elsewhere' is no folder; check the path" in ran.err


def test_who_is_stopped_by_a_changed_file_is_told_how_to_go_on(send, tmp_path, monkeypatch):
    from mailtasks.campaign.files import OwnFiles

    read = OwnFiles.read
    reads = []

    def changed(self, file):
        reads.append(file)
        if len(reads) == 2:  # the first was for the mail that is shown
            (tmp_path / "bills" / "ann.pdf").write_bytes(b"%PDF anew")
        return read(self, file)

    monkeypatch.setattr(OwnFiles, "read", changed)
    ran = send(*BILLS, "--yes")
    assert ran.code != 0
    assert "since the people were read it has changed: it has another content" in ran.err
    assert (
        "interrupted after 0 of 2 people; the same command takes campaign 'bills' up, and mails " in ran.err
    )
    assert send(*BILLS, "--yes").out.startswith("accepted 2 people in campaign 'bills'")
