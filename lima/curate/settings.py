"""A data recipe, `recipes/data/NAME.yaml`: a section a step. Unknown sections and keys are errors."""

import difflib
from pathlib import Path

import yaml

from lima import UserError

SECTIONS = ("stackexchange", "wikihow", "reddit", "super_ni", "authors", "mix")


def load(path):
    """The recipe's sections, all of `SECTIONS`, each a dict (empty where the file has none).

    `extends: other.yaml`, relative to the file's folder, names a recipe that this one changes, key by key. Raises
    `UserError` for a file that is not a mapping of known sections.
    """
    return _load(Path(path), ())


def _load(path, seen):
    if path.resolve() in seen:
        raise UserError(f"{path}: `extends` goes in a circle")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        have = ", ".join(sorted(p.name for p in path.parent.glob("*.yaml"))) or "none"
        raise UserError(f"{path}: no such data recipe; in that folder: {have}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    raw = _mapping(raw, path)
    parent = raw.pop("extends", None)
    check_keys(raw, SECTIONS, f"{path}: section", "sections")
    below = _load(path.parent / str(parent), (*seen, path.resolve())) if parent is not None else {}
    return {name: merged(below.get(name, {}), _mapping(raw.get(name), f"{path}: {name}")) for name in SECTIONS}


def _mapping(value, where):
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected `key: value` lines; found {str(value)[:60]!r}")
    return value


def merged(below, above):
    """`below` with the keys of `above` in it; mappings are merged, anything else is replaced."""
    out = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        out[key] = merged(below[key], value) if both else value
    return out


def check_keys(given, known, where, plural="keys"):
    """Raises `UserError` for the first key of `given` that `known` lacks, with near matches."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"the {plural} are {', '.join(known)}"
            raise UserError(f"{where} {key!r} is not known; {hint}")


def section(path, name, defaults):
    """The section `name` of the recipe at `path` over `defaults`; its keys, and their types, are those of `defaults`.

    A default of None takes any value, and an integer will do where the default is a float. Raises `UserError`.
    """
    given = load(path)[name]
    check_keys(given, list(defaults), f"{path}: {name}: key")
    for key, value in given.items():
        _check_type(value, defaults[key], f"{path}: {name}.{key}")
    return merged(defaults, given)


def _check_type(value, default, where):
    kind = type(default)
    if default is None or type(value) is kind or (kind is float and type(value) is int):
        return
    raise UserError(f"{where}: expected {kind.__name__}, such as {default!r}; found {value!r}")
