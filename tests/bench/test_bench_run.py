"""A case is timed only where its answer is right, and its rows say everything."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest
import torch

from zsml.bench import measure
from zsml.bench.case import Provider, Unable
from zsml.bench.cases import LOSSES, find_cases
from zsml.bench.run import run_case

FIELDS = {
    "op", "case", "size", "provider", "mode", "dtype", "shape", "threads", "pools", "median_ms", "p20_ms", "p80_ms", "samples",
    "peak_extra_mib", "note", "left_out", "on", "device", "kernels", "instructions", "python", "versions", "commit", "date",
}  # fmt: skip
MODULES = {"faiss": "faiss", "numpy-sort": "threadpoolctl", "numpy-argsort": "threadpoolctl", "scipy": "scipy"} | {
    name: name.replace("-", "_") for name in ("torchmetrics", "pytorch-metric-learning")
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No long rows of short calls: these tests look at answers, not at times."""
    monkeypatch.setattr(measure, "SHORT", 1e-4)


def run(case, **options):
    told = []
    rows = run_case(case, [1], budget=1e-4, say=told.append, **options)
    return {row["provider"]: row for row in rows}, told


@pytest.fixture
def topk():
    return find_cases(["hamming_topk"], ["tiny"])[0]


@pytest.mark.parametrize("case", find_cases(["all"], ["tiny", "24"], queries=70), ids=lambda case: f"{case.op}, {case.name}")
def test_every_provider_agrees_with_brute_force_and_has_a_complete_row(case):
    """A provider may be missing only because its library is."""
    if case.op in LOSSES:  # compiled providers take half a minute
        case = replace(case, providers=[provider for provider in case.providers if "compiled" not in provider.name])
    rows, _ = run(case)
    assert list(rows) == [provider.name for provider in case.providers if "cpu" in provider.devices]
    for name, row in rows.items():
        assert set(row) == FIELDS and json.loads(json.dumps(row)) == row
        module = next((module for start, module in MODULES.items() if name.startswith(start)), None)
        if row["left_out"]:
            assert module is not None and find_spec(module) is None and row["left_out"].startswith("needs "), row["left_out"]
            assert row["median_ms"] is None and row["samples"] == 0
            continue
        assert 0 < row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
        assert row["samples"] >= 3 or (row["samples"] == 1 and "timed once" in row["note"])
        assert row["threads"] == 1 and row["pools"]["torch"] == 1
        if case.queries is not None:
            assert row["shape"]["full_queries"] == 80 and row["shape"]["queries"] in (64, 70)


def wrong_distance(data):
    from zsml.ops import hamming_topk

    def call():
        distance, index = hamming_topk(data.query, data.gallery, 100)
        return distance + 1, index

    return call


def wrong_item(data):
    from zsml.ops import hamming_topk

    def call():
        distance, index = (part.clone() for part in hamming_topk(data.query, data.gallery, 100))
        distance[3, 7], index[3, 7] = distance[3, 6], index[3, 6]
        return distance, index

    return call


def farther(data):
    from zsml.ops import hamming_topk

    def call():
        distance, index = hamming_topk(data.query, data.gallery, 101)
        return distance[:, 1:], index[:, 1:]

    return call


def too_few(data):
    from zsml.ops import hamming_topk

    return lambda: hamming_topk(data.query[1:], data.gallery, 100)


def breaks(data):
    def call():
        raise MemoryError("no room for 40 GB")

    return call


def missing(data):
    import a_library_nobody_has

    return a_library_nobody_has


def unable(data):
    raise Unable("needs another processor")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (wrong_distance, "disagrees: distances are not those of the items named"),
        (wrong_item, "disagrees: "),
        (farther, "disagrees: other distances than by brute force for"),
        (too_few, "disagrees: answers 79 of 80 queries"),
        (breaks, "failed: no room for 40 GB"),
        (missing, "needs a_library_nobody_has"),
        (unable, "needs another processor"),
    ],
)
def test_a_provider_that_is_wrong_or_cannot_run_is_left_out_with_the_reason(topk, make, reason):
    case = replace(topk, providers=[topk.providers[0], Provider("other", make)])
    rows, told = run(case)
    assert rows["other"]["left_out"].startswith(reason) and rows["other"]["median_ms"] is None
    assert rows["zsml"]["left_out"] is None and rows["zsml"]["median_ms"] > 0
    assert len(told) == 1 and f"other is left out: {reason}" in told[0]


