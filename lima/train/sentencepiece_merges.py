"""Makes the tokenizer that transformers 5 builds for a LLaMA split every utterance as SentencePiece does."""

from sentencepiece import SentencePieceProcessor
from tokenizers import models, normalizers, pre_tokenizers
from transformers.tokenization_utils_base import generate_merges


def mend(backend, folder):
    """Changes `backend`, the `tokenizers.Tokenizer` of the base in `folder`, if it is a SentencePiece one."""
    if not isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        return
    _lead_with_a_space(backend)
    if isinstance(backend.model, models.BPE) and not (folder / "tokenizer.json").exists():
        _merge_by_score(backend, folder / "tokenizer.model")


def _lead_with_a_space(backend):
    """LLaMA's pretraining text began with an added space: so does every utterance, wherever it stands."""
    own = [backend.normalizer] if backend.normalizer else []
    spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    backend.normalizer = normalizers.Sequence(own + spaces)
    backend.pre_tokenizer = None  # Metaspace adds no space to a text that starts with one


def _merge_by_score(backend, model_file):
    """transformers merges in the order of the ids; LLaMA's runs of spaces have low ids, but the lowest scores."""
    pieces = SentencePieceProcessor(model_file=str(model_file))
    old, vocab = backend.model, backend.get_vocab(with_added_tokens=False)
    merges = generate_merges(vocab, {piece: pieces.get_score(pieces.piece_to_id(piece)) for piece in vocab})
    backend.model = models.BPE(
        vocab, merges, unk_token=old.unk_token, fuse_unk=old.fuse_unk, byte_fallback=old.byte_fallback
    )
