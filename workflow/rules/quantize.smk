# Quantized weights: one rule for all methods; and what mixed formats are chosen by.
#   inputs   checkpoint; calibration tokens (GPTQ propagated, ZQ-Local, ZQ-Global) or statistics (GPTQ cached)
#   outputs  results/cache/{quantize,sensitivity}/MODEL/METHOD/CALIBRATION/WEIGHT/TRAINED


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


# What mixed formats are chosen by: how far predictions move if one group of linears alone is quantized.
rule sensitivity:
    "How far predictions move if one group of linears is quantized: what mixed formats are chosen by."
    input:
        pipeline.inputs("sensitivity"),
    output:
        result=pipeline.result("sensitivity"),
        run=pipeline.record("sensitivity"),
    log:
        pipeline.log("sensitivity"),
    group:
        pipeline.resources.group
    threads: pipeline.resources.threads
    resources:
        mem_mb=pipeline.resources.memory("sensitivity"),
        runtime=pipeline.resources.minutes("sensitivity"),
        gpu=pipeline.resources.gpus("sensitivity"),
        gpu_mb=pipeline.resources.gpu_memory("sensitivity"),
    params:
        arguments=pipeline.model_arguments,
        semantics=pipeline.params("sensitivity"),
    shell:
        "exec env LORCBENCH_GPU_MB={resources.gpu_mb}"
        " python -m lorcbench.stages sensitivity {params.arguments} method={wildcards.method:q}"
        " calibration={wildcards.calibration:q} weight={wildcards.weight:q} trained={wildcards.trained:q}"
