"""Estimators by name: discovery through entry points, loading on first use."""

from __future__ import annotations

import difflib
import inspect
import re
import warnings
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing torch would take seconds, and a list of names needs none of it
    from st_softinfonce.estimators.base import SimilarityEstimator

GROUP = "st_softinfonce.estimators"


class EstimatorWarning(UserWarning):
    """Something about the installed estimators that a user should mend."""


@dataclass(frozen=True)
class EstimatorInfo:
    """Where a named estimator comes from."""

    name: str
    distribution: str  # the installed one that registers it
    version: str  # of the distribution
    target: str  # module:attribute


def list_estimators() -> dict[str, EstimatorInfo]:
    """List the estimators that are installed by name, without importing any of them.

    A name that several distributions register is listed once, with a warning.

    Example:
        >>> list_estimators()["bm25"].target
        'st_softinfonce.estimators.bm25:BM25Estimator'
    """
    listed = {}
    for name, points in sorted(_discover().items()):
        if len(points) > 1:
            warnings.warn(_duplicate(name, points), EstimatorWarning, stacklevel=2)
        listed[name] = EstimatorInfo(name, *_owner(points[0]), points[0].value)
    return listed


def get_estimator(
    name: str | SimilarityEstimator | type[SimilarityEstimator], /, **options: Any
) -> SimilarityEstimator:
    """Make an estimator from its name.

    Args:
        name: An installed estimator's name, see :func:`list_estimators`; or an estimator, which is checked and
            returned; or an estimator class.
        **options: Passed to the estimator's constructor.

    Raises:
        ValueError: The name is unknown, several distributions register it, the estimator breaks the contract, or
            options are given for an estimator that is made already.
        ImportError: The plugin behind the name cannot be imported; raised from the original error.
        TypeError: The estimator does not take an option, or is not an estimator at all.

    Example:
        >>> get_estimator("bm25", b=0.5).treatment
        Soften(alpha=1.5, beta=0.5, temperature=1.0, min_weight=0.1)
    """
    from st_softinfonce.estimators.base import SimilarityEstimator, check_estimator

    if isinstance(name, str):
        source, factory = _load(name)
    elif isinstance(name, type) and issubclass(name, SimilarityEstimator):
        source, factory = f"estimator {name.__name__}", name
    else:
        if options:
            raise ValueError(
                f"options {sorted(options)} cannot be given with an estimator that is made already, got "
                f"{type(name).__name__}. Pass them to its constructor."
            )
        return check_estimator(name, "estimator")
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        taken = ", ".join(inspect.signature(factory).parameters) or "none"
        raise TypeError(f"{source}: {error}. Its options: {taken}.") from error
    estimator = check_estimator(factory(**options), source)
    if isinstance(name, str) and type(estimator).name == type(estimator).__name__:
        # The class names itself after itself; what its user knows it by is the name it is registered under.
        vars(estimator)["name"] = name
    return estimator


def describe_estimator(estimator: SimilarityEstimator) -> dict[str, Any]:
    """Describe an estimator for a model card: name, distribution with version (``None`` if it is in none), options."""
    return {
        "estimator": estimator.name,
        "estimator_version": _distribution_of(estimator),
        "estimator_options": estimator.get_config_dict(),
    }


def _distribution_of(estimator: SimilarityEstimator) -> str | None:
    cls = type(estimator)
    package = cls.__module__.partition(".")[0]
    points = [point for points in _discover().values() for point in points]
    # The class itself, else a factory of its package that is registered under its name; only then what is slow to ask.
    exact = [point for point in points if point.value == f"{cls.__module__}:{cls.__qualname__}"]
    made = [point for point in points if point.name == estimator.name and re.match(rf"{package}[.:]", point.value)]
    if registered := exact + made:
        return _named(registered[0])
    distributions = set(packages_distributions().get(package, ()))
    # A namespace package has several, and nothing says which of them the estimator is from.
    return f"{(name := distributions.pop())} {version(name)}" if len(distributions) == 1 else None


def _load(name: str) -> tuple[str, Any]:
    discovered = _discover()
    if name not in discovered:
        close = difflib.get_close_matches(name, discovered, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else " A plugin's distribution must be installed to be found."
        raise ValueError(f"estimator must be one of {sorted(discovered)}, got {name!r}.{hint}")
    point, *others = discovered[name]
    if others:
        raise ValueError(_duplicate(name, [point, *others]))
    source = f"estimator {name!r} ({_named(point)})"
    try:
        factory = point.load()
    except (Exception, SystemExit) as error:
        raise ImportError(
            f"{source} cannot be imported from {point.value}: {type(error).__name__}: {error}. Mend or uninstall "
            f"{_owner(point)[0]}; other estimators are not affected."
        ) from error
    if not callable(factory):
        raise TypeError(
            f"{source} must name a class or a function, got the {type(factory).__name__} {point.value}. Its entry "
            "point should read NAME = module:Class."
        )
    return source, factory


def _discover() -> dict[str, list[EntryPoint]]:
    found: dict[str, dict[tuple[str, str, str], EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        # A distribution on the path twice (an editable install beside its build folder) is not a conflict.
        found.setdefault(point.name, {}).setdefault((*_owner(point), point.value), point)
    return {name: [points[key] for key in sorted(points)] for name, points in found.items()}


def _owner(point: EntryPoint) -> tuple[str, str]:
    """Name the distribution of an entry point and its version, also where its metadata is lost or damaged."""
    distribution: Any = getattr(point, "dist", None)
    try:
        name, its_version = distribution.metadata["Name"], distribution.metadata["Version"]
    except Exception:  # whatever reading damaged metadata raises, in any version of Python
        name = its_version = None
    folder = getattr(distribution, "_path", None)  # all that is left of it
    name = name or ("unknown distribution" if folder is None else f"the folder {folder.name}, which has no METADATA")
    return str(name), str(its_version or "")


def _named(point: EntryPoint) -> str:
    return " ".join(_owner(point)).rstrip()


def _duplicate(name: str, points: list[EntryPoint]) -> str:
    owners = " and ".join(map(_named, points))
    return f"estimator {name!r} is registered by {owners}: uninstall one, or pass an instance instead of the name."
