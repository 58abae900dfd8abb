from mailtasks.settings import SETTINGS


def test_text_has_a_row_for_each_setting(cli):
    ran = cli("config")
    assert (ran.code, ran.err) == (0, "")
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == list(SETTINGS)


def test_json(cli, monkeypatch):
    monkeypatch.setenv("MAILTASKS_LEASE", "2s")
    ran = cli("config", "--json")
    assert list(ran.json) == list(SETTINGS)
    assert ran.json["lease"] == {
        "name": "lease",
        "value": 2,
        "source": "environment MAILTASKS_LEASE",
        "help": SETTINGS["lease"].help,
    }


def test_where_a_value_came_from(cli, tmp_path):
    (tmp_path / "mine.toml").write_text("window_bulk = 3\n")
    sources = cli("--config", "mine.toml", "--set", "slice=1", "config", "--json").json
    assert sources["window_bulk"]["source"] == "file mine.toml"
    assert sources["slice"]["source"] == "keyword"
    assert sources["lease"]["source"] == "default"


def test_secrets_are_masked(cli, monkeypatch):
    monkeypatch.setenv("MAILTASKS_RELAY", "smtp://ann:hunter2@mail.example.com")
    monkeypatch.setenv("MAILTASKS_BROKER_URL", "redis://:hunter2@127.0.0.1/0")
    monkeypatch.setenv("MAILTASKS_FLOWER_AUTH", "ann:hunter2")
    for ran in (cli("config"), cli("config", "--json")):
        assert "hunter2" not in ran.out
        assert "smtp://ann:***@mail.example.com:587?tls=required" in ran.out


def test_only_what_was_changed(cli):
    assert list(cli("-s", "lease=2", "config", "--changed", "--json").json) == ["lease"]
    assert cli("config", "--changed").out == "every setting has its default\n"
