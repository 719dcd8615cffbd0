"""Base models: their names, kinds and layers, and how they come into memory."""
