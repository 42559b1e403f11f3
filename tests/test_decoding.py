"""The decoding against numpy and against a loop without a cache; answers that no neighbour changes."""

import hashlib
import json
from types import SimpleNamespace

import numpy
import pytest
import torch
from scipy import stats
from transformers.generation import RepetitionPenaltyLogitsProcessor

from lima import UserError, conversations, turns
from lima.evaluate import decoding, generate

PAPER = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2}


@pytest.fixture(scope="module")
def model(tiny_base):
    """A tiny Llama in float32 whose logits are sharp enough for nucleus and penalty to matter."""
    loaded, tokenizer = generate.load_model(tiny_base, "float32")
    loaded.model.norm.weight.data.fill_(12.0)
    return loaded, tokenizer


@pytest.fixture(scope="module")
def prompts():
    rows = conversations.load_prompts("data/prompts/dev.jsonl")[:16]
    assert len({len(row["messages"][0]["content"]) for row in rows}) > 8  # of unequal lengths
    return rows


def by_hand(probabilities, top_p):
    """The nucleus by numpy: token → its share of it."""
    order = numpy.argsort(-probabilities)
    count = numpy.searchsorted(numpy.cumsum(probabilities[order]), top_p) + 1
    kept = order[:count]
    return dict(zip(kept.tolist(), probabilities[kept] / probabilities[kept].sum(), strict=True))


def chi_square(drawn, share):
    """The p-value of draws against the shares that they should have; rare tokens are taken together."""
    counts = numpy.array([numpy.count_nonzero(drawn == token) for token in share])
    expected = numpy.array(list(share.values())) * len(drawn)
    rare = expected < 5
    counts = numpy.append(counts[~rare], counts[rare].sum())
    expected = numpy.append(expected[~rare], expected[rare].sum())
    return stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue


@pytest.mark.parametrize("scale", [0.3, 3.0], ids=["a nucleus wider than what is looked at first", "a narrow nucleus"])
def test_draws_have_the_nucleus_shares(scale):
    logits = torch.randn(900, generator=torch.Generator().manual_seed(1)) * scale
    share = by_hand((logits.double() / 0.7).softmax(0).numpy(), 0.9)
    assert (len(share) > decoding.WIDEST) == (scale < 1)
    own = [decoding.generator(0, "draw", number) for number in range(20_000)]
    drawn = decoding.pick(logits.expand(len(own), -1), own, PAPER).numpy()
    assert set(drawn.tolist()) <= share.keys()
    assert 0.001 < chi_square(drawn, share) < 0.999


def test_what_one_answer_draws_next_is_independent_of_what_it_drew():
    """Pairs of successive draws of one generator, against the product of their shares."""
    logits = torch.tensor([1.0, 0.5, 0.0, -0.5, -4.0])
    share = by_hand((logits.double() / 0.7).softmax(0).numpy(), 0.9)
    own = decoding.generator(0, "one", 0)
    drawn = torch.cat([decoding.pick(logits[None], [own], PAPER) for _ in range(8000)]).numpy()
    pairs = {10 * a + b: p * q for a, p in share.items() for b, q in share.items()}
    assert 0.001 < chi_square(10 * drawn[::2] + drawn[1::2], pairs) < 0.999


def test_a_row_draws_the_same_beside_flat_and_sharp_rows():
    rows = torch.randn(6, 2000, generator=torch.Generator().manual_seed(2)) * torch.tensor([[0.2], [4.0]] * 3)
    alone = [decoding.pick(rows[i : i + 1], [decoding.generator(5, "p", i)], PAPER).item() for i in range(6)]
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4], [1, 3], [0, 1]):
        own = [decoding.generator(5, "p", i) for i in order]
        assert decoding.pick(rows[order], own, PAPER).tolist() == [alone[i] for i in order]


def test_seeds_differ_by_seed_prompt_and_sample():
    keys = [(seed, name, sample) for seed in range(3) for name in ("1", "11", "a") for sample in range(12)]
    assert len({decoding.generator(*key).initial_seed() for key in keys}) == len(keys)


def test_the_penalty_is_that_of_transformers_on_generated_tokens():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(3))
    prompt, said = torch.tensor([[1, 2, 3]] * 3), torch.tensor([[4, 4, 5], [1, 9, 9], [7, 8, 6]])
    theirs = RepetitionPenaltyLogitsProcessor(1.2, prompt_ignore_length=3)(torch.cat([prompt, said], 1), logits.clone())
    assert torch.equal(decoding.penalise(logits.clone(), said, 1.2), theirs)
    nothing = torch.empty(3, 0, dtype=torch.long)
    assert torch.equal(decoding.penalise(logits.clone(), nothing, 1.2), logits)


def told(model, tokenizer, messages, name, steps, seed, greedy=False, penalised_from="answer"):
    """The paper's decoding, written out: every step reads the whole text anew. Token ids, with the stop."""
    ids = turns.encode(tokenizer, messages)[0]
    start = len(ids)
    key = hashlib.sha256(json.dumps([seed, *name]).encode()).digest()
    numbers = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") // 2)
    while len(ids) < start + steps and (len(ids) == start or ids[-1] not in model.generation_config.eos_token_id):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].double().numpy()
        for token in set(ids[start if penalised_from == "answer" else 0 :]):
            logits[token] = logits[token] / 1.2 if logits[token] > 0 else logits[token] * 1.2
        if greedy:
            ids.append(int(logits.argmax()))
            continue
        weights = numpy.exp((logits - logits.max()) / 0.7)
        share = by_hand(weights / weights.sum(), 0.9)
        waits = -numpy.log(torch.rand(len(logits), generator=numbers).double().numpy())
        ids.append(min(share, key=lambda token: waits[token] / share[token]))
    return ids[start:]


