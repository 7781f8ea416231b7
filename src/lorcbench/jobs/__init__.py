"""What the process of a stage has around its work: the job with its log and records, the artifacts that earlier stages left,
one result file for many ranks. May import all packages above it: `common` to `study`.
"""
