# Checkpoints and tokens.
#   inputs   conf/model, conf/eval; for stand-ins the text that Python carries
#   outputs  results/cache/text/TEXT, results/cache/checkpoint/MODEL, results/cache/tokens/MODEL/PROTOCOL


rule text:
    output:
        result=paths.TEXT + "/result.json",
        run=paths.TEXT + "/run.json",
    log:
        paths.TEXT + "/log.txt",
    params:
        semantics=semantics("text"),
    resources:
        mem_mb=1000,
    shell:
        "exec python -m lorcbench.stages.text text={wildcards.text} {RUNTIME}"


def checkpoint_inputs(wildcards):
    standin = STUDY.model(wildcards.model).standin
    return [results_of(paths.TEXT, text=standin.text)] if standin else []


rule prepare:
    input:
        checkpoint_inputs,
    output:
        result=paths.CHECKPOINT + "/result.json",
        run=paths.CHECKPOINT + "/run.json",
    log:
        paths.CHECKPOINT + "/log.txt",
    params:
        arguments=model_arguments,
        semantics=model_settings,
    priority: 100  # training is the longest chain: everything of that model waits for it
    resources:
        mem_mb=1500,
    shell:
        "exec python -m lorcbench.stages.prepare {params.arguments} {RUNTIME}"


def tokens_text(wildcards):
    return results_of(paths.TEXT, text=settings.load("eval", wildcards.protocol).text)


def tokens_settings(wildcards):
    return semantics("tokens", eval=wildcards.protocol)


rule tokens:
    input:
        checkpoint=paths.CHECKPOINT + "/result.json",
        text=tokens_text,
    output:
        result=paths.TOKENS + "/result.json",
        run=paths.TOKENS + "/run.json",
    log:
        paths.TOKENS + "/log.txt",
    params:
        arguments=model_arguments,
        semantics=tokens_settings,
    priority: 90
    resources:
        mem_mb=1000,
    shell:
        "exec python -m lorcbench.stages.tokens {params.arguments} eval={wildcards.protocol} {RUNTIME}"
