"""What each process of tests/test_distributed.py runs: python distributed_worker.py RANK WORLD_SIZE PORT FOLDER."""

import copy
import os
import sys
from functools import cache
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import torch
import torch.distributed as dist
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from st_softinfonce import (
    BM25Estimator,
    CachedSoftInfoNCELoss,
    SimilarityEstimator,
    SoftInfoNCELoss,
)
from st_softinfonce.estimators import MixtureEstimator, NearDuplicateEstimator, TrainedModelEstimator
from st_softinfonce.treatments import Distill, Mask, Promote, Soften

torch.set_num_threads(1)

# The first half is short, so that the processes' batches are padded to different widths.
QUERIES = [
    "read a file",
    "sort the list",
    "open a socket",
    "send bytes",
    "count the lines of the first file in the list",
    "find the first index of a key in the data for return the value",
    "read every file of a list for count the bytes",
    "write all lines of the list of a socket",
]
DOCUMENTS = [
    "def read path",
    "def sort list",
    "def open socket",
    "def send bytes",
    "def count lines for lines in file return number of lines in the list of lines",
    "def find key data return first index value in data",
    "def read list count bytes for file in list return number of bytes",
    "def write lines list socket for lines in list send lines return none",
]
NEGATIVES = [text.replace("return", "for").replace("def", "def close") for text in DOCUMENTS]


class Histogram(SimilarityEstimator):
    """Cosine of token counts: as wide in every batch."""

    treatment = Soften(alpha=1.3, beta=0.7, temperature=0.2)

    def __init__(self, compares):
        self.compares = compares

    def represent(self, column):
        counts = torch.zeros(len(column), 64, dtype=torch.float64)
        counts.scatter_add_(1, column.content_ids + 1, torch.ones_like(column.content_ids, dtype=torch.float64))
        return torch.nn.functional.normalize(counts[:, 1:])

    def similarity(self, queries, candidates):
        return queries @ candidates.T


# Each of the model in training.
ESTIMATORS = {
    "bm25-queries": lambda model: BM25Estimator(),
    "bm25-documents": lambda model: BM25Estimator(compares="documents"),
    # One that masks hardly anything would not show that anything was gathered.
    "near-duplicate": lambda model: NearDuplicateEstimator(size=1),
    "mixture": lambda model: MixtureEstimator(["bm25", Histogram("queries")]),
    "histogram-queries": lambda model: Histogram("queries"),
    "trained-model": lambda model: TrainedModelEstimator(copy.deepcopy(model), normalize=True),
}
WAYS = {
    "one-way": {},
    "one-way-harder": {"hardness_mode": "in_batch_negatives", "hardness_strength": 9.0},
    "both-ways": {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
}
# Each estimator with both losses, in two of the ways; each loss in all ways.
CONFIGURATIONS = {
    f"{kind}-{estimator}-{ways}": (cls, make, WAYS[ways])
    for turn, (kind, cls) in enumerate((("plain", SoftInfoNCELoss), ("cached", CachedSoftInfoNCELoss)))
    for place, (estimator, make) in enumerate(ESTIMATORS.items())
    for ways in [list(WAYS)[(turn + place) % len(WAYS)]]
}

FOUR_WAYS = {"directions": ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")}
CONFIGURATIONS |= {
    f"{kind}-{name}": (cls, make, options)
    for kind, cls in (("plain", SoftInfoNCELoss), ("cached", CachedSoftInfoNCELoss))
    for name, make, options in (
        ("host-four-ways", lambda model: None, FOUR_WAYS),
        ("self", lambda model: "self", {"treatment": Mask(margin=-0.001), **FOUR_WAYS}),
        ("promoted", lambda model: Histogram("documents"), {"treatment": Promote(above=0.4), **FOUR_WAYS}),
        ("distilled", lambda model: Histogram("documents"), {"treatment": [Mask(top_k=1), Distill(temperature=0.2)]}),
    )
}


@cache
def read_model(folder):
    return SentenceTransformer(str(Path(folder) / "model"), device="cpu").double()


def load_model(folder):
    return copy.deepcopy(read_model(folder))


def features(model, part):
    return [model.preprocess(column[part]) for column in (QUERIES, DOCUMENTS, NEGATIVES)]


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def one_step(model, cls, make, options, part):
    options = dict(options) | ({"mini_batch_size": 3} if cls is CachedSoftInfoNCELoss else {})
    loss = cls(model, make(model), gather_across_devices=True, **options)
    model.zero_grad()
    value = loss(features(model, part), None)
    value.backward()
    return value.detach(), gradients(model)


def average(value, found):
    for tensor in (value, *found.values()):
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
    return value, found


def main():
    rank, world_size, port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    dist.init_process_group("gloo")
    size = len(QUERIES) // world_size
    part = slice(rank * size, (rank + 1) * size)
    results = {}

    model = load_model(folder)
    for name, configuration in CONFIGURATIONS.items():
        results[name] = average(*one_step(model, *configuration, part))

    for name, options in (("host", {}), ("host-four-ways", FOUR_WAYS)):
        host = MultipleNegativesRankingLoss(model, gather_across_devices=True, **options)
        model.zero_grad()
        value = host(features(model, part), None)
        value.backward()
        results[name] = average(value.detach(), gradients(model))
    results["unweighted"] = average(*one_step(model, SoftInfoNCELoss, lambda model: None, {}, part))

    # DDP averages the gradients itself.
    for name, cls in (("ddp-plain", SoftInfoNCELoss), ("ddp-cached", CachedSoftInfoNCELoss)):
        model = load_model(folder)
        loss = cls(model, gather_across_devices=True)
        loss.model = DistributedDataParallel(model, find_unused_parameters=True)
        value = loss(features(model, part), None)
        value.backward()
        value = value.detach()
        dist.all_reduce(value)
        results[name] = (value / world_size, gradients(model))

    model = load_model(folder)
    for layer in model[0].model.encoder.layer:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = SoftInfoNCELoss(model, gather_across_devices=True)
    value = loss(features(model, part), None)
    value.backward()
    dist.all_reduce(value := value.detach())
    sharded = {name: p.grad.full_tensor() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    stepped = {name: p.detach().full_tensor().clone() for name, p in model.named_parameters()}
    results["sharded"] = (value / world_size, sharded, stepped)

    torch.save(results, Path(folder) / f"results-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
