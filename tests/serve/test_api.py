"""What the JSON API answers, and what it refuses."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_index import CIRCLE, CLASSES, CROSS, small_index

pytest.importorskip("fastapi", reason="zsml[serve] is not installed")
from starlette.testclient import TestClient

from zsml.errors import InputError
from zsml.retrieval import Index
from zsml.serve import Limits, create_app, rasterise
from zsml.serve.meter import Meter
from zsml.serve.searcher import Searcher


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Index:
    return small_index(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def client(index) -> TestClient:
    return TestClient(create_app(index, limits=Limits(results=30, rate=0)))


def png(width: int, height: int) -> bytes:
    """A PNG file that claims so many pixels and holds none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


# ---- answers -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["float", "bits", "rerank"])
def test_strokes_find_what_the_index_finds_for_the_same_picture(index, client, method):
    found = client.post("/api/search", json={"strokes": CIRCLE, "k": 7, "method": method, "rerank": 20})
    assert found.status_code == 200
    expected = index.search([rasterise(CIRCLE, 32)], 7, method=method, rerank=20, modality="sketch").items()
    results = found.json()["results"]
    assert [hit["id"] for hit in results] == [hit["id"] for hit in expected]
    assert [hit["label"] for hit in results] == [hit["label"] for hit in expected]
    assert [hit["distance"] for hit in results] == pytest.approx([hit["distance"] for hit in expected], abs=1e-5)
    assert found.json()["size"] == len(index) and found.json()["encode_ms"] > 0
    assert (found.json()["bits"] == 16) == (method == "bits")


def test_other_strokes_find_something_else(client):
    first, second = (client.post("/api/search", json={"strokes": s, "k": 30}).json()["results"] for s in (CIRCLE, CROSS))
    assert first != second


def test_an_item_is_nearest_to_itself(client):
    for method in ("float", "bits", "rerank"):
        results = client.post("/api/search", json={"id": 11, "k": 3, "method": method}).json()["results"]
        assert results[0]["distance"] == pytest.approx(0, abs=1e-3)
        assert 11 in [hit["id"] for hit in results]


def test_an_uploaded_image_is_embedded_as_what_it_is_said_to_be(index, client):
    image = Image.open(index.image_path(5))
    found = client.post("/api/search/image?k=1&modality=photo", content=encoded(image)).json()["results"]
    assert found == [{"id": 5, "label": CLASSES[1], "name": "bee_5.png", "distance": pytest.approx(0, abs=1e-3)}]
    for kind in ("JPEG", "WEBP", "GIF", "BMP"):
        assert client.post("/api/search/image", content=encoded(image, kind)).status_code == 200


def test_k_larger_than_the_index_gives_all_of_it(tmp_path):
    client = TestClient(create_app(small_index(tmp_path, count=20, bits=0)))
    assert len(client.post("/api/search", json={"strokes": CROSS, "k": 50}).json()["results"]) == 20
    refused = client.post("/api/search", json={"strokes": CROSS, "method": "bits"})
    assert refused.status_code == 400 and "binary codes" in refused.json()["error"]
    assert client.get("/api/info").json()["methods"] == ["float"]


def test_thumbnails_are_jpeg_of_a_few_sizes_and_what_is_kept_of_them_is_bounded_by_bytes(tmp_path, monkeypatch):
    index = small_index(tmp_path, bits=0)
    Image.effect_noise((900, 600), 80).save(index.image_path(3))
    client = TestClient(create_app(index, limits=Limits(rate=0)))
    sides = {}
    for side in (16, 100, 128, 129, 300, 512, 513, 1024):
        answer = client.get(f"/api/image/3?side={side}")
        assert answer.headers["content-type"] == "image/jpeg"
        assert client.get(f"/api/image/3?side={side}").content == answer.content
        sides[side] = max(Image.open(io.BytesIO(answer.content)).size)
    assert sides == {16: 128, 100: 128, 128: 128, 129: 256, 300: 512, 512: 512, 513: 900, 1024: 900}
    searcher = Searcher(index, Limits(), torch.device("cpu"), Meter())
    monkeypatch.setattr(Searcher, "KEPT_BYTES", 100)
    for number in (*range(50), 49):
        searcher._keep((number, 128), bytes(30))
    assert list(searcher._thumbnails) == [(47, 128), (48, 128), (49, 128)] and searcher._thumbnail_bytes == 90


