import io
from pathlib import Path

import pytest

from mailtasks.state import State
from tests.pages import fences

PAGE = Path(__file__).parents[3] / "docs/how-to/suppression.md"


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "people.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def addresses(live):
    return sorted(it["address"] for it in live("suppress", "list", "--json").json)


def test_add_list_and_remove(live):
    assert live("suppress", "list").out == "nobody is on the suppression list\n"
    ran = live("suppress", "add", "Ann@example.com", "bob@example.com", "--reason", "asked by phone")
    assert (ran.code, ran.out) == (0, "added 2 addresses\n")
    ran = live("suppress", "add", "ann@example.com", "--source", "complaint")
    assert ran.out == "added 0 addresses; 1 address was already there, with another reason until now\n"
    head, *rows = live("suppress", "list").out.splitlines()
    assert head.split() == ["ADDRESS", "SINCE", "SOURCE", "REASON"]
    assert [(row.split()[0], row.split()[3]) for row in rows] == [
        ("ann@example.com", "complaint"),
        ("bob@example.com", "operator"),
    ]
    assert rows[1].endswith("asked by phone")
    ran = live("suppress", "remove", "ANN@example.com", "eve@example.com", "zoe@example.com")
    assert (ran.code, ran.out) == (0, "removed 1 address; 2 addresses were not there\n")
    assert addresses(live) == ["bob@example.com"]
    assert live("suppress", "add", "bob@example.com", "eve@example.com", "--json").json == {"added": 1}
    assert live("suppress", "remove", "bob@example.com", "--json").json == {"removed": 1}


def test_the_latest_are_listed_first_and_of_one_source(live):
    for name, source in (("a", "operator"), ("b", "bounce"), ("c", "operator"), ("d", "operator")):
        live("suppress", "add", f"{name}@example.com", "--source", source)
    listed = live("suppress", "list", "--source", "operator", "--limit", "2", "--json").json
    assert [it["address"] for it in listed] == ["d@example.com", "c@example.com"]
    assert set(listed[0]) == {"address", "reason", "source", "added_at"}


def test_what_is_no_address_is_wrong_use(live):
    for command in ("add", "remove"):
        ran = live("suppress", command, "ann@example.com", "nonsense")
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("mailtasks: 'nonsense' is no mail address: ")
        assert live("suppress", command).code == 2
    ran = live("suppress", "add", "ann@example.com", "--source", "No")
    assert ran.code == 2
    assert ran.err.startswith("mailtasks: 'No' is no source of a suppression: write one word")
    assert addresses(live) == []


def test_import_tells_of_bad_lines_and_goes_on(live, file):
    live("suppress", "add", "bob@example.com", "--reason", "asked")
    path = file("email,reason\nann@example.com,left\nnonsense,\nbob@example.com,new\neve@example.com,\n")
    ran = live("suppress", "import", path)
    assert (ran.code, ran.out) == (1, "added 2 addresses; 1 address was already there\n")
    [line] = ran.err.splitlines()
    assert line.startswith(f"mailtasks: {path}, line 3: 'nonsense' is no mail address: ")
    told = {it["address"]: (it["source"], it["reason"]) for it in live("suppress", "list", "--json").json}
    assert told == {
        "ann@example.com": ("import", "left"),
        "bob@example.com": ("operator", "asked"),
        "eve@example.com": ("import", ""),
    }
    ran = live("suppress", "import", path, "--json")
    assert (ran.code, ran.err) == (1, "")
    assert (ran.json["added"], ran.json["already"], ran.json["bad"][0]["line"]) == (0, 3, 3)


def test_import_from_standard_input(live, monkeypatch):
    content = b"\xef\xbb\xbfann@example.com\r\ncaf\xe9@example.com\r\nbob@example.com"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    ran = live("suppress", "import", "-")
    assert (ran.code, ran.out) == (1, "added 2 addresses\n")
    assert ran.err == (
        "mailtasks: standard input, line 2: it isn't UTF-8; save the file with that encoding\n"
    )
    assert addresses(live) == ["ann@example.com", "bob@example.com"]


