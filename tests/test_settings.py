"""Data recipes: what extends what, and one line for what is not known."""

import pytest
import yaml
from conftest import ROOT

from lima import UserError
from lima.curate import authors, dialogues, mixture, reddit, settings, stackexchange, super_ni, wikihow


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


NESTED = [
    ("reddit", reddit.DEFAULTS, "writingprompts", "min_scroe", "min_score"),
    ("reddit", reddit.DEFAULTS, "writingprompts.response", "min_scroe", "min_score"),
    ("reddit", reddit.DEFAULTS, "askreddit", "subredit", "subreddit"),
    ("mix", mixture.DEFAULTS, "near_duplicates", "jacard", "jaccard"),
    ("mix", mixture.DEFAULTS, "contamination", "ngrams", "ngram"),
    ("mix", mixture.DEFAULTS, "guards", "secret", "secrets"),
]


def nested(defaults, at=""):
    """The place of every mapping in `defaults` that has keys of its own."""
    inside = [
        (f"{at}.{key}".lstrip("."), value) for key, value in defaults.items() if isinstance(value, dict) and value
    ]
    return [place for place, value in inside for place in (place, *nested(value, place))]


def test_the_nested_sections_are_these():
    steps = {"stackexchange": stackexchange, "dialogues": dialogues, "wikihow": wikihow, "reddit": reddit,
             "super_ni": super_ni, "authors": authors, "mix": mixture}  # fmt: skip
    assert set(steps) == set(settings.SECTIONS)
    found = {(name, place) for name, step in steps.items() for place in nested(step.DEFAULTS)}
    assert found == {(name, place) for name, _, place, *_ in NESTED}


@pytest.mark.parametrize(
    ("name", "defaults", "place", "slip", "meant"), NESTED, ids=[place for _, _, place, *_ in NESTED]
)
def test_a_slip_in_a_nested_key_names_file_place_and_the_nearest(name, defaults, place, slip, meant, tmp_path):
    (tmp_path / "below.yaml").write_text("")
    path, recipe = tmp_path / "r.yaml", {slip: 5}
    for key in reversed([name, *place.split(".")]):
        recipe = {key: recipe}
    path.write_text(yaml.safe_dump({"extends": "below.yaml", **recipe}))
    with pytest.raises(UserError) as error:
        settings.section(path, name, defaults)
    assert str(error.value).startswith(f"{path}: {name}.{place}: key '{slip}' is not known; did you mean {meant}")
    assert "\n" not in str(error.value)
    path.write_text(yaml.safe_dump({"extends": "below.yaml"}))
    (tmp_path / "below.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError) as error:
        settings.section(path, name, defaults)
    assert str(error.value).startswith(f"{tmp_path}/below.yaml: {name}.{place}: key '{slip}'")


def test_what_is_no_mapping_where_one_belongs_is_one_line(tmp_path):
    (tmp_path / "r.yaml").write_text("reddit: {writingprompts: {response: 3}}")
    with pytest.raises(
        UserError, match=r"r\.yaml: reddit\.writingprompts\.response: expected `key: value` lines; found '3'"
    ):
        settings.section(tmp_path / "r.yaml", "reddit", reddit.DEFAULTS)


def test_an_empty_mapping_takes_any_keys(tmp_path):
    (tmp_path / "r.yaml").write_text("wikihow: {rename: {a: b}}\nstackexchange: {sites: {mysite: stem}}")
    assert settings.section(tmp_path / "r.yaml", "wikihow", wikihow.DEFAULTS)["rename"] == {"a": "b"}
    assert settings.section(tmp_path / "r.yaml", "stackexchange", stackexchange.DEFAULTS)["sites"] == {"mysite": "stem"}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/data").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("step", [stackexchange, dialogues, wikihow, reddit, super_ni, authors, mixture])
def test_every_section_of_the_shipped_recipes_has_known_keys(path, step):
    name = "mix" if step is mixture else step.__name__.split(".")[-1]
    assert settings.section(path, name, step.DEFAULTS).keys() == step.DEFAULTS.keys()


def test_a_missing_recipe_names_those_there(tmp_path):
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(UserError, match=r"no such data recipe; in that folder: mine\.yaml"):
        settings.load(tmp_path / "other.yaml")
