"""How much, how often, and who: what stands before the application."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import socket
import threading
import time
import urllib.request

import pytest
from small_index import CIRCLE, serving, small_index

pytest.importorskip("fastapi", reason="zsml[serve] is not installed")
from starlette.testclient import TestClient

from zsml.errors import InputError
from zsml.serve import Limits, create_app
from zsml.serve.guard import COOKIE, fingerprint, same
from zsml.serve.limits import Gate, Rate, Refused
from zsml.serve.listen import bind, protocol, url

ASK = {"strokes": CIRCLE, "k": 5}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return small_index(tmp_path_factory.mktemp("small"))


# ---- each by itself ----------------------------------------------------------------------------------------------------------


def test_rate_over_time_is_never_more_than_burst_and_refill():
    now = [0.0]
    rate = Rate(rate=2, burst=3, clock=lambda: now[0])
    allowed = 0
    for step in range(400):  # ten seconds
        now[0] = step * 0.025
        allowed += rate.take("a") == 0
    assert allowed in (22, 23)  # 3 + 2 * 9.975
    assert rate.take("b") == 0  # of another client nothing was taken
    wait = [rate.take("a") for _ in range(5)][-1]
    now[0] += wait
    assert rate.take("a") == 0


def test_rate_forgets_clients_so_that_its_memory_is_bounded():
    rate = Rate(rate=1, burst=1, clock=lambda: 0.0)
    rate.KEPT = 100
    for number in range(1000):
        rate.take(str(number))
    assert len(rate._buckets) == 100
    assert Rate(rate=0, burst=1).take("anybody") == 0


def test_gate_lets_few_run_some_wait_and_refuses_the_rest():
    async def play() -> tuple[int, int]:
        gate, inside, most, refused = Gate(running=2, waiting=3), 0, 0, 0

        async def one() -> None:
            nonlocal inside, most, refused
            try:
                async with gate.enter():
                    inside += 1
                    most = max(most, inside)
                    await asyncio.sleep(0.01)
                    inside -= 1
            except Refused as error:
                assert error.status == 429 and error.headers["Retry-After"]
                refused += 1

        await asyncio.gather(*(one() for _ in range(9)))
        assert gate.inside == 0
        return most, refused

    assert asyncio.run(play()) == (2, 4)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("results", 0, InputError), ("rate", -1, InputError), ("rate", math.nan, InputError), ("seconds", 0, InputError),
     ("running", 0, InputError), ("results", 2.5, TypeError), ("strokes", True, TypeError), ("burst", "x", TypeError)],
)  # fmt: skip
def test_limits_that_make_no_sense_are_refused_by_name(name, value, error):
    with pytest.raises(error, match=name):
        Limits(**{name: value})


def test_tokens_are_compared_by_fingerprint():
    assert same(fingerprint("abc"), fingerprint("abc")) and not same(fingerprint("abd"), fingerprint("abc"))
    assert not same("", fingerprint("")) and not same("ä" * 64, fingerprint("a"))


# ---- in front of the application ---------------------------------------------------------------------------------------------


def test_too_many_requests_get_429_and_thumbnails_count_less(index):
    client = TestClient(create_app(index, limits=Limits(rate=0.01, burst=5)))
    assert [client.get("/api/image/1").status_code for _ in range(20)] == [200] * 20
    statuses = [client.post("/api/search", json=ASK).status_code for _ in range(6)]
    assert statuses == [200, 200, 200, 200, 429, 429]
    refused = client.get("/api/info")
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1 and "a second" in refused.json()["error"]


def test_a_token_is_asked_for_everywhere_but_at_the_door(index):
    client = TestClient(create_app(index, token="sesame", limits=Limits(rate=0)), follow_redirects=False)
    for path in ("/api/info", "/metrics", "/openapi.json", "/api/image/1", "/nowhere"):
        answer = client.get(path)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert client.post("/api/search", json=ASK).status_code == 401
    for wrong in ("Bearer", "Bearer sesam", "Bearer sesame2", "Basic sesame", "sesame", "Bearer \xe4"):
        assert client.get("/api/info", headers={"Authorization": wrong.encode("latin-1")}).status_code == 401
    assert client.get("/api/info", headers={"Authorization": "Bearer sesame"}).status_code == 200
    assert client.get("/health").status_code == 200
    assert client.get("/").headers["location"] == "/login"


def test_a_person_logs_in_once_and_the_cookie_is_not_the_token(index):
    client = TestClient(create_app(index, token="sesame"), follow_redirects=False)
    assert "<form" in client.get("/login").text
    wrong = client.post("/login", content=b"token=x")
    assert wrong.status_code == 401 and "not the token" in wrong.text and "set-cookie" not in wrong.headers
    right = client.post("/login", content=b"token=sesame")
    cookie = right.headers["set-cookie"]
    assert right.status_code == 303 and "HttpOnly" in cookie and "SameSite=strict" in cookie and "sesame" not in cookie
    assert client.cookies[COOKIE] == fingerprint("sesame")
    assert client.get("/").status_code == 200 and client.post("/api/search", json=ASK).status_code == 200
    for cookie in (f"{COOKIE}=sesame", f"{COOKIE}=", "=;;=", f'{COOKIE}="'):
        assert TestClient(client.app).get("/api/info", headers={"Cookie": cookie}).status_code == 401


def test_a_token_that_a_header_or_a_form_cannot_carry_is_refused_at_the_start(index):
    for token in (" sesame", "sesame ", "se same", "sesame\n", "s\xe9same", "\u82dd", "\x7f", "se\tsame"):
        with pytest.raises(InputError, match=r"^--token has .*without spaces$"):
            create_app(index, token=token)
    with pytest.raises(TypeError, match="token must be"):
        create_app(index, token=b"sesame")
    every = "".join(map(chr, range(33, 127)))  # each that is taken works at both doors
    client = TestClient(create_app(index, token=every), follow_redirects=False)
    assert client.get("/api/info", headers={"Authorization": f"Bearer {every}"}).status_code == 200
    assert client.post("/login", data={"token": every}).status_code == 303


def test_a_host_that_is_not_ours_is_refused(index):
    client = TestClient(create_app(index, hosts=("127.0.0.1", "localhost", "::1")))
    for host in ("127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"):
        assert client.get("/health", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "", "[", "localhost@evil.example"):
        answer = client.get("/health", headers={"Host": host})
        assert answer.status_code == 400 and "Host" in answer.json()["error"]


def test_a_body_that_never_ends_or_never_comes_is_given_up(index):
    app = create_app(index, limits=Limits(json_bytes=1000, seconds=0.05))

    def ask(messages: list[dict]) -> int:
        scope = {"type": "http", "method": "POST", "path": "/api/search", "headers": [], "client": ("c", 1), "query_string": b""}
        statuses: list[int] = []

        async def receive() -> dict:
            if messages:
                return messages.pop(0)
            await asyncio.sleep(60)
            return {}

        async def send(message: dict) -> None:
            statuses.append(message.get("status", 0))

        asyncio.run(app({**scope, "app": app}, receive, send))
        return statuses[0]

    part = {"type": "http.request", "body": b" " * 600, "more_body": True}
    assert ask([part]) == 408
    assert ask([dict(part), dict(part)]) == 413
    assert ask([{"type": "http.disconnect"}]) == 400


# ---- a real server -----------------------------------------------------------------------------------------------------------


def test_fifty_clients_at_once_get_the_same_right_answer(index):
    body = json.dumps(ASK).encode()
    answers: list[list[int]] = []
    with serving(create_app(index, limits=Limits(rate=0))) as address:

        def one() -> None:
            request = urllib.request.Request(f"{address}api/search", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=20) as answer:
                answers.append([hit["id"] for hit in json.load(answer)["results"]])

        threads = [threading.Thread(target=one) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert len(answers) == 50 and all(answer == answers[0] for answer in answers)


def test_garbage_on_the_wire_leaves_the_server_up(index):
    with serving(create_app(index, limits=Limits(rate=0))) as address:
        host, port = address.removeprefix("http://").rstrip("/").split(":")
        for data in (
            b"\x00\xff\xfe\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /api/search HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
            b"",
        ):
            with socket.create_connection((host, int(port)), timeout=5) as wire:
                wire.sendall(data)
        with urllib.request.urlopen(f"{address}health", timeout=5) as answer:
            assert answer.status == 200


def test_connections_that_send_no_request_are_closed_and_others_find_room(index):
    asked = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(create_app(index), limit_concurrency=5, http=protocol(0.4)) as address:
        where = ("127.0.0.1", int(address.rstrip("/").rsplit(":", 1)[1]))
        wires = [socket.create_connection(where, timeout=5) for _ in range(6)]
        wires[0].sendall(b"GET /health HT")  # nor does a part of one count
        wires[-1].sendall(asked)
        assert b" 503 " in wires[-1].recv(4096)
        for wire in wires[:-1]:
            assert wire.recv(1) == b""  # closed
        for pauses in ((0,), (0.5, 0)):
            client = http.client.HTTPConnection(*where, timeout=5)
            client.connect()
            wire = client.sock
            for pause in pauses:
                client.request("GET", "/health")
                answer = client.getresponse()
                assert answer.status == 200 and answer.read()
                time.sleep(pause)
                assert client.sock is wire  # one that has asked is kept for its next request
            wire.sendall(b"GET")  # but a part of that is given up as well
            assert wire.recv(1) == b""
            client.close()
        for wire in wires:
            wire.close()


def test_addresses_that_cannot_be_listened_on_say_why():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert url(taken) == f"http://127.0.0.1:{port}/"
        with socket.create_connection(("127.0.0.1", port)), taken.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)  # or each answer takes 40 ms more
        with pytest.raises(InputError, match=f"--port {port} is taken"):
            bind("127.0.0.1", port)
    for host, port, said in (("127.0.0.1", 65536, "--port 65536"), ("127.0.0.1", -1, "--port -1"), ("no such host", 0, "--host")):
        with pytest.raises(InputError, match=said):
            bind(host, port)
