"""The README.md of a model folder: what the model is, what it takes, and what was measured of it, every number with how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import zsml
from zsml.errors import InputError
from zsml.models.io import weights_sha256
from zsml.models.model import EmbeddingModel

METRICS = "metrics.json"
MOST_BYTES = 64 << 20  # of a report that is read
TAGS = ("sketch-based-image-retrieval", "zero-shot", "metric-learning")


def read_evaluation(report: Path, model: EmbeddingModel) -> dict[str, Any]:
    """What a report says of this very model, short: {"data", "commit", "results": {task: {...}}}.

    report: the folder that `zsml evaluate` wrote, or the metrics.json in it.

    Raises:
        InputError: there is no report, it cannot be read, or it is of other weights.
    """
    path = report / METRICS if report.is_dir() else report
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"report {str(path)!r} is larger than {MOST_BYTES >> 20} MiB, which no report is")
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"report {str(path)!r} cannot be read ({error}); give the folder that `zsml evaluate` wrote") from error
    try:
        measured = numbers["facts"].get("weights_sha256")
        found = {
            "data": str(numbers["protocol"].get("data", numbers["title"])),
            "commit": str(numbers["facts"].get("commit", "unknown")),
            "results": {str(task): _short(result) for task, result in numbers["results"].items()},
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"report {str(path)!r} is not as `zsml evaluate` writes it ({error!r})") from error
    found["weights_sha256"] = weights_sha256(model)
    if measured != found["weights_sha256"]:
        raise InputError(
            f"report {str(path)!r} is {'of other weights than this model' if measured else 'too old to say of which weights'}; "
            "run `zsml evaluate` of this model"
        )
    return found


def _short(result: dict[str, Any]) -> dict[str, Any]:
    """The headline of a result: under the mean that its protocol names."""
    protocol, by_class = result["protocol"], "_macro" if result["protocol"]["average"] == "class" else ""
    numbers = {"mAP": float(result[f"map{by_class}"])}
    numbers |= {f"mAP@{k}": float(value) for k, value in result[f"map_at{by_class}"].items()}
    numbers |= {f"P@{k}": float(value) for k, value in result[f"precision{by_class}"].items()}
    return {
        "numbers": numbers,
        "queries": int(result["num_queries"]),
        "gallery": int(result["gallery_size"]),
        "protocol": str(protocol["sentence"]),
    }


def card_text(model: EmbeddingModel, name: str) -> str:
    """The README.md of a model for the folder or the repository `name`: Markdown, with the head that model hubs read."""
    card = model.card or {}
    head = ["---", "library_name: zsml", "pipeline_tag: image-feature-extraction", "tags:", *(f"- {tag}" for tag in TAGS), "---"]
    title = f"# {model.arch}, trained with {card['system']}" if "system" in card else f"# {model.arch}"
    rows = [f"| {key} | {_cell(value)} |" for key, value in _rows(model, card).items()]
    sections = [*_evaluation(card, weights_sha256(model)), *_use(model, name)]
    return "\n".join([*head, "", title, "", "| | |", "|---|---|", *rows, "", *sections, ""])


def _rows(model: EmbeddingModel, card: dict[str, Any]) -> dict[str, str]:
    rows = {}
    if "system" in card:
        rows["system"] = f"{card['system']}, {card['paper']}" if "paper" in card else card["system"]
    if "source" in card:
        source = card["source"]
        rows["source file"] = f"`{_plain(source['file'])}`, {source['bytes']:,} bytes, sha256 `{source['sha256']}`"
    if "commit" in card:
        rows["trained with"] = f"zsml, commit {card['commit']}"
    if "selection" in card:
        chosen = card["selection"]
        rows["chosen"] = f"epoch {chosen['epoch']}, best by {chosen['by']} ({chosen['value']:.4f})"
    modality = "; its modality is an input: 0 sketch, 1 photo" if model.conditional else ""
    rows["network"] = f"{model.arch}, {sum(p.numel() for p in model.parameters()):,} parameters"
    rows["image"] = (model.preprocessing.sentence() if model.preprocessing else "not recorded") + modality
    rows["embedding"] = f"{model.embedding_dim} numbers, as the network gives them (not normalised)"
    rows["classifier"] = f"{model.num_classes} training classes" if model.num_classes else "none"
    rows["sha256 of the weights"] = f"`{weights_sha256(model)}`"
    rows["written by"] = f"zsml {zsml.__version__}"
    return rows


def _evaluation(card: dict[str, Any], weights: str) -> list[str]:
    if card.get("evaluation", {}).get("weights_sha256") != weights:  # none, or of the weights before some more training
        return ["## Evaluation", "", "Not measured yet: `zsml evaluate` measures it.", ""]
    found = card["evaluation"]
    names = list(dict.fromkeys(name for result in found["results"].values() for name in result["numbers"]))
    lines = ["## Evaluation", "", f"{_plain(found['data'])}; measured at commit {_plain(found['commit'])}.", ""]
    lines += [f"| task | queries | gallery | {' | '.join(names)} |", f"|---|{'---:|' * (2 + len(names))}"]
    for task, result in found["results"].items():
        numbers = (f"{result['numbers'][name]:.4f}" if name in result["numbers"] else "" for name in names)
        lines.append(f"| {_plain(task)} | {result['queries']:,} | {result['gallery']:,} | {' | '.join(numbers)} |")
    lines.append("")
    by_sentence: dict[str, list[str]] = {}
    for task, result in found["results"].items():
        by_sentence.setdefault(result["protocol"], []).append(task)
    return [*lines, *(f"- {', '.join(map(_plain, tasks))}: {_plain(said)}" for said, tasks in by_sentence.items()), ""]


def _use(model: EmbeddingModel, name: str) -> list[str]:
    prepare = 'images, modality = model.preprocessing([Image.open(path)], "sketch")  # or "photo"'
    if model.preprocessing is None:
        prepare = "# images: float32 [B, 3, S, S], prepared as in training; modality: int64 [B], 0 sketch and 1 photo"
    return [
        "## Use",
        "",
        "```python",
        "from PIL import Image",
        "from zsml.models import EmbeddingModel",
        "",
        f"model = EmbeddingModel.from_pretrained({name!r})",
        prepare,
        "embedding = model(images, modality).embedding  # [B, D]",
        "```",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "?").replace("\n", " ")


def _plain(text: Any) -> str:
    """Text of others as it may stand in a table: one line, no bars, no backticks, no tags."""
    return "".join(c if c.isprintable() and c not in "`|<" else "?" for c in str(text))
