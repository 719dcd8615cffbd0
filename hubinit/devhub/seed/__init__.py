"""Real models and datasets for the embedded Hub on a machine that reaches nothing but a Python package index."""

from .catalog import SEEDS, Seed
from .fill import Seeded, seed, seed_folder

__all__ = ["SEEDS", "Seed", "Seeded", "seed", "seed_folder"]
