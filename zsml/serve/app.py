"""The server as a FastAPI application: the page, the JSON API, health and metrics."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import partial
from importlib.resources import files
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

import zsml
from zsml.errors import InputError
from zsml.serve.guard import COOKIE, Guard, check_token, fingerprint, same
from zsml.serve.limits import Limits, Refused
from zsml.serve.meter import Meter
from zsml.serve.rasterise import rasterise
from zsml.serve.searcher import Searcher

try:
    from fastapi import FastAPI, Path, Query, Request
    from fastapi.exceptions import RequestValidationError
    from pydantic import BaseModel, ConfigDict, Field
    from starlette.exceptions import HTTPException
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
except ImportError as error:
    raise InputError(f"the page needs packages that are not installed ({error.name}): pip install 'zsml[serve]'") from error

Number = Annotated[float, Field(allow_inf_nan=False)]
Id = Annotated[int, Field(ge=0, lt=1 << 62)]
Method = Literal["float", "bits", "rerank"]


class Ask(BaseModel):
    """A search by strokes, or by an item of the index."""

    model_config = ConfigDict(extra="forbid")
    strokes: list[list[tuple[Number, Number]]] | None = Field(None, description="points (x, y), from (0, 0) top left to (1, 1)")
    id: Id | None = Field(None, description="an item, whose neighbours are wanted")
    fit: bool = Field(True, description="place and scale the strokes as training sketches are")
    k: int = Field(20, description="results")
    method: Method = "float"
    rerank: int = Field(200, description="with method rerank: candidates by binary code that are compared again by embedding")


class Hit(BaseModel):
    """An item of the index. distance: Euclidean between embeddings; with method bits, of codes: the bits that differ."""

    id: int
    label: str
    name: str
    distance: float | int


class Answer(BaseModel):
    """The nearest first. encode_ms: from the query to its embedding; search_ms: from there to the items."""

    results: list[Hit]
    method: Method
    bits: int | None
    size: int
    encode_ms: float
    search_ms: float


class Problem(BaseModel):
    """Why a request was not answered."""

    error: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": why}
    for status, why in (
        (400, "the request makes no sense: k, strokes, method"),
        (401, "a token is needed"),
        (404, "no such item"),
        (408, "the body did not arrive in time"),
        (413, "more bytes or pixels than are taken"),
        (415, "not an image"),
        (422, "not of the form described here"),
        (429, "too many requests, or too many searches waiting"),
        (500, "the server failed, or its index is damaged"),
    )
}


def create_app(
    index: Any,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    device: Any = "cpu",
    hosts: tuple[str, ...] | None = None,
) -> FastAPI:
    """A FastAPI application that searches an index.

    Args:
        index: a `zsml.retrieval.Index` with a model.
        token: what clients must know, printable ASCII without spaces; None: anybody may ask.
        limits: what is refused; None: the defaults of :class:`Limits`.
        device: where queries are embedded.
        hosts: the names it goes by, those allowed in a request's Host header; None: any.

    Raises:
        InputError: the index has no model, it is damaged, or the token is empty or not printable ASCII without spaces.
        TypeError: limits or the token is something else.
    """
    import torch

    limits = Limits() if limits is None else limits
    if not isinstance(limits, Limits):
        raise TypeError(f"limits must be zsml.serve.Limits, got {type(limits).__name__}")
    if token is not None:
        check_token(token)
    meter = Meter()
    searcher = Searcher(index, limits, torch.device(device), meter)
    app = FastAPI(title="zsml", version=zsml.__version__, docs_url=None, redoc_url=None, description="Search images by drawing.")
    app.state.meter = meter
    app.add_middleware(Guard, limits=limits, meter=meter, token=token, hosts=hosts, policy=_policy(_page("page.html"), LOGIN))
    app.add_exception_handler(InputError, _input_error)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _http_error)
    _add_pages(app, token)
    _add_state(app, searcher)
    _add_search(app, searcher)
    return app


# ---- routes ------------------------------------------------------------------------------------------------------------------


def _add_pages(app: FastAPI, token: str | None) -> None:
    page = _page("page.html")

    @app.get("/", include_in_schema=False)
    async def draw() -> Response:
        return HTMLResponse(page, headers={"Cache-Control": "no-cache"})

    @app.get("/login", include_in_schema=False)
    async def login() -> Response:
        return HTMLResponse(LOGIN.replace("<!--wrong-->", ""), headers={"Cache-Control": "no-store"})

    @app.post("/login", include_in_schema=False)
    async def log_in(request: Request) -> Response:
        given = parse_qs((await request.body()).decode("utf-8", "replace")).get("token", [""])[0]
        if token is not None and not same(fingerprint(given.strip()), fingerprint(token)):
            return HTMLResponse(LOGIN.replace("<!--wrong-->", "<p role=alert>That is not the token.</p>"), status_code=401)
        answer = RedirectResponse("/", status_code=303)
        if token is not None:
            secure = request.url.scheme == "https"
            answer.set_cookie(COOKIE, fingerprint(token), httponly=True, samesite="strict", secure=secure)
        return answer


def _add_state(app: FastAPI, searcher: Searcher) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server answers; needs no token."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Counters and times in the text format of Prometheus."""
        return searcher.meter.text(index_size=len(searcher.index), searches_inside=searcher.gate.inside)

    @app.get("/api/info", responses=PROBLEMS)
    async def info() -> dict[str, Any]:
        """What can be searched, how, and what the limits are."""
        limits = searcher.limits
        return {
            "version": zsml.__version__,
            "size": len(searcher.index),
            "bits": searcher.bits,
            "methods": searcher.methods(),
            "device": str(searcher.device),
            "limits": {name: getattr(limits, name) for name in ("results", "strokes", "points", "upload_bytes", "pixels")},
        }

    @app.get("/api/image/{number}", responses={200: {"content": {"image/jpeg": {}}}, **PROBLEMS}, response_class=Response)
    async def image(
        number: Annotated[int, Path(ge=0, lt=1 << 62)], side: Annotated[int, Query(ge=16, le=1024)] = 256
    ) -> Response:
        """The image of an item, at most `side` pixels wide and high, rounded up to the next of 128, 256, 512 and 1024.

        Only what the index lists can be had.
        """
        data = await searcher.thumbnail(number, side)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"})


