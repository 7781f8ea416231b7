# The only rules that see all cells: MLflow, and the page. `snakemake --report FILE` shows what `report()` marks.
#   inputs   every evaluation of the study
#   outputs  results/STUDY/{cells.csv,scorecard.csv,report.html,figures,claims.json}, results/mlflow.db


localrules:
    all,
    track,
    report,


rule track:
    input:
        run.evaluations(),
    output:
        result=f"results/{run.study.name}/track/result.json",
        run=f"results/{run.study.name}/track/run.json",
    log:
        f"results/{run.study.name}/track/log.txt",
    params:
        arguments=run.study_arguments(),
        semantics=run.semantics("track"),
    shell:
        "exec python -m lorcbench.stages.track {params.arguments}"


rule report:
    input:
        run.evaluations(),
        f"results/{run.study.name}/track/result.json",
    output:
        complete=touch(run.complete),
        page=report(
            f"results/{run.study.name}/report.html",
            caption="../report/page.rst",
            category=f"Study {run.study.name}",
            labels={"shows": "the whole study"},
        ),
        table=report(
            f"results/{run.study.name}/cells.csv",
            caption="../report/cells.rst",
            category=f"Study {run.study.name}",
            labels={"shows": "every perplexity"},
        ),
        scorecard=report(
            f"results/{run.study.name}/scorecard.csv",
            caption="../report/scorecard.rst",
            category=f"Study {run.study.name}",
            labels={"shows": "published numbers beside ours"},
        ),
        figures=report(
            directory(f"results/{run.study.name}/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figure.rst",
            category="Figures",
            labels={"study": run.study.name, "figure": "{figure}"},
        ),
    log:
        f"results/{run.study.name}/report/log.txt",
    params:
        arguments=run.study_arguments(),
        semantics=run.semantics("report"),
    shell:
        "exec python -m lorcbench.stages.report {params.arguments}"
