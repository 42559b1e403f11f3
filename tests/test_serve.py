"""One small evaluation from end to end with a real server: `transformers serve`, the embedded 135M as answerer and (weak) judge."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from conftest import ROOT

from lima import runs
from lima.evaluate import endpoint_answers, generate, judge, rate, report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(smollm2):
    """The address of a server that has loaded the model, or a skip that says what it said."""
    pytest.importorskip("uvicorn", reason="`transformers serve` needs fastapi, uvicorn and python-multipart")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [program, "serve", smollm2, "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    try:
        for _ in range(180):
            assert process.poll() is None, process.stdout.read()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def test_answers_verdicts_grades_and_a_report(server, smollm2, tmp_path, monkeypatch, capsys):
    prompts = tmp_path / "few.jsonl"
    prompts.write_text("".join((ROOT / "data/prompts/dev.jsonl").read_text().splitlines(keepends=True)[:3]))
    monkeypatch.chdir(tmp_path)
    model, words = str(smollm2), ["--base_url", server, "--prompts", str(prompts), "--concurrency", "1"]
    endpoint_answers.main(["--model", model, *words, "--max_tokens", "24", "--out", "answers/served.jsonl"])
    served = runs.read_jsonl("answers/served.jsonl")
    ids = [json.loads(line)["id"] for line in prompts.read_text().splitlines()]
    assert [row["prompt_id"] for row in served] == ids and all(row["response"].strip() for row in served)

    rows = generate.generate_file(
        smollm2, generate.load_prompts(str(prompts))[1], Path("answers/ours.jsonl"), generate.settings(smollm2, 24, 0)
    )
    assert [row["prompt_id"] for row in rows] == ids

    judged = [*words, "--judge", model, "--max_tokens", "48"]
    judge.main(["--a", "answers/ours.jsonl", "--b", "answers/served.jsonl", *judged])
    verdicts = runs.read_jsonl("judgments/ours-vs-served.jsonl")
    assert {(row["prompt_id"], row["order"]) for row in verdicts} == {
        (name, order) for name in ids for order in ("ab", "ba")
    }
    assert all(row["raw"] for row in verdicts)  # a model this small seldom keeps to the form: then the verdict is null
    said = capsys.readouterr().out
    assert "asked 6, answered 6" in said
    judge.main(["--a", "answers/ours.jsonl", "--b", "answers/served.jsonl", *judged])
    assert runs.read_jsonl("judgments/ours-vs-served.jsonl") == verdicts

    rate.main(["--kind", "grade", "--answers", "answers/ours.jsonl", *judged])
    assert len(runs.read_jsonl("judgments/ours.grade.jsonl")) == 3
    report.main([])
    page = Path("report/index.html").read_text(encoding="utf-8")
    assert "served" in page and "not run here" in page
