"""zsml inside a training loop of your own: any model, any data, one loss and one evaluation call.

    python examples/own_training_loop.py

Trains a small timm backbone on generated sketches and photos for a minute or two, and retrieves photos of classes it never saw.
"""

from __future__ import annotations

import timm
import torch
from torch.utils.data import ConcatDataset, DataLoader

from zsml.data import ClassModalityBatchSampler, load_dataset
from zsml.losses import MATHMLoss
from zsml.metrics import evaluate_retrieval

SIZE = 48  # pixels


def main(steps: int = 120) -> tuple[float, float]:
    torch.manual_seed(0)
    sketches, photos = (
        load_dataset("synthetic", None, "train", kind, transform="none", image_size=SIZE) for kind in ("sketch", "photo")
    )
    batches = ClassModalityBatchSampler(
        torch.cat([sketches.labels, photos.labels]),
        torch.cat([torch.full_like(sketches.labels, sketches.modality), torch.full_like(photos.labels, photos.modality)]),
        classes_per_batch=12,
        samples_per_modality=3,
        batches_per_epoch=steps,
    )

    model = timm.create_model("resnet18", num_classes=64)  # its last layer is the embedding
    classifier = torch.nn.Linear(64, len(sketches.classes))
    criterion = MATHMLoss()
    optimizer = torch.optim.AdamW([*model.parameters(), *classifier.parameters()], lr=1e-3, weight_decay=0.0)
    before = retrieve(model)
    model.train()
    for images, labels, modality in DataLoader(ConcatDataset([sketches, photos]), batch_sampler=batches, num_workers=1):
        embeddings = model(images)
        # From random weights the hardest pairs are noise at first: cross-entropy leads, the triplets help.
        loss = torch.nn.functional.cross_entropy(classifier(embeddings), labels) + 0.1 * criterion(embeddings, labels, modality)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, retrieve(model)


@torch.no_grad()
def retrieve(model: torch.nn.Module) -> float:
    """mAP of sketches against photos of the unseen classes, 20 images of each class and kind."""
    model.eval()
    sides = []
    for kind in ("sketch", "photo"):
        part = load_dataset("synthetic", None, "test", kind, image_size=SIZE, samples_per_class=20)
        embedded = torch.cat([model(images) for images, _, _ in DataLoader(part, batch_size=100)])
        sides += [torch.nn.functional.normalize(embedded, dim=1), part.labels]
    result = evaluate_retrieval(*sides, preset="mathm")
    print(f"unseen classes, {len(sides[1])} queries: mAP {result.map:.3f} (chance {result.chance_map:.3f})")
    return result.map


if __name__ == "__main__":
    main()
