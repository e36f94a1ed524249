"""Search photos by sketches, from Python: a model, an index of its embeddings, queries by embeddings and by binary codes.

    python examples/search.py                # trains a small network on generated images first
    python examples/search.py models/mine    # with a model of yours: a folder of `zsml export --format folder`

The same from the shell, for folders of images: `zsml index`, `zsml search`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from zsml.data import load_dataset
from zsml.models import EmbeddingModel
from zsml.quantize import ITQ
from zsml.retrieval import Index
from zsml.retrieval.encoder import describe

SIZE = 48  # pixels


def main(model: str | None = None, steps: int = 120, arch: str = "resnet18") -> float:
    """Prints what was found for some sketches of classes never trained on; returns the share of right ones among the first 5."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(model) if model else train_a_little(Path(folder), steps, arch)
        width = EmbeddingModel.from_pretrained(place).embedding_dim
        index = Index.create(Path(folder) / "index", width=width, model=describe(place))  # keeps a copy of the model
        sketches, photos = (
            load_dataset("synthetic", None, "test", kind, transform=None, samples_per_class=10) for kind in ("sketch", "photo")
        )
        embeddings = index.encoder()([photos.load(number) for number in range(len(photos))], "photo")  # [N, D]
        names = [photos.classes[label] for label in photos.labels]
        index.add(embeddings, [{"path": str(path), "label": name} for path, name in zip(photos.paths, names, strict=True)])
        index.rebuild_codes(ITQ(bits=min(32, width)).fit(embeddings))

        queries = range(0, len(sketches), 10)  # the first of each class
        drawn = [sketches.load(number) for number in queries]
        asked = [sketches.classes[sketches.labels[number]] for number in queries]
        right = 0.0
        for method in ("float", "bits", "rerank"):
            hits = index.search(drawn, 5, method=method, rerank=20)
            found = [[item["label"] for item in hits.items(query)] for query in range(len(drawn))]
            shares = [labels.count(name) / 5 for labels, name in zip(found, asked, strict=True)]
            share = sum(shares) / len(shares)
            print(f"{method}: {share:.0%} of the first 5 are of the sketch's class; {asked[0]} -> {', '.join(found[0])}")
            right = share if method == "float" else right
        return right


def train_a_little(folder: Path, steps: int, arch: str) -> Path:
    """A network trained on the other classes of the generated images, as a folder to share."""
    from zsml.engine.config import TrainConfig
    from zsml.engine.embed import open_run
    from zsml.engine.train import train
    from zsml.systems import find_system

    batch = {"classes_per_batch": 12, "samples_per_modality": 3, "batches_per_epoch": steps, "epochs": 1}
    from_random = {"frozen_epochs": 0, "warmup_epochs": 0, "lr": 1e-3, "backbone_lr_factor": 1.0, "triplet_weight": 0.1}
    images = {"data": "synthetic", "samples_per_class": 30, "image_size": SIZE, "transform": "none"}
    config = TrainConfig(arch=arch, embedding_dim=64, out=folder / "run", **images, **batch, **from_random)
    run = train(config, find_system("mathm"))["run"]
    open_run(run, torch.device("cpu")).model.save_pretrained(folder / "model")
    return folder / "model"


if __name__ == "__main__":
    main(*sys.argv[1:2])
