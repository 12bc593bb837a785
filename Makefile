# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# `make demo` shows the whole service on a lab of virtual machines; `make test` runs all tests but the longest, `make test-long` those.

PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
# The programs of the virtual environment find each other on the PATH.
export PATH := $(BIN):$(PATH)
# Every rung sees the checkout under its collection name (tests/conftest.py makes the link).
export ANSIBLE_COLLECTIONS_PATH ?= $(CURDIR)/build/collections
# Injected facts go away in ansible-core 2.24: nothing may need them.
export ANSIBLE_INJECT_FACT_VARS := false
PYTEST := $(BIN)/python -m pytest -q

# What each of the two sums up, cheapest first.
LINT := lint-style lint-types lint-docs lint-ansible lint-sanity lint-importer
TEST := test-unit test-installed test-services test-cloud test-swarm test-lab

.PHONY: packages venv venvs link lock ci-forget ci-table help demo test lint bench docs lab-up lab-down test-long $(LINT) $(TEST)
help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

demo: packages venv link ## bring a lab up, run site.yml on it, ask the LLM a question
	@tests/lab/lab demo

lint: venvs ## every check that runs no part of the collection
	@$(BIN)/python tests/tools/rungs.py run $(LINT)

test: packages venvs ## every test that exists, but for test-long
	@$(BIN)/python tests/tools/rungs.py run $(TEST)

bench: venv link ## one line a measurement, also in build/bench.json; BENCH=NAME takes one
	@$(BIN)/python tests/bench/bench.py $(BENCH)

lab-up: packages venv ## the lab's machines, for work by hand
	@tests/lab/lab up

lab-down: ## end every process of the lab
	@tests/lab/lab down

docs: venv link ## the manual as a site, build/docs/index.html: pages, what each alert means, modules, roles, plugins
	@$(BIN)/python tests/tools/docs.py

# --- tests: `make NAME` runs one rung -------------------------------------------------------------------------------------
test-unit: venvs link ## planners as tables, readers on recorded output, appliers that fail at every step; on every core
	@$(BIN)/python tests/tools/venvs.py --list | { status=0; marks="not long"; while read core place; do \
	  test -e $$place/lock.sha256 || continue; \
	  echo "--- ansible-core $$core"; \
	  PATH=$$place/bin:$$PATH $$place/bin/python -m pytest -q -n 2 --dist worksteal -m "$$marks" tests/unit --junit-xml=build/junit/test-unit@$$core.xml || status=1; \
	  marks="not long and not one_core"; \
	done; exit $$status; }

test-installed: venv link ## the collection as others get it: built, installed alone, its playbooks found by name
	@$(PYTHON) tests/tools/venvs.py --runner
	@$(PYTEST) tests/installed --junit-xml=build/junit/test-installed.xml

test-cloud: venv link ## the real API of an OpenStack cloud, with pretend machines behind it
	@$(PYTEST) tests/cloud --junit-xml=build/junit/test-cloud.xml

test-services: venv link ## the chat service and the analytics: real Chroma, Chromium, PostgreSQL, stand-in engines that are cut off
	@$(PYTHON) tests/tools/venvs.py --services
	@.venv-services/bin/python -m pytest -q tests/services --junit-xml=build/junit/test-services.xml

test-swarm: venv link ## several real engines in machines that boot in seconds
	@$(PYTEST) tests/swarm --junit-xml=build/junit/test-swarm.xml

test-lab: venv link ## machines with kernels: the whole site.yml, twice, with drift, foresight and bad input
	@$(PYTEST) tests/lab --junit-xml=build/junit/test-lab.xml

test-long: venv link ## what takes too long for every change: the all-VM reference and the like
	@$(PYTEST) tests -m long --junit-xml=build/junit/test-long.xml

# --- lint -----------------------------------------------------------------------------------------------------------------
lint-style: venv
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet . && $(BIN)/yamllint --strict .

lint-types: venv link
	@cd build/collections && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache \
	  ansible_collections/selfhosted/llm_stack/plugins/module_utils ansible_collections/selfhosted/llm_stack/plugins/action
	@$(BIN)/mypy --strict tests/tools tests/bench tests/lab/labkit tests/cloud/cloudkit

lint-docs: venv link
	@$(BIN)/antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs dependent --disallow-unknown-collection-refs .
	@$(BIN)/antsibull-changelog lint

lint-ansible: venv link
	@$(BIN)/ansible-lint --offline

lint-sanity: venvs
	@$(BIN)/python tests/tools/sanity.py

lint-importer: venv
	@$(BIN)/python tests/tools/importer.py

# --- what the above stand on ----------------------------------------------------------------------------------------------
packages:
	@.ci/packages

venv:
	@$(PYTHON) tests/tools/venvs.py

venvs:
	@$(PYTHON) tests/tools/venvs.py --all

link: venv
	@$(BIN)/python tests/conftest.py

ci-forget:
	@$(PYTHON) tests/tools/rungs.py forget

ci-table:
	@$(PYTHON) tests/tools/rungs.py table $(LINT) $(TEST)

lock: ## write the locks in requirements/ anew, from the files *.in beside them; needs uv
	@for pair in core-2.19:3.11 core-2.21:3.12 core-2.22:3.13 execution-environment:3.13; do \
	  uv pip compile --quiet --no-config --upgrade --generate-hashes --no-annotate --custom-compile-command "make lock" \
	    --python-version $${pair#*:} requirements/$${pair%:*}.in -o requirements/$${pair%:*}.txt || exit 1; \
	done
	@for lock in requirements/cloud requirements/peers roles/llm_services/files/chat/requirements roles/autoscaler/files/requirements requirements/services requirements/chroma requirements/runner; do \
	  uv pip compile --quiet --no-config --upgrade --generate-hashes --no-annotate --custom-compile-command "make lock" \
	    --universal --python-version 3.11 $$lock.in -o $$lock.txt || exit 1; \
	done
