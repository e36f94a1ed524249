"""The command line: `zsml train | evaluate | ...` (zsml.commands lists them), also as `python -m zsml`.

Results go to stdout, as text or with --json as one JSON object; messages and progress bars go to stderr. Exit status: 0 done,
1 failed, 2 bad arguments or data, 130 interrupted. ZSML_LOG=debug shows the traceback of a failure. Of the processes of one
training (torchrun) the first prints the result; what ends all of them is said once.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any, Union

import tyro
from tyro.conf import subcommand

from zsml.commands import ACTIONS, COMMANDS
from zsml.commands.train import Train
from zsml.engine.config import TrainConfig, flag
from zsml.engine.config_file import merged, read_toml
from zsml.engine.stopping import EndedElsewhere, Interrupted, TrainingFailed
from zsml.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (default: the program's arguments) and return its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    first = os.environ.get("RANK", "0") == "0"  # of the processes torchrun started, if it did
    try:
        command = _parse(argv)
        result = command.run()
        if first or not getattr(command, "ranks", False):
            print(json.dumps(result, ensure_ascii=False) if command.json else command.text(result), flush=True)
        return command.status(result) if hasattr(command, "status") else 0  # 1: done, and what was looked for is not there
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except EndedElsewhere:
        return 2
    except InputError as error:
        return _fail(2, f"error: {_with_flags(str(error))}")
    except Interrupted as error:
        return _fail(130, str(error)) if first else 130
    except KeyboardInterrupt:
        return _fail(130, "interrupted")
    except TrainingFailed as error:
        return _fail(1, f"failed: {error}") if first else 1
    except Exception as error:
        what = (str(error).strip().splitlines() or ["no reason given"])[0]
        return _fail(1, f"failed: {type(error).__name__}: {what} (ZSML_LOG=debug shows where)")


def _parse(argv: list[str]) -> Any:
    """The command, its settings laid over one another: defaults, the system's, the resumed run's, the file's, the flags'."""
    command = _parse_flags(argv, Train())
    if not isinstance(command, Train):
        return command
    layers: list[dict[str, Any]] = []
    if command.resume is not None:
        from zsml.engine.checkpoint import find_checkpoint, read_state

        layers += [vars(read_state(find_checkpoint(command.resume))[1]), {"out": command.resume}]
    if command.config is not None:
        layers.append(read_toml(command.config))
    from zsml.systems import find_system

    named = _parse_flags(argv, Train(merged(*layers)))  # only now is it known which system, from the flags or the file
    chosen = named.settings
    if command.resume is not None and chosen.system != layers[0]["system"]:
        raise InputError(f"--resume {command.resume} is a run of {layers[0]['system']}, not of {chosen.system}")
    defaults = find_system(chosen.system).settings_for(chosen.data, chosen.variant)
    return _parse_flags(argv, Train(merged(defaults, *layers)))


def _parse_flags(argv: list[str], train: Train) -> Any:
    if action := ACTIONS.get("".join(argv[:1]), {}).get("".join(argv[1:2])):
        return tyro.cli(action, args=argv[2:], prog=f"zsml {argv[0]} {argv[1]}", description=inspect.getdoc(action))
    named = [
        Annotated[
            command,
            subcommand(name, description=inspect.getdoc(command), **({"default": train} if command is Train else {})),
        ]
        for name, command in COMMANDS.items()
    ]
    return tyro.cli(
        Union[tuple(named)],  # noqa: UP007 (made at run time)
        args=argv,
        prog="zsml",
        description="Zero-shot sketch-based image retrieval: train, evaluate and use embedding networks.",
    )


def _with_flags(message: str) -> str:
    """What a function says of its argument `name=value`, in the words of the command line: `--name value`."""
    names = "|".join(field.name for field in fields(TrainConfig) if "_" in field.name)
    return re.sub(rf"\b({names})=", lambda match: f"{flag(match[1])} ", message)


def _fail(status: int, message: str) -> int:
    if os.environ.get("ZSML_LOG") == "debug":
        traceback.print_exc()
    print(message, file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
