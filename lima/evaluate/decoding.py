"""Token by token, the paper's decoding (section 4.1): repetition penalty on what an answer has said so far, temperature,
nucleus, then a draw that is each answer's own.

An answer is a function of its prompt and its seed. The draw is argmax(p / e) over the nucleus, with an exponential variate e for
every token of the vocabulary: the exponential race, which samples from p exactly. Each answer has its own generator, and every
step takes one vocabulary of numbers from it, so that neighbours, order and batch size change nothing. What they can change is
rounding: sums over a padded batch differ from those of one row in the last bits. In float32 that has to meet a near-tie of 1e-5
to show; in bfloat16 such ties are common enough that now and then an answer takes another turn.
"""

import hashlib
import json

import torch
from transformers import DynamicCache

from lima import UserError, turns

WIDEST = 512  # the most likely tokens that are looked at first; they nearly always hold the nucleus


def answers(model, tokenizer, conversations, names, sampling, tick=None, streamer=None):
    """Yields `(number, text, finish_reason, tokens)` of each of a batch of conversations as its answer ends.

    finish_reason: `eot`, `eos` (the base's own end of text) or `length` (`max_new_tokens`, or the end of the model's context).
    `names`: `(prompt id, sample)` of each, which seed its answer. `tick(tokens)` is called after every step. Raises `UserError`
    for a conversation that fills the context.
    """
    context = model.config.get_text_config().max_position_embeddings
    prompts, limits = encode(tokenizer, conversations, names, sampling["max_new_tokens"], context)
    own = [generator(sampling["seed"], *name, model.device) for name in names]
    stops = stop_tokens(model.generation_config, tokenizer)
    for number, ids in decode(model, prompts, limits, own, sampling, stops, tick, streamer):
        yield number, *as_answer(tokenizer, ids, stops)


def encode(tokenizer, conversations, names, max_new_tokens, context):
    """`(ids of each prompt, tokens that its answer may have)`; the model reads `context` tokens, prompt and answer together."""
    prompts = [turns.encode(tokenizer, messages)[0] for messages in conversations]
    for (name, _), ids in zip(names, prompts, strict=True):
        if len(ids) >= context:
            raise UserError(
                f"prompt {name!r} has {len(ids):,} tokens, and the model reads {context:,}, the answer's among them; "
                "shorten it or leave it out"
            )
    return prompts, [min(max_new_tokens, context - len(ids)) for ids in prompts]


def stop_tokens(generation_config, tokenizer):
    """EOT, then what else ends an answer: the base's own end of text."""
    stops = generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    return list(dict.fromkeys([tokenizer.eos_token_id, *(stop for stop in stops if stop is not None)]))


def as_answer(tokenizer, ids, stops):
    """`(text, finish_reason, tokens)` of generated ids: what stands before the stop."""
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    reason = "length" if end is None else "eot" if ids[end] == tokenizer.eos_token_id else "eos"
    return tokenizer.decode(ids[:end], skip_special_tokens=False), reason, len(ids[:end])


def generator(seed, prompt_id, sample, device="cpu"):
    """The random numbers of one answer: from the run's `seed`, the prompt's id and the sample's number."""
    digest = hashlib.sha256(json.dumps([seed, prompt_id, sample]).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def penalise(logits, said, penalty):
    """`logits` [rows, vocabulary], changed in place, with the tokens in `said` [rows, tokens] made less likely (a positive logit
    divided by `penalty`, a negative one multiplied). `said` holds generated tokens only, so EOT is never in it."""
    theirs = logits.gather(1, said)
    return logits.scatter_(1, said, torch.where(theirs > 0, theirs / penalty, theirs * penalty))


def pick(logits, generators, sampling):
    """The next token of each row [rows] from penalised `logits` [rows, vocabulary]: drawn, or with temperature 0 the likeliest.

    What is drawn for a row depends on that row and its generator alone."""
    if not sampling["temperature"]:
        return logits.argmax(1)
    size, top_p = logits.shape[1], sampling["top_p"]
    probabilities = (logits / sampling["temperature"]).softmax(1)
    uniform = torch.empty_like(probabilities)
    for row, own in zip(uniform, generators, strict=True):
        row.uniform_(generator=own)
    values, tokens = probabilities.topk(min(WIDEST, size))  # sorting all of a vocabulary takes as long as a small model
    flat = values.sum(1) < top_p
    drawn = _race(values, tokens, uniform, top_p)
    if size > WIDEST and flat.any():
        values, tokens = probabilities[flat].sort(descending=True)
        drawn[flat] = _race(values, tokens, uniform[flat], top_p)
    return drawn


def _race(values, tokens, uniform, top_p):
    """Draws of the nucleus: the fewest most likely tokens that together hold `top_p`. `values` and `tokens` [rows, any] are a
    row's probabilities, falling, and whose they are; `uniform` [rows, vocabulary] is in [0, 1)."""
    outside = values.cumsum(1) - values >= top_p
    arrivals = values.masked_fill(outside, 0) / -uniform.gather(1, tokens).log()
    return tokens.gather(1, arrivals.argmax(1, keepdim=True)).squeeze(1)


@torch.inference_mode()
def decode(model, prompts, limits, generators, sampling, stops, tick=None, streamer=None):
    """Answers to `prompts` (lists of token ids) as one batch, padded on the left; yields `(row, ids)` as each ends.

    `ids` ends on one of `stops`, or has `limits[row]` tokens. Rows that have ended leave the batch, so the last ones run alone.
    `generators` as `generator` makes them, on the model's device. `tick(tokens)` is called after every step.
    """
    device, width = model.device, max(map(len, prompts))
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    step = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts], device=device)
    said = torch.empty(len(prompts), 0, dtype=torch.long, device=device)
    rows, cache = list(range(len(prompts))), DynamicCache(config=model.config)
    if streamer:
        streamer.put(step.cpu())
    while rows:
        places = (mask.cumsum(1) - 1).clamp(min=0)[:, -step.shape[1] :]
        out = model(
            input_ids=step,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = penalise(out.logits[:, -1].float(), said, sampling["repetition_penalty"])
        tokens = pick(logits, [generators[row] for row in rows], sampling)
        said = torch.cat([said, tokens[:, None]], 1)
        if tick:
            tick(len(rows))
        if streamer:
            streamer.put(tokens.cpu())
        last, length = tokens.tolist(), said.shape[1]
        going = [i for i, row in enumerate(rows) if last[i] not in stops and length < limits[row]]
        for i in sorted(set(range(len(rows))) - set(going)):
            yield rows[i], said[i].tolist()
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        step = tokens[:, None]
        if len(going) < len(rows):
            keep = torch.tensor(
                going, dtype=torch.long
            )  # on the CPU: the layers of a large model lie on several devices
            cache.batch_select_indices(keep)
            mask, step, said, rows = mask[keep], step[keep], said[keep], [rows[i] for i in going]
    if streamer:
        streamer.end()
