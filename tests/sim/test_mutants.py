"""The simulator notices planted bugs: each within 200 seeds, most at once."""

from __future__ import annotations

import pytest

from tests.sim.mutants import MUTANTS, Mutant, hunt


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_planted_bug_is_caught(mutant: Mutant) -> None:
    assert hunt(mutant, seeds=200) is not None
