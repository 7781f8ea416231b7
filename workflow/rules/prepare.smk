# Text, checkpoints and tokens. Only `text`, `task` and `prepare` ever read from the hub.
# `snakemake prefetch` does no more than these, where there is a network, for nodes where there is none.
#   inputs   conf/text, conf/task, conf/model, conf/eval; files under runtime.data_dir
#   outputs  results/cache/{text/TEXT,task/TASK,checkpoint/MODEL,tokens/MODEL/PROTOCOL}


localrules:
    prefetch,


rule prefetch:
    "What a study needs from the hub, and nothing that is computed: run it where there is a network."
    input:
        pipeline.downloads(),


rule text:
    "Documents of a text, copied from a file or downloaded once."
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
    "Documents of an lm-eval task, copied from files or downloaded once."
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
    "A checkpoint on this disk: a stand-in trained here, a model of the hub, a folder or a GGUF file."
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
    "Test windows of a perplexity protocol, in a model's tokens."
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
