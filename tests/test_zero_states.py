"""What DeepSpeed holds at rest, counted rank by rank from its own optimiser after real steps, against what the plan says.

Every tensor that lives in a rank is found by the garbage collector; what is no model state is named apart.
"""

import json
import subprocess
import sys

import pytest
from conftest import ROOT, first_rows, prepared_llama

from lima import recipe
from lima.train import memory

WIDTH, LAYERS = 80, 3
COUNT = """
import gc, json, os, sys
sys.path.insert(0, {root!r})
import torch, transformers
import lima_sft

def storages(tensors):
    found = [tensor.untyped_storage() for tensor in tensors if tensor is not None]
    return {{storage.data_ptr(): storage.nbytes() for storage in found if storage.nbytes()}}

class Count(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        zero = optimizer.optimizer
        parts = dict(
            weights=[parameter.ds_tensor for parameter in model.parameters()],
            gradients=[zero.grad_partitions_flat_buffer],
            master=zero.fp32_partitioned_groups_flat,
            moments=[t for one in zero.optimizer.state.values() for t in one.values() if torch.is_tensor(t)],
            buckets=[bucket.buffer for bucket in zero.ipg_buckets.values()],
            gathered=[parameter.data for parameter in model.parameters()],
        )
        named = {{name: storages(tensors) for name, tensors in parts.items()}}
        for address in named["weights"]:
            named["gathered"].pop(address, None)  # one rank's share is the whole
        live = storages(t for t in gc.get_objects() if issubclass(type(t), torch.Tensor))
        known = set().union(*named.values())
        sizes = {{name: sum(found.values()) for name, found in named.items()}}
        sizes["else"] = sum(size for address, size in live.items() if address not in known)
        sizes["unseen"] = len(known - live.keys())
        with open({out!r} + "/states-" + os.environ["RANK"], "w") as file:
            json.dump(sizes, file)

transformers.trainer.DEFAULT_CALLBACKS.append(Count)
lima_sft.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def made(smollm2_tokenizer, tmp_path_factory):
    """A prepared Llama of 8 million parameters."""
    return prepared_llama(tmp_path_factory.mktemp("states"), smollm2_tokenizer, width=WIDTH, layers=LAYERS)


def zero3(folder, **changes):
    content = json.loads((ROOT / "ds_configs/zero3.json").read_text())
    (folder / "zero3.json").write_text(json.dumps({**content, **changes}))
    return folder / "zero3.json"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "changes", "flags"),
    [
        (2, {}, []),
        (1, {}, ["--optim", "adamw_bnb_8bit"]),
        (2, {"data_types": {"grad_accum_dtype": "fp32"}}, []),
    ],
    ids=["adamw", "8-bit", "fp32 gradients"],
)
def test_model_states_are_what_deepspeed_holds(ranks, changes, flags, made, tmp_path):
    words = ["--config", "recipes/135m.yaml", "--model_name_or_path", made, "--deepspeed", zero3(tmp_path, **changes),
             "--dataset", first_rows(tmp_path / "six.jsonl", 6), "--output_dir", tmp_path / "run", "--exclude_sources", "None",
             "--heldout", "None", "--eval_on_start", "false", "--report_to", "none", "--save_strategy", "no",
             "--global_batch_size", 4, "--max_steps", 2, "--disable_tqdm", "true", *flags]  # fmt: skip
    words = [str(word) for word in words]
    script = tmp_path / "count.py"
    script.write_text(COUNT.format(root=str(ROOT), out=str(tmp_path)))
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={ranks}",
        script,
        *words,
    ]
    done = subprocess.run(torchrun, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    args = recipe.load(words)
    config = memory.base_config(args)
    planned, offloaded = memory.model_states(args, config, ranks)
    assert offloaded == 0
    for rank in range(ranks):
        held = json.loads((tmp_path / f"states-{rank}").read_text())
        assert (
            held.pop("unseen") == 0
        )  # the garbage collector finds what DeepSpeed names, so `else` is all there is besides
        assert held["weights"] == pytest.approx(planned["weights"], rel=0.01)
        assert held["gradients"] == pytest.approx(planned["gradients"], rel=0.01)
        assert held["master"] + held["moments"] == pytest.approx(planned["optimiser"], rel=0.01)
        # beside the states: one bucket of gradients, width² elements, and norms, which every rank keeps whole
        assert held["buckets"] == 2 * WIDTH**2
        assert held["gathered"] == (2 * WIDTH * (2 * LAYERS + 1) if ranks > 1 else 0)
        assert sum(held.values()) == pytest.approx(sum(planned.values()), rel=0.01)
