"""Attention over examples that lie end to end, with nothing to build: `attn_implementation: varlen`.

On CUDA it is `torch.nn.attention.varlen.varlen_attn`, a flash kernel inside PyTorch (bf16 and fp16, grouped-query heads
too); elsewhere `scaled_dot_product_attention` example by example, so that no mask over all pairs of tokens is ever built.
Where examples do not lie end to end (generation, padded batches) it is transformers' own `sdpa`.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lima import UserError

NAME = "varlen"
APART = ("varlen", "sdpa", "eager", "flex_attention", "flash_attention", "kernels-community/")  # keep examples apart


def register():
    """Makes `varlen` known to transformers in this process."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)


def check(implementation, padding_free):
    """Raises `UserError` for an attention that would let examples that lie end to end see each other."""
    if padding_free and implementation and not implementation.startswith(APART):
        raise UserError(
            f"attn_implementation {implementation}: not known to keep examples apart that lie end to end; use varlen, "
            "sdpa or flash_attention_2, or set padding_free: false"
        )


def mask(batch_size, q_length, kv_length, *args, attention_mask=None, allow_is_causal_skip=True, **kwargs):
    """No mask for examples end to end, whose boundaries `attention` gets; else the one that `sdpa` takes."""
    if attention_mask is None and not allow_is_causal_skip and q_length == kv_length > 1:
        return None
    more = {"attention_mask": attention_mask, "allow_is_causal_skip": allow_is_causal_skip, **kwargs}
    return sdpa_mask(batch_size, q_length, kv_length, *args, **more)


def attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
    """Causal attention within each example. Takes and gives what transformers' attention functions do.

    query [batch, heads, tokens, width], key and value [batch, kv_heads, tokens, width]; `cu_seq_lens_q` [examples + 1] holds
    the boundaries of the one row's examples and `max_length_q` the longest. Returns ([batch, tokens, heads, width], None).
    """
    bounds = kwargs.get("cu_seq_lens_q")
    if bounds is None:
        _refuse_hidden_boundaries(query, attention_mask, kwargs.get("position_ids"))
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    longest = kwargs["max_length_q"]
    _refuse_other_attention(longest, kwargs)
    if torch.is_autocast_enabled(query.device.type):  # rotary embeddings leave fp32 behind
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and not dropout:
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
        out = varlen_attn(
            *(query, key, value, bounds, bounds, longest, longest),
            scale=scaling,
            window_size=(-1, 0),  # causal
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return out[None], None
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    lengths = bounds.diff().tolist()
    parts = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    outs = [scaled_dot_product_attention(*part, dropout_p=dropout, is_causal=True, scale=scaling) for part in parts]
    return torch.cat(outs, dim=2).transpose(1, 2), None


def _refuse_hidden_boundaries(query, attention_mask, position_ids):
    """Positions that restart without a mask or boundaries: every example would see those before it."""
    if attention_mask is not None or position_ids is None or not query.shape[2] == position_ids.shape[-1] > 1:
        return
    if (position_ids[:, 1:] <= position_ids[:, :-1]).any():
        raise RuntimeError(
            "varlen attention: examples lie end to end, but their boundaries (cu_seq_lens_q) are missing"
        )


def _refuse_other_attention(longest, kwargs):
    window = kwargs.get("sliding_window")
    if window is not None and longest > window:
        raise UserError(f"varlen attention: this model sees {window} tokens back, an example has {longest}; use sdpa")
    for feature in ("softcap", "s_aux"):
        if kwargs.get(feature) is not None:
            raise UserError(f"varlen attention: this model's attention has {feature}; use eager or sdpa")
