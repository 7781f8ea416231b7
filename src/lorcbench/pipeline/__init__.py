"""What the process of Snakemake asks: inputs and arguments of rules, resources, the plan, estimates, the warm process. Imports
no torch at its top level. May import `common` to `jobs`.
"""
