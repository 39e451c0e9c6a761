"""TokenLearner on videos: 8 or 16 tokens of each frame against all of them."""
