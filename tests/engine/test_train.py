from __future__ import annotations

import csv
import json
import math
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny_data import tiny_config
from torch.nn import functional as F

from zsml.engine.checkpoint import newest_checkpoint
from zsml.engine.config import TrainConfig
from zsml.engine.config_file import merged, read_toml
from zsml.engine.loader import training_batches
from zsml.engine.stopping import TrainingFailed
from zsml.engine.train import train
from zsml.errors import CorruptImage, InputError
from zsml.losses import ModalityTripletLoss
from zsml.systems import SYSTEMS

CPU = torch.device("cpu")


def run(config: TrainConfig, **options: bool) -> dict[str, object]:
    return train(config, SYSTEMS[config.system], **options)


def weights(result: dict[str, object]) -> dict[str, torch.Tensor]:
    from pathlib import Path

    return load_file(Path(result["checkpoint"]) / "model.safetensors")


def initial_model(config: TrainConfig) -> torch.nn.Module:
    torch.manual_seed(config.seed)
    return SYSTEMS[config.system].build_model(config, 4)


def test_a_run_leaves_its_settings_its_logs_and_its_last_checkpoint(tiny_folder, tmp_path):
    config = tiny_config(tiny_folder, tmp_path / "run", evaluate_every=2)
    result = run(config)
    out = tmp_path / "run"
    assert (result["epochs"], result["steps"], result["skipped_images"]) == (2, 8, 0)
    assert merged(read_toml(out / "config.toml")) == config
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000008"]

    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    assert [row["step"] for row in steps] == list(range(1, 9))
    assert all(row["loss"] == pytest.approx(row["classification"] + row["triplet"], rel=1e-5) for row in steps)
    epochs = list(csv.DictReader((out / "log.csv").open()))
    assert [(row["epoch"], row["step"]) for row in epochs] == [("1", "4"), ("2", "8")]
    assert float(epochs[1]["loss"]) == pytest.approx(sum(row["loss"] for row in steps[4:]) / 4)
    assert epochs[0]["unseen_map"] == "" and 0 < float(epochs[1]["unseen_map"]) <= 1


def test_training_learns_the_seen_classes(tiny_folder, tmp_path):
    run(tiny_config(tiny_folder, tmp_path, epochs=6, batches_per_epoch=10, lr=3e-3, backbone_lr_factor=1.0, transform="test"))
    losses = [float(row["classification"]) for row in csv.DictReader((tmp_path / "log.csv").open())]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_weights_are_those_of_a_loop_written_by_hand(tiny_folder, tmp_path, accumulate):
    config = tiny_config(tiny_folder, tmp_path, system="baseline", epochs=1, accumulate=accumulate, margin=0.3, beta=0.0,
                         triplet_weight=0.7)  # fmt: skip
    trained = weights(run(config))

    batches, order, classes = training_batches(config, CPU)
    assert classes == ["ant", "bee", "cow", "dog"]
    model = initial_model(config).to(memory_format=torch.channels_last).train()
    triplet = ModalityTripletLoss(terms=("within",), margin=0.3)
    optimizer = torch.optim.Adam(
        [{"params": model.new_parameters(), "lr": 1e-3}, {"params": model.backbone_parameters(), "lr": 5e-4}],
        weight_decay=5e-4,
    )
    order.start_at(0)
    for step, (images, labels, modality, _) in enumerate(batches):
        output = model(images.to(memory_format=torch.channels_last), modality)
        loss = F.cross_entropy(output.logits, labels) + 0.7 * triplet(output.embedding, labels, modality)
        (loss / accumulate).backward()
        if step % accumulate == accumulate - 1:
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(trained[name], value) for name, value in model.state_dict().items())


def test_frozen_epochs_change_new_parameters_only(tiny_folder, tmp_path):
    config = tiny_config(tiny_folder, tmp_path, epochs=1, frozen_epochs=1)
    trained, model = weights(run(config)), initial_model(config)
    new = {id(parameter) for parameter in model.new_parameters()}
    for name, parameter in model.named_parameters():
        assert torch.equal(trained[name], parameter) != (id(parameter) in new), name
    for name, buffer in model.named_buffers():  # statistics of a frozen backbone stand still too
        assert torch.equal(trained[name], buffer), name


