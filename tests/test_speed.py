"""Minutes against FLOPs and bytes counted here, from the models' published shapes and the GPUs' data sheets."""

import json

import pytest

from lima import recipe
from lima.train import batches, gpus, memory, plan, speed
from lima.train.speed import Place

P7, P65 = 6_738_415_616, 65_285_660_672
H100 = {"flops": 989e12, "nvlink": 450e9, "network": 50e9}
REACHED = 0.7


def load(name, *flags):
    return recipe.load(["--config", f"recipes/{name}.yaml", "--model_name_or_path", "absent", *map(str, flags)])


def h100(each, nodes=1, rate=None):
    return Place(gpus.named("h100-80gb"), each, nodes, rate)


def minutes(args, place, work, micro=1, steps=100):
    """Of a run whose ranks together spend `work` FLOPs, waiting included."""
    config = memory.base_config(args)
    shape = batches.Shape(args.global_batch_size, place.ranks, args.tokens_per_device, micro)
    return speed.minutes(args, config, place, batches.Load(spent=work), shape, steps)


def seconds_moving(args, place, micro=1):
    return speed.traffic(args, memory.base_config(args), place, micro)


# ---- computing ------------------------------------------------------------------------------------------------------


def test_one_gpu_computes_what_the_weights_and_scores_of_every_example_take():
    """LLaMA 7B: 2 FLOPs a weight that multiplies and token forward, 4 backward; causal scores over half an example."""
    args = load("7b-1gpu", "--gradient_checkpointing", "false", "--max_steps", 5)
    lengths = [100, 700, 2048, 1000, 33] * 64
    multiplied = P7 - 32_000 * 4096 - (2 * 32 + 1) * 4096  # all but embeddings (a lookup) and norms
    flops = [6 * multiplied * n + 3 * 32 * 2 * 2 * 4096 * n * n / 2 for n in lengths]
    config = memory.base_config(args)
    shape, load_ = batches.lay_out(args, lengths, plan.work(config, lengths), 1)
    least, most, bound = speed.minutes(args, config, h100(1), load_, shape, 5)
    by_hand = sum(flops) / 989e12 / 60  # at the whole peak; one epoch has 5 steps
    assert (least, most) == (pytest.approx(by_hand / 0.50), pytest.approx(by_hand / 0.35))
    assert bound == "computing"


@pytest.mark.parametrize(
    ("name", "recomputed", "passes", "shares"),
    [
        ("7b-1gpu", "false", 3, (0.50, 0.35)),  # forward, and backward for hidden states and for weights
        ("7b-1gpu", "true", 4, (0.50, 0.35)),  # forward once more
        ("7b-qlora", "false", 2, (0.35, 0.20)),  # no gradients of frozen weights, which are dequantised on the way
        ("7b-qlora", "true", 3, (0.35, 0.20)),
    ],
)
def test_passes_over_the_weights_are_counted(name, recomputed, passes, shares):
    """`work` is that of three."""
    args = load(name, "--gradient_checkpointing", recomputed)
    by_hand = [passes / 3 * 1e18 / (989e12 * share) / 60 for share in shares]
    assert minutes(args, h100(1), 1e18)[:2] == tuple(map(pytest.approx, by_hand))


def test_ranks_share_the_work():
    args = load("65b", "--gradient_checkpointing", "true")
    eight, sixteen = (minutes(args, h100(8, nodes), 1e20)[0] for nodes in (1, 2))
    assert eight == pytest.approx(2 * sixteen) == pytest.approx(4 / 3 * 1e20 / (8 * 989e12 * 0.5) / 60)


def test_without_a_peak_there_is_no_estimate():
    unknown = gpus.Gpu("Tesla V100-SXM2-32GB", 32 * 2**30, None, None, None)
    assert minutes(load("7b"), Place(unknown, 4, 2), 1e18) is None


# ---- traffic --------------------------------------------------------------------------------------------------------


