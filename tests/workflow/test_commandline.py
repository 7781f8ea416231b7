"""The command `lorcbench`: what it hands to Snakemake, what it shows, and what it answers to those who know Hydra."""

from __future__ import annotations

import json
import os
import shlex

import pytest
import yaml
from runs import ROOT
from typer.testing import CliRunner

from lorcbench import cli, stages
from lorcbench.common import shipped
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.jobs.job import Job
from lorcbench.pipeline import commandline
from lorcbench.pipeline.rules import Pipeline
from lorcbench.stages.__main__ import main as run_stage
from lorcbench.study import show, stage_help

WHERE = f"--snakefile {ROOT}/Snakefile"
HANDED_ON = [
    ("smoke", f"{WHERE} --cores all --config study=smoke"),
    ("smoke -n", f"{WHERE} --cores all -n --config study=smoke"),
    ("-n smoke", f"{WHERE} --cores all -n --config study=smoke"),
    ("smoke --cores 2 --forcerun quantize lorc", f"{WHERE} --cores 2 --forcerun quantize lorc --config study=smoke"),
    ("lorc prefetch --cores 1", f"{WHERE} prefetch --cores 1 --config study=lorc"),
    ("lorc+standins=true -j4", f"{WHERE} -j4 --config study=lorc+standins=true"),
    ("demo --resources mem_mb=9000", f"{WHERE} --cores all --resources mem_mb=9000 --config study=demo"),
    ("--config study=demo name=mine -n", f"{WHERE} --cores all -n --config study=demo name=mine"),
    ("model_path=m text_path=t", f"{WHERE} --cores all --config model_path=m text_path=t"),
    ("demo models=[a,b] --cores 3", f"{WHERE} --cores 3 --config study=demo 'models=[a,b]'"),
    (
        "demo study.ranks=[0] -n runtime.threads=2 overrides='study.gate=off'",
        f"{WHERE} --cores all -n --config study=demo 'overrides=study.ranks=[0] runtime.threads=2 study.gate=off'",
    ),
    ("--configfile mine.yaml -n", f"{WHERE} --cores all --configfile mine.yaml -n"),
    ("lorc --profile slurm", f"{WHERE} --profile {ROOT}/profiles/slurm --config study=lorc"),
    ("lorc --profile=profiles/slurm", f"{WHERE} --profile={ROOT}/profiles/slurm --config study=lorc"),
    ("lorc --profile theirs", f"{WHERE} --profile theirs --config study=lorc"),
]


pytestmark = pytest.mark.usefixtures("elsewhere")  # nothing lies where these tests work


def invoke(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments))


def said(*arguments: str) -> str:
    """What the command prints where it succeeds."""
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def refusal(*arguments: str) -> str:
    """The one line of a refusal."""
    error = invoke(*arguments).exception
    assert isinstance(error, ConfigError)
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize(("line", "command"), HANDED_ON, ids=[line for line, _ in HANDED_ON])
def test_a_run_is_a_command_of_snakemake(line, command):
    assert said("run", *shlex.split(line), "--print").strip() == f"snakemake {command}"