def test_page_and_description(client):
    page = client.get("/")
    assert page.status_code == 200 and "Draw here" in page.text
    assert "http://" not in page.text and "https://" not in page.text  # nothing from elsewhere
    assert "default-src 'none'" in page.headers["content-security-policy"]
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/api/search", "/api/search/image", "/api/image/{number}", "/api/info", "/health", "/metrics"} <= set(paths)
    assert client.get("/health").json() == {"status": "ok"}
    info = client.get("/api/info").json()
    assert (info["size"], info["bits"], info["limits"]["results"]) == (40, 16, 30)


def test_metrics_count_by_route_not_by_what_clients_make_up(client):
    client.get("/api/image/1")
    client.get("/api/image/99999")
    for number in range(5):
        client.get(f"/made/up/{number}")
    text = client.get("/metrics").text
    assert 'zsml_requests_total{path="/api/image/{number}",status="404"}' in text
    assert "made" not in text and "99999" not in text
    assert "zsml_index_size 40" in text and "zsml_encode_seconds_count" in text


# ---- refusals ----------------------------------------------------------------------------------------------------------------

BAD = [
    ({}, 400, "one of strokes and id"),
    ({"strokes": CROSS, "id": 3}, 400, "one of strokes and id"),
    ({"strokes": []}, 400, "strokes is empty"),
    ({"strokes": [[]]}, 400, "strokes[0]"),
    ({"strokes": [[(0.5, 7.0)]]}, 400, "strokes[0] reaches"),
    ({"strokes": [[(0.5,)]]}, 422, "strokes.0.0"),
    ({"strokes": [[(0.5, "x")]]}, 422, "strokes.0.0.1"),
    ({"strokes": "circle"}, 422, "strokes"),
    ({"strokes": [[(0.1, 0.1)]] * 1001}, 400, "1001 strokes; at most 1000"),
    ({"strokes": [[(0.1, 0.1)] * 20_001]}, 400, "20001 points; at most 20000"),
    ({"strokes": CROSS, "k": 0}, 400, "k=0 must be from 1 to 30"),
    ({"strokes": CROSS, "k": -1}, 400, "k=-1"),
    ({"strokes": CROSS, "k": 31}, 400, "k=31"),
    ({"strokes": CROSS, "k": 10**30}, 400, "must be from 1 to 30"),
    ({"strokes": CROSS, "k": 1.5}, 422, "k: "),
    ({"strokes": CROSS, "method": "cosine"}, 422, "method: "),
    ({"strokes": CROSS, "method": "rerank", "rerank": 0}, 400, "rerank=0"),
    ({"strokes": CROSS, "colour": "red"}, 422, "colour: "),
    ({"id": 40}, 404, "no item 40"),
    ({"id": -1}, 422, "id: "),
    ({"id": 2**63}, 422, "id: "),
]


@pytest.mark.parametrize(("ask", "status", "said"), BAD, ids=range(len(BAD)))
def test_bad_searches_are_refused_with_a_reason(client, ask, status, said):
    answer = client.post("/api/search", json=ask)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text
    assert len(answer.content) < 1000
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "text", ['{"strokes": [[[NaN, 0.5]]]}', '{"strokes": [[[1e999, 0.5]]]}', "{", "", "\x00\xff", "[" * 50_000, "null"]
)
def test_garbage_instead_of_json_is_refused(client, text):
    answer = client.post("/api/search", content=text.encode("latin-1"), headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422) and answer.json()["error"]


