"""Choose, export and report: from pairs and their posterior to a dataset other trainers read, and what it buys."""

from augment.choose import choose
from augment.evolve import Evolved, evolve
from augment.evolve_options import EvolveOptions
from augment.export import ExportOptions, export

__all__ = ["EvolveOptions", "Evolved", "ExportOptions", "choose", "evolve", "export"]
