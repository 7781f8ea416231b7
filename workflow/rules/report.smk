# The only rules that see all cells: MLflow, and the page.
#   inputs   every evaluation of the study
#   outputs  results/STUDY/{cells.csv,report.html,figures,claims.json}, results/mlflow.db


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
        table=f"results/{run.study.name}/cells.csv",
        page=f"results/{run.study.name}/report.html",
    log:
        f"results/{run.study.name}/report/log.txt",
    params:
        arguments=run.study_arguments(),
        semantics=run.semantics("report"),
    shell:
        "exec python -m lorcbench.stages.report {params.arguments}"
