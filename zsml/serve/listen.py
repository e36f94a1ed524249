"""Running the application: the socket it listens on, and uvicorn."""

from __future__ import annotations

import socket
from typing import Any

from zsml.errors import InputError
from zsml.serve.guard import LOOPBACK


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0: any that is free.

    Raises:
        InputError: the port is taken or may not be used, or there is no such host on this machine.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port} must be from 0 (any free one) to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host!r} is not known here ({error}); use 127.0.0.1 for this machine alone") from error
    try:
        sock = socket.create_server(address[:2], family=family, backlog=1024)
        # Inherited by every connection: head and body of an answer are sent at once. Otherwise each would wait some 40 ms for
        # the client to acknowledge the one before, because asyncio leaves it out for sockets made with protocol number 0.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    except PermissionError as error:
        raise InputError(f"--port {port} may not be used by this user; choose one from 1024 on") from error
    except OSError as error:
        if "in use" in str(error):
            raise InputError(f"--port {port} is taken by another program; choose another, or 0 for any that is free") from error
        raise InputError(f"--host {host!r} --port {port} cannot be listened on: {error.strerror or error}") from error


def url(sock: socket.socket) -> str:
    """The address to open in a browser.

    >>> with bind("127.0.0.1", 0) as sock:
    ...     url(sock)[:17]
    'http://127.0.0.1:'
    """
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def names(host: str) -> tuple[str, ...] | None:
    """The names clients may call a server by that listens on `host`; None: any, it is meant to be reached from elsewhere.

    >>> names("localhost"), names("0.0.0.0")
    (('127.0.0.1', 'localhost', '::1'), None)
    """
    return LOOPBACK if host in LOOPBACK else None


def protocol(seconds: float) -> type:
    """uvicorn's protocol of a connection, but one whose next request has begun, or that is new, must send its head in time.

    Otherwise clients that connect and send nothing would take all places there are. Between two requests, while nothing
    comes, uvicorn's own `timeout_keep_alive` is what ends it.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Impatient(AutoHTTPProtocol):
        timer: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.timer = self.loop.call_later(seconds, transport.close)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:  # a request
                self.stop()
            elif self.timer is None and self.cycle.response_complete:  # a part of another
                self.timer = self.loop.call_later(seconds, self.transport.close)

        def connection_lost(self, error: Exception | None) -> None:
            self.stop()
            super().connection_lost(error)

        def stop(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
            self.timer = None

    return Impatient


def run(app: Any, sock: socket.socket, seconds: float = 10.0) -> None:
    """Serve until the process is told to stop (Ctrl-C or SIGTERM); requests under way are finished first.

    seconds: until the head of a request must be there.
    """
    import uvicorn

    config = uvicorn.Config(
        app,
        http=protocol(seconds),
        log_level="warning",
        access_log=False,
        limit_concurrency=1024,  # connections; more are answered with 503
        timeout_keep_alive=20,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=1 << 16,
        server_header=False,
        proxy_headers=False,  # a client cannot give itself another address
    )
    uvicorn.Server(config).run([sock])
