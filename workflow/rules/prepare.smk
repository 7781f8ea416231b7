# Text, checkpoints and tokens. Only `text`, `task` and `prepare` ever read from the hub.
# `snakemake prefetch` does no more than these, where there is a network, for nodes where there is none.
#   inputs   conf/text, conf/task, conf/model, conf/eval; files under runtime.data_dir
#   outputs  results/cache/{text/TEXT,task/TASK,checkpoint/MODEL,tokens/MODEL/PROTOCOL}


localrules:
    prefetch,


rule prefetch:
    input:
        run.downloads(),


rule text:
    input:
        run.text_inputs,
    output:
        result=paths.result(paths.TEXT),
        run=paths.run(paths.TEXT),
    log:
        paths.log(paths.TEXT),
    resources:
        mem_mb=1000,
    params:
        semantics=run.text_semantics,
    shell:
        "exec python -m lorcbench.stages.text text={wildcards.text}"


rule task:
    input:
        run.task_inputs,
    output:
        result=paths.result(paths.TASK),
        run=paths.run(paths.TASK),
    log:
        paths.log(paths.TASK),
    resources:
        mem_mb=1000,
    params:
        semantics=run.task_semantics,
    shell:
        "exec python -m lorcbench.stages.task task={wildcards.task}"


rule prepare:
    input:
        run.checkpoint_inputs,
    output:
        result=paths.result(paths.CHECKPOINT),
        run=paths.run(paths.CHECKPOINT),
    log:
        paths.log(paths.CHECKPOINT),
    priority: 100  # training is the longest chain: everything of that model waits for it
    threads: run.resources.threads
    resources:
        mem_mb=run.resources.memory("prepare"),
        runtime=run.resources.minutes("prepare"),
    params:
        arguments=run.model_arguments,
        semantics=run.prepare_semantics,
    shell:
        "exec python -m lorcbench.stages.prepare {params.arguments}"


rule tokens:
    input:
        checkpoint=paths.result(paths.CHECKPOINT),
        texts=run.protocol_texts,
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