@pytest.mark.parametrize("greedy", [False, True])
def test_decoding_is_the_papers_with_the_penalty_on_generated_tokens_only(model, prompts, greedy):
    model, tokenizer = model
    messages = prompts[0]["messages"]
    head = model.get_output_embeddings().weight.data
    before = head.clone()
    prompt = turns.encode(tokenizer, messages)[0]
    with torch.no_grad():
        hidden = model.model(torch.tensor([prompt])).last_hidden_state[0, -1]
    head[prompt[:-1]] += 15 * hidden / hidden.dot(hidden)  # leans to the words it has read
    try:
        sampling = {**PAPER, "temperature": 0.0 if greedy else 0.7, "max_new_tokens": 16, "seed": 3}
        names = [("one", number) for number in range(3)]
        found = sorted(decoding.answers(model, tokenizer, [messages] * 3, names, sampling))
        ours = [told(model, tokenizer, messages, name, 16, 3, greedy) for name in names]
        stops = model.generation_config.eos_token_id
        assert [text for _, text, *_ in found] == [tokenizer.decode([t for t in ids if t not in stops]) for ids in ours]
        theirs = [told(model, tokenizer, messages, name, 16, 3, greedy, "prompt") for name in names]
        assert ours != theirs  # transformers' own penalty would have said something else
        assert (ours[0] == ours[1]) is greedy
    finally:
        head.copy_(before)


@pytest.mark.parametrize("sampling", [PAPER, {**PAPER, "temperature": 0.0}], ids=["sampled", "greedy"])
def test_answers_end_each_in_its_own_time_and_as_if_alone(model, prompts, sampling):
    """Every sixth token stops, so rows leave the batch at different steps; the rest go on as they would have alone."""
    model, tokenizer = model
    ids = [turns.encode(tokenizer, prompt["messages"])[0] for prompt in prompts]
    stops = set(range(0, len(tokenizer), 6))
    limits = [24 if number % 5 else 3 for number in range(len(ids))]

    def run(order):
        own = [decoding.generator(0, prompts[number]["id"], 0) for number in order]
        out = decoding.decode(model, [ids[n] for n in order], [limits[n] for n in order], own, sampling, stops)
        return {order[row]: said for row, said in out}

    together = run(list(range(len(ids))))
    alone = {}
    for number in range(len(ids)):
        alone |= run([number])
    assert together == alone
    assert len(set(map(len, alone.values()))) > 4
    for number, said in alone.items():
        assert len(said) <= limits[number] and not stops & set(said[:-1])
        assert said[-1] in stops or len(said) == limits[number]


def texts(model, tokenizer, prompts, size, new_tokens, samples=1):
    sampling = {**PAPER, "max_new_tokens": new_tokens, "seed": 0}
    asked = [(prompt, sample) for prompt in prompts for sample in range(samples)]
    found = generate.batched(model, tokenizer, asked, sampling, size, lambda tokens, note=None: None)
    return {(prompt["id"], sample): text for prompt, sample, text, *_ in found}


def test_neither_batch_size_nor_order_nor_neighbours_change_an_answer(model, prompts):
    model, tokenizer = model
    one = texts(model, tokenizer, prompts, 1, 24)
    assert len(set(one.values())) == len(prompts)
    assert one == texts(model, tokenizer, prompts, 4, 24) == texts(model, tokenizer, prompts[::-1], 16, 24)
    some = texts(model, tokenizer, prompts[3:9:2], 2, 24, samples=2)
    assert len(set(some.values())) == 6
    assert {key: text for key, text in some.items() if key[1] == 0}.items() <= one.items()


@pytest.mark.slow
def test_nor_do_they_of_a_real_model(smollm2):
    model, tokenizer = generate.load_model(smollm2, "float32")
    prompts = conversations.load_prompts("data/prompts/dev.jsonl")[:16]
    one = texts(model, tokenizer, prompts, 1, 32)
    assert one == texts(model, tokenizer, prompts[::-1], 4, 32) == texts(model, tokenizer, prompts, 16, 32)


def test_an_answer_ends_with_the_models_context(model):
    model, tokenizer = model
    context = model.config.max_position_embeddings
    word = tokenizer.encode(" bread")
    assert len(word) == 1
    room = [{"role": "user", "content": " bread" * (context - 6)}]
    used = len(turns.encode(tokenizer, room)[0])
    sampling = {**PAPER, "temperature": 0.0, "max_new_tokens": 50, "seed": 0}
    short = [{"role": "user", "content": "Why?"}]
    found = sorted(decoding.answers(model, tokenizer, [room, short], [("a", 0), ("b", 0)], sampling))
    assert found[0][2:] == ("length", context - used) and found[1][3] > context - used
    room[0]["content"] += " bread" * (context - used)
    with pytest.raises(UserError, match=r"prompt 'a' has 2,048 tokens, and the model reads 2,048"):
        list(decoding.answers(model, tokenizer, [room], [("a", 0)], sampling))


def test_stops_are_eot_and_the_bases_own(model):
    model, tokenizer = model
    eot, eos = model.generation_config.eos_token_id
    assert eot == tokenizer.eos_token_id != eos
    for said in ([eot, eos], eos, [eos], None):
        stops = decoding.stop_tokens(SimpleNamespace(eos_token_id=said), tokenizer)
        assert stops == ([eot] if said is None else [eot, eos])
    assert decoding.as_answer(tokenizer, [*tokenizer.encode("So it is"), eot], [eot, eos]) == ("So it is", "eot", 3)
    assert decoding.as_answer(tokenizer, [eos, 5], [eot, eos]) == ("", "eos", 0)
    assert decoding.as_answer(tokenizer, tokenizer.encode("So it"), [eot, eos]) == ("So it", "length", 2)
