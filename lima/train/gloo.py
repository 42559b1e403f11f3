"""Several processes without a GPU: what DeepSpeed and accelerate need to be told before they start."""

import os


def config_fields(recipe, here):
    """Fields of `SFTConfig` for DeepSpeed on CPU, with its process group set up; none elsewhere.

    DeepSpeed would compile a shared-memory operator first, and would not find a backend by itself.
    """
    if here.gpu or not recipe.deepspeed:
        return {}
    launched = "ACCELERATE_USE_DEEPSPEED" in os.environ  # by `accelerate launch`
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    import deepspeed.ops
    from accelerate import PartialState

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    PartialState(backend="gloo")
    if not launched:
        del os.environ["ACCELERATE_USE_DEEPSPEED"]
    return {"accelerator_config": {"use_configured_state": True}}
