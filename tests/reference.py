"""Slow implementations written from the paper with loops and Python floats; nothing here imports the package."""

import math


def softmax(values):
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    return [power / sum(powers) for power in powers]


def log_sum_exp(values):
    largest = max(values)
    if largest == -math.inf:
        return -math.inf
    return largest + math.log(sum(math.exp(value - largest) for value in values))


def negatives_of(row, positive):
    return [column for column in range(len(row)) if column != positive]


def default_positives(matrix, positives):
    return list(range(len(matrix))) if positives is None else list(positives)


def negative_weights(similarity, alpha, beta, temperature, min_weight=0.1, positives=None):
    weights = []
    for row, positive in zip(similarity, default_positives(similarity, positives), strict=True):
        negatives = negatives_of(row, positive)
        line = [1.0] * len(row)
        if alpha != 0 and beta * len(negatives) > alpha:
            shares = softmax([row[column] / temperature for column in negatives])
            for column, share in zip(negatives, shares, strict=True):
                raw = (beta - alpha * share) / (beta - alpha / len(negatives))
                line[column] = max(raw, min_weight)
        weights.append(line)
    return weights


def soft_info_nce(scores, weights=None, positives=None, targets=None):
    losses = []
    for i, positive in enumerate(default_positives(scores, positives)):
        logits = []
        for column, score in enumerate(scores[i]):
            weight = 1.0 if weights is None or column == positive else weights[i][column]
            logits.append(score + math.log(weight) if weight > 0 else -math.inf)
        shares = [float(column == positive) for column in range(len(logits))] if targets is None else targets[i]
        total = log_sum_exp(logits)
        losses.append(-sum(t * (logit - total) for t, logit in zip(shares, logits, strict=True) if t > 0))
    return sum(losses) / len(losses)


def soft_labels(similarity, temperature, positives=None):
    labels = []
    for row, positive in zip(similarity, default_positives(similarity, positives), strict=True):
        negatives = negatives_of(row, positive)
        line = [1.0] * len(row)
        for column, share in zip(negatives, softmax([row[c] / temperature for c in negatives]), strict=True):
            line[column] = share
        labels.append(line)
    return labels


def bce(scores, similarity, temperature, positives=None):
    labels = soft_labels(similarity, temperature, positives)
    total = 0.0
    for row, row_labels in zip(scores, labels, strict=True):
        for column, label in enumerate(row_labels):
            others = log_sum_exp([row[c] for c in range(len(row)) if c != column])
            log_p = row[column] - log_sum_exp(row)
            log_not_p = others - log_sum_exp(row)
            total -= label * log_p + ((1 - label) * log_not_p if label != 1.0 else 0.0)
    return total / (len(scores) * len(scores[0]))


def weighted_info_nce(scores, similarity, temperature, positives=None):
    labels = soft_labels(similarity, temperature, positives)
    total = 0.0
    for row, row_labels in zip(scores, labels, strict=True):
        total -= sum(label * (score - log_sum_exp(row)) for label, score in zip(row_labels, row, strict=True))
    return total / len(scores)


def kl_regularized_info_nce(scores, similarity, temperature, info_nce_weight, kl_weight, positives=None):
    total = 0.0
    for row, similar, positive in zip(scores, similarity, default_positives(scores, positives), strict=True):
        negatives = negatives_of(row, positive)
        targets = [similar[c] / temperature for c in negatives]
        model = [row[c] for c in negatives]
        for target, score in zip(targets, model, strict=True):
            log_target = target - log_sum_exp(targets)
            total += math.exp(log_target) * (log_target - (score - log_sum_exp(model)))
    return info_nce_weight * soft_info_nce(scores, None, positives) + kl_weight * total / len(scores)


def mask_weights(similarity, margin=None, relative=False, top_k=None, ratio=None, above=None, positives=None):
    weights = []
    for row, positive in zip(similarity, default_positives(similarity, positives), strict=True):
        negatives, own = negatives_of(row, positive), row[positive]
        if top_k is not None:
            removed = sorted(negatives, key=lambda c: (-row[c], c))[:top_k]
        elif ratio is not None:
            removed = [c for c in negatives if own > 0 and row[c] >= ratio * own]
        elif above is not None:
            removed = [c for c in negatives if row[c] > above]
        else:
            removed = [c for c in negatives if row[c] > own - (margin * abs(own) if relative else margin)]
        weights.append([0.0 if column in removed else 1.0 for column in range(len(row))])
    return weights


def promoted_targets(similarity, above, positives=None):
    targets = []
    for row, positive in zip(similarity, default_positives(similarity, positives), strict=True):
        relevance = [min(max(s, 0.0), 1.0) for s in row]
        relevance = [r if r > above else 0.0 for r in relevance]
        relevance[positive] = 1.0
        targets.append([r / sum(relevance) for r in relevance])
    return targets


def distilled_targets(similarity, share, temperature, weights=None, positives=None):
    targets = []
    for i, positive in enumerate(default_positives(similarity, positives)):
        kept = [c for c in range(len(similarity[i])) if weights is None or weights[i][c] > 0]
        taught = dict(zip(kept, softmax([similarity[i][c] / temperature for c in kept]), strict=True))
        targets.append([(1 - share) * (c == positive) + share * taught.get(c, 0.0) for c in range(len(similarity[i]))])
    return targets


def bm25(queries, documents, k1, b, average_length=None):
    """Score lists of tokens with statistics of the documents; a token in most documents counts negative."""
    lengths = [len(document) for document in documents]
    average = sum(lengths) / len(lengths) if average_length is None else average_length
    scores = []
    for query in queries:
        line = []
        for document, length in zip(documents, lengths, strict=True):
            score = 0.0
            for token in query:
                count = document.count(token)
                holding = sum(token in other for other in documents)
                if count:
                    idf = math.log((len(documents) - holding + 0.5) / (holding + 0.5))
                    score += idf * (k1 + 1) * count / (count + k1 * (1 - b + b * length / average))
            line.append(score)
        scores.append(line)
    return scores


def jaccard(one, other, size):
    """Compare the sets of runs of so many tokens; a shorter text is one run."""
    one, other = (
        {tuple(row[i : i + size]) for i in range(max(len(row) - size + 1, 1))} if row else set()
        for row in (one, other)
    )
    return len(one & other) / len(one | other) if one | other else 0.0
