# Quantized weights: one rule for all methods.
#   inputs   checkpoint; calibration tokens (GPTQ propagated, ZQ-Local, ZQ-Global) or statistics (GPTQ cached)
#   outputs  results/cache/quantize/MODEL/METHOD/CALIBRATION/WEIGHT/TRAINED


rule quantize:
    "Codes, scales and zero points of a model's weights, by one method in one format."
    input:
        pipeline.inputs("quantize"),
    output:
        result=pipeline.result("quantize"),
        run=pipeline.record("quantize"),
    log:
        pipeline.log("quantize"),
    group:
        pipeline.resources.group
    threads: pipeline.resources.threads
    resources:
        mem_mb=pipeline.resources.memory("quantize"),
        runtime=pipeline.resources.minutes("quantize"),
        gpu=pipeline.resources.gpus("quantize"),
        gpu_mb=pipeline.resources.gpu_memory("quantize"),
    params:
        arguments=pipeline.model_arguments,
        foreign=pipeline.foreign_arguments,
        semantics=pipeline.params("quantize"),
    shell:
        "exec env LORCBENCH_GPU_MB={resources.gpu_mb}"
        " python -m lorcbench.stages quantize {params.arguments} method={wildcards.method:q}"
        " calibration={wildcards.calibration:q} weight={wildcards.weight:q} trained={wildcards.trained:q}"
        " {params.foreign}"
