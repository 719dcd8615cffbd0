"""Examples: how they become tokens, and the user's own."""
