"""Data recipes: what extends what, and one line for what is not known."""

import pytest
from conftest import ROOT

from lima import UserError
from lima.curate import settings


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/data").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_data_recipes_are_read(path):
    assert set(settings.load(path)) == set(settings.SECTIONS)


def test_a_recipe_says_only_its_difference(tmp_path):
    (tmp_path / "a.yaml").write_text("mix: {x: {y: 1, z: [1]}}\nwikihow: {k: 1}\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nmix: {x: {z: [2]}}\n")
    assert settings.load(tmp_path / "b.yaml")["mix"] == {"x": {"y": 1, "z": [2]}}
    assert settings.load(tmp_path / "b.yaml")["wikihow"] == {"k": 1}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stackexchnage: {}", "section 'stackexchnage' is not known; did you mean stackexchange"),
        ("mix: 3", "mix: expected `key: value` lines"),
        ("a: [", "not YAML"),
        ("extends: r.yaml", "goes in a circle"),
        ("wikihow: {promt: title}", "did you mean prompt"),
        ("wikihow: {prompt: 3}", "expected str"),
    ],
)
def test_what_is_not_known_is_one_line(text, says, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says) as error:
        settings.section(path, "wikihow", {"prompt": "question"})
    assert "\n" not in str(error.value)


def test_a_missing_recipe_names_those_there(tmp_path):
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(UserError, match=r"no such data recipe; in that folder: mine\.yaml"):
        settings.load(tmp_path / "other.yaml")
