"""What one forward and backward pass holds, measured on fake tensors: real models and real code, no data behind them.

PyTorch's `MemTracker` counts the storages that live while a few layers of the real model run at full width under
`FakeTensorMode`; the rest follows per layer by difference. Both are internal to PyTorch, which is pinned, and used here only.
"""

import contextlib
import functools
import json
import warnings
from dataclasses import dataclass
from unittest import mock

FEW = (2, 3)  # layers that are run; the ramp's first layer drops nothing, so one would not do


@dataclass(frozen=True)
class Way:
    """How a pass is run, as far as it changes what is held. `lora`: rank, dropout, target modules and those trained in full."""

    bf16_weights: bool
    autocast: bool
    checkpointing: bool
    dropout: float
    gpu: bool
    lora: tuple | None = None
    four_bit: bool = False


@dataclass(frozen=True)
class Pass:
    """Bytes beside weights and their gradients: `kept` from forward to backward, and the two passes' peaks."""

    kept: float
    forward: float
    backward: float

    def __add__(self, other):
        return Pass(self.kept + other.kept, self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times):
        return Pass(self.kept * times, self.forward * times, self.backward * times)

    @property
    def peak(self):
        return max(self.forward, self.backward)


def as_json(config):
    """A config by its values, so that what is measured of it can be kept."""
    return json.dumps(config.to_dict(), sort_keys=True, default=str)


def measure(config, tokens, way):
    """`(all, layer)`: the `Pass` of a model of `config` over `tokens` tokens of one example, and what a layer adds to it.

    Every token counts as in the loss. A gradient is gone as soon as it is complete, as ZeRO hands it on: where gradients
    stay, they are the model's, not the pass's.
    """
    shape = as_json(config)
    few, more = (_run(shape, layers, tokens, way) for layers in FEW)
    layer = (more + few * -1) * (1 / (FEW[1] - FEW[0]))
    return few + layer * (config.num_hidden_layers - FEW[0]), layer


@functools.lru_cache(maxsize=256)
def _run(shape, layers, tokens, way):
    """The `Pass` of a model of `layers` layers."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    with FakeTensorMode(), _stand_ins(way.gpu):
        model = _model(shape, layers, way)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_forget)
        batch = {
            "input_ids": torch.zeros(1, tokens, dtype=torch.long),
            "labels": torch.zeros(1, tokens, dtype=torch.long),
            "position_ids": torch.arange(tokens)[None],
        }
        tracker = MemTracker()
        track = tracker._track_module_params_and_buffers  # its hooks on weights only sort, and fail on frozen ones
        tracker._track_module_params_and_buffers = lambda module, **kwargs: track(module, install_grad_hooks=False)
        for hook in ("_pre_fw_hook", "_post_fw_hook", "_pre_bw_hook", "_post_bw_hook"):
            setattr(tracker, hook, lambda *args: None)  # peaks by module, which take most of the time
        tracker.track_external(model, *batch.values())
        cpu = torch.device("cpu")

        def held(kind):
            return tracker.get_tracker_snapshot(kind)[cpu]["Total"]

        still = held("current")
        autocast = torch.autocast("cpu", torch.bfloat16) if way.autocast else contextlib.nullcontext()
        with tracker:
            with autocast:
                loss = model(**batch, use_cache=False, fused_lm_head=True, num_items_in_batch=tokens).loss
            kept, forward = held("current") - still, held("peak") - still
            tracker._peak_mem.clear()
            loss.backward()
            backward = held("peak") - still
    return Pass(kept, forward, backward)


def adapters(config, lora):
    """Parameters that LoRA trains in a model of `config`, modules that are trained in full included."""
    shape = as_json(config)
    few, more = (_trained(shape, layers, lora) for layers in FEW)
    return few + (more - few) // (FEW[1] - FEW[0]) * (config.num_hidden_layers - FEW[0])


@functools.lru_cache(maxsize=64)
def _trained(shape, layers, lora):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), _stand_ins(True):
        model = _model(shape, layers, Way(True, True, False, 0.0, True, lora))
        return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _forget(parameter):
    parameter.grad = None


def _model(shape, layers, way):
    """A model as `lima_sft.py` trains it, of `layers` layers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    from lima.train import dropout

    shape = {**json.loads(shape), "num_hidden_layers": layers}
    if shape.get("layer_types"):
        shape["layer_types"] = shape["layer_types"][:layers]
    config = AutoConfig.for_model(**shape)
    before = torch.get_default_dtype()
    torch.set_default_dtype(
        torch.bfloat16 if way.bf16_weights else torch.float32
    )  # fake tensors cannot be cast in place
    try:
        model = AutoModelForCausalLM.from_config(config, attn_implementation="one_example")
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
        if way.four_bit:
            _answer_as_asked(model)
        if way.lora:
            model = _adapted(model, *way.lora)
            if way.autocast:
                _in_fp32(model)
    finally:
        torch.set_default_dtype(before)
    if way.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    if way.dropout:
        dropout.add_residual_dropout(model, way.dropout)
    return model.train()


