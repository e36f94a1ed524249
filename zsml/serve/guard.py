"""What stands before the application: who may ask, how often, and how much; and the headers of every answer."""

from __future__ import annotations

import hashlib
import hmac
import json
import traceback
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

import anyio

from zsml.errors import InputError
from zsml.serve.limits import Limits, Rate, Refused
from zsml.serve.meter import Meter

COOKIE = "zsml_token"
OPEN = ("/health", "/login")  # what needs no token
COST = {"/login": 10.0}  # requests it counts as; a guess at the token is to be slow
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Guard:
    """An ASGI application around another.

    hosts: names this server goes by; a request for another name is refused, so that a page of another site whose name was
    made to point here cannot read the index ("DNS rebinding"). None: any.
    """

    def __init__(self, app: Any, *, limits: Limits, meter: Meter, token: str | None, hosts: Iterable[str] | None, policy: str):
        self.app, self.limits, self.meter = app, limits, meter
        self.key = None if token is None else fingerprint(token)
        self.hosts = None if hosts is None else frozenset(hosts)
        self.rate, self.held = Rate(limits.rate, limits.burst), 0
        self.headers = [
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"content-security-policy", policy.encode()),
        ]

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        started = False

        async def answer(message: dict) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                route = getattr(scope.get("route"), "path", "other")
                self.meter.request(route, message["status"])
                message = {**message, "headers": [*message.get("headers", ()), *self.headers]}
            await send(message)

        size = 0
        try:
            self._admit(scope)
            if scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
                body = await self._body(scope, receive)
                size, receive = len(body), _replay(body, receive)
            await self.app(scope, receive, answer)
        except Refused as error:
            await refuse(error, answer)
        except Exception:  # a fault of ours: it is shown here, not to the client, and the server goes on
            traceback.print_exc()
            if not started:
                await refuse(Refused(500, "the server failed at this; its log says where"), answer)
        finally:
            self.held -= size

    def _admit(self, scope: dict) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if self.hosts is not None and _hostname(headers.get(b"host", "")) not in self.hosts:
            raise Refused(
                400, "this server does not go by the name in the Host header; `zsml serve --host` says where it listens"
            )
        client = (scope.get("client") or ("", 0))[0]
        path = scope["path"]
        wait = self.rate.take(client, 0.05 if path.startswith("/api/image/") else COST.get(path, 1.0))
        if wait:
            raise Refused(
                429, f"more than {self.limits.rate:g} requests a second; slow down", {"Retry-After": f"{int(wait) + 1}"}
            )
        if self.key is not None and path not in OPEN and not self._knows(headers):
            if path == "/":  # a person at a browser
                raise Refused(303, "a token is needed", {"Location": "/login"})
            raise Refused(401, "a token is needed: send `Authorization: Bearer TOKEN`", {"WWW-Authenticate": "Bearer"})

    def _knows(self, headers: dict[bytes, str]) -> bool:
        kind, _, token = headers.get(b"authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return same(fingerprint(token.strip()), self.key)
        try:
            cookie = SimpleCookie(headers.get(b"cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and same(cookie.value, self.key)

    async def _body(self, scope: dict, receive: Any) -> bytes:
        """The whole body, no more than the limits allow; what is held of all bodies is in `self.held`."""
        limit = self.limits.upload_bytes if scope["path"] == "/api/search/image" else self.limits.json_bytes
        too_much = Refused(413, f"the request is larger than {limit} bytes", {"Connection": "close"})
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if said.isdigit() and int(said[:20]) > limit:
            raise too_much
        chunks, size = [], 0
        try:
            with anyio.fail_after(self.limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "the client went away")
                    chunk = message.get("body", b"")
                    size, self.held = size + len(chunk), self.held + len(chunk)
                    chunks.append(chunk)
                    if size > limit:
                        raise too_much
                    if self.held > self.limits.held_bytes:
                        raise Refused(429, "too many uploads at one time; try again", {"Retry-After": "1", "Connection": "close"})
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except BaseException as error:
            self.held -= size
            if isinstance(error, TimeoutError):
                raise Refused(
                    408, f"the request was not complete after {self.limits.seconds:g} s", {"Connection": "close"}
                ) from None
            raise


def check_token(token: str) -> None:
    """A token must be one that a person can enter and that a header can carry.

    Raises:
        InputError: it is empty, or has a character other than printable ASCII without the space.
        TypeError: it is no string.

    >>> check_token("sesame")
    """
    if not isinstance(token, str):
        raise TypeError(f"token must be a str or None, got {type(token).__name__}")
    if not token.strip():
        raise InputError("--token is empty; give one of at least a few characters, or none")
    for place, character in enumerate(token, 1):
        if not "!" <= character <= "~":  # which one it is is said, the token is not repeated: it is a secret
            raise InputError(f"--token has {character!a} at place {place}; accepted is printable ASCII without spaces")


def fingerprint(token: str) -> str:
    """What is compared, and what the cookie holds, instead of the token itself.

    >>> len(fingerprint("secret"))
    64
    """
    return hashlib.sha256(b"zsml serve\0" + token.encode("utf-8", "surrogatepass")).hexdigest()


def same(given: str, key: str | None) -> bool:
    """Whether two fingerprints are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), (key or "").encode())


async def refuse(error: Refused, send: Any) -> None:
    """Send a refusal as JSON: {"error": why}."""
    headers = {"content-type": "application/json", "cache-control": "no-store", **error.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": json.dumps({"error": error.message}).encode()})


def _replay(body: bytes, receive: Any) -> Any:
    sent = False

    async def again() -> dict:
        nonlocal sent
        if sent:
            return await receive()  # from here on: whether the client has gone
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
