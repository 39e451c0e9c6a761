"""What a model costs and does."""
