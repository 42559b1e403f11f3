"""`make plan-NAME` as its users meet it: its numbers against sums done here, its fits, and one line for every slip."""

import json
import re
import resource
import time

import pytest
import torch
from conftest import ROOT, run

from lima import UserError, recipe
from lima.train import forecast, gpus, memory

GB = 1e9
CLI = ("-m", "lima.train.plan")
P65, P7 = 65_285_660_672, 6_738_415_616
WIDTH, INNER, LAYERS, VOCABULARY = 8192, 22_016, 80, 32_000  # LLaMA 65B
H100 = 81_008 * 2**20


def words(name, *flags):
    return ["--config", f"recipes/{name}.yaml", "--model_name_or_path", "absent", *map(str, flags)]


def planned(capsys, name, *flags):
    forecast.main(words(name, *flags))
    return capsys.readouterr().out


def lines(out):
    """`{topic: text}` of what a plan printed, wrapped lines put together."""
    text = re.sub(r"\n {11}(?! )", " ", out)
    return dict(re.findall(r"^  (\w+) +(.+)$", text, re.M))


def parts(out):
    """`{part: GB}` of the table of memory."""
    rows = re.findall(r"^ {11}([a-z][a-z' ]+?) +([\d,]+\.\d)(?: |$)", out, re.M)
    return {name: float(size.replace(",", "")) for name, size in rows}


# ---- the numbers, in a process of its own ---------------------------------------------------------------------------


def lima_lengths():
    listed = json.loads((ROOT / "benchmarks/lima_lengths.json").read_text())["lengths"]
    return [min(total, 2048) for total, _ in listed]


def flops(length):
    """Of a training example on LLaMA 65B: what multiplies, thrice 2 FLOPs; scores and their sums over half of it on average."""
    weights = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER) + VOCABULARY * WIDTH
    return 3 * (2 * weights * length + 2 * 2 * WIDTH * LAYERS * length * length / 2)


def seconds_computing(lengths, share):
    """An example a rank: a step lasts as long as its longest takes, recomputed once. Shuffled as PyTorch does from seed 42."""
    total = 0
    for epoch in range(15):
        order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(42 + epoch)).tolist()
        steps = [order[start : start + 32] for start in range(0, len(lengths), 32)]
        total += sum(max(flops(lengths[i]) for i in step) for step in steps) * 4 / 3 / (989e12 * share)
    return total


def seconds_moving():
    """Weights twice and gradients once, in bf16, through the eight adapters of a node."""
    return 480 * 3 * 2 * P65 * 31 / 32 / (8 * 50e9 * 0.7)


