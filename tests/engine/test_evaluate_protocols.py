"""Evaluation by mirror images, clusters and codes from class centres, and in a gallery with the seen classes."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from tiny_data import CLASSES, tiny_config
from torch.nn.functional import normalize

from zsml.engine.binary import BinaryOptions, Coder, class_centers
from zsml.engine.clusters import ClusterOptions, cluster_options, parse_cells
from zsml.engine.embed import embed, load_part, open_run
from zsml.engine.evaluate import evaluate
from zsml.engine.report import query_examples, write_run_report
from zsml.engine.train import train
from zsml.errors import InputError
from zsml.losses import MEMSLoss
from zsml.metrics import evaluate_distances, evaluate_retrieval
from zsml.quantize import ITQ, CentreHash
from zsml.retrieval import ClusterMatcher
from zsml.systems import MATHM, System

CPU = torch.device("cpu")
LABELS = torch.tensor([0] * 14 + [1] * 14)


class Centres(torch.nn.Module):
    def __init__(self, classes: int, width: int):
        super().__init__()
        self.loss = MEMSLoss(classes, width, margin=1.0)

    def forward(self, model, images, labels, modality):
        loss = self.loss(model(images, modality).embedding.float(), labels, modality)
        return loss, {"softmax": loss}


class WithCentres(System):
    name, source, summary, protocol = "mathm", "", "a margin softmax over class centres", "mems"
    settings = MATHM.settings

    def build_objective(self, config, classes):
        return Centres(len(classes), config.embedding_dim)


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train(tiny_config(tiny_folder, out, epochs=1), WithCentres())
    return open_run(out, CPU)


def raw(run, part: str, modality: str, flipped: bool = False) -> torch.Tensor:
    """Embeddings as the network gives them, one image at a time."""
    dataset = load_part(run.config, part, modality)
    with torch.no_grad():
        images = ((image.flip(2) if flipped else image, kind) for image, _, kind in dataset)
        return torch.stack([run.model(image[None], torch.tensor([kind])).embedding[0] for image, kind in images])


@pytest.mark.parametrize("unit", [False, True])
def test_embeddings_of_mirror_images(run, unit):
    dataset = load_part(run.config, "test", "photo")
    pair = torch.stack([raw(run, "test", "photo"), raw(run, "test", "photo", flipped=True)], dim=1)
    for mirror, expected in (("none", pair[:, 0]), ("min", pair), ("mean", pair.mean(dim=1))):
        found = embed(run.model, dataset, device=CPU, batch_size=5, normalize=unit, mirror=mirror).embedding
        torch.testing.assert_close(found, normalize(expected, dim=-1) if unit else expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("distance", [None, "cosine"])
def test_the_protocol_of_mems_is_the_least_of_four_raw_distances(run, distance):
    sketch, photo = ([raw(run, "test", kind, flipped) for flipped in (False, True)] for kind in ("sketch", "photo"))
    if distance == "cosine":
        sketch, photo = ([normalize(x) for x in side] for side in (sketch, photo))
    four = torch.stack([torch.cdist(a.double(), b.double()) for a in sketch for b in photo])
    relevance = LABELS[four.amin(dim=0).argsort(dim=1)] == LABELS[:, None]
    precision = relevance.cumsum(dim=1) / torch.arange(1, 29)
    expected = float(((precision * relevance).sum(dim=1) / 14).mean())
    evaluation = evaluate(run.model, run.config, device=CPU, preset="mems", distance=distance)
    result = evaluation.results["sketch->photo"]
    assert result.map == pytest.approx(expected, abs=1e-3) and result.precision == {} and result.map_at == {}
    kind = "Angle" if distance else "Squared Euclidean distance"
    assert f": {kind}, the least over image and mirror image of both sides" in result.protocol.sentence()
    example = query_examples(evaluation.directions[0], 1, 0, evaluation.protocol.distance)[0]
    shown = [away for *_, away in example.results]
    by_hand = four.amin(dim=0) ** 2 if distance is None else 2 * torch.asin(four.amin(dim=0) / 2)
    assert (by_hand.sort(dim=1).values[:, :10] - torch.tensor(shown)).abs().amax(dim=1).min() < 1e-3


def test_codes_from_class_centres(run, monkeypatch):
    monkeypatch.setattr("zsml.engine.binary.CentreHash", partial(CentreHash, steps=300))
    centers = class_centers(run.checkpoint)
    assert centers.shape == (4, 16)
    options = {"device": CPU, "preset": "mems", "binary": BinaryOptions(8, fit="centers"), "centers": centers}
    result = evaluate(run.model, run.config, **options).results["sketch->photo, 8 bits"]
    hash_map = CentreHash(bits=8, steps=300).fit(centers)
    codes = [
        hash_map.transform((raw(run, "test", kind) + raw(run, "test", kind, flipped=True)) / 2) for kind in ("sketch", "photo")
    ]
    by_hand = evaluate_retrieval(codes[0], LABELS, codes[1], LABELS, distance="hamming", preset="mems")
    assert result.map == pytest.approx(by_hand.map, abs=0.02)  # one image at a time the last digit differs, and so may a bit
    assert result.protocol.distance == "hamming"
    with pytest.raises(InputError, match="--itq-fit centers needs class centres"):
        evaluate(run.model, run.config, **{**options, "centers": None})


@pytest.mark.parametrize(("update", "seed"), [("procrustes", 0), ("released", 50)])
def test_released_codes_have_the_published_start(update, seed):
    query, gallery = torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(0)).unbind()
    itq = ITQ(bits=8, seed=seed, update=update).fit(gallery)
    codes = Coder(BinaryOptions(8, center="own", update=update), train=None, centers=None)(query, gallery)
    assert all(torch.equal(found, itq.transform(x, center="own")) for found, x in zip(codes, (query, gallery), strict=True))


def test_clusters_and_their_sweep(run, tmp_path):
    cluster = ClusterOptions(2, 3, "kmeans", sweep=((2, 2), (4, 3)))
    evaluation = evaluate(run.model, run.config, device=CPU, preset="sbka", cluster=cluster, binary=BinaryOptions(8))
    assert list(evaluation.results)[:3] == ["sketch->photo", "sketch->photo, 8 bits", "sketch->photo, clusters"]
    assert "photo->photo, clusters" not in evaluation.results
    direction = evaluation.directions[0]
    matcher = ClusterMatcher(2, 3, "kmeans").fit(direction.gallery.embedding)
    expected = evaluate_distances(matcher.keys(direction.query.embedding), LABELS, LABELS, preset="sbka")
    assert evaluation.results["sketch->photo, clusters"].map == expected.map
    assert "transductive" in evaluation.results["sketch->photo, clusters"].protocol.sentence()
    found = evaluation.to_dict()["sweep"]
    assert list(found) == ["sketch->photo, M=2, K=2", "sketch->photo, M=4, K=3"]
    assert all(cell["note"] == "chosen on test" and "chosen on test" in cell["protocol"]["sentence"] for cell in found.values())
    page = write_run_report(tmp_path, run, evaluation, examples=2)
    assert "clusters by M and K, chosen on test" in page.read_text()
    assert "chosen on test" in (tmp_path / "metrics.json").read_text()


def test_clusters_of_raw_mirrored_embeddings_are_those_of_their_mean(run):
    evaluation = evaluate(run.model, run.config, device=CPU, preset="mems", cluster=ClusterOptions(2))
    direction = evaluation.directions[0]
    query, gallery = (side.embedding.mean(dim=1) for side in (direction.query, direction.gallery))
    expected = evaluate_distances(ClusterMatcher().fit(gallery).keys(query), LABELS, LABELS, preset="mems")
    assert evaluation.results["sketch->photo, clusters"].map == expected.map


def test_generalised_retrieval_searches_seen_and_unseen_photos(run, tmp_path):
    evaluation = evaluate(run.model, run.config, device=CPU, preset="mathm", generalised=True)
    name = "sketch->photo, generalised"
    result = evaluation.results[name]
    assert (result.gallery_size, result.num_queries) == (6 * 14, 28) and result.num_valid_queries == 28
    sketch = normalize(raw(run, "test", "sketch"))
    parts = [raw(run, *which) for which in (("test", "photo"), ("train", "photo"), ("val", "photo"))]
    gallery = normalize(torch.cat(parts))
    labels = torch.cat([LABELS, torch.full((len(gallery) - 28,), 2)])
    assert result.map == pytest.approx(evaluate_retrieval(sketch, LABELS, gallery, labels).map, abs=5e-3)
    assert result.map <= evaluation.results["sketch->photo"].map
    direction = next(d for d in evaluation.directions if d.name == name)
    assert direction.gallery.dataset.classes == ["elk", "fox", *CLASSES[:4]]
    paths = [direction.gallery.dataset.paths[item] for item in direction.gallery.items]
    named = [direction.gallery.dataset.classes[label] for label in direction.gallery.labels]
    assert all(f"/{name}/" in f"/{path}" for path, name in zip(paths, named, strict=True)) and len(set(paths)) == 84
    for example in query_examples(direction, 3, seed=0):
        assert all(correct == (found == example.query_class) for _, found, correct, _ in example.results)
    page = write_run_report(tmp_path, run, evaluation, examples=0)
    assert "photos of all classes" in page.read_text()
    json.loads((tmp_path / "metrics.json").read_text())


def test_generalised_retrieval_needs_classes_that_were_not_trained(run, monkeypatch):
    def same(config, part, modality, **options):
        return load_part(config, "train", modality)

    monkeypatch.setattr("zsml.engine.evaluate.load_part", same)
    with pytest.raises(InputError, match="--generalised has no meaning here: 4 classes are both trained on and tested"):
        evaluate(run.model, run.config, device=CPU, preset="mathm", generalised=True)


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        (ClusterOptions(3, 2), "--cluster: 3 blocks do not divide the 16 dimensions"),
        (ClusterOptions(2, 2, sweep=((5, 2),)), "--sweep: 5 blocks do not divide the 16 dimensions"),
        (ClusterOptions(2, 2, model="gmm"), "model must be one of"),
        (ClusterOptions(2, 2, fuse=2.0), "fuse must be 0 to 1"),
        (ClusterOptions(2, 99), "n_components=99 is more than the 28 rows of gallery"),
    ],
)
def test_clusters_that_cannot_be_are_named(run, cluster, words):
    with pytest.raises(InputError, match=words):
        evaluate(run.model, run.config, device=CPU, preset="sbka", cluster=cluster)


@pytest.mark.parametrize("text", ["", "0", "2,", "2,0", "2,8-4", "2x4", "-2,4", "2,4,6", "two"])
def test_cells_that_cannot_be_read_are_named(text):
    with pytest.raises(InputError, match="--sweep must be M,K"):
        parse_cells([text], "--sweep")


def test_flags_of_clusters():
    assert cluster_options(None, None, None, ()) is None
    assert cluster_options("4,25", None, None, ()) == ClusterOptions(4, 25)
    assert cluster_options("4", "kmeans", 0.0, ()) == ClusterOptions(4, None, "kmeans", 0.0)
    swept = cluster_options(None, None, None, ("2,3-4", "2,4", "4,3"))
    assert swept == ClusterOptions(2, None, sweep=((2, 3), (2, 4), (4, 3)))
    for arguments, words in (
        ((None, "kmeans", None, ()), "--cluster-model has no meaning without --cluster or --sweep"),
        ((None, None, 0.5, ()), "--cluster-fuse has no meaning without --cluster or --sweep"),
        (("2,3-5", None, None, ()), "--cluster must be one M,K or M"),
        ((None, None, None, ("2",)), "--sweep must name K in every cell"),
    ):
        with pytest.raises(InputError, match=words):
            cluster_options(*arguments)


def test_other_ways_of_making_codes_are_named():
    with pytest.raises(InputError, match="--itq-fit must be one of gallery, query, train, centers, got 'all'"):
        BinaryOptions(8, fit="all")


def test_centres_of_a_damaged_checkpoint_are_named(tmp_path):
    (tmp_path / "training.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="cannot be read"):
        class_centers(tmp_path)