def test_the_snakefile_of_a_checkout_is_found_by_itself(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert commandline.command(["smoke"])[:2] == ["--cores", "all"]


def test_a_run_prints_its_command_and_becomes_it(monkeypatch):
    became = []
    monkeypatch.setattr(os, "execv", lambda program, line: became.append(line))
    done = invoke("run", "smoke", "-n")
    assert done.stderr == f"snakemake {WHERE} --cores all -n --config study=smoke\n"
    assert became[0][1:] == ["-P", "-m", "snakemake", *commandline.command(["smoke", "-n"])]


def test_what_is_no_setting_is_refused_with_what_there_is():
    assert refusal("run", "smoke", "modle=x").startswith("modle=x: unknown setting; expected study.KEY=…")
    assert refusal("run", "--cores", "2").startswith("run: expected a study, or model_path=…; studies are activation-groups, ")
    assert refusal("show", "a/b").startswith("a/b: expected a cell, MODEL/METHOD/")
    assert refusal("show", "smoke", "opt-standin-xs/rtn/none/w9/a16/r0").startswith(
        "opt-standin-xs/rtn/none/w9/a16/r0: no cell"
    )


def test_settings_may_stand_in_a_file():
    """As Snakemake's --configfile gives them, and as its --config does, whose entries of lists are strings."""
    text = """
        study: smoke
        models: [opt-standin-xs]
        methods: [gptq+damp=0.05, rtn]
        ranks: [0, 8]
        exactly: true
        weights: [w3-asym-row]
        max_params: 1.0e+9
        title: It's "mine"
        runtime: {threads: 2, data_dir: null}
        tasks: []
    """
    study = Pipeline(yaml.safe_load(text)).study
    assert {(cell.model, cell.method, cell.weight, cell.rank) for cell in study.cells if cell.method != "none"} == {
        ("opt-standin-xs", method, "w3-asym-row", rank) for method in ("rtn", "gptq+damp=0.05") for rank in (0, 8)
    }
    assert (study.config.title, study.config.max_params, study.tasks) == ('It\'s "mine"', 1e9, ())
    assert os.environ[compose.RUNTIME_VARIABLE] == "runtime.threads=2 runtime.data_dir=null"
    grids = {"study": "smoke", "grids": [{"models": ["opt-standin-xs"], "methods": ["rtn"], "weights": ["w2-asym-row"]}]}
    assert len(Pipeline(grids).study.cells) == 2
    over = {"study": "smoke", "models": ["opt-standin-xs"], "ranks": ["0"], "overrides": "study.models=[bloom-standin-xs]"}
    assert Pipeline(over).study.name == "smoke+models=bloom-standin-xs+ranks=0"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"models": "opt-standin-xs"}, "study.models: expected a list, such as study.models=[a,b]"),
        ({"modles": ["opt-standin-xs"]}, "--config modles=…: unknown key; known keys are model_path"),
        ({"runtime": "fast"}, "runtime: fast: expected keys and values, such as runtime: {threads: 2}"),
        ({"runtime": {"treads": 2}}, "unknown key runtime.treads; known keys of runtime: "),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line(settings, line):
    with pytest.raises(ConfigError) as error:
        Pipeline({"study": "smoke", **settings})
    assert str(error.value).startswith(line)


def test_the_configuration_of_a_cell_is_that_of_the_job_that_measures_it():
    shown = said("show", "smoke", "opt-standin-xs/rtn/none/w2-asym-row/a16/r4-plain-int8")
    settings = shlex.split(shown.partition("\n")[0].removeprefix("# "))
    assert "lorc=plain-int8" in settings
    assert "eval=stdlib" in settings
    job = Job("lorc", settings)
    values = yaml.safe_load(shown)
    assert values["model"]["name"] == "opt-standin-xs"
    assert (values["weight"], values["cap"], values["rank"]) == (job.config.weight, job.config.cap, 4)
    for group in ("model", "lorc", "eval"):
        assert values[group] == compose.plain(getattr(job, group))


def test_a_cell_is_shown_without_a_study_and_settings_of_a_stage_are_too():
    shown = yaml.safe_load(said("show", "opt-125m/gptq+damp=0.05/c4-128x2048/w4-asym-g128@a8-asym-token/a8-asym-token/r0"))
    assert (shown["method"]["damp"], shown["trained"], shown["activation"]) == (0.05, "a8-asym-token", "a8-asym-token")
    assert yaml.safe_load(show.composed(["study=lorc"]))["study"]["title"]
    assert "model" not in yaml.safe_load(show.composed(["method=rtn"]))


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("name", stages.names())
def test_every_stage_has_a_help_with_its_settings(name, flag, capsys):
    with pytest.raises(SystemExit) as ending:
        run_stage(name, ["method=rtn", flag])
    text = capsys.readouterr().out
    assert ending.value.code == 0
    assert text.startswith(f"usage: lorcbench stage {name} key=value …\n\n{stages.description(name)}\n")
    assert "runtime.KEY" in text
    assert said("stage", name, flag) == text


HYDRAS = {
    "--multirun": "a study is the sweep",
    "-m": "`lorcbench run NAME` runs them all",
    "--info": f"conf files are searched in {shipped.root()}/conf",
    "--config-dir=conf": "conf files of your own lie in ./conf",
    "-cn": "conf/config.yaml is the one configuration",
    "-sc": "lorcbench --install-completion",
    "--package": "--cfg job",
    "--cfg hydra": "expected --cfg job",
    "--verbose": "expected key=value such as model=opt-125m; --help says which there are",
}


