"""Residual dropout: the paper's regulariser (section 3), "over residual connections", rising with depth.

[?] Our reading: element dropout on the output of every attention and MLP block before it is added to the residual
stream, with p_l = p_max · l / (L − 1) for layer l of L, so 0.0 at the first layer and p_max at the last.
"""

from torch import nn

from lima import UserError


def probabilities(layers, p_max):
    """The ramp: dropout of each of `layers` layers, first to last."""
    return [p_max * layer / max(layers - 1, 1) for layer in range(layers)]


def add_residual_dropout(model, p_max):
    """Adds the ramp to a decoder (wrapped by PEFT or not) and returns its probabilities.

    Forward hooks only: no parameter, buffer or config key is added, so nothing of it is saved; it is off in eval; and
    when gradient checkpointing recomputes a layer, PyTorch restores the random state, so the mask is the same.
    Raises `UserError` for a model whose layers have no `self_attn` and `mlp`.
    """
    layers = _decoder_layers(model)
    ramp = probabilities(len(layers), p_max)
    for layer, p in zip(layers, ramp, strict=True):
        if p > 0:
            for block in _blocks(layer):
                block.register_forward_hook(_hook(p))
    return ramp


def _blocks(layer):
    """The modules whose outputs are added to the residual stream: norms, where they follow the blocks (OLMo 2, Gemma 2)."""
    if hasattr(layer, "post_feedforward_layernorm"):
        return layer.post_attention_layernorm, layer.post_feedforward_layernorm
    return layer.self_attn, layer.mlp


def _hook(p):
    def drop(module, inputs, output):
        if isinstance(output, tuple):
            return (nn.functional.dropout(output[0], p, module.training), *output[1:])
        return nn.functional.dropout(output, p, module.training)

    return drop


def _decoder_layers(model):
    for module in model.modules():
        layers = getattr(module, "layers", None)
        if (
            isinstance(layers, nn.ModuleList)
            and len(layers)
            and all(hasattr(layer, "self_attn") and hasattr(layer, "mlp") for layer in layers)
        ):
            return layers
    raise UserError("residual_dropout: this model has no decoder layers with `self_attn` and `mlp`; set it to 0.0")
