PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
ALL := -e '.[checker,lora]' --group all
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
export HF_HUB_OFFLINE ?= 1

.DEFAULT_GOAL := help

.PHONY: help
help:  ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | \
		awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(STAMP)  ## create .venv and install everything, pinned (1 to 3 minutes, 6 GB)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11: name a newer one," \
			"as in make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) || \
		{ rm -rf $(VENV); echo "error: no virtual environment:" \
			"on Debian, apt install python3-venv, then repeat"; exit 1; }
	$(PIP) uv
	@# quicker; but what only pip's own settings know of, only pip finds
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt --compile-bytecode \
		$(ALL) 2>/dev/null || { $(PIP) pip && $(PIP) $(ALL); }
	@touch $(STAMP)

.PHONY: demo
demo: $(STAMP)  ## sample the embedded model by DM, DM_concave, AsynDM; print scores (1 minute)
	@$(BIN)/python -m experiments.run experiment=demo
	@$(BIN)/python -m experiments.report runs/demo
	@echo "Expect DM right on most of the 32 prompts, and differences whose intervals contain 0:" \
		"32 prompts are few."
	@echo "Pictures: runs/demo/*/grid.png; timestep maps and masks: runs/demo/*/strip.png;" \
		"all numbers: scores.csv beside them."

.PHONY: lint
lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: test
test: lint  ## lint and all tests, on all cores (8 minutes on two)
	$(BIN)/python -m pytest

.PHONY: test-fast
test-fast: $(STAMP)  ## the tests that take little, while one works
	$(BIN)/python -m pytest --fast

ifneq ($(filter oldest test-oldest,$(MAKECMDGOALS)),)  # to look for interpreters takes seconds
PYTHONS := $(foreach v,3.11 3.12 3.13,\
	$(shell python$(v) -c 'import sys; print(sys.executable)' 2>/dev/null))
OLD_PYTHON ?= $(firstword $(PYTHONS) $(PYTHON))
OLDEST = .venv-oldest-$(notdir $(OLD_PYTHON))
CORE_FILES := checkpoints.py models.py loras.py masks.py curves.py subjects.py inputs.py
CORE := $(addprefix tests/,$(addprefix library/test_,$(CORE_FILES)) \
	parity pipelines library/shapes/test_model.py)
.PHONY: oldest
oldest: $(OLDEST)/installed
$(OLDEST)/installed: pyproject.toml $(STAMP)
	$(PIP) uv  # which can choose the lowest
	$(BIN)/uv venv --quiet --clear --no-python-downloads --python $(OLD_PYTHON) $(OLDEST)
	$(BIN)/uv pip install --quiet --python $(OLDEST) --resolution lowest-direct \
		--only-binary :all: -e '.[checker,lora]' --group test
	@touch $@

.PHONY: test-oldest
# with another Python: make test-oldest OLD_PYTHON=python3.13
test-oldest: $(OLDEST)/installed  ## core tests with the oldest versions allowed (2 minutes, 6 GB)
	@$(OLDEST)/bin/python -m tests.versions
	@echo "other interpreters here: $(or $(filter-out $(OLD_PYTHON),$(PYTHONS)),none)"
	$(OLDEST)/bin/python -m pytest -p no:cacheprovider $(CORE)
endif

.PHONY: benchmark
benchmark: $(STAMP)  ## what a step costs against the stock network's
	$(BIN)/python -m experiments.studies.benchmark --size small

.PHONY: gpu
gpu: $(STAMP)  ## all that needs a GPU, in one table (8 minutes on one)
	$(BIN)/python -m experiments.gpu_check

REGIONS = --against method=DM --against steps=20
RESULTS := comparison models curves steps masks threshold guidance eta subjects solvers \
	spacing rivals_tuned rivals_equal_cost rivals_counted
TUNED_CFG = method=DM guidance=$$(sed -n 's/^guidance_scale: //p' conf/guidance/tuned/cfg.yaml | \
	xargs printf %g)
.PHONY: results
results: $(STAMP)  ## experiments/results anew: runs, tables, figures (7 hours on 2 cores)
	@set -e; for name in $(RESULTS); do \
		out=experiments/results/$$name; \
		$(BIN)/python -m experiments.run experiment=$$name; \
		$(BIN)/python -m experiments.report experiment=$$name \
			--csv $$out/table.csv --markdown $$out/table.md; \
		case $$name in \
			masks) against=method=AsynDM;; subjects) against=settings=;; \
			models) against=model=shapes;; guidance) against=guidance=2;; \
			solvers) against="solver=ddim steps=50";; spacing) against=pipeline=;; \
			rivals_counted) against=steps=20;; \
			rivals_*) against="$(TUNED_CFG) steps=20";; *) against=;; \
		esac; \
		[ -z "$$against" ] || $(BIN)/python -m experiments.report experiment=$$name \
			$$(printf -- '--against %s ' $$against) --markdown $$out/against.md; \
		case $$name in \
			comparison) only=seeds,strip;; curves) only=curves,lines;; masks|rivals_tuned) only=cost;; \
			steps) only=lines,cost;; guidance|threshold|eta|solvers) only=lines;; *) continue;; \
		esac; \
		$(BIN)/python -m experiments.figures experiment=$$name --out $$out --only $$only; \
	done; \
	for pair in attend_and_excite:74 init_no:200; do \
		name=$${pair%:*}; steps=$${pair#*:}; \
		$(BIN)/python -m experiments.report \
			runs/rivals_tuned/*-$$name-20-* runs/rivals_tuned/*-DM-$$steps-* \
			$$(printf -- '--against %s ' $(TUNED_CFG) steps=$$steps) \
			--markdown experiments/results/rivals_counted/$$name.md; \
	done; \
	for name in regions regions_things regions_equal_cost; do \
		$(BIN)/python -m experiments.run experiment=$$name; \
	done; \
	out=experiments/results/regions; \
	$(BIN)/python -m experiments.studies.regions runs/regions \
		--markdown $$out/planned.md --csv $$out/planned.csv; \
	$(BIN)/python -m experiments.report runs/regions $(REGIONS) \
		--csv $$out/table.csv --markdown $$out/table.md; \
	$(BIN)/python -m experiments.figures runs/regions $(REGIONS) --only effects --out $$out; \
	$(BIN)/python -m experiments.figures experiment=regions model=shapes_mixed \
		guidance.guidance_scale=2 --only beside --out $$out

.PHONY: train
train: $(STAMP)  ## train the embedded models from nothing (110 minutes on 2 cores)
	$(BIN)/python -m experiments.training.shapes

.PHONY: clean
clean:  ## remove .venv, caches and the demo's runs
	rm -rf $(VENV) .venv-oldest-* .mypy_cache .pytest_cache .ruff_cache .hypothesis runs/demo
