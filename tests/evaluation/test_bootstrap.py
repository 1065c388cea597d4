import numpy as np
import pytest

from evaluation.report.bootstrap import paired_bootstrap


def slow_bootstrap(blocks, draws, seed):
    """Draw rows and columns one by one, as the definition has it."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        of_languages = []
        for block in blocks:
            seeds, queries = block.shape
            centre = block.mean()
            factor = np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 1.0
            rows = [row + (row.mean() - centre) * (factor - 1) for row in block]
            chosen = generator.integers(queries, size=queries)
            values = []
            for which in generator.integers(seeds, size=seeds):
                values += [rows[which][query] for query in chosen]
            of_languages.append(np.mean(values))
        found.append(np.mean(of_languages))
    return np.quantile(found, [0.025, 0.975])


@pytest.mark.parametrize("shapes", [[(1, 40)], [(3, 40)], [(3, 30), (3, 60)]], ids=["one-seed", "seeds", "languages"])
def test_interval_is_that_of_a_slow_bootstrap(shapes):
    generator = np.random.default_rng(5)
    blocks = [generator.normal(0.1, 1, shape) + generator.normal(0, 0.3, (shape[0], 1)) for shape in shapes]
    found = paired_bootstrap(blocks, draws=4000)
    low, high = slow_bootstrap(blocks, 3000, seed=1)
    width = high - low
    assert found.mean == pytest.approx(np.mean([block.mean() for block in blocks]))
    assert abs(found.low - low) < 0.08 * width
    assert abs(found.high - high) < 0.08 * width


def synthetic(generator, seeds, queries, effect):
    """Differences with an effect, noise that a query has in all seeds, noise of a seed, and of each number."""
    of_query = generator.normal(0, 0.3, (1, queries))
    of_seed = generator.normal(0, 0.01, (seeds, 1))
    return effect + of_query + of_seed + generator.normal(0, 0.2, (seeds, queries))


def test_interval_holds_the_true_effect_as_often_as_it_says():
    generator = np.random.default_rng(7)
    effect, trials = 0.02, 300
    intervals = [
        paired_bootstrap(synthetic(generator, 3, 400, effect), draws=400, seed=trial) for trial in range(trials)
    ]
    held = np.mean([interval.low <= effect <= interval.high for interval in intervals])
    assert 0.92 <= held <= 0.985


def test_interval_without_seed_blocks_would_be_too_narrow():
    generator = np.random.default_rng(3)
    seeds = generator.normal(0, 1, (3, 1)) + generator.normal(0, 0.01, (3, 200))
    as_blocks = paired_bootstrap(seeds)
    as_queries = paired_bootstrap(seeds.reshape(1, -1))
    assert as_blocks.high - as_blocks.low > 3 * (as_queries.high - as_queries.low)


def test_same_numbers_give_the_same_interval():
    block = np.random.default_rng(0).normal(size=(3, 50))
    assert paired_bootstrap(block) == paired_bootstrap([block])
    assert paired_bootstrap(block, seed=1) != paired_bootstrap(block)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([np.zeros(3)], "must be finite numbers"),
        ([np.zeros((0, 3))], "must be finite numbers"),
        ([np.array([[np.nan]])], "must be finite numbers"),
        ([], "at least one array"),
    ],
    ids=["flat", "empty", "nan", "none"],
)
def test_what_is_no_table_of_numbers_is_refused(blocks, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(blocks)
