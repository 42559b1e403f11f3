"""The README's table against the planner, and what is known of its cells without it."""

import re
import subprocess

import pytest
from conftest import ROOT

from lima import UserError
from lima.train import plan_table


def rows(lines):
    """`{recipe: its cells}` of a Markdown table."""
    return {c[1].strip(" `"): [cell.strip() for cell in c[2:-1]] for c in (line.split("|") for line in lines[2:])}


@pytest.fixture
def readme():
    text = plan_table.README.read_text(encoding="utf-8")
    return text.split(plan_table.MARKS[0])[1].split(plan_table.MARKS[1])[0].strip().splitlines()


def test_the_readme_shows_what_the_planner_says(readme):
    """Else: `make plan ARGS=--write`."""
    fresh = plan_table.table(["7b-qlora", "65b"])
    assert fresh[:2] == readme[:2]
    assert {name: rows(readme)[name] for name in rows(fresh)} == rows(fresh)


def test_every_recipe_for_gpus_has_a_row(readme):
    shipped = subprocess.run(["git", "ls-files", "recipes"], cwd=ROOT, capture_output=True, text=True).stdout
    ours = [name for name in plan_table.names() if not shipped or f"recipes/{name}.yaml\n" in shipped]
    assert list(rows(readme)) == ours


def test_what_is_known_of_the_cells(readme):
    """7B has 108 GB of states, 65B 914 (14 bytes a parameter): one 80 GB GPU holds neither, eight do not hold 65B."""
    machines = [machine[0:3] for machine in plan_table.MACHINES]
    told = {name: dict(zip(machines, cells, strict=True)) for name, cells in rows(readme).items()}
    assert told["7b"]["h100-80gb", 1, 1] == told["65b"]["h100-80gb", 8, 1] == "–"
    for name, gpus, parameters in (("7b", 8, 6_738_415_616), ("65b", 16, 65_285_660_672), ("65b", 32, 65_285_660_672)):
        memory = int(re.match(r"\d+", told[name]["h100-80gb", 8, gpus // 8])[0])
        assert 14 * parameters / gpus / 1e9 < memory < 78


def test_more_ranks_than_examples_is_said_in_the_cell(monkeypatch):
    monkeypatch.setattr(plan_table, "MACHINES", (("h100-80gb", 8, 8),))
    assert rows(plan_table.table(["65b"])) == {"65b": ["too many"]}


def test_writing_leaves_the_rest_as_it_is(monkeypatch, tmp_path):
    path = tmp_path / "README.md"
    monkeypatch.setattr(plan_table, "README", path)
    path.write_text(f"before\n{plan_table.MARKS[0]}\nold\n{plan_table.MARKS[1]}\nafter\n")
    plan_table.write(["| a |"])
    assert path.read_text() == f"before\n{plan_table.MARKS[0]}\n| a |\n{plan_table.MARKS[1]}\nafter\n"
    path.write_text("no marks")
    with pytest.raises(UserError, match="expected the marks"):
        plan_table.write(["| a |"])
    assert path.read_text() == "no marks"
