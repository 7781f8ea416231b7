"""Things that every package uses and that know nothing of quantization: formats of artifacts, paths, the hash of the code,
and what a process asks of the kernel. Imports no other package of ours.
"""
