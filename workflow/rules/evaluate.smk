# Perplexity and lm-eval of a quantized model, all ranks of the study in one file that is kept and added to.
#   inputs   checkpoint, tokens or tasks, quantized weights, factors
#   outputs  results/cache/{evaluate,harness}/MODEL/METHOD/CALIBRATION/WEIGHT/TRAINED/ACTIVATION/PROTOCOL


rule evaluate:
    input:
        checkpoint=paths.result(paths.CHECKPOINT),
        tokens=paths.result(paths.TOKENS),
        weights=run.evaluate_inputs,
    output:
        result=update(paths.result(paths.EVALUATION)),
        run=paths.run(paths.EVALUATION),
    log:
        paths.log(paths.EVALUATION),
    group:
        run.resources.group
    threads: run.resources.threads
    resources:
        mem_mb=run.resources.memory("evaluate"),
        runtime=run.resources.minutes("evaluate"),
        gpu=run.resources.gpus(),
    params:
        arguments=run.model_arguments,
        variants=run.variants,
        semantics=run.evaluate_semantics,
    shell:
        "exec python -m lorcbench.stages.evaluate {params.arguments} method={wildcards.method}"
        " calibration={wildcards.calibration} weight={wildcards.weight} trained={wildcards.trained}"
        " activation={wildcards.activation} eval={wildcards.protocol} 'variants=[{params.variants}]'"


rule harness:
    input:
        checkpoint=paths.result(paths.CHECKPOINT),
        tasks=run.harness_tasks,
        weights=run.harness_inputs,
    output:
        result=update(paths.result(paths.HARNESS)),
        run=paths.run(paths.HARNESS),
    log:
        paths.log(paths.HARNESS),
    group:
        run.resources.group
    threads: run.resources.threads
    resources:
        mem_mb=run.resources.memory("harness"),
        runtime=run.resources.minutes("harness"),
    params:
        arguments=run.model_arguments,
        variants=run.harness_variants,
        tasks=",".join(run.study.tasks),
        semantics=run.harness_semantics,
    shell:
        "exec python -m lorcbench.stages.harness {params.arguments} method={wildcards.method}"
        " calibration={wildcards.calibration} weight={wildcards.weight} trained={wildcards.trained}"
        " activation={wildcards.activation} eval={wildcards.protocol} 'eval.tasks=[{params.tasks}]'"
        " 'variants=[{params.variants}]'"


# Nothing of a published model is quantized before it measures as printed. Only comparing is this rule's work.
rule gate:
    input:
        paths.result(paths.FULL_PRECISION).replace("{protocol}", paths.GATE_PROTOCOL),
    output:
        result=paths.result(paths.GATE),
        run=paths.run(paths.GATE),
    log:
        paths.log(paths.GATE),
    priority: 90
    resources:
        mem_mb=500,
    params:
        arguments=run.model_arguments,
        semantics=run.gate_semantics,
    shell:
        "exec python -m lorcbench.stages.gate {params.arguments}"
