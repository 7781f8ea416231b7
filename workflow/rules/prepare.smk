# Text, checkpoints and tokens. Only `text`, `task` and `prepare` ever read from the hub.
# `snakemake prefetch` does no more than these, where there is a network, for nodes where there is none.
#   inputs   conf/text, conf/task, conf/model, conf/eval; files under runtime.data_dir
#   outputs  results/cache/{text/TEXT,task/TASK,checkpoint/MODEL,tokens/MODEL/PROTOCOL}


localrules:
    prefetch,


rule prefetch:
    input:
        pipeline.downloads(),


rule text:
    input:
        pipeline.local_file("text"),
    output:
        result=pipeline.result("text"),
        run=pipeline.record("text"),
    log:
        pipeline.log("text"),
    resources:
        mem_mb=1000,
    params:
        arguments=pipeline.text_arguments,
        semantics=pipeline.params("text"),
    shell:
        "exec python -m lorcbench.stages text {params.arguments}"


rule task:
    input:
        pipeline.local_file("task"),
    output:
        result=pipeline.result("task"),
        run=pipeline.record("task"),
    log:
        pipeline.log("task"),
    resources:
        mem_mb=1000,
    params:
        semantics=pipeline.params("task"),
    shell:
        "exec python -m lorcbench.stages task task={wildcards.task:q}"


rule prepare:
    input:
        pipeline.inputs("prepare"),
    output:
        result=pipeline.result("prepare"),
        run=pipeline.record("prepare"),
    log:
        pipeline.log("prepare"),
    priority: 100  # training is the longest chain: everything of that model waits for it
    threads: pipeline.resources.threads
    resources:
        mem_mb=pipeline.resources.memory("prepare"),
        runtime=pipeline.resources.minutes("prepare"),
    params:
        arguments=pipeline.model_arguments,
        semantics=pipeline.params("prepare"),
    shell:
        "exec python -m lorcbench.stages prepare {params.arguments}"


rule tokens:
    input:
        pipeline.inputs("tokens"),
    output:
        result=pipeline.result("tokens"),
        run=pipeline.record("tokens"),
    log:
        pipeline.log("tokens"),
    priority: 90
    resources:
        mem_mb=1000,
    params:
        arguments=pipeline.model_arguments,
        text=pipeline.given_text("eval"),
        semantics=pipeline.params("tokens"),
    shell:
        "exec python -m lorcbench.stages tokens {params.arguments} eval={wildcards.protocol:q} {params.text}"
