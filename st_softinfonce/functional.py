"""The formula of every loss here, and the weights and targets that treatments make: tensors in, tensors out.

For ``N`` queries (rows) and ``M >= N`` candidates (columns), with scores ``s``, log weights ``b`` and targets ``t``::

    L = -(1/N) sum_i sum_j t[i, j] log( exp(s[i, j] + b[i, j]) / sum_k exp(s[i, k] + b[i, k]) )

A weight enters as its logarithm and a masked candidate as ``-inf``, so that no score is too large and no probability
too small. What holds for every function:

- ``scores``, ``similarity``, ``log_weights`` and ``targets`` are ``(N, M)`` floating point, as is what is returned.
  Half precision is computed in float32, float64 stays float64.
- ``positives`` ``(N,)`` holds the column of each row's positive, by default ``0, 1, ..., N - 1``.
- A similarity is higher for what is more relevant; ``-inf`` means "never relevant".
- Of log weights ``-inf`` takes a candidate out. A row of targets sums to 1.
- The loss is differentiable in ``scores``; weights and targets carry no gradient.
- Values such as nan are looked for, and refused, on the CPU only: on other devices looking would make the host wait.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from st_softinfonce._checks import check_count, check_not_negative, check_positive, check_share, is_number

if TYPE_CHECKING:
    from st_softinfonce.posterior import RelevancePosterior

# The rules of mask_log_weights; exactly one is given.
MASK_RULES = ("margin", "top_k", "ratio", "above")
# How far the sum of a row of targets may be from 1: rounding of half precision, not a mistake.
_TARGET_TOLERANCE = 1e-2


class SmallBatchWarning(UserWarning):
    """A batch has too few negatives for Eq. 4, so its rows are trained with plain InfoNCE."""


def soft_info_nce(
    scores: Tensor,
    log_weights: Tensor | None = None,
    *,
    targets: Tensor | None = None,
    positives: Tensor | None = None,
) -> Tensor:
    """Compute the cross-entropy between each row's targets and its weighted candidates.

    With one-hot targets this is Soft-InfoNCE (Li et al. 2023, Eq. 3), ``log_weights = log w``; without weights too,
    it is InfoNCE.

    Args:
        scores: The model's scores ``(N, M)``, already scaled (divided by the temperature).
        log_weights: Logarithm of each candidate's weight ``(N, M)``; ``-inf`` takes a candidate out. The positive's
            entry is not read: it counts as 0. ``None`` weighs all candidates equally.
        targets: Share of each row's target that a candidate has ``(N, M)``: at least 0, each row sums to 1, 0 for a
            candidate that is taken out. ``None`` gives all of it to the positive.
        positives: Columns of the positives ``(N,)``.

    Returns:
        Mean over rows: a scalar in float32 (float64 if ``scores`` is). A row without candidates left is 0.

    Raises:
        ValueError: A shape does not fit, or a value is out of range.

    Example:
        >>> scores = torch.tensor([[2.0, 1.0], [0.0, 2.0]])
        >>> half = torch.tensor([[1.0, 0.5], [0.5, 1.0]]).log()
        >>> print(f"{soft_info_nce(scores):.4f} {soft_info_nce(scores, half):.4f}")
        0.2201 0.1172
    """
    scores = _prepare("scores", scores)
    columns = _positive_columns(scores, positives)
    logits = scores
    if log_weights is not None:
        log_weights = _prepare("log_weights", log_weights.detach(), like=scores).scatter(1, columns, 0.0)
        if _can_look_at(log_weights) and not bool((log_weights < math.inf).all()):
            raise ValueError(
                f"log_weights must be numbers or -inf, got a largest value of {log_weights.max().item()}: the "
                "logarithm of a negative or infinite weight. Weights are at least 0 and finite."
            )
        logits = scores + log_weights.to(scores.dtype)
    if targets is not None:
        targets = _checked_targets(targets, logits)
    # A row of nothing but -inf has no softmax.
    empty = logits.amax(dim=1, keepdim=True) == -math.inf
    logits = logits.masked_fill(empty, 0.0)
    if targets is None:
        losses = F.cross_entropy(logits, columns.squeeze(1), reduction="none")
    else:
        log_p = logits.log_softmax(dim=1)
        # A candidate without a target may have the logarithm -inf, and 0 * -inf is nan.
        losses = -(targets * log_p.masked_fill(targets == 0, 0.0)).sum(dim=1)
    return losses.masked_fill(empty.squeeze(1), 0.0).mean()


def negative_weights(
    similarity: Tensor,
    *,
    alpha: float,
    beta: float,
    temperature: float,
    min_weight: float = 0.1,
    positives: Tensor | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """Compute the weight of every negative from its similarity to the query, relative to the row's other negatives.

    Over the ``K`` negatives ``j`` of row ``i`` (Soft-InfoNCE, Li et al. 2023, Eq. 4 and appendix C.2)::

        p[i, :] = softmax(similarity[i, :] / temperature)
        w[i, j] = max((beta - alpha * p[i, j]) / (beta - alpha / K), min_weight)

    Before the clamp a row's weights sum to ``K``; the clamp can only raise that sum. Where ``beta * K <= alpha`` the
    formula would divide by zero or favour the similar negatives (a nearly empty last batch): all weights are 1 there,
    with a :class:`SmallBatchWarning`.

    Args:
        similarity: ``(N, M)``. The positive's entry is not read.
        alpha: At least 0. Strength of the effect: 0 is plain InfoNCE.
        beta: Above 0. ``alpha + beta = 2`` keeps the loss on InfoNCE's scale.
        temperature: Above 0, in units of ``similarity``. Small: only the most similar negative is softened.
        min_weight: In (0, 1]. Floor of a negative's weight.
        positives: Columns of the positives ``(N,)``.
        known: Which candidates the similarity says something about, ``(M,)`` or ``(N, M)`` bool; by default all. The
            others have weight 1 and do not count in ``K``.

    Returns:
        Weights ``(N, M)``, 1 at the positive.

    Raises:
        ValueError: An option is out of range, a shape does not fit, or ``similarity`` holds nan.

    Example:
        >>> weights = negative_weights(torch.tensor([[9.0, 1.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]]),
        ...                            alpha=1.3, beta=0.7, temperature=1.0)
        >>> [[round(w, 2) for w in row] for row in weights.tolist()]
        [[1.0, 0.1, 7.01], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    check_weighting(alpha=alpha, beta=beta, temperature=temperature, min_weight=min_weight)
    similarity = _prepare("similarity", similarity.detach())
    columns = _positive_columns(similarity, positives)
    negative = torch.ones_like(similarity, dtype=torch.bool) if known is None else _known(known, similarity)
    negative = negative.scatter(1, columns, False)
    similarity = similarity.masked_fill(~negative, -math.inf)
    check_similarity("similarity", similarity)
    most = similarity.size(1) - 1
    if alpha == 0 or _too_few(most, alpha, beta):
        if alpha > 0 and most > 0:
            _warn_small_batch(most, alpha, beta)
        return torch.ones_like(similarity)
    share = _divided(similarity, temperature).masked_fill(~negative, -math.inf).softmax(dim=1)
    if known is None:
        weights = (beta - alpha * share) / (beta - alpha / most)
    else:
        # How many are known is on the device: nothing here waits for it.
        negatives = negative.sum(dim=1, keepdim=True).to(share.dtype)
        weights = (beta - alpha * share) / (beta - alpha / negatives)
        too_few: Tensor = negatives * beta <= alpha * (1 + 1e-9)
        if _can_look_at(too_few) and bool((too_few & (negatives > 0)).any()):
            _warn_small_batch(int(negatives[too_few].max()), alpha, beta)
        negative &= ~too_few
    # A row without a known negative is nan so far: a softmax over nothing.
    return weights.clamp(min=min_weight).masked_fill(~negative, 1.0)


def posterior_weights(
    similarity: Tensor, *, posterior: RelevancePosterior, min_weight: float = 0.1, positives: Tensor | None = None
) -> Tensor:
    """Compute the weight of every negative in absolute terms: ``max(1 - P(relevant | similarity), min_weight)``.

    This is the importance weight toward the distribution of true negatives that Li et al. (2023, section 4.2) argue
    for, estimated directly. Unlike :func:`negative_weights` it does not depend on the other candidates: a batch
    without similar negatives keeps weights near 1.

    Args:
        similarity: ``(N, M)``. The positive's entry is read only by a relative posterior.
        posterior: What the similarity says about relevance.
        min_weight: In [0, 1]. Floor of a negative's weight; 0 takes a surely relevant one out.
        positives: Columns of the positives ``(N,)``.

    Returns:
        Weights ``(N, M)`` in [``min_weight``, 1], 1 at the positive.

    Raises:
        ValueError: An option is out of range, a shape does not fit, or ``similarity`` holds nan.

    Example:
        >>> from st_softinfonce.posterior import RelevancePosterior
        >>> posterior = RelevancePosterior(knots=(0.0, 10.0), log_ratios=(-5.0, 5.0), prior=0.01)
        >>> weights = posterior_weights(torch.tensor([[99.0, 9.8, 0.0], [-1.0, 99.0, 5.0]]), posterior=posterior)
        >>> [[round(w, 3) for w in row] for row in weights.tolist()]
        [[1.0, 0.1, 1.0], [1.0, 1.0, 0.99]]
    """
    check_share("min_weight", min_weight, zero=True)
    similarity = _prepare("similarity", similarity.detach())
    columns = _positive_columns(similarity, positives)
    relevance = _relevance(similarity, columns, posterior)
    return (1.0 - relevance).clamp(min=min_weight).scatter(1, columns, 1.0)


def mask_log_weights(
    similarity: Tensor,
    *,
    margin: float | None = None,
    relative: bool = False,
    top_k: int | None = None,
    ratio: float | None = None,
    above: float | None = None,
    positives: Tensor | None = None,
) -> Tensor:
    """Compute log weights that take the likely false negatives out: ``-inf`` for those, 0 for every other candidate.

    With ``p`` the similarity of the row's positive, exactly one rule says which negatives are taken out. None is
    whose similarity is ``-inf``.

    Args:
        similarity: ``(N, M)``, the positive's entry included.
        margin: Finite. Similarity above ``p - margin`` (GISTEmbed, Solatorio 2024; negative: Qwen3-Embedding), unless
            ``p`` is ``-inf``.
        relative: With ``margin``: above ``p - margin * |p|`` (NV-Retriever, Moreira et al. 2024, TopK-PercPos).
        top_k: At least 1. The row's most similar ones, of tied ones the lowest column first (Li et al. 2023, 4.4).
        ratio: Above 0. Similarity of at least ``ratio * p``; nothing where ``p <= 0`` (Li et al. 2023, section 4.4).
        above: Finite. Similarity above this, whatever the positive's.
        positives: Columns of the positives ``(N,)``.

    Returns:
        Log weights ``(N, M)`` of 0 and ``-inf``, 0 at the positive.

    Raises:
        ValueError: Not exactly one rule is given, its value is out of range, a shape does not fit, or ``similarity``
            holds nan.

    Example:
        >>> mask_log_weights(torch.tensor([[0.8, 0.79, 0.2], [0.1, 0.9, 0.3], [0.0, 0.1, 0.7]]), margin=0.05)
        tensor([[0., -inf, 0.],
                [0., 0., 0.],
                [0., 0., 0.]])
    """
    check_mask(margin=margin, relative=relative, top_k=top_k, ratio=ratio, above=above)
    similarity = _prepare("similarity", similarity.detach())
    check_similarity("similarity", similarity)  # the positive's entry as well: thresholds are made of it
    columns = _positive_columns(similarity, positives)
    of_positive = similarity.gather(1, columns)  # (N, 1)
    if margin is not None:
        threshold = of_positive - (margin * of_positive.abs() if relative else margin)
        masked = (similarity > threshold) & (of_positive > -math.inf)
    elif ratio is not None:
        masked = (similarity >= ratio * of_positive) & (of_positive > 0)
    elif above is not None:
        masked = similarity > above
    else:
        negatives = similarity.scatter(1, columns, -math.inf)
        ranked = negatives.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
        masked = torch.zeros_like(similarity, dtype=torch.bool).scatter(1, ranked, True)
        masked &= similarity > -math.inf
    return torch.zeros_like(similarity).masked_fill(masked.scatter(1, columns, False), -math.inf)


def promoted_targets(
    similarity: Tensor,
    *,
    posterior: RelevancePosterior | None = None,
    above: float = 0.5,
    positives: Tensor | None = None,
    log_weights: Tensor | None = None,
    targets: Tensor | None = None,
) -> Tensor:
    """Compute targets that make positives of the candidates that are relevant as well.

    The relevance of a candidate is ``P(relevant | similarity)``, and 0 where that is not above ``above``; of the
    positive it is 1. A row's target is shared in proportion to it: equally among certain duplicates, as in supervised
    contrastive learning (Khosla et al. 2020) and in RLHN's relabelling (Thakur et al. 2025).

    Args:
        similarity: ``(N, M)``. The positive's entry is read only by a relative posterior.
        posterior: What the similarity says about relevance. ``None`` takes the similarity itself as the probability,
            clamped to [0, 1]: for an estimator that knows, whose similarities are 0 and 1.
        above: In [0, 1). The probability from which on a candidate is a positive.
        positives: Columns of the positives ``(N,)``.
        log_weights: A candidate with ``-inf`` here ``(N, M)`` gets no target.
        targets: Targets ``(N, M)`` of other promotions, to which these are added: a candidate has the larger of both
            relevances. ``None``: there are none.

    Returns:
        Targets ``(N, M)``, each row sums to 1.

    Raises:
        ValueError: An option is out of range, a shape does not fit, or ``similarity`` holds nan.

    Example:
        >>> promoted_targets(torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
        tensor([[0.5000, 0.5000, 0.0000],
                [0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 1.0000]])
    """
    check_above(above)
    similarity = _prepare("similarity", similarity.detach())
    columns = _positive_columns(similarity, positives)
    relevance = _relevance(similarity, columns, posterior)
    relevance = relevance.masked_fill(relevance <= above, 0.0)
    if targets is not None:
        targets = _prepare("targets", targets.detach(), like=similarity).to(relevance.dtype)
        relevance = torch.maximum(relevance, targets / targets.gather(1, columns))
    if log_weights is not None:
        relevance = relevance.masked_fill(_taken_out(log_weights, similarity), 0.0)
    relevance = relevance.scatter(1, columns, 1.0)
    return relevance / relevance.sum(dim=1, keepdim=True)


def distilled_targets(
    similarity: Tensor,
    *,
    share: float = 0.5,
    temperature: float = 0.05,
    log_weights: Tensor | None = None,
    positives: Tensor | None = None,
    targets: Tensor | None = None,
) -> Tensor:
    """Compute targets that give a share of each row to the teacher's own distribution over its candidates.

    Listwise distillation over the batch and its mined negatives, the positive included::

        t[i, :] = (1 - share) * onehot(positives[i]) + share * softmax(similarity[i, :] / temperature)

    Args:
        similarity: The teacher's ``(N, M)``, the positive's entry included; ``-inf`` gets no target. A row whose
            positive has ``-inf`` cannot be judged and keeps its one-hot target.
        share: In [0, 1]. How much of the target is the teacher's; 0 is InfoNCE.
        temperature: Above 0, in units of ``similarity``. Small: the teacher's most similar candidate gets it all.
        log_weights: A candidate with ``-inf`` here ``(N, M)`` is left out of the softmax.
        positives: Columns of the positives ``(N,)``.
        targets: Targets ``(N, M)`` in place of the one-hot ones.

    Returns:
        Targets ``(N, M)``, each row sums to 1.

    Raises:
        ValueError: An option is out of range, a shape does not fit, or ``similarity`` holds nan.

    Example:
        >>> targets = distilled_targets(torch.tensor([[0.7, 0.7, 0.2], [0.1, 0.9, 0.3], [0.0, 0.1, 0.7]]), share=0.5)
        >>> [round(target, 2) for target in targets[0].tolist()]
        [0.75, 0.25, 0.0]
    """
    check_share("share", share, zero=True)
    check_positive("temperature", temperature)
    similarity = _prepare("similarity", similarity.detach())
    check_similarity("similarity", similarity)
    columns = _positive_columns(similarity, positives)
    if log_weights is not None:
        similarity = similarity.masked_fill(_taken_out(log_weights, similarity).scatter(1, columns, False), -math.inf)
    if targets is None:
        targets = torch.zeros_like(similarity).scatter(1, columns, 1.0)
    else:
        targets = _prepare("targets", targets.detach(), like=similarity).to(similarity.dtype)
    judged = similarity.gather(1, columns) > -math.inf  # (N, 1)
    taught = _divided(similarity, temperature).masked_fill(similarity == -math.inf, -math.inf).softmax(dim=1)
    return torch.where(judged, torch.lerp(targets, taught, share), targets)


def temperature_for_share(
    similarity: Tensor,
    *,
    alpha: float,
    beta: float,
    share: float,
    below: float = 0.9,
    positives: Tensor | None = None,
) -> float | None:
    """Find the temperature of :func:`negative_weights` that gives a share of the negatives a weight ``below`` this.

    The share first grows with the temperature and then falls to 0 as the weights even out. Found is where it first
    crosses what is asked, coming from large temperatures: that softens the negatives that stand out, and not simply
    each row's largest. If it nowhere does (a large batch: the formula softens few of many), the temperature that comes
    closest is taken; ``None`` if none makes a difference, as there are too few negatives or all are equally similar.
    The positive's similarity is not read, and the host waits for the device.

    Args:
        similarity: ``(N, M)``. The positive's entry is not read.
        alpha: Above 0, as in :func:`negative_weights`.
        beta: Above 0, likewise.
        share: In (0, 1]. The share of all negatives to soften.
        below: In (0, 1]. A weight below this counts as softened.
        positives: Columns of the positives ``(N,)``.

    Raises:
        ValueError: An option is out of range, a shape does not fit, or ``similarity`` holds nan.
    """
    check_weighting(alpha=alpha, beta=beta, temperature=1.0, min_weight=1.0)
    check_share("share", share)
    check_share("below", below)
    similarity = _prepare("similarity", similarity.detach())
    similarity = similarity.scatter(1, _positive_columns(similarity, positives), -math.inf)
    check_similarity("similarity", similarity)
    negatives = similarity.size(1) - 1
    values = similarity[similarity > -math.inf]
    spread = float(values.max() - values.min()) if values.numel() else 0.0
    if alpha == 0 or _too_few(negatives, alpha, beta) or spread == 0:
        return None

    def reached(temperature: float) -> float:
        weights = negative_weights(
            similarity, alpha=alpha, beta=beta, temperature=temperature, min_weight=1e-9, positives=positives
        )
        return int((weights < below).sum()) / (len(weights) * negatives)

    grid = [spread * 10 ** (exponent / 10) for exponent in range(20, -31, -1)]
    shares = [reached(temperature) for temperature in grid]
    enough = shares[0] >= share  # at the largest: where many are -inf, the others stand out at any temperature
    place = next((place for place, found in enumerate(shares) if (found >= share) != enough), None)
    if place is None:
        closest = min(range(len(grid)), key=lambda place: abs(shares[place] - share))
        return grid[closest] if shares[closest] > 0 else None
    high, low = grid[place - 1], grid[place]
    for _ in range(30):
        middle = math.sqrt(low * high)
        high, low = (middle, low) if (reached(middle) >= share) == enough else (high, middle)
    return high if enough else low


def check_weighting(*, alpha: float, beta: float, temperature: float, min_weight: float) -> None:
    """Refuse options of :func:`negative_weights` that are out of range."""
    check_not_negative("alpha", alpha, "0 is plain InfoNCE.")
    if not (is_number(beta) and beta > 0):
        raise ValueError(f"beta must be a finite number above 0, got {beta!r}. 2 - alpha keeps InfoNCE's scale.")
    check_positive("temperature", temperature)
    check_share("min_weight", min_weight, hint="To take negatives out altogether, use a mask.")


def check_mask(*, margin: object, relative: object, top_k: object, ratio: object, above: object) -> None:
    """Refuse rules of :func:`mask_log_weights` that are out of range, or not exactly one of them."""
    rules = dict(zip(MASK_RULES, (margin, top_k, ratio, above), strict=True))
    given = {name: value for name, value in rules.items() if value is not None}
    if len(given) != 1:
        got = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "none"
        raise ValueError(f"Give exactly one of {', '.join(MASK_RULES)}, got {got}.")
    if not isinstance(relative, bool) or (relative and margin is None):
        raise ValueError(f"relative must be True or False, and True only with a margin, got {relative!r}.")
    for name, value in (("margin", margin), ("above", above)):
        if value is not None and not is_number(value):
            raise ValueError(f"{name} must be a finite number in units of the similarity, got {value!r}.")
    check_count("top_k", top_k, optional=True)
    if ratio is not None:
        check_positive("ratio", ratio)


def check_above(above: object) -> None:
    """Refuse a threshold of :func:`promoted_targets` that is not in [0, 1)."""
    if not (is_number(above) and 0 <= above < 1):
        raise ValueError(
            f"above must be a probability in [0, 1), got {above!r}. 0.5 is more likely relevant than not."
        )


def check_similarity(
    name: str, similarity: Tensor, positives: Tensor | None = None, *, anywhere: bool = False
) -> None:
    """Refuse nan and inf among similarities ``(N, M)``, naming the first; the ``positives``' entries do not matter.

    Looks on every device if it may look ``anywhere``, and then waits for it.
    """
    if not anywhere and not _can_look_at(similarity):
        return
    unusable = similarity.isnan() | (similarity == math.inf)
    if positives is not None:
        unusable = unusable.scatter(1, positives.unsqueeze(1), False)
    if bool(unusable.any()):
        row, column = unusable.nonzero()[0].tolist()
        raise ValueError(
            f"{name} holds {similarity[row, column].item()} at row {row}, column {column}: every entry must be a "
            "number or -inf. A vector of length 0 (an empty text) is the usual cause; give such a candidate the "
            "lowest similarity instead."
        )


def _can_look_at(tensor: Tensor) -> bool:
    """Whether a value check is free: elsewhere it would wait for the device, or break a compiled graph."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _prepare(name: str, tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """Check a matrix and bring half precision to float32."""
    if tensor.dim() != 2 or tensor.size(0) == 0 or tensor.size(1) == 0:
        raise ValueError(f"{name} must have shape (queries, candidates), none of them 0, got {tuple(tensor.shape)}.")
    if like is not None and tensor.shape != like.shape:
        raise ValueError(
            f"{name} must have shape {tuple(like.shape)}, one entry a candidate, got {tuple(tensor.shape)}."
        )
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor, got {tensor.dtype}. Call .float() on it.")
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _positive_columns(matrix: Tensor, positives: Tensor | None) -> Tensor:
    """Return the positives' columns as ``(N, 1)`` indices on the matrix's device."""
    rows, columns = matrix.shape
    if positives is None:
        if columns < rows:
            raise ValueError(
                f"{rows} queries need at least as many candidates, got {columns}. Row i's positive is column i; "
                "say otherwise with positives."
            )
        return torch.arange(rows, device=matrix.device).unsqueeze(1)
    if not isinstance(positives, Tensor):
        raise ValueError(f"positives must be a tensor of column numbers, got {type(positives).__name__}.")
    if positives.shape != (rows,) or positives.is_floating_point() or positives.dtype == torch.bool:
        raise ValueError(
            f"positives must hold one column number per query, shape ({rows},), got a {positives.dtype} tensor of "
            f"shape {tuple(positives.shape)}."
        )
    if _can_look_at(positives) and bool(((positives < 0) | (positives >= columns)).any()):
        raise ValueError(f"positives must be columns from 0 to {columns - 1}, got {positives.tolist()}.")
    return positives.to(matrix.device, torch.int64).unsqueeze(1)


def _checked_targets(targets: Tensor, logits: Tensor) -> Tensor:
    targets = _prepare("targets", targets.detach(), like=logits).to(logits.dtype)
    if not _can_look_at(targets):
        return targets
    sums = targets.sum(dim=1)
    if not bool((targets >= 0).all()) or bool(((sums - 1).abs() > _TARGET_TOLERANCE).any()):
        raise ValueError(
            f"targets must be at least 0 and sum to 1 in each row, got a smallest value of {targets.min().item()} and "
            f"row sums from {sums.min().item()} to {sums.max().item()}."
        )
    # A row without any candidate left is allowed, whatever its targets are.
    impossible = (targets > 0) & (logits == -math.inf) & (logits.amax(dim=1, keepdim=True) > -math.inf)
    if bool(impossible.any()):
        row, column = impossible.nonzero()[0].tolist()
        raise ValueError(
            f"targets must be 0 for a candidate that is taken out, got {targets[row, column].item()} at row {row}, "
            f"column {column}: its loss would be infinite. promoted_targets and distilled_targets take log_weights."
        )
    return targets


def _relevance(similarity: Tensor, columns: Tensor, posterior: RelevancePosterior | None) -> Tensor:
    """Return P(relevant | similarity) of every candidate ``(N, M)``; the positive's entry is not to be used."""
    if posterior is None or not posterior.relative:
        similarity = similarity.scatter(1, columns, 0.0)
        check_similarity("similarity", similarity)
        return similarity.clamp(0, 1) if posterior is None else posterior.probability(similarity)
    check_similarity("similarity", similarity)
    own = similarity.gather(1, columns)  # (N, 1)
    # A query that is not similar to itself (an empty text) says nothing: nothing is relevant to it.
    return posterior.probability((similarity / own).masked_fill(~(own > 0), -math.inf))


def _taken_out(log_weights: Tensor, like: Tensor) -> Tensor:
    return _prepare("log_weights", log_weights.detach(), like=like) == -math.inf


def _known(known: object, matrix: Tensor) -> Tensor:
    """Return which candidates are known as ``(N, M)``."""
    shapes = ((matrix.size(1),), tuple(matrix.shape))
    if not isinstance(known, Tensor) or known.dtype != torch.bool or tuple(known.shape) not in shapes:
        got = f"{known.dtype} of shape {tuple(known.shape)}" if isinstance(known, Tensor) else type(known).__name__
        raise ValueError(f"known must be a bool tensor of shape {shapes[0]} or {shapes[1]}, got {got}.")
    return known.expand_as(matrix)


def _divided(similarity: Tensor, temperature: float) -> Tensor:
    """Divide by the temperature, the row's largest at 0: neither side of a softmax can overflow.

    -inf (a candidate known not to be relevant) becomes a number, since a softmax over nothing else would be nan.
    """
    lowest = torch.finfo(similarity.dtype).min
    similarity = similarity.clamp(min=lowest)
    return ((similarity - similarity.amax(dim=1, keepdim=True)) / temperature).clamp(min=lowest)


def _too_few(negatives: int, alpha: float, beta: float) -> bool:
    # With rounding, 0.4 * 3 is above 1.2, and the normaliser 1e-16 instead of 0.
    return beta * negatives <= alpha or math.isclose(beta * negatives, alpha, rel_tol=1e-9)


def _warn_small_batch(negatives: int, alpha: float, beta: float) -> None:
    warnings.warn(
        f"A batch with {negatives} negatives per query is too small for alpha={alpha} and beta={beta}, which need "
        f"more than {alpha / beta:g}: its weights are all 1 (plain InfoNCE). Set dataloader_drop_last=True to "
        "train without such a last batch.",
        SmallBatchWarning,
        stacklevel=3,
    )
