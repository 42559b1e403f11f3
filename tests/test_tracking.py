"""What a run records of itself, and that a resumed one has no step twice."""

import json
from types import SimpleNamespace

from transformers import TrainerControl, TrainerState

from lima import runs
from lima.train import tracking
from lima.train.batches import ExactBatches, Shape


def rows(*steps):
    return [{"step": step, "loss": step / 10} for step in steps]


def test_what_comes_after_the_checkpoint_is_trimmed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    kept = [{"step": 0, "eval_loss": 3.0}, *rows(1, 2), {"step": 2, "eval_loss": 2.0}]
    runs.write_jsonl(path, [*kept, {"step": 2, "train_runtime": 9.0}, *rows(3, 4)])
    with path.open("a") as file:
        file.write('{"step": 5, "lo')  # cut off by a death
    tracking.trim(path, 2)
    assert runs.read_jsonl(path) == kept
    tracking.trim(path, 0)
    assert not path.exists()
    tracking.trim(path, 3)  # nothing there is nothing to trim
    assert not path.exists()


def metrics(folder):
    batches = ExactBatches([10, 10, 10, 10], [1.0] * 4, Shape(2, 1, 100, 1), 0, 42)
    return tracking.Metrics(folder, batches, gpu=None)


def test_a_resumed_run_goes_on_after_its_checkpoint(tmp_path):
    for name in ("metrics.jsonl", "samples.jsonl"):
        runs.write_jsonl(tmp_path / name, rows(1, 2, 3))
    metrics(tmp_path).on_train_begin(None, TrainerState(global_step=2), TrainerControl())
    assert [runs.read_jsonl(tmp_path / f"{name}.jsonl") for name in ("metrics", "samples")] == [rows(1, 2)] * 2
    metrics(tmp_path).on_train_begin(None, TrainerState(global_step=3, is_world_process_zero=False), TrainerControl())
    metrics(tmp_path).on_train_begin(None, TrainerState(global_step=0), TrainerControl())
    assert not (tmp_path / "metrics.jsonl").exists() and not (tmp_path / "samples.jsonl").exists()


def test_generating_is_not_training_time(tmp_path):
    """20 tokens in a second of training and an hour of generating are 20 a second, less what the test itself takes."""
    log = metrics(tmp_path)
    state = TrainerState(global_step=1)
    log.on_train_begin(None, TrainerState(global_step=0), None)
    log.time -= 3601.0
    log.on_log(None, state, None, logs={"samples/eot_share": 0.5, "samples/seconds": 3600.0})
    log.on_step_end(None, state, None)
    log.on_log(None, state, None, logs={"loss": 1.0})
    sampled, trained = runs.read_jsonl(tmp_path / "metrics.jsonl")
    assert sampled == {"step": 1, "samples/eot_share": 0.5, "samples/seconds": 3600.0}
    assert 10 < trained["tokens_per_second"] <= 20


def test_the_record_says_what_made_a_run():
    recipe = SimpleNamespace(config="recipes/7b.yaml", given={"seed": 1}, dataset_revision="abc")
    data = SimpleNamespace(name="GAIR/lima", fingerprint="f" * 16)
    encoded = SimpleNamespace(rows=[1, 2], sources={"a": 2}, trimmed=[0], dropped=[], lengths=[3, 4])
    here = SimpleNamespace(gpu="NVIDIA H100", memory=80e9, ranks=8)
    plan = [("data", "two rows"), ("", "one of them trimmed"), ("", None), ("steps", "1")]
    record = tracking.record(recipe, data, encoded, Shape(2, 8, 100, 1), here, plan)
    assert json.loads(json.dumps(record)) == record
    assert record["dataset"]["tokens"] == 7 and record["dataset"]["fingerprint"] == "f" * 16
    assert record["hardware"]["gpu"] == "NVIDIA H100" and record["hardware"]["memory_gb"] == 80.0
    assert record["plan"] == {"data": "two rows · one of them trimmed", "steps": "1"}
    assert record["versions"]["trl"] and record["commit"]