@pytest.fixture(scope="module")
def on_four_nodes():
    """`(what it printed, seconds of CPU)` of the plan of 65b on 4 × 8 H100, offline."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    done = run(*CLI, "--config", "recipes/65b.yaml", "--model_name_or_path", "absent", "--gpu", "h100-80gb", "--gpus", 8,
               "--nodes", 4, "--price", 2.5, HF_HUB_OFFLINE="1", COLUMNS="80")  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, min(spent, time.monotonic() - started)


def test_it_answers_within_20_seconds(on_four_nodes):
    assert on_four_nodes[1] < 20


def test_what_is_trained_and_how_often(on_four_nodes):
    said, lengths = lines(on_four_nodes[0]), lima_lengths()
    assert said["base"] == "huggyllama/llama-65b · 65,285,660,672 parameters"
    assert said["steps"] == "32 an epoch, the last with 8 · 480 in all over 15 epochs"
    median = (sorted(lengths)[499] + sorted(lengths)[500]) / 2
    assert said["tokens"] == f"{sum(lengths):,} an epoch of 1,000 examples · longest 2,048, median {median:,.0f}"
    assert said["batch"].startswith("32 examples a step = 32 ranks × 1 micro-batch of at most 3,072 tokens · balance ")
    needed = 15 * sum(map(flops, lengths))
    balance = seconds_computing(lengths, 1.0) * 32 * 989e12 * 3 / 4 / needed
    assert f"balance {balance:.3f} (max/mean)" in said["batch"]


def test_memory_is_the_sum_of_its_parts_and_each_part_is_right(on_four_nodes):
    said = parts(on_four_nodes[0])
    largest, share = VOCABULARY * WIDTH, 1 / 32
    by_hand = {
        "weights": 2 * P65 * share,
        "gradients": 2 * P65 * share,
        "optimiser": 12 * P65 * share,
        "buffers": 2 * (WIDTH * WIDTH + 2 * largest),  # a bucket, and a reduce-scatter of the embeddings, in and out
        "activations": 3072 * 2 * WIDTH * LAYERS,  # every layer's input, in bf16
        "gathered layers": 2 * (1e9 + 0.9 * WIDTH * WIDTH),  # DeepSpeed's live parameters, and those prefetched
        "the optimiser's step": 6 * 1e8,  # a sub-group's gradients in fp32, beside bf16
    }
    assert {name: said[name] for name in by_hand} == {
        name: pytest.approx(n / GB, abs=0.051) for name, n in by_hand.items()
    }
    assert 0.5 < said["loss and temporaries"] < 4
    held = sum(size for name, size in said.items() if name not in ("peak", "the optimiser's step"))
    assert said["peak"] == pytest.approx(held, abs=0.4)  # seven numbers rounded
    room = 0.92 * H100 / GB
    assert f"fits: {said['peak']} of {room:.1f} GB, 92% of the {H100 / GB:.1f} that a GPU has" in on_four_nodes[0]


def test_host_memory_and_disk(on_four_nodes):
    said = lines(on_four_nodes[0])
    assert said["host"].startswith(
        f"{(8e9 + 2 * P65) / GB:,.0f} GB of memory a node"
    )  # 8 ranks, and weights to be saved
    kept = 7 + 1  # epochs 5-10 and 15, and one that is being written
    assert said["disk"].startswith(f"{(2 * kept + 2 * 12) * P65 / GB:,.1f} GB")


def test_time_and_cost_are_those_of_its_flops(on_four_nodes):
    said, lengths = lines(on_four_nodes[0]), lima_lengths()
    low, high = (seconds_computing(lengths, share) / 60 for share in (0.50, 0.35))
    assert seconds_moving() / 60 < low
    assert said["time"].startswith(f"{low:.0f}–{high:.0f} minutes, loading and saving aside")
    assert said["time"].endswith("bound by computing)")
    low, high = (minutes / 60 * 32 * 2.5 for minutes in (low, high))
    assert said["cost"].startswith(f"{low:.0f}–{high:.0f} dollars at 2.5 a GPU and hour")


@pytest.mark.slow
def test_nothing_is_wider_than_the_terminal(on_four_nodes, capsys, monkeypatch):
    assert max(map(len, on_four_nodes[0].splitlines())) <= 80
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        for name, *flags in (
            ("7b", "--gpu", "rtx4090-24gb", "--gpus", 1),
            ("7b-qlora", "--gpu", "rtx4090-24gb", "--gpus", 2),
        ):
            out = planned(capsys, name, *flags)
            assert max(map(len, out.splitlines())) <= columns
            assert all(line == line.rstrip() for line in out.splitlines())


# ---- where ----------------------------------------------------------------------------------------------------------


def test_the_fewest_h100_are_taken_where_nothing_is_asked_for_and_nothing_is_here(capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    out = planned(capsys, "65b")
    assert "plan · 65b on 16 × h100-80gb (2 nodes of 8)" in out
    assert lines(out)["machine"] == "no GPU here: the fewest that hold it" and "  fits: " in out


def test_a_recipe_that_needs_no_gpu_is_planned_for_this_machine(capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    out = planned(capsys, "135m")
    assert "plan · 135m on 1 × cpu" in out and lines(out)["machine"] == "this machine; it has no GPU"
    assert lines(out)["time"].startswith("not estimated") and "cost" not in lines(out)


def test_ranks_on_a_machine_without_gpus_share_its_memory(capsys):
    one, two = (planned(capsys, "135m", "--gpu", "cpu", "--gpus", ranks) for ranks in (1, 2))
    have = [float(re.search(r"of the ([\d.,]+) that a rank has", out)[1].replace(",", "")) for out in (one, two)]
    assert have == [pytest.approx(memory.host_memory() / ranks / GB, abs=0.06) for ranks in (1, 2)]
    assert lines(two)["host"].startswith(f"{2 * parts(two)['peak']:.0f} GB of memory a node")


def test_the_gpus_here_are_taken_first(monkeypatch, capsys):
    monkeypatch.setattr(gpus, "present", lambda: (gpus.named("a100-80gb"), 4))
    out = planned(capsys, "7b", "--nodes", 2)
    assert "plan · 7b on 8 × a100-80gb (2 nodes of 4)" in out and lines(out)["machine"] == "the GPUs here"
    assert "on 8 × h100-80gb" in planned(capsys, "7b", "--gpu", "h100-80gb", "--gpus", 8)


def test_what_takes_no_memory_has_no_line(capsys):
    """One GPU without DeepSpeed has no buffers and gathers nothing; what is offloaded is said to be elsewhere."""
    assert {"buffers", "gathered layers"}.isdisjoint(
        parts(planned(capsys, "7b-qlora", "--gpu", "rtx4090-24gb", "--gpus", 1))
    )
    out = planned(capsys, "7b", "--gpus", 1, "--gpu", "h100-80gb", "--deepspeed", "ds_configs/zero3_offload.json")
    assert parts(out)["weights"] == parts(out)["optimiser"] == 0 and out.count("in host memory") == 3


# ---- lengths, without asking the network ----------------------------------------------------------------------------


def test_lengths_of_a_local_file_are_its_tokens_or_a_quarter_of_its_characters(tiny_base, tmp_path):
    from lima import turns

    rows = [
        {"messages": [{"role": "user", "content": "a" * 40}, {"role": "assistant", "content": "word " * n}]}
        for n in (7, 300)
    ]
    path = tmp_path / "two.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ("--dataset", path, "--max_length", 256, "--exclude_sources", "None")
    guessed, source = forecast.lengths(recipe.load(words("135m", *flags)))
    assert guessed == [40 // 4 + 1 + 35 // 4 + 1 + 1, 256] and "about four characters a token" in source
    tokenizer = turns.load_tokenizer(tiny_base)
    counted, source = forecast.lengths(recipe.load([*words("135m", *flags), "--model_name_or_path", str(tiny_base)]))
    assert counted == [len(turns.encode(tokenizer, rows[0]["messages"])[0]), 256] and source == str(path)
    dropped, _ = forecast.lengths(recipe.load(words("135m", *flags, "--over_length", "drop")))
    assert dropped == guessed[:1]


def test_a_dataset_on_the_hub_is_taken_to_be_as_long_as_lima():
    tokens, source = forecast.lengths(recipe.load(words("7b", "--dataset", "somebody/data")))
    assert tokens == lima_lengths() and source == "somebody/data: not here; LIMA's lengths instead"


# ---- slips: one line, and exit code 2 -------------------------------------------------------------------------------


def slipped(tmp_path, **changes):
    """ds_configs/zero3.json with keys added, at the top or (`zero_…`) in zero_optimization."""
    content = json.loads((ROOT / "ds_configs/zero3.json").read_text())
    for key, value in changes.items():
        (content["zero_optimization"] if key.startswith("zero_") else content)[key.removeprefix("zero_")] = value
    (tmp_path / "slip.json").write_text(json.dumps(content))
    return str(tmp_path / "slip.json")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gpu", "h100"], r"GPU h100: unknown; did you mean h100-80gb\? .*, or cpu for none"),
        (["--gpus", "0"], "--gpus 0: must be a number above 0"),
        (["--nodes", "-2"], "--nodes -2: must be a number above 0"),
        (["--price", "nan"], "--price nan: must be a number above 0"),
        (["--interconnect", "inf"], "--interconnect inf: must be a number above 0"),
        (["--gpus", "eight"], "--gpus: invalid int value: 'eight'"),
        (["--gpus"], "--gpus: expected one argument"),
        (["--gpus", "64"], r"64 × h100-80gb are 64 ranks, and a step has 32 examples .*: use 32 GPUs at most"),
        (["--gpus", "8", "--nodes", "8"], r"64 × h100-80gb \(8 nodes of 8\) are 64 ranks, .* use 32 GPUs at most"),
        (["--tokens_per_devise", "9"], "command line: unknown key tokens_per_devise; did you mean tokens_per_device"),
        (["--gpus", "16", "--tokens_per_device", "100"], "tokens_per_device 100 cannot hold the longest example, 2048"),
        (["--dataset", "data/nowhere.jsonl"], "data/nowhere.jsonl: "),
        (["--base", "somebody/nothing"], "somebody/nothing: the Hub cannot be reached .*; add its dimensions to lima/train/shapes"),
        (["--base", "None", "--model_name_or_path", "bases/nowhere"], "bases/nowhere: no config.json there"),
        (["--deepspeed", "none.json"], r"none.json: DeepSpeed config cannot be read .* ds_configs/zero3.json"),
    ],
)  # fmt: skip
def test_a_slip_is_one_line(flags, message, capsys):
    with pytest.raises(UserError, match=f"^{message}") as raised:
        forecast.main(words("65b", *flags))
    assert "\n" not in str(raised.value) and capsys.readouterr().out == ""


def test_a_typo_in_a_deepspeed_config_is_one_line(tmp_path, capsys):
    with pytest.raises(UserError, match=r"slip.json: unknown key gradient_cliping; did you mean gradient_clipping\?$"):
        forecast.main(words("65b", "--deepspeed", slipped(tmp_path, gradient_cliping=1.0)))
    assert capsys.readouterr().out == ""


def test_a_missing_recipe_is_one_line():
    with pytest.raises(UserError, match=r"^recipes/66b.yaml: cannot be read \(No such file or directory\)"):
        forecast.main(words("66b"))


@pytest.mark.slow
def test_a_slip_ends_the_process_with_2_and_no_traceback(tmp_path):
    done = run(
        *CLI, *words("65b", "--gpu", "h100-80gb", "--gpus", 8, "--deepspeed", slipped(tmp_path, zero_stage3_prefetch=5))
    )
    assert done.returncode == 2 and done.stdout == ""
    said = [line for line in done.stderr.splitlines() if line]
    assert len(said) == 1 and re.match(r"error: .*slip.json: zero_optimization.stage3_prefetch: unknown key", said[0])


def test_a_hub_out_of_reach_is_noticed_at_once(monkeypatch, tmp_path):
    """Nobody listens at the endpoint; the client alone would try for half a minute."""
    import huggingface_hub

    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(UserError, match="somebody/nothing: the Hub cannot be reached"):
        forecast.main(words("65b", "--base", "somebody/nothing"))
    assert time.monotonic() - started < 10


def test_help_names_every_kind_and_flag():
    done = run(*CLI, "--help")
    assert done.returncode == 0 and all(kind in done.stdout for kind in gpus.TABLE)
    assert all(f"--{flag}" in done.stdout for flag in ("gpu", "gpus", "nodes", "price", "interconnect", "key value"))
