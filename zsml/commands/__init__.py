"""The commands of `zsml`: one dataclass each, whose docstring is its help and whose fields are its flags.

`run()` does the work and returns what --json prints; `text()` says the same to people. Torch and what needs it is imported
where a command starts to work, so that `zsml --help` is quick.
"""

from __future__ import annotations

from zsml.commands.bench import Bench
from zsml.commands.data import Data
from zsml.commands.data_affinity import DataAffinity
from zsml.commands.data_check import DataCheck
from zsml.commands.data_prepare import DataPrepare
from zsml.commands.demo import Demo
from zsml.commands.embed import Embed
from zsml.commands.evaluate import Evaluate
from zsml.commands.export import Export
from zsml.commands.import_ import Import
from zsml.commands.index import Index, IndexCodes, IndexDelete, IndexExport, IndexVerify
from zsml.commands.info import Info
from zsml.commands.search import Search
from zsml.commands.serve import Serve
from zsml.commands.systems import Systems
from zsml.commands.train import Train

COMMANDS: dict[str, type] = {
    "train": Train,
    "evaluate": Evaluate,
    "embed": Embed,
    "index": Index,
    "search": Search,
    "serve": Serve,
    "data": Data,
    "systems": Systems,
    "import": Import,
    "export": Export,
    "bench": Bench,
    "info": Info,
    "demo": Demo,
}

# What stands behind `zsml data ACTION NAME`; without an action `zsml data NAME` shows what is there. Likewise `zsml index`,
# which without an action adds images; a run whose folder has the name of an action is ./delete.
ACTIONS: dict[str, dict[str, type]] = {
    "data": {"affinity": DataAffinity, "check": DataCheck, "prepare": DataPrepare},
    "index": {"codes": IndexCodes, "delete": IndexDelete, "export": IndexExport, "verify": IndexVerify},
}
