# LoRC factors of a quantized model at one cap: the smallest of 32, 128, 512, all that holds the cell's rank.
#   inputs   checkpoint, quantized weights, conf/lorc; statistics of the calibration, or its tokens, for factors that want them
#   outputs  results/cache/lorc/MODEL/METHOD/CALIBRATION/WEIGHT/TRAINED/LORC/capN


rule lorc:
    "Low-rank factors (LoRC) of the error of quantized weights."
    input:
        pipeline.inputs("lorc"),
    output:
        result=pipeline.result("lorc"),
        run=pipeline.record("lorc"),
    log:
        pipeline.log("lorc"),
    group:
        pipeline.resources.group
    threads: pipeline.resources.threads
    resources:
        mem_mb=pipeline.resources.memory("lorc"),
        runtime=pipeline.resources.minutes("lorc"),
        gpu=pipeline.resources.gpus("lorc"),
        gpu_mb=pipeline.resources.gpu_memory("lorc"),
    params:
        arguments=pipeline.model_arguments,
        semantics=pipeline.params("lorc"),
    shell:
        "exec env LORCBENCH_GPU_MB={resources.gpu_mb}"
        " python -m lorcbench.stages lorc {params.arguments} method={wildcards.method:q}"
        " calibration={wildcards.calibration:q} weight={wildcards.weight:q} trained={wildcards.trained:q}"
        " lorc={wildcards.lorc:q} cap={wildcards.cap:q}"
