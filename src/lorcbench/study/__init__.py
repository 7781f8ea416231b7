"""A study file becomes its cells; the published numbers, and the rehearsal of a study on stand-ins, belong to it. Imports no
torch. May import `common`, `core`, `config`; of `data` and `models` it needs nothing.
"""
