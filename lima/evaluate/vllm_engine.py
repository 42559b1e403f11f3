"""The paper's decoding by vLLM, where it is installed: the same stops, temperature, nucleus and penalty as `decoding.py`.

vLLM's own `repetition_penalty` counts the prompt, where EOT stands, and so pushes a model from stopping: it is left at 1, and the
paper's, on generated tokens, is a logits processor for vLLM's V1 model runner (vllm.v1.sample.logits_processor, from 0.11 on).
The random numbers are vLLM's, seeded an answer at a time. Written from its documentation and source; it was not at hand to run.
"""

import os
from pathlib import Path

import torch
from transformers import AutoConfig, GenerationConfig

from lima import UserError, turns
from lima.evaluate import decoding

try:
    from vllm.v1.sample.logits_processor import AdapterLogitsProcessor
except ImportError:
    AdapterLogitsProcessor = object

PENALTY = "generated_penalty"  # among a request's `extra_args`


class GeneratedPenalty(AdapterLogitsProcessor):
    """The penalty on generated tokens; vLLM's workers load it by its name."""

    def is_argmax_invariant(self):
        return False

    def new_req_logits_processor(self, params):
        """`penalise(ids generated so far, logits [vocabulary])` for a request, or None for one that asks for none."""
        penalty = (params.extra_args or {}).get(PENALTY)

        def penalise(said, logits):
            said = torch.tensor([token for token in said if token >= 0], dtype=torch.long, device=logits.device)
            return decoding.penalise(logits[None], said[None], penalty)[0]

        return penalise if penalty else None


def answers(folder, asked, sampling, batch_size, tick):
    """Yields `(prompt, sample, text, finish_reason, tokens)` for `asked`, a list of `(prompt, sample)`, `batch_size` at a time.

    Raises `UserError` where vLLM is missing or another than expected, for an adapter, for a prompt that fills the context.
    """
    vllm, folder = _vllm(), Path(folder)
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder}: an adapter; `make merge RUN={folder.parent}` makes whole weights that vLLM can load"
        )
    tokenizer = turns.load_tokenizer(folder)
    context = AutoConfig.from_pretrained(folder).get_text_config().max_position_embeddings
    names = [(prompt["id"], sample) for prompt, sample in asked]
    texts = [prompt["messages"] for prompt, _ in asked]
    prompts, limits = decoding.encode(tokenizer, texts, names, sampling["max_new_tokens"], context)
    stops = decoding.stop_tokens(GenerationConfig.from_pretrained(folder), tokenizer)
    longest = max(len(ids) + limit for ids, limit in zip(prompts, limits, strict=True))
    llm = _load(vllm, folder, sampling, longest)
    requests = [
        (ids, vllm.SamplingParams(**parameters(sampling, limit, name, stops)))
        for ids, limit, name in zip(prompts, limits, names, strict=True)
    ]
    for start in range(0, len(asked), batch_size):
        ids, params = zip(*requests[start : start + batch_size], strict=True)
        done = llm.generate([{"prompt_token_ids": one} for one in ids], list(params), use_tqdm=False)
        for (prompt, sample), output in zip(asked[start:], done, strict=False):
            answer = decoding.as_answer(tokenizer, _ids(output.outputs[0], stops), stops)
            tick(answer[2])
            yield prompt, sample, *answer


def parameters(sampling, limit, name, stops):
    """Our settings as the arguments of vLLM's `SamplingParams`, for the answer called `name`: `(prompt id, sample)`."""
    return {
        "temperature": sampling["temperature"],
        "top_p": sampling["top_p"],
        "top_k": 0,
        "repetition_penalty": 1.0,
        "extra_args": {PENALTY: sampling["repetition_penalty"]},
        "max_tokens": limit,
        "stop_token_ids": stops,
        "seed": decoding.generator(sampling["seed"], *name).initial_seed(),
        "detokenize": False,
    }


def _ids(output, stops):
    """What was generated, with the stop at its end, whether or not vLLM left it there."""
    ids = list(output.token_ids)
    if output.finish_reason == "stop" and not (ids and ids[-1] in stops):
        ids.append(stops[0] if output.stop_reason is None else output.stop_reason)
    return ids


def _vllm():
    try:
        import vllm
    except ImportError:
        raise UserError(
            "--engine vllm: vLLM is not installed here; `pip install vllm`, or leave --engine out for transformers"
        ) from None
    if AdapterLogitsProcessor is object:
        raise UserError(
            f"--engine vllm: vLLM {vllm.__version__} has no AdapterLogitsProcessor, which the penalty on generated tokens "
            "needs; take one from 0.11 on, or leave --engine out for transformers"
        )
    return vllm


def _load(vllm, folder, sampling, longest):
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")  # the newer runner takes other logits processors
    return vllm.LLM(
        model=str(folder),
        tensor_parallel_size=torch.cuda.device_count() or 1,
        dtype=sampling["dtype"],
        seed=sampling["seed"],
        max_model_len=longest,
        generation_config="vllm",  # nothing from generation_config.json but what is said here
        logits_processors=[f"{__name__}:{GeneratedPenalty.__name__}"],
        async_scheduling=False,  # the penalty needs the last token
    )
