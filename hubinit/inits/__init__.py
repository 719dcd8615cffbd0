"""Start points: planned, made, published."""
