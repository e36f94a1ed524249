"""A small index of small images, embedded by a network with random weights, for tests of the server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from zsml.models import Preprocessing, create_model, save_model
from zsml.quantize import ITQ
from zsml.retrieval import Index
from zsml.retrieval.encoder import Encoder, describe

CLASSES = ("ant", "bee", "cow", "dog")
SIDE = 32
CIRCLE = [[(0.5 + 0.3 * np.cos(t), 0.5 + 0.3 * np.sin(t)) for t in np.linspace(0, 6.3, 30)]]
CROSS = [[(0.1, 0.1), (0.9, 0.9)], [(0.1, 0.9), (0.9, 0.1)]]


def small_index(folder: Path, count: int = 40, bits: int = 16) -> Index:
    """An index folder/index of folder/images/<class>_<n>.png, which are noise of a colour per class."""
    torch.manual_seed(0)
    model = create_model("test_resnet", num_classes=2, embedding_dim=24).eval()
    save_model(model, folder / "model")
    (folder / "images").mkdir()
    images, items = [], []
    for number in range(count):
        label = CLASSES[number % len(CLASSES)]
        random = np.random.RandomState(number)
        pixels = random.randint(0, 256, (8, 8, 3)) * random.rand(3)
        images.append(Image.fromarray(pixels.astype("uint8")).resize((48, 40)))
        path = folder / "images" / f"{label}_{number}.png"
        images[-1].save(path)
        items.append({"path": str(path), "label": label})
    prepared = Preprocessing(image_size=SIDE)
    embeddings = Encoder(model, prepared)(images, "photo")
    quantizer = ITQ(bits).fit(embeddings) if bits else None
    made = describe(folder / "model", preprocessing=prepared)
    index = Index.create(folder / "index", width=24, dtype="float32", model=made, quantizer=quantizer)
    index.add(embeddings, items)
    return index


@contextmanager
def serving(app: Any, seconds: float = 30.0, **options: Any) -> Iterator[str]:
    """The application on a free port of this machine, at the address given; it ends with the block, or after so long.

    options: of uvicorn.
    """
    import uvicorn

    from zsml.serve.listen import bind, url

    with bind("127.0.0.1", 0) as sock:
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, **options)
        server = uvicorn.Server(config)
        limit = threading.Timer(seconds, setattr, (server, "should_exit", True))
        thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
        limit.start()
        thread.start()
        try:
            for _ in range(200):
                if server.started:
                    break
                time.sleep(0.02)
            assert server.started
            yield url(sock)
        finally:
            limit.cancel()
            server.should_exit = True
            thread.join(5)
