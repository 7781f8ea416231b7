"""The science: formats, the quantizer, GPTQ, distillation, low-rank corrections. Tensors in, tensors out: no file is read here,
no model is known and no log is written. May import `common`.
"""
