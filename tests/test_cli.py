from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_data import tiny_flags, write_tiny_folder

import zsml
from zsml.cli import main
from zsml.commands import ACTIONS, COMMANDS
from zsml.engine.tables import demo_table
from zsml.retrieval import Index


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "x"
    assert main(["train", "mathm", *tiny_flags(folder, out)]) == 0
    return out


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "zsml", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, env=environment, start_new_session=True)


def test_help_lists_every_command_without_loading_torch():
    code = "import sys; from zsml.cli import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(command in shown.stdout for command in COMMANDS)
    assert shown.stderr.strip() == "False"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert f"Example: zsml {command}" in shown and "--json" in shown


@pytest.mark.parametrize(("command", "action"), [(command, action) for command in ACTIONS for action in ACTIONS[command]])
def test_every_action_explains_itself_with_an_example(command, action, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, action, "--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert f"Example: zsml {command} {action}" in shown and "--json" in shown


def test_train_then_evaluate_then_embed(run, capsys):
    assert main(["evaluate", str(run), "--bits", "8", "--device", "cpu", "--workers", "0"]) == 0
    shown = capsys.readouterr()
    assert "sketch->photo, 8 bits" in shown.out and f"report: {run / 'report' / 'report.html'}" in shown.out
    assert (run / "report" / "metrics.json").is_file()
    assert main(["embed", str(run), "--part", "val", "--modality", "photo", "--workers", "0"]) == 0
    assert f"embeddings of width 16, L2-normalised\n{run / 'embeddings' / 'embeddings.safetensors'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "key"),
    [(["evaluate"], "results"), (["embed"], "rows"), (["train", "--resume"], "steps"), (["data", "folder", "--root"], "classes")],
)
def test_json_is_all_there_is_on_stdout(run, folder, arguments, key, capsys):
    target = folder if arguments[0] == "data" else run
    assert main([*arguments, str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[key]


def test_a_results_table_has_the_numbers_of_the_json(run, capsys):
    assert main(["evaluate", str(run), "--workers", "0", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert main(["evaluate", str(run), "--workers", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("sketch->photo"))
    assert f"{results['sketch->photo']['map']:.4f}" in row and row.split()[-2:] == ["28", "28"]


def test_binary_results_come_with_their_own_protocol(run, capsys):
    assert main(["evaluate", str(run), "--workers", "0", "--bits", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("sketch->photo, ") and "8 bits: " in line and "Hamming distance" in line for line in lines)
    assert any(line.startswith("sketch->photo, photo->photo") and "Euclidean distance" in line for line in lines)
    assert any("equal distances leave the mAP between" in line for line in lines)


def test_evaluate_refuses_before_it_embeds(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("zsml.engine.evaluate.embed", lambda *_, **__: pytest.fail("images were embedded first"))
    (taken := tmp_path / "taken").write_text("a file")
    for flags, message in (
        (["--bits", "640"], "--bits 640 is more than the 16 dimensions"),
        (["--out", str(taken)], "cannot be written"),
    ):
        assert main(["evaluate", str(run), "--workers", "0", *flags]) == 2
        assert message in capsys.readouterr().err


def test_flags_win_over_the_file_and_the_file_over_the_system(folder, tmp_path, capsys):
    toml = tmp_path / "x.toml"
    toml.write_text(f'system = "baseline"\ndata = "folder"\nroot = "{folder}"\nepochs = 1\nlr = 0.5\nmargin = 0.7\n')
    small = tiny_flags(folder, tmp_path / "run")
    for name in ("--epochs", "--data"):
        place = small.index(name)
        del small[place : place + 2]
    assert main(["train", "--config", str(toml), *small, "--margin", "0.4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 1
    settings = (tmp_path / "run" / "config.toml").read_text().splitlines()
    assert {'system = "baseline"', "margin = 0.4", "lr = 0.001", "beta = 0.0"} <= set(settings)
    assert main(["train", "--config", str(tmp_path / "run" / "config.toml"), "--out", str(tmp_path / "again")]) == 0


def test_data_counts_and_shows_the_classes(folder, tmp_path, capsys):
    sheet = tmp_path / "new" / "sheet.png"
    flags = ["data", "folder", "--root", str(folder), "--unseen", "elk", "fox", "--sheet", str(sheet)]
    assert main([*flags, "--json"]) == 0
    rows = {row["class"]: row for row in json.loads(capsys.readouterr().out)["classes"]}
    assert [name for name, row in rows.items() if row["split"] == "unseen"] == ["elk", "fox"]
    assert all(row["sketches"] + row["held_out_sketches"] == 14 for row in rows.values())
    assert Image.open(sheet).size[1] == 6 * 96
    assert main(flags) == 0
    *_, total, last = capsys.readouterr().out.splitlines()
    assert total.split()[:4] == ["6", "classes", "2", "unseen"] and last == f"contact sheet: {sheet}"


def test_info_says_which_kernels_run(capsys):
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(zsml.info()))
    assert main(["info"]) == 0
    assert f"tier                {zsml.info()['tier']}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "folder"], "error: --root is missing"),
        (["train", "--data", "folder", "--root", "/nowhere"], "error: --root '/nowhere' is not a folder"),
        (["train", "sakee", "--data", "synthetic"], "error: system 'sakee' is not known; choose from mathm, baseline"),
        (["train", "--data", "synthetic", "--epochs", "0"], "error: --epochs must be 1 or more"),
        (["train", "--data", "synthetic", "--config", "/nowhere.toml"], "error: --config '/nowhere.toml' cannot be read"),
        (["train", "--data", "synthetic", "--arch", "cse_resnet5", "--out", "OUT"], "error: arch 'cse_resnet5' is not known"),
        (["train", "--resume", "/nowhere"], "error: run '/nowhere' does not exist"),
        (["evaluate", "/nowhere"], "error: run '/nowhere' does not exist"),
        (["evaluate", __file__], "is a file, not the folder of a run"),
        (["embed", "/"], "error: run '/' holds no checkpoint"),
        (["evaluate", "/nowhere", "--bits", "0"], "error: --bits must be 1 or more"),
        (["evaluate", "/nowhere", "--batch-size", "0"], "error: --batch-size must be 1 or more"),
        (["evaluate", "/nowhere", "--examples", "-1"], "error: --examples must be 0 or more"),
        (["evaluate", "/nowhere", "--amp", "fp16", "--device", "cpu"], "error: --amp fp16 needs a GPU"),
        (["data", "folder"], "error: --root is missing"),
        (["data", "flickr"], "error: --data 'flickr' is not known"),
    ],
)
def test_bad_arguments_are_explained_with_status_2(arguments, message, tmp_path, capsys):
    assert main([str(tmp_path) if word == "OUT" else word for word in arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err and shown.out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("command", [["train", "--data", "synthetic"], ["evaluate", "RUN"], ["embed", "RUN"], ["demo"]])
def test_a_gpu_that_is_not_there_is_refused(command, run, capsys):
    assert main([*(str(run) if word == "RUN" else word for word in command), "--device", "cuda"]) == 2
    assert "error: --device cuda: no usable GPU found" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--epochs", "many"], ["--epoch", "3"], ["--amp", "fp8"], ["mathm", "sake"]])
def test_flags_that_do_not_parse_end_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", *arguments])
    assert caught.value.code == 2 and capsys.readouterr().out == ""


@pytest.mark.parametrize("command", ["evaluate", "embed"])
def test_a_result_that_cannot_be_written_names_out(command, run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([command, str(run), "--out", str(tmp_path / "file" / "x")]) == 2
    assert f"error: --out '{tmp_path / 'file' / 'x'}' cannot be written: " in capsys.readouterr().err


def damage_empty_class(root: Path) -> None:
    for path in (root / "photo" / "bee").iterdir():
        path.unlink()


def damage_one_modality(root: Path) -> None:
    shutil.rmtree(root / "sketch" / "bee")


def damage_no_photos(root: Path) -> None:
    shutil.rmtree(root / "photo")


@pytest.mark.parametrize("damage", [damage_empty_class, damage_one_modality, damage_no_photos])
def test_broken_folders_are_explained_with_status_2(damage, folder, tmp_path, capsys):
    root = shutil.copytree(folder, tmp_path / "data")
    damage(root)
    assert main(["train", "mathm", *tiny_flags(root, tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert ("photo" if damage is damage_no_photos else "bee") in said and "Traceback" not in said


def test_a_corrupt_image_is_counted_or_with_strict_images_an_error(folder, run, tmp_path, capsys):
    root = shutil.copytree(folder, tmp_path / "data")
    (root / "photo" / "elk" / "05.png").write_bytes(b"broken")
    evaluate = ["evaluate", str(run), "--root", str(root), "--out", str(tmp_path / "report")]
    for workers in ("0", "2"):
        assert main([*evaluate, "--workers", workers]) == 0
        shown = capsys.readouterr()
        assert "1 corrupt images skipped" in shown.out and "elk/05.png" in shown.err
        assert main([*evaluate, "--workers", workers, "--strict-images"]) == 2
        assert "elk/05.png" in capsys.readouterr().err


def test_what_goes_wrong_inside_is_status_1_with_a_traceback_on_request(folder, tmp_path, capsys, monkeypatch):
    flags = ["train", "mathm", *tiny_flags(folder, tmp_path), "--lr", "1e30"]
    assert main(flags) == 1
    said = capsys.readouterr().err
    assert "failed: the loss is not finite" in said and "Traceback" not in said
    monkeypatch.setenv("ZSML_LOG", "debug")
    assert main(flags) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 2)])
def test_ctrl_c_saves_says_how_to_resume_and_ends_with_130(folder, tmp_path, number, workers):
    process = start("train", "mathm", *tiny_flags(folder, tmp_path), "--batches-per-epoch", 100000, "--workers", workers)
    log = tmp_path / "log.jsonl"
    for _ in range(600):
        if (log.exists() and log.read_text().count("\n") >= 3) or process.poll() is not None:
            break
        time.sleep(0.2)
    os.killpg(process.pid, number)  # as a terminal does: to the whole group, and the loading processes are in none of it
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"everything is saved; go on with: zsml train --resume {tmp_path}" in err and "Traceback" not in err and out == ""
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert json.loads((checkpoint / "state.json").read_text())["place"]["step"] == log.read_text().count("\n")


def test_a_killed_run_resumes_from_its_last_epoch_as_if_nothing_had_happened(folder, tmp_path):
    """`kill -9` in the second epoch, in another process than the run it is compared with."""
    from safetensors.torch import load_file

    flags = tiny_flags(folder, None, "--epochs", "3", "--batches-per-epoch", "20", "--workers", "1")
    process = start("train", "mathm", *flags, "--out", tmp_path / "a")
    log = tmp_path / "a" / "log.jsonl"
    for _ in range(6000):
        if (log.exists() and log.read_text().count("\n") >= 25) or process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    process.communicate()
    (checkpoint,) = (tmp_path / "a" / "checkpoints").glob("step-*")
    assert checkpoint.name < "step-00000060"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main(["train", "--resume", str(tmp_path / "a"), "--workers", "0"]) == 0
    assert main(["train", "mathm", *flags, "--out", str(tmp_path / "b")]) == 0
    torch.set_num_threads(threads)
    for name in ("model.safetensors", "training.safetensors"):
        one, other = (load_file(tmp_path / run / "checkpoints" / "step-00000060" / name) for run in "ab")
        assert [key for key in one if not torch.equal(one[key], other[key])] == []


def test_the_demo_compares_chance_untrained_and_trained(monkeypatch, tmp_path, capsys):
    import zsml.demo

    monkeypatch.chdir(tmp_path)
    small = {"arch": "test_resnet", "image_size": 32, "embedding_dim": 16, "epochs": 1, "batches_per_epoch": 2, "unseen": ("3",)}
    monkeypatch.setattr(zsml.demo, "SETTINGS", replace(zsml.demo.SETTINGS, **small))
    (tmp_path / "runs" / "demo").mkdir(parents=True)  # of an earlier demo: left as it is
    assert main(["demo", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["run"] == str(Path("runs") / "demo-2") and Path(result["report"]).is_file()
    assert (result["seen_classes"], result["unseen_classes"], result["queries"], result["gallery"]) == (97, 3, 150, 150)
    assert 0.33 < result["chance_map"] < 0.37
    index = Index.open(result["index"])
    assert len(index) == result["gallery"] and index.bits == 16 and index.verify() == []
    shown = demo_table(result)
    assert f"now draw: zsml serve --index {result['index']}" in shown
    assert all(f"{result[key]:.4f}" in shown for key in ("chance_map", "untrained_map", "trained_map"))
