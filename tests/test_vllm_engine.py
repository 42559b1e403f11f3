"""vLLM is not here: what it would be asked is seen through a stand-in, what it would do through our own loop."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers.generation import RepetitionPenaltyLogitsProcessor

from lima import UserError, conversations, runs, turns
from lima.evaluate import decoding, generate

NAME = "lima.evaluate.vllm_engine"


class Adapter:
    """Stands in for vLLM's base class of processors."""


class LLM:
    """Stands in for vLLM's engine: keeps what it was made and asked with, and answers with the ids in `replies`."""

    def __init__(self, **made):
        LLM.made, LLM.asked = made, []

    def generate(self, prompts, params, use_tqdm):
        LLM.asked += zip([prompt["prompt_token_ids"] for prompt in prompts], params, strict=True)
        LLM.sizes.append(len(prompts))
        said = [LLM.replies[len(LLM.asked) - len(prompts) + i] for i in range(len(prompts))]
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, finish_reason=reason, stop_reason=stop)])
            for ids, reason, stop in said
        ]


@pytest.fixture
def engine(monkeypatch):
    """Our module, imported where a vLLM is installed."""
    vllm, processors = ModuleType("vllm"), ModuleType("vllm.v1.sample.logits_processor")
    vllm.__version__, vllm.LLM, vllm.SamplingParams = "0.0", LLM, SimpleNamespace
    processors.AdapterLogitsProcessor = Adapter
    LLM.sizes = []
    for name in ("vllm", "vllm.v1", "vllm.v1.sample"):
        monkeypatch.setitem(sys.modules, name, vllm)
    monkeypatch.setitem(sys.modules, "vllm.v1.sample.logits_processor", processors)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER", raising=False)
    yield importlib.import_module(NAME)
    sys.modules.pop(NAME, None)
    importlib.invalidate_caches()


def ask(folder, tmp_path, count, *words):
    generate.main(["--run", str(folder), "--engine", "vllm", "--limit", str(count), *words])


@pytest.fixture
def base(tiny_base, tmp_path):
    (tmp_path / "base").symlink_to(tiny_base)
    return tmp_path / "base"


def test_without_vllm_one_line_says_so(base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it fails
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    with pytest.raises(UserError, match=r"^--engine vllm: vLLM is not installed here; `pip install vllm`, or leave"):
        ask(base, tmp_path, 1)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_vllm_without_the_processors_that_the_penalty_needs_is_refused(base, tmp_path, engine, monkeypatch):
    monkeypatch.delattr(sys.modules["vllm.v1.sample.logits_processor"], "AdapterLogitsProcessor")
    importlib.reload(engine)
    with pytest.raises(UserError, match=r"vLLM 0\.0 has no AdapterLogitsProcessor"):
        ask(base, tmp_path, 1)


def test_an_adapter_is_sent_to_merge(engine, tmp_path):
    (tmp_path / "runs/r/checkpoint-3").mkdir(parents=True)
    (tmp_path / "runs/r/checkpoint-3/adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"`make merge RUN=.+/runs/r` makes whole weights"):
        list(engine.answers(tmp_path / "runs/r/checkpoint-3", [], {}, 1, print))


def test_settings_stops_and_answers_go_through(base, tmp_path, engine):
    _, tokenizer = generate.load_model(base)
    eot, eos = decoding.stop_tokens(SimpleNamespace(eos_token_id=[tokenizer.eos_token_id, 0]), tokenizer)
    said = tokenizer.encode("So it is.")
    LLM.replies = [
        ([*said, eot], "stop", None), (said, "stop", None), ([*said, eos], "stop", eos), (said, "stop", eos),
        (said, "length", None),
    ]  # fmt: skip
    ask(base, tmp_path, 5, "--batch_size", "2", "--max_new_tokens", "7", "--seed", "4")
    rows = runs.read_jsonl(tmp_path / "generations/base/dev.jsonl")
    assert [row["response"] for row in rows] == ["So it is."] * 5 and LLM.sizes == [2, 2, 1]
    assert [row["finish_reason"] for row in rows] == ["eot", "eot", "eos", "eos", "length"]
    assert all(row["tokens"] == len(said) and row["sampling"]["engine"] == "vllm" for row in rows)
    prompts = conversations.load_prompts("data/prompts/dev.jsonl")[:5]
    assert [ids for ids, _ in LLM.asked] == [turns.encode(tokenizer, prompt["messages"])[0] for prompt in prompts]
    longest = max(len(ids) for ids, _ in LLM.asked)
    assert LLM.made == {
        "model": str(base), "tensor_parallel_size": torch.cuda.device_count() or 1, "dtype": "bfloat16", "seed": 4,
        "max_model_len": longest + 7, "generation_config": "vllm", "async_scheduling": False,
        "logits_processors": ["lima.evaluate.vllm_engine:GeneratedPenalty"],
    }  # fmt: skip
    params = [vars(each) for _, each in LLM.asked]
    assert len({each.pop("seed") for each in params}) == 5
    assert params == [
        {"temperature": 0.7, "top_p": 0.9, "top_k": 0, "repetition_penalty": 1.0, "extra_args": {"generated_penalty": 1.2},
         "max_tokens": 7, "stop_token_ids": [eot, eos], "detokenize": False}
    ] * 5  # fmt: skip


def test_the_processor_penalises_what_was_generated_and_only_where_asked(engine):
    processor = engine.GeneratedPenalty()
    assert isinstance(processor, Adapter) and processor.is_argmax_invariant() is False
    for nothing in (None, {}, {"another": 1}):
        assert processor.new_req_logits_processor(SimpleNamespace(extra_args=nothing)) is None
    penalise = processor.new_req_logits_processor(SimpleNamespace(extra_args={engine.PENALTY: 1.2}))
    assert penalise.__code__.co_argcount == 2  # so vLLM passes the generated ids alone
    logits = torch.randn(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(penalise([], logits.clone()), logits)
    theirs = RepetitionPenaltyLogitsProcessor(1.2, prompt_ignore_length=2)
    wanted = theirs(torch.tensor([[1, 2, 7, 7, 30]]), logits[None].clone())[0]
    assert torch.equal(penalise([7, 7, 30, -1], logits.clone()), wanted)  # -1: not sampled yet
