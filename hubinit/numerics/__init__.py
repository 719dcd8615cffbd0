"""Numerics as pure functions: statistics, products, factorisations."""
