import signal
import smtplib
import socket
import subprocess
import sys
import time

import pytest

from mailtasks.errors import SettingsError
from mailtasks.local.faults import Behaviour, Faults
from mailtasks.local.processes import Child
from mailtasks.local.serving import BUFFER
from mailtasks.local.sink import CatchingProcess, CatchingServer
from mailtasks.reply import Stage
from mailtasks.testing import wait_until

MAIL = "Message-ID: <{}@example.com>\r\nSubject: hello\r\n\r\nhello\r\n"


def send(port, *recipients, number=1):
    with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
        return client.sendmail("ann@example.com", recipients, MAIL.format(number))


def test_smtplib_is_understood(sink):
    assert send(sink.port, "bob@example.com", "refuse@example.com").keys() == {"refuse@example.com"}
    [caught] = sink.wait_for(1)
    assert caught.recipients == ("bob@example.com",)
    assert sink.accepted == {("<1@example.com>", "bob@example.com"): 1}
    assert [entry.recipient for entry in sink.refusals] == ["refuse@example.com"]
    assert sink.violations == []
    assert sink.url == f"smtp://127.0.0.1:{sink.port}"


def test_a_slow_recipient_waits_and_another_does_not(sink):
    began = time.monotonic()
    send(sink.port, "slow@example.com")
    assert time.monotonic() - began > 0.5


def test_a_large_mail_and_its_answer_in_small_pieces(sink):
    body = b"x" * 998 + b"\r\n"
    with socket.create_connection(("127.0.0.1", sink.port), timeout=10) as client:
        client.sendall(b"EHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n")
        client.sendall(body * 1000 + b".\r\nQUIT\r\n")
        answer = b"".join(iter(lambda: client.recv(7), b""))
    assert answer.splitlines()[-2:] == [b"250 2.0.0 ok", b"221 2.0.0 bye"]
    assert sink.messages[0].size == 1000 * len(body) > 10 * BUFFER


def test_a_dropped_message_is_a_reset_connection(sink):
    with pytest.raises(smtplib.SMTPServerDisconnected):
        send(sink.port, "keep-drop@example.com")
    assert sink.accepted == {("<1@example.com>", "keep-drop@example.com"): 1}


def test_a_busy_server_says_so_before_it_closes(sink):
    with smtplib.SMTP("127.0.0.1", sink.port, timeout=10) as client:
        client.ehlo()
        client.mail("ann@example.com")
        assert client.rcpt("busy@example.com")[0] == 421
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.noop()


def test_faults_may_change_while_it_runs(sink):
    sink.faults = Faults(refuse=1.0)
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(sink.port, "bob@example.com")
    sink.faults = None
    assert send(sink.port, "bob@example.com") == {}


def test_cut_resets_connections_and_takes_new_ones(sink):
    with smtplib.SMTP("127.0.0.1", sink.port, timeout=10) as client:
        client.ehlo()
        assert sink.open_connections == 1
        sink.cut()
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.noop()
    wait_until(lambda: sink.open_connections == 0)
    send(sink.port, "bob@example.com")
    assert sink.connections == 2


def test_stopped_and_started_again_it_is_the_same_server():
    with CatchingServer() as server:
        port = server.port
        send(port, "bob@example.com")
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            send(port, "bob@example.com")
        server.start()
        send(port, "bob@example.com")
        assert server.port == port
        assert server.connections == 2
        assert server.accepted == {("<1@example.com>", "bob@example.com"): 2}


def test_stopping_resets_what_waits_for_a_late_answer():
    with CatchingServer() as server, smtplib.SMTP("127.0.0.1", server.port, timeout=10) as client:
        client.ehlo()
        client.mail("ann@example.com")
        client.rcpt("slow@example.com")
        client.docmd("DATA")
        client.send(b"Subject: hello\r\n\r\n.\r\n")
        server.wait_for(1)
        server.stop()
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.getreply()


def test_closing_twice_is_harmless():
    server = CatchingServer().start()
    server.close()
    server.close()
    assert server.open_connections == 0


def test_a_taken_port(capfd):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError) as caught, CatchingServer(port=port):
            pass
        with pytest.raises(SettingsError, match="the catching server didn't start") as process:
            CatchingProcess(port=port).start()
    sentence = (
        f"the catching server can't listen on 127.0.0.1:{port}: Address already in use; "
        "choose another address, or port 0 for a free one"
    )
    assert str(caught.value) == sentence
    assert str(process.value) == f"the catching server didn't start on port {port}; stderr says why"
    assert sentence in capfd.readouterr().err


def test_mails_are_saved_to_a_folder(tmp_path):
    with CatchingServer(save=tmp_path) as server:
        send(server.port, "bob@example.com")
    assert (tmp_path / "000001.eml").read_bytes() == MAIL.format(1).encode()
    assert b"bob@example.com" in (tmp_path / "journal.jsonl").read_bytes()


