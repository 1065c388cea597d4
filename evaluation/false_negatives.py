"""The question behind the method: how does the gain depend on the share of false negatives?

    python evaluation/false_negatives.py evaluation/false_negatives.toml
    python evaluation/report.py evaluation/false_negatives.toml            # the curves

The runs are those of evaluation/compare.py, over one more axis: the share of the training pairs that are copies of
another pair with its identifiers renamed (evaluation/duplicates.py), at the same number of pairs and steps.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from evaluation.compare import main

if __name__ == "__main__":
    sys.exit(main(description=__doc__))
