# Perplexity and lm-eval of a quantized model, all ranks of the study in one file that is kept and added to.
#   inputs   checkpoint, tokens or text, quantized weights, factors
#   outputs  results/cache/{evaluate,harness}/MODEL/METHOD/CALIBRATION/WEIGHT/TRAINED/ACTIVATION/PROTOCOL


def evaluate_settings(wildcards):
    return semantics("evaluate", eval=wildcards.protocol)


def harness_settings(wildcards):
    return semantics("harness", eval=wildcards.protocol) + canonical(list(STUDY.tasks))


def harness_text(wildcards):
    return results_of(paths.TEXT, text=settings.load("eval", wildcards.protocol).text)


rule evaluate:
    input:
        checkpoint=paths.CHECKPOINT + "/result.json",
        tokens=paths.TOKENS + "/result.json",
        weights=quantized_inputs,
    output:
        result=update(paths.EVALUATION + "/result.json"),
        run=paths.EVALUATION + "/run.json",
    log:
        paths.EVALUATION + "/log.txt",
    params:
        arguments=model_arguments,
        variants=variants_of,
        semantics=evaluate_settings,
    resources:
        mem_mb=1500,
    shell:
        "exec python -m lorcbench.stages.evaluate {params.arguments} method={wildcards.method}"
        " calibration={wildcards.calibration} weight={wildcards.weight} trained={wildcards.trained}"
        " activation={wildcards.activation} eval={wildcards.protocol} 'variants=[{params.variants}]' {RUNTIME}"


rule harness:
    input:
        checkpoint=paths.CHECKPOINT + "/result.json",
        text=harness_text,
        weights=harness_inputs,
    output:
        result=update(paths.HARNESS + "/result.json"),
        run=paths.HARNESS + "/run.json",
    log:
        paths.HARNESS + "/log.txt",
    params:
        arguments=model_arguments,
        variants=harness_variants_of,
        tasks=",".join(STUDY.tasks),
        semantics=harness_settings,
    resources:
        mem_mb=2000,
    shell:
        "exec python -m lorcbench.stages.harness {params.arguments} method={wildcards.method}"
        " calibration={wildcards.calibration} weight={wildcards.weight} trained={wildcards.trained}"
        " activation={wildcards.activation} eval={wildcards.protocol} 'eval.tasks=[{params.tasks}]'"
        " 'variants=[{params.variants}]' {RUNTIME}"