def test_learning_rates_follow_the_schedule(tiny_folder, tmp_path):
    run(tiny_config(tiny_folder, tmp_path, epochs=4, batches_per_epoch=1))
    factors = [float(row["lr_factor"]) for row in csv.DictReader((tmp_path / "log.csv").open())]
    assert factors == pytest.approx([(1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)])


def test_mixed_precision_keeps_float32_weights(tiny_folder, tmp_path):
    plain = weights(run(tiny_config(tiny_folder, tmp_path / "plain", epochs=1, batches_per_epoch=1)))
    mixed = weights(run(tiny_config(tiny_folder, tmp_path / "mixed", epochs=1, batches_per_epoch=1, amp="bf16")))
    assert all(mixed[name].dtype == value.dtype for name, value in plain.items())
    assert any(not torch.equal(mixed[name], value) for name, value in plain.items())


def test_seeds_decide_everything(tiny_folder, tmp_path):
    same, other = (run(tiny_config(tiny_folder, tmp_path / f"run{n}", seed=seed)) for n, seed in enumerate((0, 1)))
    again = run(tiny_config(tiny_folder, tmp_path / "again", seed=0, workers=2))
    assert all(torch.equal(weights(again)[name], value) for name, value in weights(same).items())
    assert not torch.equal(weights(other)["bottleneck.weight"], weights(same)["bottleneck.weight"])


def test_a_loss_that_is_not_finite_stops_the_run(tiny_folder, tmp_path):
    with pytest.raises(TrainingFailed, match=r"the loss is not finite in epoch \d, batch \d.*Try a lower --lr"):
        run(tiny_config(tiny_folder, tmp_path, lr=1e30, epochs=4))


def test_a_corrupt_image_is_skipped_and_counted_or_ends_a_strict_run(tiny_folder, tmp_path):
    import shutil

    root = tmp_path / "data"
    shutil.copytree(tiny_folder, root)
    for path in (root / "sketch" / "ant").iterdir():
        if path.name != "00.png":
            path.write_bytes(b"no image")
    result = run(tiny_config(root, tmp_path / "run", epochs=1, batches_per_epoch=6))
    assert 0 < result["skipped_images"] < 6 * 12
    with pytest.raises(CorruptImage, match="ant"):
        run(tiny_config(root, tmp_path / "strict", strict_images=True, batches_per_epoch=6))


def test_a_folder_with_a_run_is_not_overwritten(tiny_folder, tmp_path):
    config = tiny_config(tiny_folder, tmp_path, epochs=1, batches_per_epoch=1)
    run(config)
    before = newest_checkpoint(tmp_path).stat().st_mtime_ns
    with pytest.raises(InputError, match="already holds a run; go on with it by --resume"):
        run(config)
    assert newest_checkpoint(tmp_path).stat().st_mtime_ns == before


def test_a_folder_that_cannot_be_made_is_named(tiny_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--out '.*file/run' cannot be made a folder: Not a directory"):
        run(tiny_config(tiny_folder, tmp_path / "file" / "run"))


def test_more_classes_per_batch_than_there_are_is_refused(tiny_folder, tmp_path):
    with pytest.raises(InputError, match="classes_per_batch"):
        run(tiny_config(tiny_folder, tmp_path, classes_per_batch=5))


def test_the_conditional_backbone_trains_too(tiny_folder, tmp_path):
    config = tiny_config(tiny_folder, tmp_path, arch="cse_resnet50", epochs=1, batches_per_epoch=2)
    trained, model = weights(run(config)), initial_model(config)
    tags = [name for name, _ in model.named_parameters() if ".fc_tag." in name]
    assert len(tags) == 16
    assert all(not torch.equal(trained[name], model.state_dict()[name]) for name in tags)


def test_tensorboard_events_are_optional(tiny_folder, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")  # an extra
    run(tiny_config(tiny_folder, tmp_path / "run", epochs=1, batches_per_epoch=1, tensorboard=True))
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(InputError, match="--tensorboard needs a package that is not installed: pip install tensorboard"):
        tiny_config(tiny_folder, tmp_path, tensorboard=True).validate()
