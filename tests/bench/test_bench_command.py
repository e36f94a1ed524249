"""`zsml bench` as people call it."""

from __future__ import annotations

import json

import pytest

from zsml.bench import measure, session
from zsml.bench.report import BEGIN, END
from zsml.cli import main

QUICK = ["--sizes", "tiny", "--threads", "1", "--budget", "0.001", "--device", "cpu"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(measure, "SHORT", 1e-4)
    monkeypatch.setattr(measure, "cores", lambda: 2)


def test_bench_saves_then_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text(f"{BEGIN}\n{END}\n")
    assert main(["bench", "hamming_rank", *QUICK, "--queries", "20", "--save", "bench/results"]) == 0
    shown = capsys.readouterr()
    assert "1 of 2: hamming_rank, tiny, 64 bits" in shown.err and "hamming_rank, tiny, 512 bits, threads: 1" in shown.out
    assert shown.out.splitlines()[-1] == "saved: bench/results/hamming_rank.cpu.json"
    assert main(["bench", "report"]) == 0
    assert capsys.readouterr().out.splitlines() == ["renewed:", "README.md", "bench/results/hamming_rank.cpu.svg"]
    assert "| tiny, 64 bits, 20 of 80 queries | 1 |" in (tmp_path / "README.md").read_text()


def test_json_is_rows_and_nothing_else_on_stdout(capsys):
    assert main(["bench", "hamming_rank", *QUICK, "--queries", "all", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["saved"] == [] and {row["case"] for row in result["rows"]} == {"tiny, 64 bits", "tiny, 512 bits"}
    assert {row["shape"]["queries"] for row in result["rows"]} == {80, 64}


def test_what_was_measured_is_saved_when_the_run_is_interrupted(tmp_path, monkeypatch, capsys):
    run_case, calls = session.run_case, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_case(*arguments, **options)

    monkeypatch.setattr(session, "run_case", interrupted)
    assert main(["bench", "hamming_rank", *QUICK, "--save", str(tmp_path)]) == 130
    (path,) = tmp_path.iterdir()
    assert {row["case"] for row in json.loads(path.read_text())} == {"tiny, 64 bits"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hamming_topkk"], "op 'hamming_topkk' is not known; choose from hardest_pairs, supcon, margin_softmax, hamming_topk"),
        (["evaluate", "report"], "op 'report' is not known"),
        ([], "no op is given; choose from"),
        (["evaluate", "--sizes", "flickr"], "--sizes 'flickr' is no size of evaluate; choose from sketchy"),
        (["evaluate", "--sizes", "120"], "--sizes '120' is no size of evaluate"),
        (["hardest_pairs", "--sizes", "tiny"], "--sizes 'tiny' is no size of hardest_pairs; choose from a batch size of 16"),
        (
            ["margin_softmax", "--sizes", "8"],
            "--sizes '8' is no size of margin_softmax; choose from a number of classes of 16 or more",
        ),
        (["hardest_pairs", "--sizes", "0"], "--sizes '0' is no size of hardest_pairs"),
        (["hardest_pairs", "--sizes", "³²"], "--sizes '³²' is no size of hardest_pairs"),
        (["evaluate", "--threads", "0"], "--threads must be 1 to 2, the cores this process may use; got 0"),
        (["evaluate", "--threads", "1", "3"], "the cores this process may use; got 3"),
        (["evaluate", "--queries", "0"], "--queries must be 1 or more, or all, got 0"),
        (["evaluate", "--budget", "0"], "--budget must be above 0 seconds, got 0.0"),
        (["evaluate", "--budget", "nan"], "--budget must be above 0 seconds, got nan"),
        (["evaluate", "--save", "FILE/x"], "FILE/x' cannot be written: "),
        (["evaluate", "--save", "FILE"], "FILE' cannot be written: "),
        (["report", "--results", "nowhere"], "--results 'nowhere' is not a folder"),
        (["report", "--results", ".", "--readme", "nowhere.md"], "--readme 'nowhere.md' cannot be read: "),
        (["report", "--results", ".", "--readme", "FILE"], "FILE' must have the lines"),
    ],
)
def test_bad_arguments_are_explained_with_status_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("")
    assert main(["bench", *arguments, "--device", "cpu"]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err and shown.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]


@pytest.mark.parametrize("arguments", [["--threads", "two"], ["--queries", "some"], ["--budget", "x"], ["--device", "tpu"]])
def test_flags_that_do_not_parse_end_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["bench", "evaluate", *arguments])
    assert caught.value.code == 2 and capsys.readouterr().out == ""