def _adapted(model, rank, drop, targets, in_full):
    from peft import LoraConfig, get_peft_model
    from torch import nn
    from torch._subclasses.fake_tensor import FakeTensorMode

    lora = LoraConfig(
        r=rank,
        lora_dropout=drop,
        target_modules=targets[0] if targets == ("all-linear",) else list(targets),
        modules_to_save=list(in_full),
        task_type="CAUSAL_LM",
    )
    whole = mock.patch.object(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, create=True)  # one mode for all
    with (
        whole,
        mock.patch.object(nn.Module, "to", lambda module, *args, **kwargs: module),
    ):  # which fails on fake tensors
        return get_peft_model(model, lora, autocast_adapter_dtype=False)  # adapters in bf16, as TRL has them


def _in_fp32(model):
    """Makes what is trained fp32, as `lima_sft.py` does outside DeepSpeed; hidden states follow the embeddings into it."""
    import torch

    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.requires_grad:
                setattr(module, name, torch.nn.Parameter(torch.empty_like(parameter, dtype=torch.float32)))


def _answer_as_asked(model):
    """Every linear layer but the head answers in its input's dtype, autocast or not, as those of 4 bits do."""
    from torch import nn

    for module in model.base_model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, inputs, out: out.to(inputs[0].dtype))


@contextlib.contextmanager
def _stand_ins(gpu):
    """What takes the place of kernels: attention within one example; on a GPU, the loss's Triton kernels, which work in place,
    and dropout, whose kernel keeps a byte an element."""
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from trl.kernels import chunked_logprob

    AttentionInterface.register("one_example", functools.partial(_attention, gpu))
    AttentionMaskInterface.register("one_example", lambda *args, **kwargs: None)
    in_place = {name: lambda *args, **kwargs: None for name in ("_forward_tile", "_backward_tile", "_addmm_fp32")}
    with contextlib.ExitStack() as stack:
        if gpu:
            stack.enter_context(mock.patch.multiple(chunked_logprob, **in_place))
            stack.enter_context(mock.patch.object(torch.nn.functional, "dropout", _dropout))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of names that transformers 6 changes, and of fake tensors without data
        yield


def _dropout(states, p=0.5, training=True, inplace=False):
    import torch

    return torch.native_dropout(states, p, training)[0]


def _attention(gpu, module, query, key, value, mask, **kwargs):
    """Keeps what flash attention keeps: its inputs, its output and a float a head and token. See `lima/train/varlen.py`."""
    import torch
    from transformers.integrations.sdpa_attention import repeat_kv

    if torch.is_autocast_enabled("cpu"):
        query, key, value = (states.to(torch.get_autocast_dtype("cpu")) for states in (query, key, value))
    if not gpu:
        key, value = (repeat_kv(states, query.shape[1] // states.shape[1]) for states in (key, value))
    out = _flash().apply(query, key, value).transpose(1, 2)
    return out if gpu else out.clone(), None  # without a kernel, the examples' outputs are put together


@functools.cache
def _flash():
    import torch

    class Flash(torch.autograd.Function):
        @staticmethod
        def forward(ctx, query, key, value):
            out = torch.empty(query.transpose(1, 2).shape, dtype=query.dtype).transpose(
                1, 2
            )  # as the kernel lays it out
            ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:3], dtype=torch.float32))
            return out

        @staticmethod
        def backward(ctx, grad):
            return tuple(torch.empty_like(states) for states in ctx.saved_tensors[:3])

    return Flash
