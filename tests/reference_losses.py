"""Losses written out from their papers: loops over rows and candidates, one logit at a time, in torch scalars.

Torch only carries the gradient; nothing here imports the package, and no formula is shared with it.
"""

import math

import torch
import torch.nn.functional as F


def embed(model, batch):
    return [model(dict(column))["sentence_embedding"] for column in batch]


def written(model, formula):
    """Make of a formula over embeddings what can be called as a loss is."""
    return lambda batch, labels=None: formula(*embed(model, batch))


def cosine(one, other):
    return F.cosine_similarity(one, other, dim=0)


def dot(one, other):
    return one @ other


def cross_entropy(logits, targets):
    """Of one row; candidates that are taken out are not in the lists."""
    total = torch.logsumexp(torch.stack(logits), dim=0)
    return -sum(target * (logit - total) for logit, target in zip(logits, targets, strict=True) if target)


def rows_of(queries, documents, scale, similarity=cosine, directions=("query_to_doc",)):
    """For each query its candidates as ``(direction, number, logit)``, itself and its own documents left out."""
    size = len(queries)
    everything = [document for column in documents for document in column]
    for i in range(size):
        row = []
        for j, document in enumerate(everything):
            row.append(("query_to_doc", j, scale * similarity(queries[i], document)))
        for j in range(size):
            if "query_to_query" in directions and j != i:
                row.append(("query_to_query", j, scale * similarity(queries[i], queries[j])))
            if "doc_to_query" in directions:
                row.append(("doc_to_query", j, scale * similarity(documents[0][i], queries[j])))
        for j, document in enumerate(everything):
            if "doc_to_doc" in directions and j % size != i:
                row.append(("doc_to_doc", j, scale * similarity(documents[0][i], document)))
        yield row


def softened(judged, options, scale, similarity=cosine, apart=False):
    """Soft-InfoNCE (Li et al. 2023, Eq. 3 and 4) over several directions.

    ``judged`` maps a direction to its similarities, a row of floats for each query; what is None is not known and
    keeps weight 1, what is not there is no candidate.
    """
    alpha, beta, temperature, least = options

    def weights(row, own):
        known = [j for j, value in enumerate(row) if value is not None and j != own]
        if not known or beta * len(known) <= alpha:
            return [1.0] * len(row)
        highest = max(row[j] for j in known)
        powers = {j: math.exp((row[j] - highest) / temperature) for j in known}
        found = [1.0] * len(row)
        for j in known:
            share = powers[j] / sum(powers.values())
            found[j] = max((beta - alpha * share) / (beta - alpha / len(known)), least)
        return found

    def formula(queries, *documents):
        losses = []
        for i, row in enumerate(rows_of(queries, documents, scale, similarity, judged)):
            weight = {direction: weights(judged[direction][i], i) for direction in judged}
            logits = {direction: [] for direction in judged}
            positive = {}
            for direction, j, logit in row:
                if direction in ("query_to_doc", "doc_to_query") and j == i:
                    positive[direction] = logit
                logits[direction].append(logit + math.log(weight[direction][j]))
            if apart:
                parts = [torch.logsumexp(torch.stack(logits[d]), 0) - positive[d] for d in judged]
                losses.append(sum(parts) / len(parts))
            else:
                together = torch.stack([logit for d in judged for logit in logits[d]])
                losses.append(torch.logsumexp(together, 0) - positive["query_to_doc"])
        return sum(losses) / len(losses)

    return formula


