"""`zsml serve` from the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request

import pytest
from small_index import small_index

pytest.importorskip("fastapi", reason="zsml[serve] is not installed")

from zsml.cli import main
from zsml.serve.listen import bind


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_index(tmp_path_factory.mktemp("small")).folder


def test_it_serves_until_it_is_told_to_stop(folder):
    command = [sys.executable, "-m", "zsml", "serve", "--index", str(folder), "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "ZSML_TOKEN": "sesame\n"}  # as from a file
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        said = server.stderr.readline()
        assert said.startswith("40 images on http://127.0.0.1:"), said + server.stderr.read()
        address = said.split()[3]
        with urllib.request.urlopen(f"{address}health", timeout=10) as answer:
            assert answer.status == 200
        request = urllib.request.Request(f"{address}api/info", headers={"Authorization": "Bearer sesame"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=20)
        assert (server.returncode, out) == (0, "ended after 0 searches\n"), err
    finally:
        server.kill()
        server.wait()


def test_what_cannot_be_served_ends_with_status_2(folder, tmp_path, capsys, monkeypatch):
    with bind("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        cases = [
            (["--index", str(folder), "--port", port], f"--port {port} is taken by another program; choose another"),
            (["--index", str(tmp_path), "--port", "0"], "holds no index"),
            (["--index", str(folder), "--port", "99999"], "--port 99999 must be from 0"),
            (["--index", str(folder), "--port", "0", "--host", "no such host"], "--host 'no such host' is not known"),
            (["--index", str(folder), "--port", "0", "--token", ""], "token is empty"),
            (
                ["--index", str(folder), "--port", "0", "--token", "a b"],
                "--token has ' ' at place 2; accepted is printable ASCII",
            ),
            (["--index", str(folder), "--port", "0", "--rate", "-1"], "--rate=-1.0 must be 0 or more"),
            (["--index", str(folder), "--port", "0", "--running", "0"], "--running=0 must be 1 or more"),
        ]
        for flags, said in cases:
            assert main(["serve", *flags]) == 2
            assert said in capsys.readouterr().err, flags
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "zsml.serve.app", raising=False)
    assert main(["serve", "--index", str(folder), "--port", "0"]) == 2
    assert "pip install 'zsml[serve]'" in capsys.readouterr().err


def test_zsml_alone_does_not_import_the_server():
    code = "import sys, zsml, zsml.cli; print([m for m in ('fastapi', 'uvicorn', 'starlette') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
