"""Scorers: from a model and a task to scores."""
