"""Pushing a dataset, and training on it by its id: through a real Hub protocol on this machine."""

import hashlib
import io
import json
import statistics

import pyarrow.parquet
import pytest
import yaml
from conftest import ROOT, first_rows, run
from servers.hub import Hub
from test_push import env_of

from lima import UserError, conversations, runs
from lima.publish import data

LOAD = """
import json, sys
from lima import conversations
print(json.dumps([[r["messages"] for r in conversations.load("org/mine", split=s).rows] for s in sys.argv[1:]]))
"""


@pytest.fixture
def hub(tmp_path):
    with Hub(tmp_path / "hub") as hub:
        yield hub


def pushed(hub, tmp_path, file, *flags, to="org/mine"):
    return run("-m", "lima.publish.data", "--dataset", file, "--hub", to, *flags, **env_of(hub, tmp_path / "home"))


def row(number, **more):
    messages = [
        {"role": "user", "content": f"Question {number}?"},
        {"role": "assistant", "content": "Answer. " * number},
    ]
    return {"id": f"r{number}", "source": "site", "messages": messages, **more}


def table(content):
    return pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()


def written(tmp_path, rows, name="mine.jsonl"):
    runs.write_jsonl(tmp_path / name, rows)
    return tmp_path / name


def card_of(revision):
    meta, body = revision.files["README.md"].decode().split("---\n", 2)[1:]
    return yaml.safe_load(meta), body


def test_it_is_trained_on_by_its_id(hub, tmp_path):
    file = first_rows(tmp_path / "mine.jsonl", 12)
    done = pushed(hub, tmp_path, file)
    assert done.returncode == 0 and "train on it: --dataset org/mine" in done.stdout, done.stderr
    read = run("-c", LOAD, "train", **env_of(hub, tmp_path / "home"))
    assert json.loads(read.stdout)[0] == [r["messages"] for r in conversations.load(file).rows], read.stderr


def test_the_bundled_data_goes_with_all_that_its_card_names(hub, tmp_path):
    """Its held-out split and its prompts too, as `datasets` reads them by what the card says."""
    assert pushed(hub, tmp_path, "data/starter.jsonl").returncode == 0
    assert set(hub.files("org/mine", type="dataset")) - {".gitattributes"} == {
        "README.md", "train.parquet", "heldout.parquet", "prompts/dev.parquet", "prompts/test.parquet"}  # fmt: skip
    read = run("-c", LOAD, "train", "heldout", **env_of(hub, tmp_path / "home"))
    wanted = [conversations.load(ROOT / f"data/{name}.jsonl").rows for name in ("starter", "heldout")]
    assert json.loads(read.stdout) == [[r["messages"] for r in rows] for rows in wanted], read.stderr
    script = """
from datasets import load_dataset
print(load_dataset("org/mine", split="train").num_rows, load_dataset("org/mine", split="heldout").num_rows,
      load_dataset("org/mine", "prompts", split="dev").num_rows, load_dataset("org/mine", "prompts", split="test").num_rows)
"""
    read = run("-c", script, **env_of(hub, tmp_path / "home"))
    assert read.stdout.split() == ["190", "24", "50", "100"], read.stderr


def test_a_second_push_sends_nothing_and_a_changed_row_sends_its_file(hub, tmp_path):
    file = written(tmp_path, [row(n) for n in range(1, 9)])
    assert pushed(hub, tmp_path, file).returncode == 0
    before = len(hub.log)
    assert pushed(hub, tmp_path, file).returncode == 0
    assert not {"put", "commit", "create"} & {line["kind"] for line in hub.log[before:]}
    written(tmp_path, [row(n) for n in range(1, 10)])
    assert pushed(hub, tmp_path, file).returncode == 0
    assert len(table(hub.files("org/mine", type="dataset")["train.parquet"])) == 9


def test_a_failure_says_how_to_go_on(hub, tmp_path):
    file = written(tmp_path, [row(1)])
    hub.fail("commit", 500)
    done = pushed(hub, tmp_path, file, "--private")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().endswith(f"go on with: make push-data DATASET={file} HUB=org/mine PRIVATE=1")
    assert pushed(hub, tmp_path, file, "--private").returncode == 0
    assert hub.repos["datasets/org/mine"]["private"]


def test_another_datasets_name_is_not_taken(hub, tmp_path):
    assert pushed(hub, tmp_path, written(tmp_path, [row(1)])).returncode == 0
    done = pushed(hub, tmp_path, written(tmp_path, [row(2)], "other.jsonl"))
    assert done.returncode == 2 and "exists and its main holds dataset mine; choose another name" in done.stderr


