"""What a caller of the client can rely on, whatever the other end of the socket does."""

from __future__ import annotations

import errno
import json
import socket
from unittest.mock import ANY

import pytest
from msgspec.structs import replace

from mlsched.api import client as module
from mlsched.api.client import Client, Stream, TornReplyError
from mlsched.errors import (
    ConfigError,
    MlschedError,
    NeverFitsError,
    NotFoundError,
    UnreachableError,
)


def test_a_call_sends_one_line_and_returns_the_result(paths, serve):
    service = serve(b'{"ok": {"jobs": [1, 2]}}\n')
    assert Client(paths).call("list", all=True) == {"jobs": [1, 2]}
    assert json.loads(service.requests[0]) == {"op": "list", "args": {"all": True}, "version": 1}


def test_events_come_before_the_result(paths, serve):
    serve(b'{"event": 1}\n{"event": 2}\n{"ok": {"timed_out": false}}\n')
    with Client(paths).stream("watch") as stream:
        assert list(stream) == [1, 2]
        assert stream.result == {"timed_out": False}


def test_a_result_larger_than_one_read_arrives_whole(paths, serve):
    big = "x" * 3_000_000
    serve(json.dumps({"ok": big}).encode() + b"\n")
    assert Client(paths).call("list") == big


@pytest.mark.parametrize(
    ("code", "kind", "exit_code"),
    [
        ("NotFound", NotFoundError, 102),
        ("NeverFits", NeverFitsError, 2),
        ("InvalidConfig", ConfigError, 1),
        ("SomethingNew", MlschedError, 1),
    ],
)
def test_an_error_of_the_service_is_raised_as_its_class(paths, serve, code, kind, exit_code):
    told = {"error": {"code": code, "message": "no such job", "hint": "look"}}
    serve(json.dumps(told).encode() + b"\n")
    with pytest.raises(kind) as caught:
        Client(paths).call("show", job="x")
    assert caught.value.message == "no such job"
    assert caught.value.hint == "look"
    assert caught.value.exit_status == exit_code


def test_a_read_whose_answer_is_torn_is_asked_again(paths, serve):
    service = serve(b'{"ok": {"jo', b"", b'{"ok": 7}\n')
    assert Client(paths).call("list") == 7
    assert len(service.requests) == 3


@pytest.mark.parametrize("args", [{"idempotency_key": "k"}, {"idempotency_key": ""}, {}])
def test_a_submit_is_sent_again_with_the_same_key(paths, serve, args):
    service = serve(b"", b'{"ok": 7}\n')
    assert Client(paths).call("submit", **args) == 7
    first, second = (json.loads(request) for request in service.requests)
    assert first == second
    assert first["args"]["idempotency_key"] == (args.get("idempotency_key") or ANY)


def test_what_is_not_known_to_be_safe_is_never_sent_twice(paths, serve):
    service = serve(b"", b'{"ok": 7}\n')
    with pytest.raises(TornReplyError):
        Client(paths).call("something_new")
    assert len(service.requests) == 1


def test_a_service_that_always_breaks_is_unreachable_in_the_end(paths, serve):
    service = serve(b"", b"", b"", b"")
    with pytest.raises(UnreachableError):
        Client(paths).call("ping")
    assert len(service.requests) == 4


@pytest.mark.parametrize("answer", [b"hello\n", b"[1]\n", b'{"neither": 1}\n', b"\xff\xfe\n"])
def test_an_answer_of_another_kind_is_an_error_and_no_crash(paths, serve, answer):
    serve(answer)
    with pytest.raises(UnreachableError):
        Client(paths).call("ping")


def test_an_error_that_is_no_object_is_still_an_error(paths, serve):
    serve(b'{"error": "no"}\n')
    with pytest.raises(MlschedError):
        Client(paths).call("ping")


def test_a_service_of_another_version_says_what_to_do(paths, serve):
    hint = "Run 'mlsched server stop' and try again: jobs go on."
    told = {"code": "InvalidConfig", "message": "the service speaks version 2", "hint": hint}
    serve(json.dumps({"error": told}).encode() + b"\n")
    with pytest.raises(ConfigError, match="version 2") as caught:
        Client(paths).call("list")
    assert caught.value.hint == hint


def test_without_a_service_and_without_leave_to_start_one_the_error_says_so(paths):
    with pytest.raises(UnreachableError, match="not running") as caught:
        Client(paths, autostart=False).call("ping")
    assert caught.value.exit_status == 104


def test_a_socket_left_behind_by_a_dead_service_is_nobody_listening(paths):
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(paths.socket))
    dead.close()
    client = Client(paths, autostart=False)
    assert not client.is_running()
    with pytest.raises(UnreachableError, match="not running"):
        client.call("ping")


def test_a_file_in_place_of_the_socket_is_nobody_listening(paths):
    paths.socket.write_text("no socket")
    assert not Client(paths, autostart=False).is_running()


def test_a_path_that_is_too_long_for_a_socket_is_an_error(paths):
    long = replace(paths, socket=paths.socket.with_name("s" * 120))
    with pytest.raises(UnreachableError, match="cannot be used"):
        Client(long, autostart=False).call("ping")


def test_a_silent_service_is_given_up_after_the_deadline(paths):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(paths.socket))
    listener.listen()
    with listener, pytest.raises(UnreachableError, match="did not answer"):
        Client(paths, deadline_s=0.01).call("ping")


def test_polling_a_silent_stream_returns_nothing(paths):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(paths.socket))
    listener.listen()
    with listener, Client(paths).stream("watch") as stream:
        assert stream.poll(0.0) == []
        assert not stream.is_over


def test_a_service_of_another_login_is_found_through_its_link(paths, serve):
    serve(b'{"ok": 7}\n')
    elsewhere = replace(paths, socket=paths.socket.with_name("other.sock"))
    paths.state_dir.mkdir()
    (paths.state_dir / "service.socket").symlink_to(paths.socket)
    assert Client(elsewhere, autostart=False).call("list") == 7


def test_a_link_to_nowhere_is_nobody_listening(paths):
    paths.state_dir.mkdir()
    (paths.state_dir / "service.socket").symlink_to(paths.state_dir / "gone")
    assert not Client(paths, autostart=False).is_running()


def test_a_stream_that_has_begun_may_be_silent_for_long(monkeypatch):
    waits = []
    monkeypatch.setattr(module, "_is_readable", lambda line, wait_s: waits.append(wait_s) or True)
    ours, theirs = socket.socketpair()
    with theirs, Stream(ours, deadline_s=5) as stream:
        for number in range(2):
            theirs.sendall(json.dumps({"event": number}).encode() + b"\n")
            assert stream.poll(None) == [number]
    assert waits[0] <= 5
    assert waits[1] is None


def test_a_process_without_free_files_is_told_so(paths, monkeypatch):
    def fail(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(module.socket, "socket", fail)
    with pytest.raises(UnreachableError, match="Too many open files"):
        Client(paths, autostart=False).call("ping")
