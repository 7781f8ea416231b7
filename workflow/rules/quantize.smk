# Quantized weights: one rule for all methods.
#   inputs   checkpoint; calibration tokens (GPTQ propagated, ZQ-Local, ZQ-Global) or statistics (GPTQ cached)
#   outputs  results/cache/quantize/MODEL/METHOD/CALIBRATION/WEIGHT/TRAINED


rule quantize:
    input:
        run.quantize_inputs,
    output:
        result=paths.result(paths.QUANTIZED),
        run=paths.run(paths.QUANTIZED),
    log:
        paths.log(paths.QUANTIZED),
    group:
        run.resources.group
    threads: run.resources.threads
    resources:
        mem_mb=run.resources.memory("quantize"),
        runtime=run.resources.minutes("quantize"),
        gpu=run.resources.gpus(),
    params:
        arguments=run.model_arguments,
        semantics=run.quantize_semantics,
    shell:
        "exec python -m lorcbench.stages.quantize {params.arguments} method={wildcards.method}"
        " calibration={wildcards.calibration} weight={wildcards.weight} trained={wildcards.trained}"
