"""TokenLearner's ablations: placement, number of tokens, versions, pooling."""
