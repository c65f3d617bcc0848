"""A byte-level BPE in CLIP's form (lower case, `</w>`, start and end of text), learned from the captions of tiny-shapes."""
import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import shapes_data

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
# CLIP's own splitting pattern (transformers, CLIPTokenizer).
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train(captions):
    """A tokenizer whose vocabulary is every byte, alone and at a word's end, and the merges that the captions need."""
    tokenizer = Tokenizer(models.BPE(unk_token=EOS, end_of_word_suffix="</w>", continuing_subword_prefix=""))
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1024, min_frequency=2, special_tokens=[BOS, EOS], initial_alphabet=alphabet,
        end_of_word_suffix="</w>", show_progress=False)
    # Every byte at a word's end too, so that no text at all falls outside the vocabulary.
    tokenizer.train_from_iterator(captions, trainer)
    return with_template(complete(tokenizer, alphabet))


def complete(tokenizer, alphabet):
    """Adds `<byte></w>` for every byte, as CLIP's vocabulary has."""
    import json

    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"]
    for symbol in sorted(alphabet):
        vocab.setdefault(f"{symbol}</w>", len(vocab))
    return Tokenizer.from_str(json.dumps(state))


def with_template(tokenizer):
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    tokenizer.post_processor = processors.RobertaProcessing(
        (EOS, eos), (BOS, bos), trim_offsets=False, add_prefix_space=False)
    return tokenizer


def load_or_train(path, model_max_length):
    """The tokenizer at `path`, made if it is not there, padding and truncating to `model_max_length` ids."""
    if not path.exists():
        rng = np.random.default_rng(7)
        captions = [shapes_data.caption(shapes_data.sample_scene(rng), rng) for _ in range(5000)]
        train(captions).save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    eos = tokenizer.token_to_id(EOS)
    tokenizer.enable_padding(length=model_max_length, pad_id=eos, pad_token=EOS)
    tokenizer.enable_truncation(model_max_length)
    return tokenizer
