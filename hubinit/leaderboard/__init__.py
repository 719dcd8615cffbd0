"""From run results to the ranking and its tables. Imports no torch, transformers or peft, so that the app starts at once."""
