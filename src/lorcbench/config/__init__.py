"""The one schema of conf/ and of the command line, and the composition of both. Imports neither torch nor transformers, because
the workflow reads configurations while Snakemake parses. May import `common` and the torch-free part of `core`.
"""