def test_a_file_that_is_none_of_these(live, file):
    path = file("name,mail\nAnn,ann@example.com\n")
    ran = live("suppress", "import", path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        f"mailtasks: {path}, line 1: 'name,mail' is no address and names no column `email`; "
        "give CSV with such a column, or one address a line\n"
    )
    ran = live("suppress", "import", "missing.csv")
    assert (ran.code, ran.out) == (2, "")
    assert "'missing.csv' can't be read: No such file or directory" in ran.err
    assert live("suppress", "import", file("")).out == "added 0 addresses\n"


def test_what_export_writes_import_reads_back(live, file):
    live("suppress", "add", '"a,b"@example.com', "--reason", 'said "no"; never')
    live("suppress", "add", "jörg@straße.example", "--source", "bounce")
    exported = live("suppress", "export").out
    assert exported.splitlines()[0] == "email,reason,source,time"
    before = live("suppress", "list", "--json").json
    live("suppress", "remove", '"a,b"@example.com', "jörg@straße.example")
    assert live("suppress", "import", file(exported)).out == "added 2 addresses\n"
    assert live("suppress", "list", "--json").json == before
    bounced = live("suppress", "export", "--source", "bounce").out.splitlines()
    assert [row.partition(",")[0] for row in bounced] == ["email", "jörg@xn--strae-oqa.example"]
    assert live("suppress", "export", "--source", "bounce", "--json").json == before[:1]


def test_status_stats_and_retry_tell_of_it(live):
    live("suppress", "add", "ann@example.com", "--reason", "asked")
    id = live("send", "--to", "Ann@example.com", "--to", "bob@example.com", "--text", "hi").out.strip()
    [ann, bob] = live("status", id, "--json").json["recipients"]
    assert (ann["state"], bob["state"], bob["suppression"]) == ("suppressed", "queued", None)
    assert (ann["suppression"]["reason"], ann["suppression"]["source"]) == ("asked", "operator")
    assert ann["reply"].startswith("on the suppression list since 20")
    assert "UTC (operator): asked" in live("status", id).out
    assert live("stats", "--json").json["suppressions"] == 1
    assert "addresses on the suppression list" in live("stats").out
    for more in ((), ("--dry-run",), ("--force",)):
        ran = live("retry", id, *more)
        assert ran.code == 1
        assert ran.out.endswith(
            "retried 0 recipients\n"
            "left alone 1 recipient on the suppression list; "
            "`mailtasks suppress remove ADDRESS` comes first\n"
        ) or ran.out.startswith("would retry 0 recipients\nleft alone 1 recipient on the suppression list; ")
    assert live("retry", id, "--json").json["suppressed"] == 1
    live("suppress", "remove", "ann@example.com")
    assert live("retry", id).out == "retried 1 recipient\n"
    assert [it["state"] for it in live("status", id, "--json").json["recipients"]] == ["queued", "queued"]


def test_doubt_is_not_resent_to_who_is_on_the_list(live, settle):
    id = live("send", "--to", "ann@example.com", "--text", "hi", "--priority", "bulk").out.strip()
    settle(id, State.IN_DOUBT)
    live("suppress", "add", "ann@example.com")
    ran = live("in-doubt", "resend", id)
    assert (ran.code, ran.out) == (
        1,
        "resent 0 recipients\nleft alone 1 recipient on the suppression list; "
        "settle it, or `mailtasks suppress remove ADDRESS` first\n",
    )
    assert live("status", id, "--json").json["state"] == "in_doubt"


def test_without_redis_it_says_so(nowhere):
    for command in (("add", "a@example.com"), ("list",), ("remove", "a@example.com"), ("export",)):
        ran = nowhere("suppress", *command)
        assert ran.code == 1
        assert "can't be reached" in ran.err


def test_python_can_do_the_same(live, capfd):
    [code] = [code for language, code in fences(PAGE) if language == "python"]
    exec(code, {})
    assert capfd.readouterr().out.startswith("clicked the link\nann@example.com unsubscribe 20")
    assert addresses(live) == ["ann@example.com"]


def test_who_a_relay_has_put_there_can_be_taken_off_as_the_page_says(live):
    live("suppress", "add", "ann@example.com", "bob@example.com", "--source", "bounce")
    live("suppress", "add", "eve@example.com")
    rows = live("suppress", "export", "--source", "bounce").out.splitlines()[1:]
    assert live("suppress", "remove", *(row.partition(",")[0] for row in rows)).out == "removed 2 addresses\n"
    assert addresses(live) == ["eve@example.com"]
