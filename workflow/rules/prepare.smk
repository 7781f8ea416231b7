# Text, checkpoints and tokens.
#   inputs   conf/model, conf/eval; for stand-ins the text that Python carries
#   outputs  results/cache/text/TEXT, results/cache/checkpoint/MODEL, results/cache/tokens/MODEL/PROTOCOL


rule text:
    output:
        result=paths.result(paths.TEXT),
        run=paths.run(paths.TEXT),
    log:
        paths.log(paths.TEXT),
    resources:
        mem_mb=1000,
    params:
        semantics=run.semantics("text"),
    shell:
        "exec python -m lorcbench.stages.text text={wildcards.text}"


rule prepare:
    input:
        run.checkpoint_inputs,
    output:
        result=paths.result(paths.CHECKPOINT),
        run=paths.run(paths.CHECKPOINT),
    log:
        paths.log(paths.CHECKPOINT),
    priority: 100  # training is the longest chain: everything of that model waits for it
    resources:
        mem_mb=1500,
    params:
        arguments=run.model_arguments,
        semantics=run.prepare_semantics,
    shell:
        "exec python -m lorcbench.stages.prepare {params.arguments}"


rule tokens:
    input:
        checkpoint=paths.result(paths.CHECKPOINT),
        text=run.protocol_text,
    output:
        result=paths.result(paths.TOKENS),
        run=paths.run(paths.TOKENS),
    log:
        paths.log(paths.TOKENS),
    priority: 90
    resources:
        mem_mb=1000,
    params:
        arguments=run.model_arguments,
        semantics=run.tokens_semantics,
    shell:
        "exec python -m lorcbench.stages.tokens {params.arguments} eval={wildcards.protocol}"