def _add_search(app: FastAPI, searcher: Searcher) -> None:
    @app.post("/api/search", responses=PROBLEMS)
    async def search(ask: Ask, request: Request) -> Answer:
        """The items nearest to a drawing, or to an item of the index: exactly one of `strokes` and `id` must be given."""
        if (ask.strokes is None) == (ask.id is None):
            raise InputError("give one of strokes and id")
        if ask.id is not None:
            query, modality = ask.id, "photo"
        else:
            query, modality = partial(rasterise, ask.strokes, searcher.sheet, fit=ask.fit, limits=searcher.limits), "sketch"
        options = {"k": ask.k, "method": ask.method, "rerank": ask.rerank, "gone": request.is_disconnected}
        return Answer(**await searcher.answer(query, modality=modality, **options))

    body = {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}

    @app.post("/api/search/image", responses=PROBLEMS, openapi_extra={"requestBody": body})
    async def search_image(
        request: Request,
        k: int = 20,
        method: Method = "float",
        rerank: int = 200,
        modality: Literal["sketch", "photo"] = "sketch",
    ) -> Answer:
        """The items nearest to an image, which is the body of the request: JPEG, PNG, WebP, GIF or BMP."""
        options = {"k": k, "method": method, "rerank": rerank, "gone": request.is_disconnected}
        return Answer(**await searcher.answer(await request.body(), modality=modality, **options))


# ---- errors ------------------------------------------------------------------------------------------------------------------


async def _input_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


async def _refused(_: Request, error: Any) -> Response:
    return JSONResponse({"error": error.message}, error.status, error.headers)


async def _not_valid(_: Request, error: Any) -> Response:
    """The first problem in words. What came is not repeated: it may be large, or a NaN that JSON has no word for."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return JSONResponse({"error": f"{where or 'the request'}: {first['msg']}"}, 422)


async def _http_error(_: Request, error: Any) -> Response:
    return JSONResponse({"error": str(error.detail).lower()}, error.status_code, error.headers)


# ---- pages -------------------------------------------------------------------------------------------------------------------


def _page(name: str) -> str:
    return (files("zsml.serve") / name).read_text(encoding="utf-8")


LOGIN = _page("login.html")


def _policy(*pages: str) -> str:
    """A Content-Security-Policy under which nothing runs but the scripts and styles of these pages, and nothing leaves."""
    hashes = {
        tag: " ".join(
            f"'sha256-{_digest(text)}'" for page in pages for text in re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        )
        for tag in ("script", "style")
    }
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
