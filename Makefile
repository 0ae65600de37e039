# Bare `make` prints help. Nothing is needed but make and Python 3.11 or newer; everything else goes into .venv.

.DEFAULT_GOAL := help
.PHONY: help run test lint bench demo flask fuzz drill coverage-study loss-bound replay-kit track-evidence openapi lock clean

# Compiled modules are kept, or every process of ours would compile them again.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
RUN_READY := .venv/.run-ready
DEV_READY := .venv/.dev-ready
# The interpreter: PYTHON=… if given, else the newest that is found.
PYTHON ?=
# A module's tests stay in one process, which then starts its services once. PostgreSQL takes a core of its own, so more than two seldom help a small machine.
TEST_PROCESSES ?= 2

help:
	@echo 'tanpuhui 碳普惠'
	@echo
	@echo '  make run      serve a seeded district     启动服务，含示例数据   http://127.0.0.1:8000'
	@echo '                (HOST, PORT, TANPUHUI_DATA, DATABASE_URL, REDIS_URL are honoured)'
	@echo '  make test     run the tests               运行测试'
	@echo '  make lint     check code and contracts    检查代码、迁移与接口文档'
	@echo '  make demo     the main job, over HTTP     演示主要流程'
	@echo "  make flask    a command, COMMAND='ledger verify'   运维命令"
	@echo '  make bench    measure, as ratios          性能测量'
	@echo '  make fuzz     long generated API calls    接口模糊测试（长）'
	@echo '  make drill    long failure drills         故障演练（长）'
	@echo '  make coverage-study  do the intervals of the share cover?  区间覆盖研究（长）'
	@echo '  make loss-bound      what can an attacker gain in a day?    攻击者一日所得上限（长）'
	@echo '  make replay-kit      who is found, who is troubled?         带标签的作弊重放（长）'
	@echo '  make track-evidence  measure the checks of tracks anew      轨迹核验的实测报告'
	@echo '  make openapi  rewrite openapi.json        重新生成接口文档'
	@echo '  make lock     lock the dependencies       重新锁定依赖'
	@echo '  make clean    remove what make made, but keep var/ (the data)   清理，保留数据'

run: $(RUN_READY)
	@exec env TANPUHUI_ENV="$${TANPUHUI_ENV:-development}" $(BIN)/python -m server.serve

test: $(DEV_READY)
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder $(TEST_ARGUMENTS)

lint: $(DEV_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m server.migrations.lint
	$(BIN)/flask --app wsgi:create_described_app openapi check

bench: $(DEV_READY)
	$(BIN)/python -m bench

demo: $(RUN_READY)
	$(BIN)/python -m bench.demo

# A command beside the running service, with its environment: make flask COMMAND='ledger verify'
flask: $(RUN_READY)
	@test -f "$${TANPUHUI_DATA:-var}/service.env" || { echo 'No service runs on this data folder: make run first.' >&2; exit 1; }
	@set -a; . "$$(cd "$${TANPUHUI_DATA:-var}" && pwd)/service.env"; exec $(BIN)/flask --app wsgi $(COMMAND)

fuzz: $(DEV_READY)
	TANPUHUI_FUZZ=long $(BIN)/python -m pytest -m fuzz $(TEST_ARGUMENTS)

drill: $(DEV_READY)
	TANPUHUI_DRILLS=long $(BIN)/python -m pytest -m drill $(TEST_ARGUMENTS)

# A thousand biased samples of a real survey, and more: ten minutes on two cores.
coverage-study: $(DEV_READY)
	$(BIN)/python -m bench.coverage $(STUDY_ARGUMENTS)

# 2,000 plans of an attacker and the controls: a quarter of an hour.
loss-bound: $(DEV_READY)
	$(BIN)/python -m bench.loss_bound --write docs/loss-bound.md

# 10,000 honest residents for 30 days, and eight families of attackers: half an hour.
replay-kit: $(DEV_READY)
	$(BIN)/python -m bench.replay_kit --write docs/evidence.md

track-evidence: $(DEV_READY)
	$(BIN)/python -m bench.track_evidence

openapi: $(DEV_READY)
	$(BIN)/flask --app wsgi:create_described_app openapi write openapi.json

# Only versions and hashes are written: no index and no host, so that any mirror serves them.
LOCK := pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links
lock: $(BIN)/python
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --disable-pip-version-check uv
	$(BIN)/python -m uv $(LOCK) $(LOCK_ARGUMENTS) --extra embedded pyproject.toml -o requirements/run.txt
	$(BIN)/python -m uv $(LOCK) $(LOCK_ARGUMENTS) --extra dev -c requirements/run.txt pyproject.toml -o requirements/dev.txt
	@if grep -nE '://|^ *-(-index|-extra-index|i|f|-find-links)' requirements/*.txt; then \
		echo 'A lock file names a host.' >&2; exit 1; fi

clean:
	rm -rf .venv build dist htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache .schemathesis schemathesis-report *.egg-info
	find . -name __pycache__ -type d -not -path './var/*' -prune -exec rm -rf {} +

# A virtual environment whose interpreter has gone (a system upgrade) is a dangling link, which make takes for missing.
$(BIN)/python:
	@found=; \
	for candidate in $(if $(PYTHON),$(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
		if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo 'Python 3.11 or newer is needed and was not found. Install it, or name it: make PYTHON=/path/to/python3' >&2; \
		exit 1; fi; \
	if ! $$found -c 'import venv, ensurepip' 2>/dev/null; then \
		echo "$$found has no venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; fi; \
	echo "Making .venv with $$($$found --version) …"; \
	$$found -m venv --clear .venv

INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --require-hashes

$(RUN_READY): requirements/run.txt | $(BIN)/python
	@echo 'Installing what the service needs (once; a minute or so) …'
	@$(INSTALL) -r requirements/run.txt
	@touch $@

$(DEV_READY): requirements/dev.txt | $(BIN)/python
	@echo 'Installing what the service and its tests need (once; a minute or two) …'
	@$(INSTALL) -r requirements/dev.txt
	@touch $@ $(RUN_READY)
