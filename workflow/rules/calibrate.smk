# Calibration tokens, and cached statistics of the unquantized model for the methods that want them.
#   inputs   checkpoint, conf/calibration
#   outputs  results/cache/calibration/MODEL/CALIBRATION/{tokens,statistics}


rule calibration_tokens:
    input:
        checkpoint=paths.result(paths.CHECKPOINT),
        texts=run.calibration_texts,
    output:
        result=paths.result(paths.CALIBRATION_TOKENS),
        run=paths.run(paths.CALIBRATION_TOKENS),
    log:
        paths.log(paths.CALIBRATION_TOKENS),
    priority: 90
    resources:
        mem_mb=1000,
    params:
        arguments=run.model_arguments,
        semantics=run.calibration_semantics,
    shell:
        "exec python -m lorcbench.stages.tokens {params.arguments} calibration={wildcards.calibration}"


rule calibrate:
    input:
        checkpoint=paths.result(paths.CHECKPOINT),
        tokens=paths.result(paths.CALIBRATION_TOKENS),
    output:
        result=paths.result(paths.STATISTICS),
        run=paths.run(paths.STATISTICS),
    log:
        paths.log(paths.STATISTICS),
    priority: 80
    resources:
        mem_mb=1500,
        gpu=run.gpus(),
    params:
        arguments=run.model_arguments,
        semantics=run.statistics_semantics,
    shell:
        "exec python -m lorcbench.stages.calibrate {params.arguments} calibration={wildcards.calibration}"
