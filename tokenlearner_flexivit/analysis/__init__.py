"""Analyses of the cost and the behaviour of a model.

The commands that analyse a model for images take a run of this library,
`--workdir=WORKDIR`, or weights of other libraries, `--init=SOURCE --data=NAME`.
SOURCE is a file, an address or a released name, as for `config.init`.
"""
