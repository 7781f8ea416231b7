# Calibration tokens; for the methods that want them, cached statistics of the unquantized model and their factors.
#   inputs   checkpoint, conf/calibration
#   outputs  results/cache/calibration/MODEL/CALIBRATION/{tokens,statistics,hessians/dampX-ORDER-DEAD}


rule calibration_tokens:
    "Calibration sequences, in a model's tokens."
    input:
        pipeline.inputs("calibration_tokens"),
    output:
        result=pipeline.result("calibration_tokens"),
        run=pipeline.record("calibration_tokens"),
    log:
        pipeline.log("calibration_tokens"),
    priority: 90
    resources:
        mem_mb=1000,
    params:
        arguments=pipeline.model_arguments,
        text=pipeline.given_text("calibration"),
        semantics=pipeline.params("calibration_tokens"),
    shell:
        "exec python -m lorcbench.stages tokens {params.arguments} calibration={wildcards.calibration:q} {params.text}"


rule calibrate:
    "Statistics of the inputs of an unquantized model's linears, for methods and corrections that want them."
    input:
        pipeline.inputs("calibrate"),
    output:
        result=pipeline.result("calibrate"),
        run=pipeline.record("calibrate"),
    log:
        pipeline.log("calibrate"),
    priority: 80
    threads: pipeline.resources.threads + 1
    resources:
        mem_mb=pipeline.resources.memory("calibrate"),
        runtime=pipeline.resources.minutes("calibrate"),
        gpu=pipeline.resources.gpus("calibrate"),
        gpu_mb=pipeline.resources.gpu_memory("calibrate"),
    params:
        arguments=pipeline.model_arguments,
        semantics=pipeline.params("calibrate"),
    shell:
        "exec env LORCBENCH_GPU_MB={resources.gpu_mb}"
        " python -m lorcbench.stages calibrate {params.arguments} calibration={wildcards.calibration:q}"


rule factor:
    "Factors of the cached Hessians of a model, for gptq-cached."
    input:
        pipeline.inputs("factor"),
    output:
        result=pipeline.result("factor"),
        run=pipeline.record("factor"),
    log:
        pipeline.log("factor"),
    priority: 80
    threads: pipeline.resources.threads
    resources:
        mem_mb=pipeline.resources.memory("factor"),
        runtime=pipeline.resources.minutes("factor"),
        gpu=pipeline.resources.gpus("factor"),
        gpu_mb=pipeline.resources.gpu_memory("factor"),
    params:
        arguments=pipeline.model_arguments,
        semantics=pipeline.params("factor"),
    shell:
        "exec env LORCBENCH_GPU_MB={resources.gpu_mb}"
        " python -m lorcbench.stages factor {params.arguments} calibration={wildcards.calibration:q}"
        " damp={wildcards.damp:q} order={wildcards.order:q} dead={wildcards.dead:q}"
