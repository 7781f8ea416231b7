# Quantized weights: one rule for all methods.
#   inputs   checkpoint; calibration tokens (GPTQ propagated, ZQ-Local, ZQ-Global) or statistics (GPTQ cached)
#   outputs  results/cache/quantize/MODEL/METHOD/CALIBRATION/WEIGHT/TRAINED


rule quantize:
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
        gpu=pipeline.resources.gpus(),
    params:
        arguments=pipeline.model_arguments,
        semantics=pipeline.params("quantize"),
    shell:
        "exec python -m lorcbench.stages quantize {params.arguments} method={wildcards.method:q}"
        " calibration={wildcards.calibration:q} weight={wildcards.weight:q} trained={wildcards.trained:q}"
