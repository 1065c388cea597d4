"""One training step on an installed wheel: what breaks first when the host changes."""

from importlib.metadata import version

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import st_softinfonce

words = "read a file close it sort the list of numbers open socket and send bytes".split()
tokenizer = Tokenizer(WordLevel({"[UNK]": 0} | {word: i + 1 for i, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = Whitespace()
torch.manual_seed(0)
model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")


def features() -> list[dict[str, torch.Tensor]]:
    """Make a batch of five pairs."""
    queries = ["read a file", "close the file", "sort the list", "open socket", "send bytes"]
    documents = ["read file close it", "close file", "sort list of numbers", "open a socket", "send the bytes"]
    return [model.preprocess(queries), model.preprocess(documents)]


soft = st_softinfonce.SoftInfoNCELoss(model, "bm25")(features(), None)
soft.backward()
plain = st_softinfonce.SoftInfoNCELoss(model, None)(features(), None)
host = MultipleNegativesRankingLoss(model)(features(), None)
if not torch.allclose(plain, host) or torch.allclose(soft, host) or not model[0].embedding.weight.grad.any():
    raise SystemExit(f"soft {soft.item()}, without {plain.item()}, host {host.item()}: expected the last two equal.")
for name in ("self", "identical", "near-duplicate"):
    st_softinfonce.SoftInfoNCELoss(model, name)(features(), None).backward()
try:
    from st_softinfonce.data import mine_pairs
except ImportError as error:
    if "st-softinfonce[mining]" not in str(error):
        raise
else:
    raise SystemExit(f"{mine_pairs} came without the extra 'mining': what the wheel depends on is not what it says.")
print(
    f"st-softinfonce {st_softinfonce.__version__} works with sentence-transformers {version('sentence-transformers')}"
)
