"""Vision transformers whose cost is a dial: FlexiViT and TokenLearner in JAX.

References:
  Beyer et al., FlexiViT: One Model for All Patch Sizes, arXiv 2212.08013.
  Ryoo et al., TokenLearner: What Can 8 Learned Tokens Do for Images and
    Videos?, arXiv 2106.11297.
"""

__version__ = "0.1.0"
