"""The dataset `rendered_scenes`: textured shapes, drawn by code.

Nothing is imported here, and the modules that draw import each other
relatively: the processes that `workers` starts load this package by itself,
because `tokenlearner_flexivit.data` would load JAX with it.
"""
