"""Tokenizers and BERTs that are made in memory and need no download."""

import copy
import json
from functools import cache

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizerFast,
)

SPECIAL_TOKENS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
WORDS = (
    "read write open close sort merge count find parse send a the of file list number socket string lines bytes "
    "return def for in if else none true path data value key index first last all every"
).split()


def make_word_tokenizer():
    vocabulary = {word: number for number, word in enumerate(SPECIAL_TOKENS + WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    return tokenizer


def make_tokenizer():
    return PreTrainedTokenizerFast(
        tokenizer_object=make_word_tokenizer(),
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=32,
    )


def save_bert(folder, architecture=BertModel, *, mask_token=False, seed=0, **config):
    """Save a narrow BERT with its tokenizer, with dropout off so that two passes agree; its path."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    if mask_token:
        tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    architecture(BertConfig(vocab_size=len(tokenizer), **(sizes | config))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_transformer_model(bert_folder):
    """A model of one's own; it is read once, as copying takes a fifth of the time."""
    return copy.deepcopy(_load_transformer_model(bert_folder))


@cache
def _load_transformer_model(bert_folder):
    transformer = Transformer(bert_folder)
    return SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())], device="cpu")


def byte_pairs(lines, special_tokens):
    """A vocabulary of byte pairs, and its merges."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(lines, vocab_size=400, special_tokens=special_tokens, show_progress=False)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return tokenizer.get_vocab(), [tuple(pair) for pair in merges]


def save_roberta(folder, lines, extra_tokens=(), dropout=0.0):
    """A RoBERTa of two narrow layers; extra tokens are in its vocabulary, but the tokenizer takes them to pieces."""
    vocabulary, merges = byte_pairs(lines, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    for token in extra_tokens:
        vocabulary[token] = len(vocabulary)
    RobertaTokenizerFast(vocab=vocabulary, merges=merges, model_max_length=512).save_pretrained(folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=514,
        type_vocab_size=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    RobertaModel(config).save_pretrained(folder)
    return str(folder)
