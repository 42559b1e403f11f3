"""A data recipe, `recipes/data/NAME.yaml`: a section a step. Unknown sections and keys, however deep, are errors."""

import difflib
from functools import reduce
from pathlib import Path

import yaml

from lima import UserError

SECTIONS = ("stackexchange", "dialogues", "wikihow", "reddit", "super_ni", "authors", "mix")


def load(path):
    """The recipe's sections, all of `SECTIONS`, each a dict (empty where the file has none).

    `extends: other.yaml`, relative to the file's folder, names a recipe that this one changes, key by key. Raises
    `UserError` for a file that is not a mapping of known sections.
    """
    layers = _layers(Path(path), ())
    return {name: _whole(layers, name) for name in SECTIONS}


def _whole(layers, name):
    """A section as the recipe has it, over what it extends."""
    return reduce(merged, (sections.get(name, {}) for _, sections in layers), {})


def _layers(path, seen):
    """`[(file, its sections), …]`: what the recipe extends comes first."""
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
    below = _layers(path.parent / str(parent), (*seen, path.resolve())) if parent is not None else []
    return [*below, (path, {name: _mapping(raw[name], f"{path}: {name}") for name in raw})]


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

    A mapping in `defaults` says which keys may stand there in the recipe; one that is empty, such as `sites: {}`, takes any,
    and what type their values have the step checks. A default of None takes any value, and an integer will do where the
    default is a float. Raises `UserError` that names the file, be it the one that `path` extends, and the key's place in it.
    """
    layers = _layers(Path(path), ())
    for file, sections in layers:
        given, where = sections.get(name, {}), f"{file}: {name}"
        _check_nested(given, defaults, where)
        for key, value in given.items():
            _check_type(value, defaults[key], f"{where}.{key}")
    return merged(defaults, _whole(layers, name))


def _check_nested(given, defaults, where):
    """Raises `UserError` for a key that `defaults`, or a mapping in it, lacks, and for what is no mapping where it has one."""
    check_keys(given, list(defaults), f"{where}: key")
    for key, default in defaults.items():
        if key in given and isinstance(default, dict):
            if not isinstance(given[key], dict):
                raise UserError(f"{where}.{key}: expected `key: value` lines; found {str(given[key])[:60]!r}")
            if default:
                _check_nested(given[key], default, f"{where}.{key}")


def _check_type(value, default, where):
    kind = type(default)
    if default is None or type(value) is kind or (kind is float and type(value) is int):
        return
    raise UserError(f"{where}: expected {kind.__name__}, such as {default!r}; found {value!r}")