@pytest.mark.parametrize(
    ("op", "change"),
    [
        ("evaluate", lambda answer: {**answer, "ap": answer["ap"] + 2e-4}),
        ("evaluate", lambda answer: {**answer, "ap": np.append(answer["ap"][1:], np.nan)}),
        ("evaluate", lambda answer: {**answer, "ap": answer["ap"][:-1]}),
        ("evaluate", lambda answer: {**answer, "p100": answer["p100"] - 2e-4}),
        ("evaluate_codes", lambda answer: {"ap_voc": answer["ap"]}),  # the interpolated one is larger
        ("evaluate_codes", lambda answer: {"ap_voc_ties": answer["ap"] - 0.1}),
        ("hamming_rank", lambda answer: [answer[0].flip(1)]),
        ("hamming_rank", lambda answer: [answer[0][:, :-1]]),
        ("hamming_rank", lambda answer: [answer[0][:-1]]),
        ("hardest_pairs", lambda answer: answer._replace(value=answer.value * 1.001)),
        ("hardest_pairs", lambda answer: answer._replace(grad=answer.grad * 1.1)),
        ("hardest_pairs", lambda answer: answer._replace(grad=answer.grad * torch.nan)),
        ("hardest_pairs", lambda answer: answer.grad @ answer.grad.T),
        ("supcon", lambda answer: answer._replace(value=answer.value * 1.001)),
        ("supcon", lambda answer: answer._replace(grad=answer.grad * 1.002)),
        ("margin_softmax", lambda answer: answer._replace(grad=answer.grad * 1.002)),
        ("margin_softmax", lambda answer: answer._replace(centers_grad=answer.centers_grad * 1.002)),
        ("margin_softmax", lambda answer: answer._replace(centers_grad=None)),
    ],
)
def test_slightly_wrong_answers_are_noticed(op, change):
    case = find_cases([op], ["24" if op in LOSSES else "tiny"])[0]
    ours = case.providers[0]
    case = replace(case, providers=[ours, Provider("off", lambda data: lambda: change(ours.make(data)()))])
    rows, _ = run(case)
    assert rows["zsml"]["left_out"] is None
    assert rows["off"]["left_out"].startswith("disagrees: ")


def test_what_would_not_fit_is_not_tried(monkeypatch):
    """No process is ended for lack of memory: B x B matrices are not begun, rankings of all queries not held."""
    monkeypatch.setattr(measure, "available_memory", lambda: 30 * 256**2)
    case = find_cases(["hardest_pairs"], ["256"])[0]
    case = replace(case, providers=[provider for provider in case.providers if provider.name in ("zsml", "dense")])
    rows, _ = run(case)
    assert rows["dense"]["left_out"] == "needs about 0.0 GiB" and rows["zsml"]["left_out"] is None
    used = {case.size: (case.queries, case.full_queries) for case in find_cases(["hamming_rank"])}
    assert used == {"sketchy": (15229, 15229), "tuberlin": (2400, 2400), "quickdraw": (4957, 92291)}


def test_pairs_of_pairs_are_not_tried_where_they_do_not_fit(monkeypatch):
    """Every positive pair with every negative one: at 128 samples 18 bytes for each of 128 * 7 * 128 * 120."""
    pytest.importorskip("pytorch_metric_learning")
    monkeypatch.setattr(measure, "available_memory", lambda: 18.0 * 128 * 7 * 128 * 120 - 1)
    cases = {case.name: case for case in find_cases(["supcon"], ["128"])}
    left_out = {}
    for name, case in cases.items():
        only = [provider for provider in case.providers if provider.name in ("zsml", "pytorch-metric-learning")]
        left_out[name.split(",")[0]] = run(replace(case, providers=only))[0]["pytorch-metric-learning"]["left_out"]
    assert left_out == {"SupConLoss": None, "NTXentLoss": "needs about 0.2 GiB"}


def test_what_takes_long_is_called_once(topk):
    calls = []

    def slow(data):
        inner = topk.providers[0].make(data)
        return lambda: calls.append(1) or inner()

    case = replace(topk, providers=[topk.providers[0], Provider("slow", slow, once=True)])
    rows, _ = run(case)
    row = rows["slow"]
    assert len(calls) == 1 and row["samples"] == 1 and row["note"] == "timed once, the first call"
    assert row["median_ms"] == row["p20_ms"] == row["p80_ms"] > 0 and set(row) == FIELDS


@pytest.mark.parametrize("op", ["evaluate", "evaluate_codes"])
def test_data_are_the_same_every_time_and_the_gallery_whatever_the_queries(op):
    few, again, whole = (find_cases([op], ["tiny"], queries)[0].draw("cpu") for queries in (7, 7, None))
    assert all(torch.equal(a, b) for a, b in zip(few, again, strict=True))
    assert torch.equal(whole.gallery, few.gallery) and torch.equal(whole.gallery_labels, few.gallery_labels)
    assert (len(few.query), len(whole.query), len(whole.head(7).query)) == (7, 80, 7)
    assert set(whole.query_labels.tolist()) == set(range(5))


def test_threads_are_given_to_every_library_and_given_back(topk):
    before = torch.get_num_threads()
    rows = run_case(replace(topk, providers=topk.providers[:2]), [1, 2], budget=1e-4, say=print)
    assert [(row["threads"], set(row["pools"].values())) for row in rows] == [(1, {1})] * 2 + [(2, {2})] * 2
    assert torch.get_num_threads() == before


def test_calls_take_turns_and_short_ones_are_repeated(monkeypatch):
    monkeypatch.setattr(measure, "SHORT", 10.0)
    order = []
    samples = measure.rounds({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, budget=1.0, device="cpu", most=4)
    turns = [order[0], *(b for a, b in pairwise(order) if a != b)]
    assert turns == ["a", "b"] * 5 and {name: len(times) for name, times in samples.items()} == {"a": 4, "b": 4}
    assert order.count("a") == 1 + 4 * (1 + 100)


@pytest.mark.skipif(not hasattr(measure.os, "sched_getaffinity"), reason="the resident set is read where Linux tells it")
def test_peak_memory_is_what_a_call_adds():
    peak = measure.peak_extra_mib(lambda: torch.zeros(32 << 20, dtype=torch.uint8).add_(1), "cpu")
    assert 30 < peak < 40
