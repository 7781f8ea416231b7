"""The one schema of conf/ and of the command line, the composition of both, and the records of model families.

Neither torch nor transformers is imported, because the workflow reads configurations while Snakemake parses. May import
`common` and the torch-free part of `core`.
"""