def guided(guide, temperature, margin, relative, directions, similarity=cosine):
    """GISTEmbed (Solatorio 2024): a candidate that the guide finds more similar than the positive is left out.

    ``guide`` are the guide's embeddings of the columns. Returns the formula and, for inspection, how far each of the
    guide's similarities is from its threshold.
    """
    distances = []

    def formula(queries, *documents):
        of_queries, *of_documents = guide
        flat = [document for column in of_documents for document in column]
        losses = []
        for i, row in enumerate(rows_of(queries, documents, 1 / temperature, similarity, directions)):
            own = cosine(of_queries[i], of_documents[0][i]).item()
            threshold = own - margin * (abs(own) if relative else 1)
            logits = []
            for direction, j, logit in row:
                if direction == "query_to_doc" and j == i:
                    positive = logit
                    logits.append(logit)
                    continue
                one = of_queries[i] if direction.startswith("query") else of_documents[0][i]
                other = of_queries[j] if direction.endswith("query") else flat[j]
                # The pair's own similarity is the threshold's, in either direction.
                found = own if direction == "doc_to_query" and j == i else cosine(one, other).item()
                distances.append(found - threshold)
                if found <= threshold:
                    logits.append(logit)
            losses.append(torch.logsumexp(torch.stack(logits), 0) - positive)
        return sum(losses) / len(losses)

    return formula, distances


def self_masked(margin, scale, directions, similarity=cosine):
    """Qwen3-Embedding (Zhang et al. 2025, section 3): above the positive's similarity plus a margin they go."""

    def formula(queries, *documents):
        losses, gone = [], 0
        for i, row in enumerate(rows_of(queries, documents, scale, similarity, directions)):
            positive = next(logit for direction, j, logit in row if direction == "query_to_doc" and j == i)
            logits = [positive]
            for direction, j, logit in row:
                if direction == "query_to_doc" and j == i:
                    continue
                if logit.item() / scale > positive.item() / scale + margin:
                    gone += 1
                else:
                    logits.append(logit)
            losses.append(torch.logsumexp(torch.stack(logits), 0) - positive)
        formula.masked = gone
        return sum(losses) / len(losses)

    return formula


def several_positives(relevant, scale, similarity=cosine):
    """Supervised contrastive learning (Khosla et al. 2020, Eq. 2): the mean over a query's positives, outside the log.

    ``relevant[i][j]`` tells whether document ``j`` is a positive of query ``i``.
    """

    def formula(queries, *documents):
        losses = []
        for i, row in enumerate(rows_of(queries, documents, scale, similarity)):
            logits = [logit for _, _, logit in row]
            total = torch.logsumexp(torch.stack(logits), 0)
            positives = [j for j in range(len(logits)) if j == i or relevant[i][j]]
            losses.append(-sum(logits[j] - total for j in positives) / len(positives))
        return sum(losses) / len(losses)

    return formula


def listwise(teacher, share, temperature, scale, similarity=cosine, taken_out=()):
    """Distillation over the whole row: cross-entropy with (1 - share) onehot + share softmax(teacher / temperature).

    ``teacher[i][j]`` is its similarity of query ``i`` and document ``j``; pairs ``taken_out`` are no candidates.
    """

    def formula(queries, *documents):
        losses = []
        for i, row in enumerate(rows_of(queries, documents, scale, similarity)):
            kept = [j for _, j, _ in row if (i, j) not in taken_out]
            highest = max(teacher[i][j] for j in kept)
            powers = [math.exp((teacher[i][j] - highest) / temperature) for j in kept]
            targets = [
                (1 - share) * (j == i) + share * power / sum(powers) for j, power in zip(kept, powers, strict=True)
            ]
            losses.append(cross_entropy([row[j][2] for j in kept], targets))
        return sum(losses) / len(losses)

    return formula


def cancelled(teacher, scale, top_k=None, ratio=None, similarity=cosine):
    """False-negative cancellation (Li et al. 2023, section 4.4): the most similar negatives are taken out."""

    def formula(queries, *documents):
        losses = []
        for i, row in enumerate(rows_of(queries, documents, scale, similarity)):
            negatives = [j for _, j, _ in row if j != i]
            if top_k is not None:
                gone = sorted(negatives, key=lambda j: (-teacher[i][j], j))[:top_k]
            else:
                gone = [j for j in negatives if teacher[i][j] >= ratio * teacher[i][i]]
            logits = [logit for _, j, logit in row if j not in gone]
            losses.append(torch.logsumexp(torch.stack(logits), 0) - row[i][2])
        return sum(losses) / len(losses)

    return formula
