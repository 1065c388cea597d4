"""Estimators by name: discovery through entry points, loading on first use."""

from __future__ import annotations

import difflib
import inspect
import re
import warnings
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from typing import Any

from st_softinfonce.estimators.base import SimilarityEstimator, check_estimator

GROUP = "st_softinfonce.estimators"


class EstimatorWarning(UserWarning):
    """Something about the installed estimators that a user should mend."""


@dataclass(frozen=True)
class EstimatorInfo:
    """Where a named estimator comes from.

    Attributes:
        name: The name to ask for.
        distribution: The installed distribution that registers it.
        version: That distribution's version.
        target: The object it names, ``module:attribute``.
    """

    name: str
    distribution: str
    version: str
    target: str


def list_estimators() -> dict[str, EstimatorInfo]:
    """List the estimators that are installed, without importing any of them.

    Returns:
        By name, in alphabetical order. A name that several distributions register is listed once, with a warning.

    Example:
        >>> list_estimators()["bm25"].distribution
        'st-softinfonce'
    """
    listed = {}
    for name, points in sorted(_discover().items()):
        if len(points) > 1:
            warnings.warn(_duplicate(name, points), EstimatorWarning, stacklevel=2)
        listed[name] = _info(points[0])
    return listed


def get_estimator(
    name: str | SimilarityEstimator | type[SimilarityEstimator], /, **options: Any
) -> SimilarityEstimator:
    """Make an estimator from its name.

    Args:
        name: An installed estimator's name, see :func:`list_estimators`; or an estimator, which is checked and
            returned; or an estimator class.
        **options: Passed to the estimator's constructor.

    Returns:
        The estimator.

    Raises:
        ValueError: The name is unknown, several distributions register it, the estimator breaks the contract, or
            options are given for an estimator that is made already.
        ImportError: The plugin behind the name cannot be imported; raised from the original error.
        TypeError: The estimator does not take an option, or is not an estimator at all.

    Example:
        >>> get_estimator("bm25", b=0.5).treatment
        Soften(alpha=1.5, beta=0.5, temperature=1.0, min_weight=0.1)
    """
    if isinstance(name, str):
        source, factory = _load(name)
    elif isinstance(name, type):
        if not issubclass(name, SimilarityEstimator):
            raise TypeError(
                f"estimator must be a name, an estimator or a subclass of SimilarityEstimator, got the class "
                f"{name.__name__}."
            )
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
    """Describe an estimator for a model card, as JSON primitives.

    Args:
        estimator: The estimator.

    Returns:
        Its name, the distribution that it comes from with its version (``None`` if it is in none), and its options.

    Example:
        >>> describe_estimator(get_estimator("bm25"))["estimator"]
        'bm25'
    """
    return {
        "estimator": estimator.name,
        "estimator_version": _distribution_of(estimator),
        "estimator_options": estimator.get_config_dict(),
    }


def _distribution_of(estimator: SimilarityEstimator) -> str | None:
    cls = type(estimator)
    package = cls.__module__.partition(".")[0]
    registered = [_info(point) for points in _discover().values() for point in points if getattr(point, "dist", None)]
    # The class itself, else a factory of its package that is registered under its name; only then what is slow to ask.
    exact = [info for info in registered if info.target == f"{cls.__module__}:{cls.__qualname__}"]
    made = [info for info in registered if info.name == estimator.name and re.match(rf"{package}[.:]", info.target)]
    for info in exact + made:
        return _named(info)
    distributions = set(packages_distributions().get(package, ()))
    # A namespace package has several, of which none can be named.
    return f"{(name := distributions.pop())} {version(name)}" if len(distributions) == 1 else None


def _load(name: str) -> tuple[str, Any]:
    discovered = _discover()
    if name not in discovered:
        close = difflib.get_close_matches(name, discovered, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else " A plugin's distribution must be installed to be found."
        raise ValueError(f"estimator must be one of {sorted(discovered)}, got {name!r}.{hint}")
    points = discovered[name]
    if len(points) > 1:
        raise ValueError(_duplicate(name, points))
    info = _info(points[0])
    source = f"estimator {name!r} ({_named(info)})"
    try:
        factory = points[0].load()
    except (Exception, SystemExit) as error:
        raise ImportError(
            f"{source} cannot be imported from {info.target}: {type(error).__name__}: {error}. Mend or uninstall "
            f"{info.distribution}; other estimators are not affected."
        ) from error
    if not callable(factory):
        raise TypeError(
            f"{source} must name a class or a function, got the {type(factory).__name__} {info.target}. Its entry "
            "point should read NAME = module:Class."
        )
    return source, factory


def _discover() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        points = found.setdefault(point.name, [])
        # A distribution on the path twice (an editable install beside its build folder) is not a conflict.
        if all(_info(known) != _info(point) for known in points):
            points.append(point)
    return {name: sorted(points, key=lambda point: _info(point).distribution) for name, points in found.items()}


def _info(point: EntryPoint) -> EstimatorInfo:
    return EstimatorInfo(point.name, *_owner(point), point.value)


def _owner(point: EntryPoint) -> tuple[str, str]:
    """Name the distribution of an entry point and its version, also where its metadata is lost or damaged."""
    distribution = getattr(point, "dist", None)
    if distribution is None:
        return "unknown distribution", ""
    try:
        name, its_version = distribution.metadata["Name"], distribution.metadata["Version"]
    except Exception:  # whatever reading damaged metadata raises, in any version of Python
        name = its_version = None
    folder = getattr(distribution, "_path", None)  # all that is left of it
    name = name or (f"the folder {folder.name}, which has no METADATA" if folder is not None else "a distribution")
    return str(name), str(its_version or "")


def _named(info: EstimatorInfo) -> str:
    return f"{info.distribution} {info.version}".rstrip()


def _duplicate(name: str, points: list[EntryPoint]) -> str:
    owners = " and ".join(_named(_info(point)) for point in points)
    return f"estimator {name!r} is registered by {owners}: uninstall one, or pass an instance instead of the name."
