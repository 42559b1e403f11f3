"""EleutherAI's harness on a tiny model and a task made here, against log-likelihoods summed up by hand."""

import json
import shutil

import pytest
import torch
import yaml
from conftest import run
from transformers import AutoModelForCausalLM, AutoTokenizer

from lima import UserError, runs
from lima.evaluate import harness

QUESTIONS = [
    {"text": "Bread rises because of", "choices": [" yeast", " gravity", " the moon at night"], "label": 0},
    {"text": "Water boils when it is", "choices": [" cold", " hot"], "label": 1},
    {"text": "A wheel turns on its", "choices": [" bearing", " song", " own two feet"], "label": 0},
]


@pytest.fixture
def task(tmp_path):
    """A folder with a task of three questions in a file beside it."""
    runs.write_jsonl(tmp_path / "questions.jsonl", QUESTIONS)
    content = {
        "task": "three_questions", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "questions.jsonl")}}, "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}", "doc_to_target": "{{label}}", "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/three.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "tasks"


def right(model, tokenizer, question):
    """Whether the right choice has the highest log-likelihood."""
    sums = []
    for choice in question["choices"]:
        asked = tokenizer(question["text"], add_special_tokens=False)["input_ids"]
        whole = tokenizer(question["text"] + choice, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logs = model(torch.tensor([whole])).logits[0].float().log_softmax(-1)
        sums.append(sum(logs[place - 1, whole[place]].item() for place in range(len(asked), len(whole))))
    return max(range(len(sums)), key=sums.__getitem__) == question["label"]


def test_accuracy_is_that_of_log_likelihoods_by_hand(task, tiny_base, capsys, tmp_path):
    pytest.importorskip("lm_eval", reason="an optional extra: requirements-lm-eval.txt")
    target = tmp_path / "base"
    shutil.copytree(tiny_base, target)
    words = ["--run", str(target), "--tasks", "three_questions", "--include", str(task)]
    harness.main(words)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_base), AutoTokenizer.from_pretrained(tiny_base)
    share = sum(right(model, tokenizer, question) for question in QUESTIONS) / 3
    (file,) = (target / "lm_eval").glob("*.json")
    assert json.loads(file.read_text())["three_questions"]["acc"] == pytest.approx(share)
    assert f"| three_questions | acc | {share:.4f} |" in capsys.readouterr().out
    file.unlink()
    with pytest.raises(UserError, match="no such task"):
        harness.main([*words[:3], "four_questions", *words[4:]])
    assert not list((target / "lm_eval").glob("*.json"))


def test_without_the_harness_it_is_one_line(tiny_base):
    hidden = (
        "import sys; sys.modules['lm_eval'] = None; from lima.evaluate import harness; from lima import exit_codes\n"
    )
    done = run("-c", f"{hidden}with exit_codes(): harness.main(['--run', {str(tiny_base)!r}])")
    assert done.returncode == 2 and "lm-eval is not installed" in done.stderr and "Traceback" not in done.stderr
