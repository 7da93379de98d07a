"""Behavioural statistics over the steps of many episodes at once.

>>> lake.statistic("accuracy", "game = 'space_invaders'").collect()      # doctest: +SKIP

A statistic is one class in a module here and one line in `registry`; docs/statistics.md lists them.
"""

from .annotate import AnnotationSummary, annotate
from .base import Result, Runs, Statistic
from .registry import find, names, registered
from .stepped import Stepped

__all__ = ["AnnotationSummary", "Result", "Runs", "Statistic", "Stepped", "annotate", "find", "names", "registered"]
