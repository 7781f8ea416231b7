# A cell as a folder that other people's libraries load; it is there only if one of them loaded it and agreed with us.
#   inputs   checkpoint, tokens, quantized weights, factors, the evaluations of the cell and of full precision
#   outputs  results/cache/export/MODEL/METHOD/CALIBRATION/WEIGHT/TRAINED/ACTIVATION/PROTOCOL/LORC/rRANK/FORMAT/VERIFY


localrules:
    models,


rule export:
    "A cell as a folder that other libraries load: --config export=…."
    input:
        pipeline.inputs("export"),
    output:
        result=pipeline.result("export"),
        run=pipeline.record("export"),
        model=directory(pipeline.exported),
    log:
        pipeline.log("export"),
    threads: pipeline.resources.threads
    resources:
        mem_mb=pipeline.resources.memory("export"),
        runtime=pipeline.resources.minutes("export"),
    params:
        arguments=pipeline.model_arguments,
        semantics=pipeline.params("export"),
    shell:
        "exec python -m lorcbench.stages export {params.arguments} method={wildcards.method:q}"
        " calibration={wildcards.calibration:q} weight={wildcards.weight:q} trained={wildcards.trained:q}"
        " activation={wildcards.activation:q} eval={wildcards.protocol:q} lorc={wildcards.lorc:q}"
        " rank={wildcards.rank:q} export={wildcards.export:q} verify={wildcards.verify:q}"


# Every export of the study that is there, as a model of its experiment. The track stage does the same for a store made anew.
rule models:
    "Exports of the study as models of its experiment in MLflow."
    input:
        pipeline.exports,
    output:
        result=pipeline.result("models"),
        run=pipeline.record("models"),
    log:
        pipeline.log("models"),
    params:
        arguments=pipeline.study_arguments(),
        semantics=pipeline.params("models"),
    shell:
        "exec python -m lorcbench.stages models {params.arguments}"
