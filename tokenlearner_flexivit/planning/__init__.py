"""Plans: what a run needs of chips that need not be there."""

from tokenlearner_flexivit.planning.plan import SETTINGS, make
from tokenlearner_flexivit.planning.show import as_text

__all__ = ["SETTINGS", "as_text", "make"]
