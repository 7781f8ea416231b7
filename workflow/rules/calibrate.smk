# Calibration tokens, and cached statistics of the unquantized model for the methods that want them.
#   inputs   checkpoint, conf/calibration
#   outputs  results/cache/calibration/MODEL/CALIBRATION/{tokens,statistics}


def calibration_text(wildcards):
    return results_of(paths.TEXT, text=settings.load("calibration", wildcards.calibration).text)


def calibration_settings(wildcards):
    return semantics("tokens", calibration=wildcards.calibration)


def statistics_settings(wildcards):
    return semantics("calibrate", calibration=wildcards.calibration)


rule calibration_tokens:
    input:
        checkpoint=paths.CHECKPOINT + "/result.json",
        text=calibration_text,
    output:
        result=paths.CALIBRATION_TOKENS + "/result.json",
        run=paths.CALIBRATION_TOKENS + "/run.json",
    log:
        paths.CALIBRATION_TOKENS + "/log.txt",
    params:
        arguments=model_arguments,
        semantics=calibration_settings,
    priority: 90
    resources:
        mem_mb=1000,
    shell:
        "exec python -m lorcbench.stages.tokens {params.arguments} calibration={wildcards.calibration} {RUNTIME}"


rule calibrate:
    input:
        checkpoint=paths.CHECKPOINT + "/result.json",
        tokens=paths.CALIBRATION_TOKENS + "/result.json",
    output:
        result=paths.STATISTICS + "/result.json",
        run=paths.STATISTICS + "/run.json",
    log:
        paths.STATISTICS + "/log.txt",
    params:
        arguments=model_arguments,
        semantics=statistics_settings,
    priority: 80
    resources:
        mem_mb=1500,
    shell:
        "exec python -m lorcbench.stages.calibrate {params.arguments} calibration={wildcards.calibration} {RUNTIME}"
