# The only rules that see all cells: MLflow, and the page.
#   inputs   every evaluation of the study
#   outputs  results/STUDY/{cells.csv,report.html,figures,claims.json}, results/mlflow.db


localrules:
    all,
    track,
    report,


rule track:
    input:
        evaluations(paths.EVALUATION, STUDY.cells),
        evaluations(paths.HARNESS, STUDY.harness),
    output:
        result=f"results/{STUDY.name}/track/result.json",
    log:
        f"results/{STUDY.name}/track/log.txt",
    params:
        arguments=study_arguments(),
        semantics=semantics("track"),
    shell:
        "exec python -m lorcbench.stages.track {params.arguments}"


rule report:
    input:
        evaluations(paths.EVALUATION, STUDY.cells),
        evaluations(paths.HARNESS, STUDY.harness),
        f"results/{STUDY.name}/track/result.json",
    output:
        complete=touch(COMPLETE),
        table=f"results/{STUDY.name}/cells.csv",
        page=f"results/{STUDY.name}/report.html",
    log:
        f"results/{STUDY.name}/report/log.txt",
    params:
        arguments=study_arguments(),
        semantics=semantics("report"),
    shell:
        "exec python -m lorcbench.stages.report {params.arguments}"