@pytest.mark.parametrize("flag", HYDRAS)
def test_what_a_hydra_user_types_is_answered(flag, capsys):
    with pytest.raises(SystemExit) as ending:
        run_stage("quantize", ["model=opt-125m", *flag.split()])
    said = capsys.readouterr().err
    assert ending.value.code == 2
    assert said.startswith("error: quantize: ")
    assert HYDRAS[flag] in said
    assert said.count("\n") == 1


def test_cfg_job_prints_what_a_stage_would_run_with(capsys):
    for flags in (["--cfg", "job"], ["--cfg=job", "--resolve"], ["-c", "job"]):
        text, is_asked_for = stage_help.answer("quantize", ["method=gptq+damp=0.05", *flags], "")
        assert is_asked_for
        assert yaml.safe_load(text)["method"]["damp"] == 0.05
    with pytest.raises(SystemExit) as ending:
        run_stage("quantize", ["method.damp=0.05", "--cfg", "job"])
    assert ending.value.code == 2
    assert (
        capsys.readouterr().err == "error: quantize: method.damp=0.05: settings go into names, such as method=NAME+damp=0.05\n"
    )


@pytest.mark.parametrize(
    ("stage", "settings", "group"),
    [("quantize", [], "model"), ("quantize", ["model=opt-standin-s"], "method"), ("text", [], "text"), ("task", [], "task")],
)
def test_a_stage_that_is_not_told_enough_says_what_and_leaves_nothing(stage, settings, group, tmp_path, capsys):
    with pytest.raises(SystemExit) as ending:
        run_stage(stage, settings)
    assert ending.value.code == 2
    assert f"stage {stage} needs {group}=NAME; known: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_teaches_and_completion_knows_the_studies():
    for line in (
        "lorcbench plan demo",
        "lorcbench run demo",
        "lorcbench recommend demo 4.25",
        "lorcbench export demo best@4.25",
    ):
        assert line in said("--help")
    assert "All flags go to Snakemake" in said("run", "--help")
    environment = {"_LORCBENCH_COMPLETE": "complete_bash", "COMP_WORDS": "lorcbench run de", "COMP_CWORD": "2"}
    completed = CliRunner().invoke(cli.app, [], prog_name="lorcbench", env=environment)
    assert completed.stdout.split() == ["demo"]
    assert said("--version").startswith("lorcbench ")


# A folder conf/ where one works


def test_conf_files_where_one_works_are_found_without_a_variable(tmp_path, monkeypatch):
    monkeypatch.delenv(compose.EXTRA_CONF, raising=False)
    for group, text in (("study", "title: Ours\neval: ours\ngrids: []\n"), ("eval", "corpora: {x: {text: ours}}\n")):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "ours.yaml").write_text(f"# Our own.\n{text}")
    (tmp_path / "conf/text").mkdir()
    (tmp_path / "conf/text/ours.yaml").write_text("# Ours.\nsource: file\npath: book.txt\n")
    assert "ours " in said("list", "studies")
    assert compose.load("study", "ours").eval == "ours"
    assert compose.load("text", "ours").path == "book.txt"
    monkeypatch.setenv(compose.EXTRA_CONF, "")
    assert "ours" not in compose.names("study")


def test_another_programs_conf_is_passed_over_and_a_checkout_beside_a_wheel_is_not(tmp_path, monkeypatch):
    monkeypatch.delenv(compose.EXTRA_CONF, raising=False)
    own = tmp_path / "conf"
    (own / "model").mkdir(parents=True)
    (own / "model/opt-125m.yaml").write_text("layers: 3\n")
    with pytest.raises(ConfigError, match="conf/ has a model of that name"):
        compose.names("model")
    (own / "config.yaml").write_text("defaults: [model: resnet]\n")
    assert compose.own_conf_dir() is None
    for name in ("config.yaml", "model/opt-125m.yaml"):
        (own / name).write_text((compose.conf_dir() / name).read_text())
    assert compose.own_conf_dir() == own
    assert compose.names("model").count("opt-125m") == 1
    (own / "model/opt-125m.yaml").write_text("# Changed.\n")
    with pytest.raises(ConfigError, match="differs from the model that lorcbench was installed with; expected pip install -e"):
        compose.names("model")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["own", "eval=own+text=sekond"], "text 'sekond' is unknown; conf/text has "),
        (["smoke", "text_path=t.csv"], "text_path={}/t.csv: expected a name that ends in one of .parquet"),
        (["smoke", "text_path=t.txt"], "text_path={}/t.txt: 20 bytes are too few for the windows of stdlib+text=t-"),
        (["smoke", "eval=stdlib+window=5000"], "windows of 5000 tokens, but opt-standin-xs has 128 positions"),
    ],
)
def test_a_plan_refuses_what_a_run_refuses_before_its_first_job(words, line, tmp_path):
    for name in ("t.csv", "t.txt"):
        (tmp_path / name).write_text("too small for a run\n")
    done = invoke("plan", *words)
    assert done.exit_code == 2
    assert line.format(tmp_path) in done.stderr


