"""zsml in a LightningModule: the network, the loss and the evaluation; Lightning runs the rest.

    pip install lightning && python examples/lightning_module.py

It is written for one device; what changes on several is in the README, "Large batches, several GPUs".
"""

from __future__ import annotations

import lightning
import torch
from torch.utils.data import ConcatDataset, DataLoader

from zsml.data import ClassModalityBatchSampler, load_dataset
from zsml.losses import MATHMLoss
from zsml.metrics import evaluate_retrieval
from zsml.models import create_model

SIZE = 48  # pixels
IMAGES = {"image_size": SIZE, "samples_per_class": 20}


class SketchToPhoto(lightning.LightningModule):
    """Cross-entropy and hard triplets across sketches and photos; validated by retrieving classes that are not trained on."""

    def __init__(self, classes: int, arch: str = "resnet18"):
        super().__init__()
        self.model = create_model(arch, num_classes=classes, embedding_dim=64)
        self.criterion = MATHMLoss()
        self.parts: list[tuple[torch.Tensor, ...]] = []

    def training_step(self, batch, _):
        images, labels, modality = batch
        output = self.model(images, modality)
        triplets = self.criterion(output.embedding, labels, modality)
        loss = torch.nn.functional.cross_entropy(output.logits, labels) + 0.1 * triplets
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, _):
        images, labels, modality = batch
        embedding = torch.nn.functional.normalize(self.model(images, modality).embedding, dim=1)
        self.parts.append((embedding, labels, modality))

    def on_validation_epoch_end(self):
        embedding, labels, modality = (torch.cat(part) for part in zip(*self.parts, strict=True))
        self.parts.clear()
        sketch, photo = modality == 0, modality == 1
        result = evaluate_retrieval(embedding[sketch], labels[sketch], embedding[photo], labels[photo], preset="mathm")
        self.log_dict({"unseen_map": result.map, "chance": result.chance_map})

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.0)


def both(part: str, transform: str) -> ConcatDataset:
    """Generated sketches and photos."""
    return ConcatDataset([load_dataset("synthetic", None, part, k, transform=transform, **IMAGES) for k in ("sketch", "photo")])


def main(steps: int = 120, arch: str = "resnet18") -> float:
    lightning.seed_everything(0)
    train, test = both("train", "none"), both("test", "test")
    labels = torch.cat([side.labels for side in train.datasets])
    modality = torch.cat([torch.full_like(side.labels, side.modality) for side in train.datasets])
    batches = ClassModalityBatchSampler(labels, modality, classes_per_batch=12, samples_per_modality=3, batches_per_epoch=steps)
    module = SketchToPhoto(len(train.datasets[0].classes), arch)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=1, num_sanity_val_steps=0, **quiet)
    trainer.fit(module, DataLoader(train, batch_sampler=batches), DataLoader(test, batch_size=100))
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    print(f"unseen classes: mAP {found['unseen_map']:.3f} (chance {found['chance']:.3f})")
    return found["unseen_map"]


if __name__ == "__main__":
    main()
