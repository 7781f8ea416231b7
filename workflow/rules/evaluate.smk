# Perplexity and lm-eval of a quantized model, all ranks of the study in one file that is kept and added to.
#   inputs   checkpoint, tokens or tasks, quantized weights, factors
#   outputs  results/cache/{evaluate,harness}/MODEL/METHOD/CALIBRATION/WEIGHT/TRAINED/ACTIVATION/PROTOCOL


rule evaluate:
    "Perplexity of a quantized model at all ranks of the study."
    input:
        pipeline.inputs("evaluate"),
    output:
        result=update(pipeline.result("evaluate")),
        run=pipeline.record("evaluate"),
    log:
        pipeline.log("evaluate"),
    group:
        pipeline.resources.group
    threads: pipeline.resources.threads
    resources:
        mem_mb=pipeline.resources.memory("evaluate"),
        runtime=pipeline.resources.minutes("evaluate"),
        gpu=pipeline.resources.gpus("evaluate"),
        gpu_mb=pipeline.resources.gpu_memory("evaluate"),
    params:
        arguments=pipeline.model_arguments,
        variants=pipeline.variants("evaluate"),
        held=pipeline.held("evaluate"),
        semantics=pipeline.params("evaluate"),
    shell:
        "exec env LORCBENCH_GPU_MB={resources.gpu_mb}"
        " python -m lorcbench.stages evaluate {params.arguments} method={wildcards.method:q}"
        " calibration={wildcards.calibration:q} weight={wildcards.weight:q} trained={wildcards.trained:q}"
        " activation={wildcards.activation:q} eval={wildcards.protocol:q} 'variants=[{params.variants}]'"


rule harness:
    "lm-eval tasks of a quantized model at all ranks of the study."
    input:
        pipeline.inputs("harness"),
    output:
        result=update(pipeline.result("harness")),
        run=pipeline.record("harness"),
    log:
        pipeline.log("harness"),
    group:
        pipeline.resources.group
    threads: pipeline.resources.threads
    resources:
        mem_mb=pipeline.resources.memory("harness"),
        runtime=pipeline.resources.minutes("harness"),
        gpu=pipeline.resources.gpus("harness"),
        gpu_mb=pipeline.resources.gpu_memory("harness"),
    params:
        arguments=pipeline.model_arguments,
        variants=pipeline.variants("harness"),
        held=pipeline.held("harness"),
        tasks=",".join(pipeline.study.tasks),
        semantics=pipeline.params("harness"),
    shell:
        "exec env LORCBENCH_GPU_MB={resources.gpu_mb}"
        " python -m lorcbench.stages harness {params.arguments} method={wildcards.method:q}"
        " calibration={wildcards.calibration:q} weight={wildcards.weight:q} trained={wildcards.trained:q}"
        " activation={wildcards.activation:q} eval={wildcards.protocol:q} 'eval.tasks=[{params.tasks}]'"
        " 'variants=[{params.variants}]'"


# Nothing of a published model is quantized before it measures as printed. Only comparing is this rule's work.
rule gate:
    "Whether a published model measures as printed; nothing of it is quantized before."
    input:
        pipeline.inputs("gate"),
    output:
        result=pipeline.result("gate"),
        run=pipeline.record("gate"),
    log:
        pipeline.log("gate"),
    priority: 90
    resources:
        mem_mb=500,
    params:
        arguments=pipeline.model_arguments,
        semantics=pipeline.params("gate"),
    shell:
        "exec python -m lorcbench.stages gate {params.arguments}"


# The same in float16: nothing quantized is measured in float16 before it has passed.
rule gate_half:
    "The same in float16."
    input:
        pipeline.inputs("gate_half"),
    output:
        result=pipeline.result("gate_half"),
        run=pipeline.record("gate_half"),
    log:
        pipeline.log("gate_half"),
    priority: 90
    resources:
        mem_mb=500,
    params:
        arguments=pipeline.model_arguments,
        semantics=pipeline.params("gate_half"),
    shell:
        "exec python -m lorcbench.stages gate_half {params.arguments}"
