"""`zsml systems`, and how the settings of systems, data sets and variants lie over one another."""

from __future__ import annotations

import json

import pytest

from zsml.cli import _parse, main
from zsml.systems import SYSTEMS


def test_every_system_is_listed_with_its_source(capsys):
    assert main(["systems"]) == 0
    shown = capsys.readouterr().out
    for name, system in SYSTEMS.items():
        assert f"{name}\n  {system.summary}\n  {system.source}; protocol {system.protocol}" in shown


@pytest.mark.parametrize("name", SYSTEMS)
def test_one_system_shows_what_it_reads_and_sets(name, capsys):
    assert main(["systems", name, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    shown = {entry["setting"]: entry for entry in result["settings"]}
    system = SYSTEMS[name]
    for setting in (*system.settings, *system.defaults):
        assert "--" + setting.replace("_", "-") in shown
    for setting, value in system.released.items():
        assert shown["--" + setting.replace("_", "-")]["released"] == value
    assert main(["systems", name]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["systems", "sakee"], "error: system 'sakee' is not known; choose from mathm, baseline"),
        (["systems", "mathm", "--data", "sketchi"], "error: --data 'sketchi' is not known; choose from synthetic, folder"),
        (["train", "mathn", "--data", "synthetic"], "(did you mean 'mathm'?)"),
        (["train", "mathm", "--data", "tuberln"], "(did you mean 'tuberlin'?)"),
        (
            ["train", "baseline", "--data", "synthetic", "--weighting", "mean"],
            "--weighting has no meaning for baseline; leave it",
        ),
    ],
)
def test_unknown_names_and_settings_of_other_systems_are_refused(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_flags_win_over_the_variant_and_the_variant_over_the_system():
    released = _parse(["train", "mathm", "--data", "synthetic", "--variant", "released"]).settings
    assert (released.variant, released.weighting) == ("released", "released")
    kept = _parse(["train", "mathm", "--data", "synthetic", "--variant", "released", "--weighting", "mean"]).settings
    assert (kept.variant, kept.weighting) == ("released", "mean")