def test_uploads_that_are_no_images_are_refused(client):
    whole = encoded(Image.effect_noise((64, 64), 50))
    cases = [
        (b"", 415, "not an image"),
        (b"hello", 415, "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not an image"),
        (whole[: len(whole) // 2], 415, "damaged"),
        (png(12_000, 9_000), 413, "108000000 pixels; at most 25000000"),
        (png(60_000, 60_000), 413, "pixels"),
        (png(24_000_000, 1), 413, "24000000 x 1 pixels; at most 20000"),
        (png(1, 20_001), 413, "at most 20000 are accepted on a side"),
        (b"\x00" * (11 << 20), 413, "larger than"),
    ]
    for data, status, said in cases:
        answer = client.post("/api/search/image", content=data)
        assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text
    assert client.post("/api/search/image?modality=painting", content=whole).status_code == 422
    assert client.post("/api/search/image?k=0", content=whole).status_code == 400
    assert client.post("/api/search/image", content=whole).status_code == 200


def test_only_files_of_the_index_are_served(index, client):
    tried = ["99", "-1", "0.5", "..%2f..%2fetc%2fpasswd", "....//etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "1%00.png", str(2**64)]
    for number in tried:
        answer = client.get(f"/api/image/{number}")
        assert answer.status_code in (404, 422), number
        assert "passwd" not in answer.text and str(index.folder) not in answer.text
    for side in (0, 15, 1025, 10**9):
        assert client.get(f"/api/image/1?side={side}").status_code == 422


def test_an_image_that_is_gone_is_not_found_and_its_path_not_told(tmp_path):
    index = small_index(tmp_path, bits=0)
    client = TestClient(create_app(index))
    index.image_path(2).unlink()
    answer = client.get("/api/image/2")
    assert answer.status_code == 404 and str(tmp_path) not in answer.text
    assert client.post("/api/search", json={"id": 2}).status_code == 200  # its embedding is there still
    assert str(tmp_path) not in client.post("/api/search", json={"id": 2}).text


def test_a_fault_of_the_server_is_a_500_that_tells_nothing_and_it_goes_on(index, client, monkeypatch, capsys):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    with monkeypatch.context() as broken:
        broken.setattr(type(index), "search", fail)
        answer = client.post("/api/search", json={"strokes": CROSS})
    assert answer.status_code == 500 and "secret" not in answer.text
    assert "secret" in capsys.readouterr().err
    assert client.post("/api/search", json={"strokes": CROSS}).status_code == 200


def test_a_damaged_index_is_a_500_that_says_so_and_never_a_distance_of_null(tmp_path):
    index = small_index(tmp_path)
    client = TestClient(create_app(index, limits=Limits(rate=0)))
    index.shards[0].embedding[3] = torch.nan
    for ask in ({"strokes": CROSS}, {"strokes": CROSS, "method": "rerank"}, {"id": 3}, {"id": 3, "method": "bits"}):
        answer = client.post("/api/search", json={**ask, "k": 40})
        assert answer.status_code == 500 and "damaged" in answer.json()["error"] and "zsml index verify" in answer.text
    assert client.post("/api/search", json={"strokes": CROSS, "method": "bits"}).status_code == 200


def test_create_app_refuses_what_it_cannot_use(tmp_path, index):
    bare = Index.create(tmp_path / "bare", width=4)
    bare.add(torch.eye(4), [{"path": f"{n}.png", "label": ""} for n in range(4)])
    with pytest.raises(InputError, match="no model"):
        create_app(bare)
    with pytest.raises(InputError, match="token is empty"):
        create_app(index, token=" ")
    with pytest.raises(TypeError, match="limits must be"):
        create_app(index, limits={"results": 3})


def test_the_answer_is_json_of_plain_numbers(client):
    answer = client.post("/api/search", json={"strokes": CIRCLE, "k": 2, "method": "bits"})
    assert all(isinstance(hit["distance"], int) for hit in json.loads(answer.text)["results"])
    assert not any("/" in hit["name"] for hit in answer.json()["results"]) and Path(answer.json()["results"][0]["name"]).suffix
