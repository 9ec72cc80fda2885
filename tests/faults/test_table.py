"""Every row of the table of faults names a test that is there."""

import ast

import pytest

from tests.faults.homes import ROOT
from tests.faults.table import FAULTS, Fault, rows


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.fault)
def test_a_row_names_a_test_that_is_there(fault: Fault) -> None:
    file, _, name = fault.test.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_table_has_a_line_for_each_fault() -> None:
    assert len(list(rows())) == len(FAULTS) + 2
