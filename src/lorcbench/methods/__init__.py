"""Post-training quantization methods: tensors in, tensors out."""
