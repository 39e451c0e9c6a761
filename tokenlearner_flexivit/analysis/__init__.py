"""What a model costs and does.

The commands here that look into a model for images take a run of this library,
`--workdir=WORKDIR`, or weights of others, `--init=SOURCE --data=NAME`: a file,
an address or a released name, as `config.init` does.
"""
