"""Accuracy of the quickstart's patch sizes over three seeds."""