def test_a_plan_takes_the_spellings_of_a_run(capsys):
    done = invoke("plan", "smoke", "models=[opt-standin-xs]", "ranks=[0]")
    assert "study smoke+models=opt-standin-xs+ranks=0: " in done.output + capsys.readouterr().out


def test_a_model_of_ones_own_asks_for_the_study_own_in_every_command():
    given = ["model_path=/data/llama", "text_path=/data/book.txt"]
    assert commandline.with_study(given) == ["study=own", *given]
    assert commandline.with_study([*given, "study=lorc"]) == [*given, "study=lorc"]
    assert commandline.with_study(["lorc", *given]) == ["study=lorc", *given]


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["own", "window=256"], "; window is a setting of a protocol: eval=own+window=256"),
        (["window=256", "smoke"], "; window is a setting of a protocol: eval=stdlib+window=256"),
        (["own", "length=256"], "; length is a setting of a calibration: 'calibrations=[own+length=256]'"),
        (["own", "damp=0.05"], "; damp is a setting of a method: 'methods=[NAME+damp=0.05]'"),
        (["own", "modle=x"], "; did you mean models?"),
        (["own", "“weights=[w4-asym-row]”"], "the quotes are typographic; expected straight ones, ' or \""),
        (["own", "eval=“own”"], "the quotes are typographic; expected straight ones, ' or \""),
        (["own", "methods=[rtn,", "gptq]"], "expected quotes around it and no blank, such as 'methods=[rtn,gptq]'"),
        (["own", "ranks=[0,8.5]"], "study.ranks=[0,8.5]: 8.5 does not fit; expected whole numbers"),
    ],
)
def test_what_is_misspelt_is_answered_with_what_would_be_right(words, cure):
    done = invoke("plan", *words)
    told = str(done.exception) if isinstance(done.exception, ConfigError) else done.stderr
    assert told.rstrip().endswith(cure)


def test_other_words_that_are_misspelt_are_answered_too():
    assert refusal("export", "smoke", "best4.25").endswith("; did you mean best@4.25?")
    assert refusal("list", "studeis").endswith(", lorc, stages; did you mean studies?")


def test_every_refusal_begins_with_the_same_word():
    wrong = {"plan smoke methods=[gtpq]": "plan", "plan smoke eval=stdlib+window=5000": "plan", "stage quantize -m": "quantize"}
    for words, stage in wrong.items():
        done = invoke(*words.split())
        assert done.exit_code == 2
        assert done.stderr.startswith(f"error: {stage}: ")


def test_a_study_on_a_model_of_ones_own_is_shown_with_the_model_and_the_text_in_their_places(tmp_path):
    (tmp_path / "my-llama").mkdir()
    about = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "vocab_size": 500}
    (tmp_path / "my-llama" / "config.json").write_text(json.dumps(about | {"num_attention_heads": 4}))
    (tmp_path / "book.txt").write_text("A line.\n" * 9000)
    shown = yaml.safe_load(said("show", f"model_path={tmp_path}/my-llama", f"text_path={tmp_path}/book.txt"))
    (model,), (text,) = shown["model"], shown["text"]
    assert shown["model"][model]["path"] == f"{tmp_path}/my-llama" and shown["text"][text]["path"] == f"{tmp_path}/book.txt"
    assert shown["study"]["models"] == [model] and shown["study"]["eval"] == f"own+text={text}"
    assert shown["eval"][f"own+text={text}"]["corpora"]["text"]["text"] == text
