# LoRC factors of a quantized model at one cap: the smallest of 32, 128, 512, all that holds the cell's rank.
#   inputs   checkpoint, quantized weights, conf/lorc
#   outputs  results/cache/lorc/MODEL/METHOD/CALIBRATION/WEIGHT/TRAINED/LORC/capN


def lorc_settings(wildcards):
    return semantics("lorc", lorc=wildcards.lorc)


rule lorc:
    input:
        checkpoint=paths.CHECKPOINT + "/result.json",
        quantized=paths.QUANTIZED + "/result.json",
    output:
        result=paths.FACTORS + "/result.json",
        run=paths.FACTORS + "/run.json",
    log:
        paths.FACTORS + "/log.txt",
    params:
        arguments=model_arguments,
        semantics=lorc_settings,
    resources:
        mem_mb=1000,
    shell:
        "exec python -m lorcbench.stages.lorc {params.arguments} method={wildcards.method}"
        " calibration={wildcards.calibration} weight={wildcards.weight} trained={wildcards.trained}"
        " lorc={wildcards.lorc} cap={wildcards.cap} {RUNTIME}"
