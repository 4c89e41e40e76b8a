# Every target does its own set-up. `make help` lists them.
PYTHON ?= python3.11
CNI_BIN ?= /usr/lib/cni
export PYTHON

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test lint format bench bench-quick bench-guard bench-report asm libdpu install-cni lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

setup: ## make .venv with the locked packages; as root, install what Debian lacks
	@scripts/setup

demo: setup ## two containers through the DPU; the first run compiles (root)
	@.venv/bin/python -m examples.demo

test: setup ## the whole suite in the three modes; as root, nothing is skipped
	@scripts/test

lint: setup ## ruff and the house rules
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/python -m pytest -q tests/test_conventions.py

format: setup ## let ruff lay the code out
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: setup ## all benches beside their peers, within 30 min; NAME=kernels: that one (root)
	@.venv/bin/python -m bench $(NAME)

bench-quick: setup ## the same, small: within 5 min (root)
	@.venv/bin/python -m bench --quick $(NAME)

bench-guard: setup ## ratios to peers and instruction counts beside the committed ones, within 4 min (root)
	@.venv/bin/python -m bench.instructions
	@.venv/bin/python -m bench.guard $(NAME)

bench-report: setup ## take bench/out/ into bench/figures/, its pages, and the READMEs
	@.venv/bin/python -m bench.report

asm: setup ## build/asm/KERNEL.ll and .s: what LLVM made of a kernel; KERNEL=acl.filter, or a function
	@.venv/bin/python -m scripts.asm "$(KERNEL)"

libdpu: setup ## build/libdpu: libdpu.so and dpu.pc, for host programs in C
	@$(MAKE) --no-print-directory -C drivers/host

install-cni: setup ## put dpu-cni into CNI_BIN, /usr/lib/cni unless you say another
	@.venv/bin/python -m dpu_runtime.engines.cni.install "$(CNI_BIN)"

lock: setup ## renew requirements.lock from pyproject.toml
	@scripts/lock

clean: ## remove .venv and what tools left in the checkout
	rm -f drivers/host/_libdpu.*
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build bench/out *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