def test_a_process_of_its_own_survives_a_kill_with_its_book():
    with CatchingProcess() as process:
        port = process.port
        send(port, "bob@example.com", number=1)
        process.kill()
        with pytest.raises(ConnectionRefusedError):
            send(port, "bob@example.com")
        process.start()
        send(port, "bob@example.com", number=2)
        assert process.port == port
        assert process.accepted == {
            ("<1@example.com>", "bob@example.com"): 1,
            ("<2@example.com>", "bob@example.com"): 1,
        }
    assert not process.folder.exists()


def test_a_process_takes_faults_and_saves(tmp_path):
    with CatchingProcess(folder=tmp_path, save=True, faults=Faults(refuse_dot=1.0)) as process:
        with pytest.raises(smtplib.SMTPDataError):
            send(process.port, "bob@example.com")
        [entry] = process.entries()
    assert (entry.recipient, entry.accepted) == ("bob@example.com", False)
    assert tmp_path.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_program_ends_when_told_to_and_says_what_it_caught(number):
    command = [sys.executable, "-m", "mailtasks.local.sink", "--port", "0"]
    with Child(command, output=subprocess.PIPE) as child:
        send(int(child.stdout.readline().rpartition(":")[2]), "bob@example.com", "refuse@example.com")
        child.signal(number)
        assert child.stdout.readline() == "messages caught: 1, recipients refused or deferred: 1\n"
        assert child.wait(10) == 0


def test_the_program_refuses_a_fault_that_it_does_not_know():
    command = [sys.executable, "-m", "mailtasks.local.sink", "--faults", "defr=1"]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 2
    assert "fault defr=1 isn't understood; write NAME=ODDS" in told.stderr


def test_a_starter_that_is_gone_is_no_reason_to_complain():
    program = [sys.executable, "-m", "mailtasks.local.sink", "--port", "0"]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("catching mail on smtp://")
    process.stdout.close()
    process.terminate()
    assert (process.stderr.read(), process.wait(timeout=10)) == ("", 0)
    process.stderr.close()


# --- By order of a test -----------------------------------------------------------------------------


def refused(port, recipient):
    try:
        send(port, recipient)
    except smtplib.SMTPRecipientsRefused as error:
        return error.recipients[recipient][0]
    except smtplib.SMTPDataError as error:
        return error.smtp_code
    except smtplib.SMTPServerDisconnected:
        return "gone"
    return None


def test_one_recipient_only_or_everybody(sink):
    sink.order("full", "Bob@example.com")
    assert [refused(sink.port, who) for who in ("bob@example.com", "cy@example.com")] == [552, None]
    sink.order("spam")
    assert [refused(sink.port, who) for who in ("bob@example.com", "cy@example.com")] == [552, 554]
    sink.order("drop", "cy@example.com")
    assert refused(sink.port, "cy@example.com") == "gone"


def test_once_is_counted_from_the_order(sink):
    for _ in range(2):
        sink.order("defer-once")
        assert [refused(sink.port, "bob@example.com") for _ in range(2)] == [451, None]
        assert refused(sink.port, "cy@example.com") == 451


def test_an_address_that_orders_something_itself_is_stronger_than_everybody(sink):
    sink.order("full")
    assert [refused(sink.port, who) for who in ("refuse@example.com", "bob@example.com")] == [550, 552]


def test_a_behaviour_of_ones_own(sink):
    sink.order(Behaviour(Stage.DOT, "452 4.2.2 not before Monday"), "bob@example.com")
    assert refused(sink.port, "bob@example.com") == 452


def test_a_word_that_orders_nothing(sink):
    with pytest.raises(
        SettingsError, match=r"^the catching server knows no fault 'fulll'; expected defer-once, "
    ):
        sink.order("fulll")


def test_reset_begins_anew():
    with CatchingServer(faults=Faults(defer_dot=1.0)) as sink:
        sink.faults = None
        assert refused(sink.port, "defer-once@example.com") == 451
        sink.order("full", "bob@example.com")
        assert [refused(sink.port, who) for who in ("bob@example.com", "cy@example.com")] == [552, None]
        port = sink.port
        sink.stop()
        sink.reset()
        assert (sink.messages, sink.refusals, sink.violations, sink.port) == ([], [], [], port)
        assert [refused(port, who) for who in ("bob@example.com", "defer-once@example.com")] == [451, 451]
        assert sink.refusals[0].verdict == "451 4.3.0 no room at the moment"


def test_what_was_caught_is_parsed(sink):
    send(sink.port, "bob@example.com")
    [caught] = sink.messages
    assert (caught.message["Subject"], caught.text, caught.html) == ("hello", "hello\n", "")
