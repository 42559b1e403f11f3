"""Recipes: YAML files and command-line overrides → one flat, typed set of arguments.

A recipe is `recipes/NAME.yaml`; `extends: lima.yaml` names the recipe that it changes, relative to its own folder. Its
keys, and the flags that override them (`--learning_rate 2e-5`), are the fields of TRL's `SFTConfig` and `ModelConfig`
and of `LimaArguments` below. A key that none of them has is an error.
"""

import argparse
import dataclasses
import difflib
import enum
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lima import UserError

DERIVED = {
    "gradient_accumulation_steps": "follows from global_batch_size, the number of ranks and tokens_per_device",
    "per_device_train_batch_size": "follows from global_batch_size, the number of ranks and tokens_per_device",
    "train_sampling_strategy": "batches are those of a plain shuffle by seed; see lima/train/batches.py",
    "dataloader_drop_last": "the last batch of an epoch is partial, never dropped",
    "average_tokens_across_devices": "the loss is the mean over the tokens of the whole global batch",
    "push_to_hub": "saving, verifying and pushing are three steps; a push inside a run can take the run with it",
    "trust_remote_code": "this repo runs no code from a model's or a dataset's repository",
    "model_revision": "model_name_or_path is a prepared base; base_revision names the revision of what it is made from",
    "pad_token": "set padding_token; the base carries it",
    "eos_token": "set eot_token; the base carries it",
    "hub_token": "secrets do not belong in recipes; use `hf auth login` or HF_TOKEN",
    "chat_template_path": "the template is lima/chat_template.jinja, and the base carries it",
    "packing": "packing changes which examples share an optimiser step; with 1,000 examples that changes the model",
    "assistant_only_loss": "set `loss_on: responses` (the default) or `loss_on: all`",
    "completion_only_loss": "set `loss_on: responses` (the default) or `loss_on: all`",
}


