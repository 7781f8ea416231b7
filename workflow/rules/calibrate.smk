# Calibration tokens; for the methods that want them, cached statistics of the unquantized model and their factors.
#   inputs   checkpoint, conf/calibration
#   outputs  results/cache/calibration/MODEL/CALIBRATION/{tokens,statistics,hessians/dampX-ORDER}


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
    threads: run.resources.threads + 1
    resources:
        mem_mb=run.resources.memory("calibrate"),
        runtime=run.resources.minutes("calibrate"),
        gpu=run.resources.gpus(),
    params:
        arguments=run.model_arguments,
        semantics=run.statistics_semantics,
    shell:
        "exec python -m lorcbench.stages.calibrate {params.arguments} calibration={wildcards.calibration}"


rule factor:
    input:
        paths.result(paths.STATISTICS),
    output:
        result=paths.result(paths.HESSIAN_FACTORS),
        run=paths.run(paths.HESSIAN_FACTORS),
    log:
        paths.log(paths.HESSIAN_FACTORS),
    priority: 80
    threads: run.resources.threads
    resources:
        mem_mb=run.resources.memory("factor"),
        runtime=run.resources.minutes("factor"),
    params:
        arguments=run.model_arguments,
        semantics=run.factor_semantics,
    shell:
        "exec python -m lorcbench.stages.factor {params.arguments} calibration={wildcards.calibration}"
        " damp={wildcards.damp} order={wildcards.order}"
