"""tests/mutants.py: its table is in step with the scripts."""

import ast

import pytest

from tests.conftest import CASES, ROOT
from tests.mutants import TABLES, mutants_of


def test_every_script_has_mutants():
    assert TABLES.keys() == {case.name for case in CASES}


def test_number_of_mutants_in_the_readme():
    mutants = [mutant for script in TABLES for mutant in mutants_of(script)]
    detected = [mutant for mutant in mutants if not mutant.reason]
    text = (ROOT / "README.md").read_text()
    assert f"introduces {len(mutants)} small mistakes" in text
    assert f"The tests detect {len(detected)} of them" in text


@pytest.mark.parametrize("script", TABLES)
def test_every_mutant_applies_once_compiles_and_differs(script):
    mutants = mutants_of(script)
    assert len(mutants) >= 20
    assert len({mutant.name for mutant in mutants}) == len(mutants)
    original = ast.dump(ast.parse((ROOT / f"{script}.py").read_text()))
    sources = [mutant.source() for mutant in mutants]  # fails if the old text is not there once
    dumps = {ast.dump(ast.parse(source)) for source in sources}
    assert original not in dumps
    assert len(dumps) == len(mutants)