def _arg(help, default=None, **metadata):
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class LimaArguments:
    """What a LIMA recipe says beyond TRL's own `SFTConfig` and `ModelConfig`."""

    base: str | None = _arg(
        "The untouched base: a Hub id, a folder, or PACKAGE:FILE.gguf in an installed package. "
        "`make base-NAME` turns it into model_name_or_path."
    )
    base_revision: str | None = _arg("Revision of `base` on the Hub.")
    eot_token: str = _arg(
        "The end-of-turn token; a new row unless the base's vocabulary has it (section 3); base-eos: the base's own EOS.",
        default="<|eot|>",
    )
    padding_token: str = _arg("The padding token: never EOT, never EOS.", default="<|pad|>")
    eot_init: str = _arg(
        "Where a new EOT row starts: the base's EOS row, or the mean of all rows.",
        default="eos",
        choices=["eos", "mean"],
    )
    dataset: str | None = _arg("A Hub dataset id, a .jsonl/.json/.parquet file, or a `datasets` folder.")
    dataset_split: str = _arg("The split to train on, for Hub datasets and folders.", default="train")
    dataset_revision: str | None = _arg("Revision of `dataset` on the Hub.")
    exclude_sources: list[str] | None = _arg("Sources to leave out, as the rows' `source` names them.")
    exclude_rows: list[int] | None = _arg("Rows to leave out, counted from 0.")
    heldout: str | None = _arg("Examples for held-out loss, in any form that `dataset` has. Never picks a checkpoint.")
    dev_prompts: str | None = _arg("Prompts that judge checkpoints; a warning if one is trained on.")
    test_prompts: str | None = _arg("Prompts that report the result; a warning if one is trained on.")
    loss_on: str = _arg(
        "Tokens in the loss: responses and their EOT, or all but BOS ([?] not stated in the paper).",
        default="responses",
        choices=["responses", "all"],
    )
    over_length: str = _arg(
        "A conversation beyond max_length: trim its end (section 3), drop it, or stop.",
        default="trim",
        choices=["trim", "drop", "error"],
    )
    global_batch_size: int = _arg("Examples an optimiser step, over all ranks (section 3).", default=32)
    packed: bool = _arg(
        "Steps as packing makes them: the examples that global_batch_size packed blocks of max_length tokens hold.",
        default=False,
    )
    tokens_per_device: int = _arg(
        "Most tokens that a rank computes at a time; the number of micro-batches a step follows from it.", default=4096
    )
    residual_dropout: float = _arg(
        "Dropout on the residual stream at the last layer, rising linearly from 0.0 at the first (section 3).",
        default=0.0,
    )
    keep_epochs: str = _arg("Epochs whose weights are kept, such as 5-10; the last is always kept.", default="5-10")
    push_each_epoch: str | None = _arg(
        "Where to push each kept checkpoint in the background, once verified: org/name on the Hub, or dir:PATH."
    )
    sample_prompts: int = _arg(
        "How many dev prompts are answered at the end of each epoch, greedily and in short, to be looked at; 0 for none.",
        default=8,
    )
    resume: str = _arg(
        "Go on from the run's newest checkpoint that is whole, if there is one (make sft-NAME does).",
        default="never",
        choices=["never", "auto"],
    )
    overwrite: bool = _arg("Train again although the run's folder holds checkpoints, and remove them.", default=False)
    dry_run: bool = _arg("Print the plan and stop.", default=False)
    ignore_fit: bool = _arg("Start although the plan says that memory or disk will not do.", default=False)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-5` as text; a recipe means the number."""


class _Dumper(yaml.SafeDumper):
    """Quotes the text that `_Loader` would read as a number."""


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]\d+$"), list("-+0123456789")
    )


class _Parser(argparse.ArgumentParser):
    """`TrlParser` with errors raised instead of printed, so that they can name the recipe and the key."""

    def error(self, message):
        raise argparse.ArgumentError(None, message)


def JSON(text):  # its name stands in argparse's message
    """A dict written as JSON, or plain text such as the path of a DeepSpeed config."""
    if text.lower() in ("none", "null"):
        return None
    return json.loads(text) if text.lstrip().startswith("{") else text


def _parser():
    from trl import ModelConfig, SFTConfig, TrlParser

    class Parser(_Parser, TrlParser):
        pass

    parser = Parser([LimaArguments, SFTConfig, ModelConfig], allow_abbrev=False, add_help=False, exit_on_error=False)
    for action in parser._actions:
        if action.dest in (*SFTConfig._VALID_DICT_FIELDS, "liger_kernel_config"):
            action.type = JSON
    return parser


def base_command(path):
    """What prepares the base of the recipe at `path`."""
    path = Path(path)
    if path.parent == Path("recipes"):  # the Makefile's targets
        return f"make base-{path.relative_to('recipes').with_suffix('')}"
    return f"python -m lima.train.base --config {path}"


def read_chain(path):
    """The recipes that `path` extends and itself, base first: `[(path, {key: value}), …]`."""
    chain, path = [], Path(path)
    while path is not None:
        if path.resolve() in [p.resolve() for p, _ in chain]:
            raise UserError(f"{path}: extends itself, by way of {chain[-1][0]}")
        try:
            keys = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); recipes lie in recipes/") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark else ""
            raise UserError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)})") from None
        if not isinstance(keys, dict):
            raise UserError(f"{path}: expected `key: value` lines, found {type(keys).__name__}")
        parent = keys.pop("extends", None)
        if not isinstance(parent, str | None):
            raise UserError(f"{path}: extends: expected the name of one recipe, such as lima.yaml; found {parent!r}")
        chain.insert(0, (path, keys))
        path = path.parent / parent if parent else None
    return chain


def tokens(key, value):
    """One recipe line as command-line words, so that YAML and flags are typed by the same parser."""
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    return [f"--{key}", json.dumps(value) if isinstance(value, dict) else str(value)]


def _check_key(key, where, known):
    if key in DERIVED:
        raise UserError(f"{where}: {key} cannot be set: {DERIVED[key]}")
    if key not in known:
        near = difflib.get_close_matches(str(key), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; see `python lima_sft.py --help`"
        raise UserError(f"{where}: unknown key {key}{hint}")


def load(argv):
    """Resolves `--config recipes/NAME.yaml [--key value …]`.

    Returns an `argparse.Namespace` with every field of `LimaArguments`, `SFTConfig` and `ModelConfig`, plus `given`, the
    keys that the recipe or the command line set, and `config`, the recipe's path. No config object is built yet, so a
    recipe for 64 GPUs can be read on a laptop. Raises `UserError` for a missing file, an unknown key or a bad value.
    """
    front = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    front.add_argument("--config")
    chosen, flags = front.parse_known_args(argv)
    if not chosen.config:
        raise UserError("no recipe; name one: python lima_sft.py --config recipes/quickstart.yaml")
    layers = read_chain(chosen.config)
    parser = _parser()
    known = {action.dest for action in parser._actions}
    given, origin, words = {}, {}, []
    for path, keys in layers:
        _drop_exclusions(given, keys)
        for key, value in keys.items():
            _check_key(key, path, known)
            given[key], origin[key] = value, path
    flags = [_underscored(flag) for flag in flags]
    named = [flag[2:].split("=")[0] for flag in flags if flag.startswith("--")]
    for key in named:
        _check_key(key, "command line", known)
    flagged = _parse(parser, flags, "command line")
    _drop_exclusions(given, {key: getattr(flagged, key, None) for key in named})
    for key, value in given.items():
        if value is not None:  # null: back to the default
            _parse(parser, tokens(key, value), f"{origin[key]}: {key}")
            words += tokens(key, value)
    given |= dict.fromkeys(named)
    namespace = _parse(parser, words + flags, chosen.config)
    for key in given:
        if getattr(namespace, key) in ("None", "null", ["None"], ["null"]) and parser.get_default(key) is None:
            setattr(namespace, key, None)  # `--heldout None`, as Python and YAML write it
        given[key] = _plain(getattr(namespace, key))
    name = namespace.run_name or Path(chosen.config).stem
    namespace.run_name, namespace.config, namespace.given = name, chosen.config, given
    namespace.output_dir = namespace.output_dir or f"runs/{name}"
    _check_values(namespace)
    return namespace


def _drop_exclusions(given, keys):
    """Takes out of `given` what it leaves out of a dataset, where `keys` name another dataset."""
    if "dataset" in keys and keys["dataset"] != given.get("dataset"):
        for key in ("exclude_sources", "exclude_rows"):
            given.pop(key, None)


def _plain(value):
    """A typed value as YAML holds it."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, enum.Enum) else value


def _underscored(flag):
    if not flag.startswith("--"):
        return flag
    key, equals, value = flag.partition("=")
    return "--" + key[2:].replace("-", "_") + equals + value


def _parse(parser, words, where):
    try:
        namespace, rest = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        name = f" {error.argument_name.split('/')[0]}:" if error.argument_name and where == "command line" else ""
        raise UserError(f"{where}:{name} {error.message}") from None
    if rest:
        raise UserError(f"{where}: cannot read {' '.join(rest)!r}; write --key value")
    return namespace


def _check_values(recipe):
    from lima.runs import parse_epochs

    for key in ("model_name_or_path", "dataset"):
        if not getattr(recipe, key):
            raise UserError(f"{recipe.config}: {key} is missing")
    if recipe.global_batch_size < 1 or recipe.num_train_epochs <= 0:
        raise UserError(f"{recipe.config}: global_batch_size and num_train_epochs must be positive")
    if not 0 <= recipe.residual_dropout < 1:
        raise UserError(f"{recipe.config}: residual_dropout must lie in [0, 1), found {recipe.residual_dropout}")
    if not recipe.max_length or recipe.max_length < 4:
        raise UserError(f"{recipe.config}: max_length must be a number of tokens, such as 2048")
    try:
        parse_epochs(recipe.keep_epochs)
    except UserError as error:
        raise UserError(f"{recipe.config}: {error}") from None


def build(recipe, cls, **overrides):
    """The part of a resolved recipe that `cls` (`SFTConfig`, `ModelConfig`) holds, as an object of it."""
    names = [f.name for f in dataclasses.fields(cls) if f.init]
    values = {name: getattr(recipe, name) for name in names if hasattr(recipe, name)}
    try:
        return cls(**{**values, **overrides})
    except (ValueError, ImportError) as error:
        raise UserError(f"{recipe.config}: {' '.join(str(error).split())}") from None


def as_yaml(values):
    """YAML as this repo writes it: in the given order, text as it is."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


HELP = """usage: python lima_sft.py --config recipes/NAME.yaml [--key value ...]

Trains what a recipe says. A plan is printed before the model is loaded.

  python lima_sft.py --config recipes/quickstart.yaml --dry_run     the plan, and no more
  python lima_sft.py --config recipes/7b.yaml --learning_rate 2e-5  one change to a recipe
  torchrun --nproc_per_node 8 lima_sft.py --config recipes/65b.yaml the same on eight GPUs

Every line of a recipe is a flag and every flag can stand in a recipe. Beside every field of TRL's SFTConfig and
ModelConfig (`python lima_sft.py --help-all` lists them), a recipe has these:
"""


def help_text(all_fields=False):
    """`--help`: our own fields with their defaults, and with `all_fields` every field of TRL's configs too."""
    if all_fields:
        return _parser().format_help()
    lines = [HELP]
    for f in dataclasses.fields(LimaArguments):
        choices = " | ".join(f.metadata.get("choices", []))
        default = "" if f.default in (None, False) else f" [{f.default}]"
        lines.append(f"  --{f.name} {choices}\n      {f.metadata['help']}{default}")
    return "\n".join(lines) + "\n\nexit codes: 0 done, 2 what you can mend, 1 anything else, 130 Ctrl-C\n"
