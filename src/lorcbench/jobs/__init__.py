"""What the process of a stage has around its work: the job with its log and records, the shards that it writes, the walk over
the blocks of its checkpoint, what a method does to one block, the artifacts that earlier stages left, one result file for many
ranks. May import all packages above it: `common` to `study`.
"""