def ring(nodes, gpus_a_node):
    """Gathers over a ring, hop by hop: `(shares that a rank receives, shares that a node's adapters take in)`.

    Every rank starts with its share; the ring passes through all GPUs of a node before it goes on to the next, as NCCL's do.
    """
    ranks = nodes * gpus_a_node
    held = [{rank} for rank in range(ranks)]
    last, received, crossed = [set(own) for own in held], [0] * ranks, [0] * nodes
    for _ in range(ranks - 1):
        last = [last[rank - 1] for rank in range(ranks)]
        for rank, new in enumerate(last):
            held[rank] |= new
            received[rank] += len(new)
            if nodes > 1 and rank % gpus_a_node == 0:
                crossed[rank // gpus_a_node] += len(new)
    assert all(len(own) == ranks for own in held)
    return received[0], crossed[0]


def test_within_a_node_zero3_moves_what_a_ring_of_gathers_and_scatters_moves():
    """A micro-batch: all bf16 weights gathered for each pass, all bf16 gradients scattered the same way round."""
    received, _ = ring(1, 8)
    by_hand = 3 * 2 * P65 * received / 8 / (H100["nvlink"] * REACHED)
    assert seconds_moving(load("65b"), h100(8)) == pytest.approx(by_hand)
    assert seconds_moving(load("65b"), h100(8), micro=5) == pytest.approx(5 * by_hand)


def test_between_nodes_each_adapter_takes_its_share():
    """A ring carries more into a node than the node lacks: nearly everything, each time round."""
    for nodes in (2, 4):
        _, crossed = ring(nodes, 8)
        by_hand = 3 * 2 * P65 * crossed / (8 * nodes) / (8 * H100["network"] * REACHED)
        assert seconds_moving(load("65b"), h100(8, nodes)) == pytest.approx(by_hand)


def test_the_slower_of_the_two_links_counts():
    """One GPU a node meets the network alone; a fast network leaves NVLink as the slower."""
    moved = 3 * 2 * P65
    alone = moved * 3 / 4 / (H100["network"] * REACHED)
    assert seconds_moving(load("65b"), h100(1, 4)) == pytest.approx(alone)
    inside = moved * 15 / 16 / (H100["nvlink"] * REACHED)
    assert seconds_moving(load("65b"), h100(8, 2, 1000e9)) == pytest.approx(inside)


def test_a_rate_that_is_given_replaces_the_slowest_link():
    """Between nodes where there are several, within the node where there is one."""
    within = 3 * 2 * P65 * 7 / 8 / (10e9 * REACHED)
    assert seconds_moving(load("65b"), h100(8, 1, 10e9)) == pytest.approx(within)
    between = 3 * 2 * P65 * 15 / 16 / (8 * 10e9 * REACHED)
    assert seconds_moving(load("65b"), h100(8, 2, 10e9)) == pytest.approx(between)


def test_other_ways_to_share_move_less():
    zero2 = load("7b", "--deepspeed", "ds_configs/zero2.json")
    each = 7 / 8 / (H100["nvlink"] * REACHED)
    assert seconds_moving(zero2, h100(8), micro=3) == pytest.approx((3 * 2 + 2) * P7 * each)
    whole = load("7b", "--deepspeed", "None")  # DDP: fp32 gradients, reduced once a step, there and back
    assert seconds_moving(whole, h100(8), micro=3) == pytest.approx(2 * 4 * P7 * each)
    assert seconds_moving(whole, h100(1)) == 0


def test_adapters_send_their_own_gradients_only_in_fp32():
    """LoRA of rank 64 on LLaMA 7B's linear layers, and the embeddings and head in full: 422 M parameters."""
    layer = 64 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    trained = 32 * layer + 2 * 32_000 * 4096
    by_hand = 2 * 4 * trained * 3 / 4 / (H100["nvlink"] * REACHED)
    assert seconds_moving(load("7b-qlora"), h100(4), micro=3) == pytest.approx(by_hand)


# ---- host memory ----------------------------------------------------------------------------------------------------


def offloaded(tmp_path, **parts):
    content = json.loads(open("ds_configs/zero3.json").read())
    content["zero_optimization"] |= {f"offload_{part}": {"device": device} for part, device in parts.items()}
    (tmp_path / "offload.json").write_text(json.dumps(content))
    return load("7b", "--deepspeed", tmp_path / "offload.json")


@pytest.mark.parametrize(
    ("parts", "copies", "adam"),
    [
        ({"optimizer": "cpu", "param": "cpu"}, 3 * 3, True),  # weights for both passes and gradients, a micro-batch
        ({"optimizer": "cpu"}, 1 + 3, True),  # weights once a step, gradients a micro-batch
        ({"param": "cpu"}, 2 * 3, False),
        ({}, 0, False),
    ],
)
def test_host_memory_adds_its_copies_and_adam(parts, copies, adam, tmp_path):
    """bf16 over PCIe, each rank its share; Adam reads four fp32 numbers a parameter and writes three, each node its share."""
    args = offloaded(tmp_path, **parts)
    by_hand = copies * 2 * P7 / 16 / (32e9 * REACHED) + (7 * 4 * P7 / 2 / 100e9 if adam else 0)
    assert speed.offloading(args, memory.base_config(args), h100(8, 2), 3) == pytest.approx(by_hand)


# ---- together -------------------------------------------------------------------------------------------------------


def test_a_run_takes_the_longer_of_computing_and_traffic_and_says_which():
    args = load("65b", "--gradient_checkpointing", "false")
    moving = 100 * seconds_moving(args, h100(8)) / 60
    for work, bound in ((1e16, "traffic"), (1e21, "computing"), (moving * 60 * 8 * 989e12 * 0.42, "both")):
        least, most, said = minutes(args, h100(8), work)
        computing = [work / (8 * 989e12 * share) / 60 for share in (0.50, 0.35)]
        assert (least, most, said) == (*(pytest.approx(max(moving, each)) for each in computing), bound)


def test_what_host_memory_takes_comes_on_top(tmp_path):
    args = offloaded(tmp_path, optimizer="cpu", param="cpu")
    args.gradient_checkpointing = False
    waiting = 100 * speed.offloading(args, memory.base_config(args), h100(8), 1) / 60
    computing = 1e19 / (8 * 989e12 * 0.5) / 60
    assert minutes(args, h100(8), 1e19)[0] == pytest.approx(computing + waiting)
    assert minutes(args, h100(8), 1e16)[2] == "offloading"


def test_a_place_says_how_many_gpus_it_has():
    assert str(h100(8)) == "8 × h100-80gb" and str(h100(8, 4)) == "32 × h100-80gb (4 nodes of 8)"
    assert h100(8, 4).machine == memory.Machine(32, "h100-80gb", 81008 * 2**20)
    host = Place(gpus.Gpu(gpus.CPU, 8 * 10**9, None, None, None), 2)
    assert host.machine == memory.Machine(2, None, 8 * 10**9)