def test_every_column_goes_along_and_the_text_becomes_messages(tmp_path):
    rows = [
        {"conversations": ["Hi?", "Hello.", "Thanks!"], "source": "site", "url": "https://a.example", "score": 3},
        {"prompt": "Why?", "response": "So.", "source": "other", "tags": ["x"]},
    ]
    file = written(tmp_path, rows)
    revision, notes = data.collect(file)
    assert table(revision.files["train.parquet"]) == [
        {"id": "0", "source": "site", "url": "https://a.example", "score": 3, "tags": None, "messages": [
            {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]},
        {"id": "1", "source": "other", "url": None, "score": None, "tags": ["x"], "messages": [
            {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]},
    ]  # fmt: skip
    assert "mine.jsonl: row 0 ended on a user turn, which was left out" in notes


def test_a_folder_is_its_training_split_and_the_card_names_the_text_that_a_run_records(tmp_path):
    rows = [row(number) for number in range(1, 4)]
    file = written(tmp_path, rows, "train.jsonl")
    revision, _ = data.collect(tmp_path)
    assert revision.files == data.collect(file)[0].files
    (tmp_path / "pushed.parquet").write_bytes(revision.files["train.parquet"])
    trained_on = conversations.load(str(tmp_path / "pushed.parquet")).fingerprint
    text = json.dumps([r["messages"] for r in rows], ensure_ascii=False, sort_keys=True)
    assert trained_on == hashlib.sha256(text.encode()).hexdigest()[:16] and f"`{trained_on}`" in card_of(revision)[1]


def test_the_card_counts_what_is_there(tmp_path):
    rows = [row(n, license="CC BY-SA 4.0", url=f"https://x.example/{n}") for n in range(1, 6)]
    rows += [{**row(n), "source": "a|b <i>"} for n in range(6, 9)]
    revision, notes = data.collect(written(tmp_path, rows))
    meta, body = card_of(revision)
    assert meta["license"] == "cc-by-sa-4.0" and meta["size_categories"] == ["n<1K"]
    assert meta["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "train.parquet"}]}]
    longest = len("Answer. " * 5)
    mean = statistics.mean(len("Answer. " * n) for n in range(1, 6))
    assert f"| site | 5 | 11 | 11 | {mean:,.0f} | {longest} |" in body
    assert "| a\\|b &lt;i&gt; | 3 |" in body and "| all | 8 |" in body
    assert "Licences that rows state: CC BY-SA 4.0 5, not stated 3." in body
    assert "rows with them: `license` 5, `url` 5." in body
    assert notes == ["licence    cc-by-sa-4.0"]


@pytest.mark.parametrize(
    ("stated", "metadata"),
    [
        (["MIT"], {"license": "mit"}),
        (["CC BY-SA 3.0", "CC BY-SA 4.0"], {"license": "other", "license_name": "cc-by-sa-3.0-and-cc-by-sa-4.0"}),
        (["Their own"], {"license": "other", "license_name": "their-own"}),
        ([], {}),
    ],
)
def test_the_licence_is_what_rows_state(tmp_path, stated, metadata):
    rows = [row(n + 1, **({"license": stated[n % len(stated)]} if stated else {})) for n in range(4)]
    revision, notes = data.collect(written(tmp_path, rows))
    meta, _ = card_of(revision)
    assert {key: value for key, value in meta.items() if key.startswith("license")} == metadata
    assert stated or notes[-1].startswith("licence    none stated")


def test_what_a_person_wrote_in_the_card_stays(tmp_path):
    configs = "configs:\n- config_name: default\n  data_files:\n  - {split: train, path: mine.jsonl}\n"
    (tmp_path / "dataset_card.md").write_text(
        f"---\nlicense: cc0-1.0\n{configs}---\n\nBy me.\n\n<!-- statistics -->\n\nThe end.\n"
    )
    meta, body = card_of(data.collect(written(tmp_path, [row(1, license="mit")]))[0])
    assert meta["license"] == "cc0-1.0" and meta["configs"][0]["data_files"][0]["path"] == "train.parquet"
    assert body.index("By me.") < body.index("| site | 1 |") < body.index("The end.")
    other = data.collect(written(tmp_path, [row(1)], "other.jsonl"))[0]  # which the card does not name
    assert "By me." not in card_of(other)[1]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(1), row(1)], "row 1: is the same conversation as row 0"),
        ([{"messages": []}], "row 0: has no turns"),
        ([row(1, score=1), row(2, score="high")], "column 'score' holds values of different kinds"),
        ([row(1), row(2, note="hf_" + "a" * 34)], "row 1 holds what looks like an access token"),
    ],
)
def test_rows_that_cannot_be_pushed(tmp_path, rows, said):
    with pytest.raises(UserError, match=said):
        data.collect(written(tmp_path, rows))


def test_a_file_that_is_not_there_and_a_card_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"none.jsonl: no such file"):
        data.collect(tmp_path / "none.jsonl")
    (tmp_path / "dataset_card.md").write_text("no metadata")
    with pytest.raises(UserError, match=r"dataset_card.md: expected metadata between two lines of ---"):
        data.collect(written(tmp_path, [row(1)]))


def test_a_folder_gets_what_the_hub_would(hub, tmp_path):
    file = written(tmp_path, [row(n) for n in range(1, 9)])
    assert pushed(hub, tmp_path, file).returncode == 0
    done = pushed(hub, tmp_path, file, to=f"dir:{tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    there = {p.name: p.read_bytes() for p in (tmp_path / "out/main").iterdir()}
    on_hub = hub.files("org/mine", type="dataset")
    assert there == {name: on_hub[name] for name in ("README.md", "train.parquet")}
    assert len(conversations.load(tmp_path / "out/main/train.parquet").rows) == 8


def test_json_and_parquet_files_are_read_too(tmp_path):
    rows = [row(n, url=f"u{n}") for n in range(1, 4)]
    revision, _ = data.collect(written(tmp_path, rows))
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    (tmp_path / "mine.parquet").write_bytes(revision.files["train.parquet"])
    for name in ("mine.json", "mine.parquet"):
        assert table(data.collect(tmp_path / name)[0].files["train.parquet"]) == table(revision.files["train.parquet"])


def test_limas_own_rows_survive(shared, tmp_path):
    """GAIR/lima's 1,030 rows as they lie on the Hub: 1,030 rows of messages, and the same fingerprint."""
    revision, _ = data.collect(shared / "lima/train.jsonl")
    (tmp_path / "train.parquet").write_bytes(revision.files["train.parquet"])
    there, here = conversations.load(tmp_path / "train.parquet"), conversations.load(shared / "lima/train.jsonl")
    assert len(there.rows) == 1030 and there.fingerprint == here.fingerprint
