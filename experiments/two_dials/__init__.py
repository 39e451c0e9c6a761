"""Both dials in one model, against each alone and against fixed models."""
