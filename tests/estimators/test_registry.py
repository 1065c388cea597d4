"""Discovery by entry point: what is listed, what is loaded, and what is said when something is wrong."""

import sys
from importlib.metadata import EntryPoint, version

import pytest

from st_softinfonce import BM25Estimator, estimators, get_estimator, list_estimators
from st_softinfonce.estimators import registry

PLUGIN = """
import torch
from st_softinfonce import SimilarityEstimator, Soften

class Length(SimilarityEstimator):
    treatment = Soften(alpha=1.0, beta=1.0, temperature=1.0)
    compares = "queries"

    def __init__(self, *, power=1.0):
        self.power = power

    def represent(self, column):
        return column.content_mask.sum(dim=1, keepdim=True).float()

    def similarity(self, queries, candidates):
        return -(queries - candidates.T).abs() ** self.power

class NotAnEstimator:
    pass

def make_length():
    return Length(power=2.0)
"""


class Distribution:
    def __init__(self, name, version="1.0"):
        self.metadata = {"Name": name, "Version": version}


def entry_point(name, target, distribution):
    point = EntryPoint(name, target, registry.GROUP)
    vars(point).update(dist=Distribution(distribution))
    return point


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Install fake distributions; ``installed(name, target, distribution)`` adds one beside the real ones."""
    points = list(registry.entry_points(group=registry.GROUP))
    (tmp_path / "length_plugin.py").write_text(PLUGIN)
    (tmp_path / "broken_plugin.py").write_text("import a_module_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "entry_points", lambda group: [p for p in points if p.group == group])
    yield lambda *args: points.append(entry_point(*args))
    for module in ("length_plugin", "broken_plugin"):
        sys.modules.pop(module, None)


def test_bm25_is_registered_like_any_plugin():
    info = list_estimators()["bm25"]
    assert (info.distribution, info.target) == ("st-softinfonce", "st_softinfonce.estimators.bm25:BM25Estimator")
    assert info.version
    assert isinstance(get_estimator("bm25"), BM25Estimator)


def test_listing_imports_nothing(installed):
    targets = {"length": "length_plugin:Length", "broken": "broken_plugin:Broken", "gone": "gone.inner:Gone"}
    for name, target in targets.items():
        installed(name, target, f"{name}-distribution")
    listed = list_estimators()
    assert list(listed) == sorted(listed)
    for name, target in targets.items():
        assert (listed[name].distribution, listed[name].target) == (f"{name}-distribution", target)
    assert not {"length_plugin", "broken_plugin"} & set(sys.modules)


def test_every_public_name_is_there_and_no_other():
    assert all(callable(getattr(estimators, name)) for name in estimators.__all__)
    assert set(estimators.__all__) <= set(dir(estimators))
    with pytest.raises(AttributeError, match=r"module 'st_softinfonce.estimators' has no attribute 'BM52'"):
        estimators.BM52  # noqa: B018


def test_a_plugin_is_made_with_its_options(installed):
    installed("length", "length_plugin:Length", "length-plugin")
    assert get_estimator("length", power=2.0).power == 2.0


def test_an_instance_and_a_class_are_taken_as_they_are():
    estimator = BM25Estimator(b=0.1)
    assert get_estimator(estimator) is estimator
    assert get_estimator(BM25Estimator, b=0.2).b == 0.2


def test_options_for_an_instance_are_refused():
    with pytest.raises(ValueError, match=r"options \['b'\] cannot be given with an estimator that is made already"):
        get_estimator(BM25Estimator(), b=0.1)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"estimator must be one of .*'bm25'.*, got 'bm52'. Did you mean 'bm25'"):
        get_estimator("bm52")


def test_an_unknown_option_names_the_plugin_and_its_options(installed):
    installed("length", "length_plugin:Length", "length-plugin")
    with pytest.raises(TypeError, match=r"estimator 'length' \(length-plugin 1.0\): .*'strength'. Its options: power"):
        get_estimator("length", strength=2)


def test_a_broken_plugin_is_reported_by_name_and_leaves_the_others_alone(installed):
    installed("broken", "broken_plugin:Broken", "broken-plugin")
    with pytest.raises(
        ImportError, match=r"'broken' \(broken-plugin 1.0\) cannot be imported.*a_module_that"
    ) as error:
        get_estimator("broken")
    assert isinstance(error.value.__cause__, ModuleNotFoundError)
    assert isinstance(get_estimator("bm25"), BM25Estimator)


def test_a_duplicate_name_names_both_distributions(installed):
    installed("bm25", "length_plugin:Length", "other-plugin")
    with pytest.raises(ValueError, match=r"'bm25' is registered by other-plugin 1.0 and st-softinfonce .*: uninstall"):
        get_estimator("bm25")
    with pytest.warns(registry.EstimatorWarning, match="other-plugin 1.0 and st-softinfonce"):
        assert "bm25" in list_estimators()


def test_one_distribution_found_twice_is_no_duplicate(installed):
    installed("length", "length_plugin:Length", "length-plugin")
    installed("length", "length_plugin:Length", "length-plugin")
    assert get_estimator("length").name == "length"


def test_a_plugin_that_is_no_estimator_is_refused(installed):
    installed("wrong", "length_plugin:NotAnEstimator", "length-plugin")
    with pytest.raises(TypeError, match=r"'wrong' \(length-plugin 1.0\) must be .* got NotAnEstimator"):
        get_estimator("wrong")


@pytest.mark.parametrize(("attribute", "power"), [("Length", 1.0), ("make_length", 2.0)], ids=["class", "factory"])
def test_an_estimator_is_described_with_its_plugins_version(installed, attribute, power):
    installed("length", f"length_plugin:{attribute}", "length-plugin")
    assert registry.describe_estimator(get_estimator("length")) == {
        "estimator": "length",
        "estimator_version": "length-plugin 1.0",
        "estimator_options": {"power": power},
    }


@pytest.mark.parametrize(
    ("module", "expected"),
    [("mteb.estimators", f"mteb {version('mteb')}"), ("a_module_of_no_distribution", None)],
    ids=["not-registered", "of-no-distribution"],
)
def test_an_estimator_without_a_name_has_the_version_of_its_modules_distribution(installed, module, expected):
    installed("length", "length_plugin:Length", "length-plugin")
    own = type("Own", (type(get_estimator("length")),), {"__module__": module})()
    assert registry.describe_estimator(own)["estimator_version"] == expected


@pytest.mark.parametrize("metadata", [None, "", "Summary: neither name nor version\n"], ids=["none", "empty", "other"])
def test_a_distribution_without_metadata_breaks_nothing(tmp_path, monkeypatch, metadata):
    folder = tmp_path / "oldplugin-1.0.dist-info"
    folder.mkdir()
    (folder / "entry_points.txt").write_text(f"[{registry.GROUP}]\nold = gone:Gone\nbm25 = gone:Gone\n")
    if metadata is not None:
        (folder / "METADATA").write_text(metadata)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(registry.EstimatorWarning, match="'bm25' is registered by .*oldplugin-1.0.dist-info"):
        assert "oldplugin" in list_estimators()["old"].distribution
    assert get_estimator("identical").name == "identical"
    with pytest.raises(ImportError, match=r"'old' .*oldplugin-1.0.dist-info.* cannot be imported from gone:Gone"):
        get_estimator("old")


@pytest.mark.parametrize("target", ["length_plugin", "length_plugin:PLAIN"], ids=["module", "text"])
def test_an_entry_point_on_something_that_cannot_be_called_is_named(installed, tmp_path, target):
    (tmp_path / "length_plugin.py").write_text(PLUGIN + "PLAIN = 'text'\n")
    installed("wrong", target, "length-plugin")
    with pytest.raises(TypeError, match=r"'wrong' \(length-plugin 1.0\) must name a class or a function, got .*Class"):
        get_estimator("wrong")
