# Quantized weights: one rule for all methods.
#   inputs   checkpoint; calibration tokens (propagated) or statistics (cached) for the methods that use data
#   outputs  results/cache/quantize/MODEL/METHOD/CALIBRATION/WEIGHT/TRAINED


def quantize_inputs(wildcards):
    needed = [results_of(paths.CHECKPOINT, **wildcards)]
    if wildcards.calibration != "none":
        cached = method_of(wildcards).hessian == "cached"
        needed.append(results_of(paths.STATISTICS if cached else paths.CALIBRATION_TOKENS, **wildcards))
    return needed


def quantize_settings(wildcards):
    return semantics("quantize", method=wildcards.method, calibration=wildcards.calibration)


rule quantize:
    input:
        quantize_inputs,
    output:
        result=paths.QUANTIZED + "/result.json",
        run=paths.QUANTIZED + "/run.json",
    log:
        paths.QUANTIZED + "/log.txt",
    params:
        arguments=model_arguments,
        semantics=quantize_settings,
    resources:
        mem_mb=1500,
    shell:
        "exec python -m lorcbench.stages.quantize {params.arguments} method={wildcards.method}"
        " calibration={wildcards.calibration} weight={wildcards.weight} trained={wildcards.trained} {RUNTIME}"
