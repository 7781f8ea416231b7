# LoRC factors of a quantized model at one cap: the smallest of 32, 128, 512, all that holds the cell's rank.
#   inputs   checkpoint, quantized weights, conf/lorc; calibration tokens for factors that are distilled
#   outputs  results/cache/lorc/MODEL/METHOD/CALIBRATION/WEIGHT/TRAINED/LORC/capN


rule lorc:
    input:
        run.lorc_inputs,
    output:
        result=paths.result(paths.FACTORS),
        run=paths.run(paths.FACTORS),
    log:
        paths.log(paths.FACTORS),
    group:
        run.resources.group
    threads: run.resources.threads
    resources:
        mem_mb=run.resources.memory("lorc"),
        runtime=run.resources.minutes("lorc"),
    params:
        arguments=run.model_arguments,
        semantics=run.lorc_semantics,
    shell:
        "exec python -m lorcbench.stages.lorc {params.arguments} method={wildcards.method}"
        " calibration={wildcards.calibration} weight={wildcards.weight} trained={wildcards.trained}"
        " lorc={wildcards.lorc} cap={wildcards.cap}"
