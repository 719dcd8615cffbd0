"""Fine-tuning a model whose adapters are attached."""
